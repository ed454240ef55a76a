"""ITC, SDM and CMPM: the loops, another implementation's values, properties, precision, bad input."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_references import Batch, batches, cmpm_reference, itc_reference, random_batch, sdm_reference
from safetensors.torch import load_file

from scmm.losses import cmpm_loss, itc_loss, sdm_loss


SCALE = 20.0
LOSSES: dict[str, Callable] = {
    "itc": functools.partial(itc_loss, logit_scale=SCALE),
    "itc of pairs": functools.partial(itc_loss, logit_scale=SCALE, targets="pair"),
    "sdm": functools.partial(sdm_loss, logit_scale=SCALE),
    "cmpm": cmpm_loss,
}
REFERENCES: dict[str, Callable[[Batch], float]] = {
    "itc": functools.partial(itc_reference, scale=SCALE, targets="identity"),
    "itc of pairs": functools.partial(itc_reference, scale=SCALE, targets="pair"),
    "sdm": functools.partial(sdm_reference, scale=SCALE),
    "cmpm": cmpm_reference,
}
IRRA = Path(__file__).parents[2].parent / "shared" / "fixtures" / "irra_tiny.safetensors"

each_loss = pytest.mark.parametrize("name", LOSSES)
quick = settings(max_examples=40, deadline=None)


@each_loss
@quick
@given(batch=batches())
def test_it_equals_the_loops(name: str, batch: Batch) -> None:
    loss = LOSSES[name](*batch.pairs)
    assert loss.shape == () and loss.dtype == torch.float64
    assert loss.item() == pytest.approx(REFERENCES[name](batch), rel=1e-9, abs=1e-9)


@pytest.mark.skipif(not IRRA.is_file(), reason=f"the values computed by IRRA's own code are not at {IRRA}")
def test_it_equals_irra() -> None:
    irra = load_file(IRRA)
    pairs = irra["outputs.image_features"], irra["outputs.text_features"], irra["inputs.person_ids"]
    assert len(set(pairs[2].tolist())) < len(pairs[2])  # a person occurs twice
    for name, loss in (
        ("sdm", sdm_loss(*pairs, 50.0)),
        ("itc", itc_loss(*pairs, 50.0, targets="pair")),
        ("cmpm", cmpm_loss(*pairs)),
    ):
        torch.testing.assert_close(loss, irra[f"losses.{name}"], rtol=1e-5, atol=0)


@each_loss
@quick
@given(batch=batches(), seed=st.integers(0, 2**31))
def test_the_order_of_the_batch_does_not_matter(name: str, batch: Batch, seed: int) -> None:
    order = torch.randperm(len(batch.person_ids), generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(LOSSES[name](*batch.pairs), LOSSES[name](*batch.permuted(order).pairs))


@each_loss
def test_it_is_zero_when_satisfied(name: str) -> None:
    embeds = 100 * torch.eye(4)
    assert LOSSES[name](embeds, embeds, torch.arange(4)).item() == pytest.approx(0, abs=1e-6)


def test_the_same_person_twice_is_no_negative() -> None:
    embeds, ids = torch.eye(3)[[0, 0, 1]], torch.tensor([7, 7, 9])
    by_identity, by_pair = (itc_loss(embeds, embeds, ids, 100.0, targets=t) for t in ("identity", "pair"))
    # By identity the ideal for a person's two rows is one half each, and pulling them apart costs; by pair it helps.
    apart = torch.eye(3)
    assert by_identity.item() == pytest.approx(by_pair.item())
    assert itc_loss(apart, apart, ids, 100.0, targets="identity") > by_identity
    assert itc_loss(apart, apart, ids, 100.0, targets="pair") < by_pair


@each_loss
@pytest.mark.parametrize(("size", "num_people"), [(1, 1), (5, 1)], ids=["one item", "one identity"])
@pytest.mark.parametrize("scale", [0.0, 1.0], ids=["zero embeddings", "embeddings"])
def test_degenerate_batches_are_finite(name: str, size: int, num_people: int, scale: float) -> None:
    batch = random_batch(0, size, num_people, dtype=torch.float32)
    images, texts = ((scale * embeds).requires_grad_() for embeds in batch.pairs[:2])
    loss = LOSSES[name](images, texts, batch.person_ids)
    loss.backward()
    assert loss.isfinite()
    assert images.grad is not None and images.grad.isfinite().all()
    assert texts.grad is not None and texts.grad.isfinite().all()


@each_loss
def test_gradients(name: str) -> None:
    batch = random_batch(0, 5, num_people=3).requires_grad()
    assert torch.autograd.gradcheck(
        lambda images, texts: LOSSES[name](images, texts, batch.person_ids), batch.pairs[:2]
    )


@pytest.mark.parametrize("loss", [itc_loss, sdm_loss])
def test_the_scale_is_learned(loss: Callable) -> None:
    scale = torch.tensor(10.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda scale: loss(*random_batch(0, 5, num_people=3).pairs, scale), scale)


@each_loss
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(name: str, dtype: torch.dtype, autocast: bool) -> None:
    images, texts, ids = random_batch(0, 16, num_people=8, dim=64, dtype=dtype).pairs
    expected = LOSSES[name](images.float(), texts.float(), ids)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = LOSSES[name](images, texts, ids)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


@each_loss
def test_it_compiles_without_graph_breaks(name: str) -> None:
    batch = random_batch(0, 8, num_people=3)
    compiled = torch.compile(LOSSES[name], fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*batch.pairs), LOSSES[name](*batch.pairs))


@each_loss
def test_bad_input_is_refused(name: str) -> None:
    images, texts, ids = random_batch(0, 4, 2).pairs
    with pytest.raises(ValueError, match="text_embeds must have shape"):
        LOSSES[name](images, texts[:3], ids)
    with pytest.raises(ValueError, match="person_ids must have shape"):
        LOSSES[name](images, texts, ids[:3])
    with pytest.raises(ValueError, match="at least one row"):
        LOSSES[name](images[:0], texts[:0], ids[:0])


def test_unknown_targets_are_refused() -> None:
    with pytest.raises(ValueError, match="targets must be one of 'identity', 'pair', got 'person'"):
        itc_loss(*random_batch(0, 4, 2).pairs, SCALE, targets="person")  # type: ignore[arg-type]
