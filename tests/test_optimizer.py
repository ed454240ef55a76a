"""MuonHybrid against the two optimizers run apart, and through a checkpoint."""

import copy

import pytest
import torch
from torch import nn

from scmm.optimizer import MuonHybrid, orthogonalize


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(7, 6), nn.Linear(6, 8), nn.Linear(8, 6))


def matrices(model: nn.Module) -> set[nn.Parameter]:
    return {model[1].weight, model[2].weight}


def adamw(model: nn.Module, **options: float) -> torch.optim.AdamW:
    decayed = [weight for weight in model.parameters() if weight.ndim > 1]
    plain = [weight for weight in model.parameters() if weight.ndim == 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=1e-2, **options)


def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        loss = model(torch.randint(7, (4,), generator=generator)).square().sum()
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def muon_by_hand(weight: torch.Tensor, grad: torch.Tensor, average: torch.Tensor, lr: float, decay: float) -> None:
    """One step of Muon, orthogonalizing through the singular values themselves."""
    average.mul_(0.95).add_(0.05 * grad)
    u, values, v = torch.linalg.svd(0.05 * grad + 0.95 * average, full_matrices=False)
    values = values / values.square().sum().sqrt()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    weight.sub_(lr * decay * weight + lr * 0.2 * max(weight.shape) ** 0.5 * (u * values) @ v)


def test_equals_the_two_run_apart(model):
    model = model.double()
    apart = copy.deepcopy(model)
    train(model, [MuonHybrid(adamw(model), matrices(model), learning_rate=0.05)], range(5))

    rest = [weight for weight in apart.parameters() if weight not in matrices(apart)]
    groups = [{"params": rest[:1], "weight_decay": 0.1}, {"params": rest[1:], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    averages = {weight: torch.zeros_like(weight) for weight in matrices(apart)}
    for step in range(5):
        apart.zero_grad()
        train(apart, [optimizer], range(step, step + 1))
        with torch.no_grad():
            for weight, average in averages.items():
                muon_by_hand(weight, weight.grad, average, lr=0.05, decay=0.1)
    for weight, expected in zip(model.parameters(), apart.parameters(), strict=True):
        assert torch.allclose(weight, expected, atol=1e-9)


def test_the_first_step_is_pytorchs():
    start = torch.randn(48, 64, generator=torch.Generator().manual_seed(0))
    ours, theirs = nn.Parameter(start.clone()), nn.Parameter(start.clone())
    ours.grad = theirs.grad = torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
    MuonHybrid(torch.optim.AdamW([ours], lr=1e-3, weight_decay=0.1), {ours}, learning_rate=0.05).step()
    torch.optim.Muon([theirs], lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    assert (ours - theirs).norm() < 0.02 * (theirs - start).norm(), "PyTorch's works in bfloat16"


def test_a_scheduler_reaches_both(model):
    optimizer = MuonHybrid(adamw(model), matrices(model), learning_rate=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.0)
    assert schedule.get_last_lr() == [0.0] * 3
    before = copy.deepcopy(model)
    train(model, [optimizer], range(1))
    for weight, expected in zip(model.parameters(), before.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_a_loaded_state_goes_on_as_if_never_stopped(model, tmp_path):
    whole = copy.deepcopy(model)
    train(whole, [MuonHybrid(adamw(whole), matrices(whole), learning_rate=0.05)], range(6))

    optimizer = MuonHybrid(adamw(model), matrices(model), learning_rate=0.05)
    train(model, [optimizer], range(3))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    resumed = MuonHybrid(adamw(model), matrices(model), learning_rate=0.05)
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    train(model, [resumed], range(3, 6))
    for weight, expected in zip(model.parameters(), whole.parameters(), strict=True):
        assert torch.equal(weight, expected)


def test_a_multiplied_rate_stays_multiplied(model):
    groups = [{"params": [model[1].weight], "lr": 5e-2}, {"params": [model[2].weight]}, {"params": [model[0].weight]}]
    optimizer = MuonHybrid(torch.optim.AdamW(groups, lr=1e-2), matrices(model), learning_rate=0.1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([1e-2, 0.5, 0.1])


def test_nothing_to_train(model):
    with pytest.raises(ValueError, match="nothing to train"):
        MuonHybrid(adamw(model), set(), learning_rate=0.05)


@pytest.mark.parametrize("shape", [(6, 6), (4, 20), (20, 4), (1, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_orthogonalize_keeps_singular_vectors_and_evens_out_values(shape, dtype):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    result = orthogonalize(matrix)
    assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    inner = u.mT @ result.double() @ v.mT
    assert (inner - torch.diag(inner.diag())).abs().max() < 1e-4
    assert inner.diag()[values > 0.1 * values.max()].sub(0.95).abs().max() < 0.3


def test_orthogonalize_zeros():
    assert torch.equal(orthogonalize(torch.zeros(3, 4)), torch.zeros(3, 4))


def test_a_weight_without_a_gradient_stays(model):
    optimizer = MuonHybrid(adamw(model), matrices(model), learning_rate=0.05)
    before = copy.deepcopy(model)
    optimizer.step()
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before.parameters(), strict=True))


def test_only_matrices(model):
    with pytest.raises(ValueError, match="matrices alone"):
        MuonHybrid(adamw(model), {model[1].bias}, learning_rate=0.05)
