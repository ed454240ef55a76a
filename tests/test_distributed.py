"""Gathering with gradient: two processes with half the batch each against one process with all of it."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from scmm.distributed import gather_with_gradient
from scmm.losses import SCMMLoss


NUM_PROCESSES = 2
BATCH = 8
DTYPES = [torch.float32, torch.float64]


class Model(nn.Module):
    """Two towers, a head for masked tokens, and a logit scale: what the objective trains, in miniature."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 4), nn.Linear(5, 4)
        self.head = nn.Linear(4, 7)
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        text_embeds = self.text(texts)
        return self.image(images), text_embeds, self.head(text_embeds), self.logit_scale.exp()


def rows_of(rank: int, num_processes: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(BATCH, 6, generator=generator, dtype=torch.float64).to(dtype)
    texts = torch.randn(BATCH, 5, generator=generator, dtype=torch.float64).to(dtype)
    person_ids = torch.tensor([1, 2, 1, 3, 2, 4, 1, 3])  # people occur in both halves
    quality = torch.rand(BATCH, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.tensor([0, -100, 1, 2, -100, -100, -100, 6])  # three masked tokens in one half, one in the other
    part = slice(rank * BATCH // num_processes, (rank + 1) * BATCH // num_processes)
    return [tensor[part] for tensor in (images, texts, person_ids, quality, labels)]


def gradients(model: nn.Module, rows: list[Tensor], mining: str) -> list[Tensor]:
    images, texts, person_ids, quality, labels = rows
    image_embeds, text_embeds, logits, scale = model(images, texts)
    gathered = [gather_with_gradient(tensor) for tensor in (image_embeds, text_embeds, person_ids, quality)]
    num_masked = gather_with_gradient((labels != -100).sum().view(1)).to(quality).mean()
    terms = SCMMLoss(mining=mining)(*gathered, scale, mcm_logits=logits, mcm_labels=labels, num_masked=num_masked)
    terms["loss"].backward()
    return [parameter.grad for parameter in model.parameters()]


def process(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=NUM_PROCESSES)
    results: dict = {"ids": gather_with_gradient(torch.tensor([[rank, 10 + rank], [rank, 20 + rank]]))}
    results["strided"] = gather_with_gradient(torch.arange(6).view(2, 3).T + 10 * rank)
    for dtype in DTYPES:
        for mining in ("hardest", "all"):
            model = DistributedDataParallel(Model().to(dtype))
            results[dtype, mining] = gradients(model, rows_of(rank, NUM_PROCESSES, dtype), mining)
    try:
        gather_with_gradient(torch.zeros(3 + rank, 2))
    except ValueError as error:
        results["error"] = str(error)
    torch.save(results, folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """What each of the processes found; they meet in a file, so that no port is taken."""
    folder = tmp_path_factory.mktemp("processes")
    mp.spawn(process, args=(folder,), nprocs=NUM_PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(NUM_PROCESSES)]


def relative_error(parts: list[Tensor], whole: list[Tensor]) -> float:
    assert len(parts) == len(whole)
    return max(((part - all).abs().max() / all.abs().max()).item() for part, all in zip(parts, whole, strict=True))


@pytest.mark.parametrize("mining", ["hardest", "all"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_two_processes_have_the_gradients_of_one(results: list[dict], dtype: torch.dtype, mining: str) -> None:
    whole = gradients(Model().to(dtype), rows_of(0, 1, dtype), mining)
    assert len(whole) == 7 and all(gradient.any() for gradient in whole)
    for found in results:
        assert relative_error(found[dtype, mining], whole) <= (1e-5 if dtype == torch.float32 else 1e-12)


def test_integers_are_gathered_in_the_order_of_the_ranks(results: list[dict]) -> None:
    for found in results:
        assert found["ids"].tolist() == [[0, 10], [0, 20], [1, 11], [1, 21]]
        assert found["strided"].tolist() == [[0, 3], [1, 4], [2, 5], [10, 13], [11, 14], [12, 15]]


def test_unequal_batches_are_refused_everywhere(results: list[dict]) -> None:
    for found in results:
        assert "equally many rows, got [3, 4]" in found["error"]


def test_one_process_gets_its_tensor_back() -> None:
    tensor = torch.randn(3, 2, requires_grad=True)
    assert gather_with_gradient(tensor) is tensor


def test_a_scalar_is_refused() -> None:
    with pytest.raises(ValueError, match="tensor of rows, got a scalar"):
        gather_with_gradient(torch.tensor(1.0))
