"""Sew calibration and triplet loss: the reference in loops, properties, degenerate batches, precision, bad input."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_references import Batch, batches, random_batch, sew_reference

from scmm.losses import sew_calibration_loss, triplet_loss


MARGINS = {"margin_min": 0.1, "margin_max": 0.7, "margin_single": 0.3}
MININGS = ["hardest", "all", "softplus"]

each_mining = pytest.mark.parametrize("mining", MININGS)
quick = settings(max_examples=40, deadline=None)


@each_mining
@quick
@given(batch=batches(), weights=st.sampled_from([(1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.5, 2.0)]))
def test_it_equals_the_loops(mining: str, batch: Batch, weights: tuple[float, float]) -> None:
    options = {**MARGINS, "mining": mining, "tau": 0.2, "weight_cross": weights[0], "weight_single": weights[1]}
    loss = sew_calibration_loss(*batch.all, **options)
    assert loss.shape == () and loss.dtype == torch.float64
    assert loss.item() == pytest.approx(sew_reference(batch, **options), rel=1e-9, abs=1e-12)


@quick
@given(batch=batches())
def test_triplet_equals_the_loops(batch: Batch) -> None:
    expected = sew_reference(batch, margin_min=0.4, margin_max=0.4, margin_single=0, mining="hardest", weight_single=0)
    assert triplet_loss(*batch.pairs, margin=0.4).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_a_batch_by_hand() -> None:
    # Person 7 has images at 0 and 60 degrees, with captions at 60 and 0; person 9 has both at 90 degrees.
    angles = torch.tensor([[0.0, 60.0, 90.0], [60.0, 0.0, 90.0]], dtype=torch.float64).deg2rad()
    images, texts = torch.stack([angles.cos(), angles.sin()], dim=2)
    ids, quality = torch.tensor([7, 7, 9]), torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    cos60, cos30 = 0.5, math.sqrt(3) / 2
    # The captions' margins are 0.2, 0.4, 0.6. Each caption of person 7 has its hardest positive 60 degrees away.
    text_to_image = ((0.2 - cos60 + cos30) + 0 + (0.6 - 1 + cos30)) / 3
    # Image 0's hardest positive is caption 0, image 1's is caption 1: theirs are the margins.
    image_to_text = (0 + (0.4 - cos60 + cos30) + (0.6 - 1 + cos30)) / 3
    loss = sew_calibration_loss(
        images, texts, ids, quality, margin_min=0.2, margin_max=0.6, margin_single=0.2, weight_single=0.0
    )
    assert loss.item() == pytest.approx((text_to_image + image_to_text) / 2, rel=1e-12)


@each_mining
@quick
@given(batch=batches(), seed=st.integers(0, 2**31))
def test_the_order_of_the_batch_does_not_matter(mining: str, batch: Batch, seed: int) -> None:
    order = torch.randperm(len(batch.person_ids), generator=torch.Generator().manual_seed(seed))
    losses = [sew_calibration_loss(*b.all, **MARGINS, mining=mining) for b in (batch, batch.permuted(order))]
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)


@each_mining
@quick
@given(data=st.data(), size=st.integers(1, 7), seed=st.integers(0, 2**31))
def test_the_order_does_not_matter_among_equal_similarities(mining: str, data: st.DataObject, size: int, seed: int):
    axes = st.lists(st.integers(0, 2), min_size=size, max_size=size)
    images, texts = (torch.eye(3)[torch.tensor(data.draw(axes))] for _ in range(2))
    quality = torch.rand(size, generator=torch.Generator().manual_seed(seed))
    batch = Batch(images, texts, torch.tensor(data.draw(axes)), quality)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    losses = [sew_calibration_loss(*b.all, **MARGINS, mining=mining) for b in (batch, batch.permuted(order))]
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("mining", ["hardest", "all"])
@quick
@given(people=st.lists(st.integers(0, 3), min_size=1, max_size=9), quality=st.floats(0, 1), scale=st.floats(0.01, 100))
def test_it_is_zero_when_satisfied(mining: str, people: list[int], quality: float, scale: float) -> None:
    ids = torch.tensor(people)
    embeds = scale * torch.eye(4)[ids]  # one direction per person, orthogonal to the others
    margins = {"margin_min": 0.5, "margin_max": 0.999, "margin_single": 0.999}
    assert sew_calibration_loss(embeds, embeds, ids, torch.full((len(ids),), quality), **margins, mining=mining) == 0


@each_mining
@pytest.mark.parametrize("size", [1, 2, 5])
def test_one_identity_costs_nothing_and_has_a_finite_gradient(mining: str, size: int) -> None:
    batch = random_batch(0, size, num_people=1).requires_grad()
    loss = sew_calibration_loss(*batch.all, **MARGINS, mining=mining)
    loss.backward()
    assert loss == 0
    for embeds in (batch.image_embeds, batch.text_embeds):
        assert embeds.grad is not None and torch.equal(embeds.grad, torch.zeros_like(embeds))


@each_mining
@pytest.mark.parametrize(
    "embeds",
    [torch.zeros(4, 3), torch.ones(4, 3), torch.eye(4)[[0, 0, 1, 1]], 1e-30 * torch.ones(4, 3), 1e30 * torch.eye(4)],
    ids=["zero", "collapsed", "tied", "tiny", "huge"],
)
def test_degenerate_embeddings_have_finite_gradients(mining: str, embeds: torch.Tensor) -> None:
    batch = Batch(embeds, embeds.clone(), torch.tensor([1, 1, 2, 2]), torch.rand(4)).requires_grad()
    loss = sew_calibration_loss(*batch.all, **MARGINS, mining=mining)
    loss.backward()
    assert loss.isfinite()
    for leaf in (batch.image_embeds, batch.text_embeds):
        assert leaf.grad is not None and leaf.grad.isfinite().all()


def test_not_a_number_is_not_hidden() -> None:
    batch = random_batch(0, 4, num_people=2)
    batch.image_embeds[1, 0] = torch.nan
    for mining in MININGS:
        assert sew_calibration_loss(*batch.all, **MARGINS, mining=mining).isnan()


@each_mining
@pytest.mark.parametrize("seed", range(3))
def test_gradients(mining: str, seed: int) -> None:
    batch = random_batch(seed, 6, num_people=3).requires_grad()

    def loss(images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        return sew_calibration_loss(images, texts, batch.person_ids, batch.caption_quality, **MARGINS, mining=mining)

    assert torch.autograd.gradcheck(loss, (batch.image_embeds, batch.text_embeds))
    gradients = torch.autograd.grad(loss(batch.image_embeds, batch.text_embeds), batch.pairs[:2])
    assert all(gradient.any() for gradient in gradients)


@each_mining
@quick
@given(batch=batches(min_size=2), data=st.data())
def test_a_richer_caption_never_costs_less(mining: str, batch: Batch, data: st.DataObject) -> None:
    before = sew_calibration_loss(*batch.all, **MARGINS, mining=mining)
    one = data.draw(st.integers(0, len(batch.person_ids) - 1))
    batch.caption_quality[one] += data.draw(st.floats(0, 1)) * (1 - batch.caption_quality[one])
    assert sew_calibration_loss(*batch.all, **MARGINS, mining=mining) >= before - 1e-12


def test_the_margin_of_a_richer_caption_is_wider() -> None:
    batch = random_batch(0, 6, num_people=3)
    losses = [
        sew_calibration_loss(*batch.pairs, torch.full((6,), quality), **{**MARGINS, "margin_max": 3.0})
        for quality in (0.0, 0.5, 1.0)
    ]
    assert losses[0] < losses[1] < losses[2]


@each_mining
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_is_computed_in_float32(mining: str, dtype: torch.dtype, autocast: bool) -> None:
    batch = random_batch(0, 16, num_people=4, dim=64, dtype=dtype)
    raised = Batch(batch.image_embeds.float(), batch.text_embeds.float(), batch.person_ids, batch.caption_quality)
    expected = sew_calibration_loss(*raised.all, **MARGINS, mining=mining)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = sew_calibration_loss(*batch.all, **MARGINS, mining=mining)
        from_float32 = sew_calibration_loss(*raised.all, **MARGINS, mining=mining)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected) and torch.equal(from_float32, expected)


def test_modalities_may_differ_in_precision() -> None:
    batch = random_batch(0, 6, num_people=3, dtype=torch.float32)
    batch.text_embeds = batch.text_embeds.bfloat16()
    assert sew_calibration_loss(*batch.all, **MARGINS).dtype == torch.float32


@each_mining
def test_memory_grows_with_the_square_of_the_batch(mining: str) -> None:
    size = 96
    batch = random_batch(0, size, num_people=24, dtype=torch.float32).requires_grad()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor.numel()) or tensor, lambda t: t):
        sew_calibration_loss(*batch.all, **MARGINS, mining=mining)
    assert 0 < sum(kept) < size**3 / 2


@each_mining
def test_it_compiles_without_graph_breaks(mining: str) -> None:
    batch = random_batch(0, 8, num_people=3)
    compiled = torch.compile(sew_calibration_loss, fullgraph=True, backend="eager")
    expected = sew_calibration_loss(*batch.all, **MARGINS, mining=mining)
    torch.testing.assert_close(compiled(*batch.all, **MARGINS, mining=mining), expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin_min": 0.5, "margin_max": 0.4}, r"margin_min \(0.5\) must not exceed margin_max \(0.4\)"),
        ({"margin_min": -0.1}, "margin_min must be a finite number and not negative, got -0.1"),
        ({"margin_single": math.nan}, "margin_single .* got nan"),
        ({"weight_cross": -1.0}, "weight_cross .* got -1.0"),
        ({"weight_cross": 0.0, "weight_single": 0.0}, "both 0"),
        ({"mining": "semi-hard"}, "mining must be one of 'hardest', 'all', 'softplus', got 'semi-hard'"),
        ({"mining": "softplus", "tau": 0.0}, "tau must be a finite number above 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sew_calibration_loss(*random_batch(0, 4, 2).all, **{**MARGINS, **options})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("image_embeds", torch.zeros(0, 4), "image_embeds must have shape .* at least one row, got .0, 4."),
        ("image_embeds", torch.zeros(4), "image_embeds must have shape .batch, dim."),
        ("text_embeds", torch.zeros(4, 3), "text_embeds must have shape .4, 4. to fit the batch, got .4, 3."),
        ("person_ids", torch.zeros(3, dtype=torch.long), "person_ids must have shape .4,. to fit the batch, got .3,."),
        ("person_ids", torch.zeros(4), "person_ids must be integers, got torch.float32"),
        ("caption_quality", torch.zeros(4, 1), "caption_quality must have shape .4,. to fit the batch, got .4, 1."),
    ],
)
def test_shapes_that_disagree_are_refused(name: str, value: torch.Tensor, message: str) -> None:
    batch = random_batch(0, 4, 2)
    setattr(batch, name, value)
    with pytest.raises(ValueError, match=message):
        sew_calibration_loss(*batch.all, **MARGINS)


def test_a_negative_triplet_margin_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^margin must be"):
        triplet_loss(*random_batch(0, 4, 2).pairs, margin=-1.0)
