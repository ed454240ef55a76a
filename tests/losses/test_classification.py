"""Cross-entropies of the masked tokens and of the identities."""

import math

import pytest
import torch

from scmm.losses import id_loss, mcm_loss


def cross_entropy(scores: list[float], label: int) -> float:
    return math.log(sum(math.exp(score) for score in scores)) - scores[label]


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LABELS = torch.tensor([[4, -100, 0], [-100, -100, 2]])


def test_mcm_is_the_mean_over_masked_tokens(logits: torch.Tensor) -> None:
    masked = [(0, 0), (0, 2), (1, 2)]
    expected = sum(cross_entropy(logits[i, j].tolist(), int(LABELS[i, j])) for i, j in masked) / 3
    loss = mcm_loss(logits, LABELS)
    assert loss.dtype == torch.float64 and loss.item() == pytest.approx(expected, rel=1e-12)
    where = LABELS != -100
    torch.testing.assert_close(mcm_loss(logits[where], LABELS[where]), loss)  # the head may see the masked ones alone


def test_mcm_gradients(logits: torch.Tensor) -> None:
    assert torch.autograd.gradcheck(lambda x: mcm_loss(x, LABELS), logits.requires_grad_())


@pytest.mark.parametrize("size", [0, 3])
@pytest.mark.parametrize("num_masked", [None, 0, 2.5])
def test_nothing_masked_is_zero_with_a_graph(size: int, num_masked: float | None) -> None:
    logits = torch.randn(size, 5, requires_grad=True)
    loss = mcm_loss(logits, torch.full((size,), -100), num_masked=num_masked)
    loss.backward()
    assert loss == 0
    assert logits.grad is not None and torch.equal(logits.grad, torch.zeros(size, 5))


def test_processes_average_to_the_mean_over_all_masked_tokens(logits: torch.Tensor) -> None:
    counts = (LABELS != -100).sum(dim=1).double()  # 2 and 1
    parts = [mcm_loss(logits[i], LABELS[i], num_masked=counts.mean()) for i in range(2)]
    torch.testing.assert_close(sum(parts) / 2, mcm_loss(logits, LABELS))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(logits: torch.Tensor, dtype: torch.dtype) -> None:
    half = logits.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, id = mcm_loss(half, LABELS), id_loss(half[0], half[1], LABELS[0].clamp(min=0))
    assert loss.dtype == id.dtype == torch.float32
    assert torch.equal(loss, mcm_loss(half.float(), LABELS))
    assert torch.equal(id, id_loss(half[0].float(), half[1].float(), LABELS[0].clamp(min=0)))


def test_mcm_shapes_that_disagree_are_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"labels must have shape \(2, 3\) to fit the batch, got \(2,\)"):
        mcm_loss(logits, LABELS[:, 0])


def test_id_is_the_mean_of_both_modalities(logits: torch.Tensor) -> None:
    images, texts, labels = logits[0], logits[1], torch.tensor([4, 0, 2])
    entropies = [cross_entropy(rows[i].tolist(), int(labels[i])) for rows in (images, texts) for i in range(3)]
    assert id_loss(images, texts, labels).item() == pytest.approx(sum(entropies) / 6, rel=1e-12)


def test_id_shapes_that_disagree_are_refused(logits: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="text_logits must have shape"):
        id_loss(logits[0], logits[1, :2], torch.tensor([4, 0, 2]))
    with pytest.raises(ValueError, match="labels must have shape"):
        id_loss(logits[0], logits[1], torch.tensor([4, 0]))
