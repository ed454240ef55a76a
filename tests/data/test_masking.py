"""Caption masking: what may be masked, how often, by which token, in whole words, reproducibly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from scmm.data.masking import mask_captions


MASK = 3
ORDINARY = torch.tensor([4, 5, 6, 8, 9, 11, 12])  # 7 and 10 are special, though in the middle
options = {"mask_token_id": MASK, "ordinary_ids": ORDINARY}
quick = settings(max_examples=60, deadline=None)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def captions(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """Token ids, where they are maskable, and which word each belongs to."""
    size, length = draw(st.integers(0, 5)), draw(st.integers(1, 12))
    generator = seeded(draw(st.integers(0, 2**31)))
    input_ids = torch.randint(100, 120, (size, length), generator=generator)
    maskable = torch.rand(size, length, generator=generator) < draw(st.sampled_from([0.0, 0.2, 0.8, 1.0]))
    starts = torch.rand(size, length, generator=generator) < 0.5
    word_ids = (starts.cumsum(dim=1) + 3).masked_fill(~maskable, -1)
    return input_ids, maskable, word_ids


@quick
@given(caption=captions(), whole_words=st.booleans(), probability=st.floats(0.01, 1), seed=st.integers(0, 2**31))
def test_what_is_masked(caption: tuple, whole_words: bool, probability: float, seed: int) -> None:
    input_ids, maskable, word_ids = caption
    before = input_ids.clone()
    masked_ids, labels = mask_captions(
        input_ids,
        maskable,
        **options,
        probability=probability,
        word_ids=word_ids if whole_words else None,
        generator=seeded(seed),
    )
    chosen = labels != -100
    assert torch.equal(input_ids, before)
    assert masked_ids.shape == labels.shape == input_ids.shape
    assert masked_ids.dtype == labels.dtype == input_ids.dtype
    assert not (chosen & ~maskable).any()
    assert torch.equal(labels[chosen], input_ids[chosen])
    assert torch.equal(masked_ids[~chosen], input_ids[~chosen])
    assert torch.equal(chosen.any(dim=1), maskable.any(dim=1))  # one at least where there can be one
    changed = masked_ids[masked_ids != input_ids]
    assert torch.isin(changed, torch.cat([ORDINARY, torch.tensor([MASK])])).all()


@quick
@given(caption=captions(), seed=st.integers(0, 2**31))
def test_a_word_is_masked_whole_or_not_at_all(caption: tuple, seed: int) -> None:
    input_ids, maskable, word_ids = caption
    masked_ids, labels = mask_captions(
        input_ids, maskable, **options, probability=0.4, word_ids=word_ids, generator=seeded(seed)
    )
    for i in range(len(input_ids)):
        for j in range(1, input_ids.shape[1]):
            if maskable[i, j] and word_ids[i, j] == word_ids[i, j - 1]:
                pair = slice(j - 1, j + 1)
                assert len((labels[i, pair] != -100).unique()) == 1
                assert len((masked_ids[i, pair] == MASK).unique()) == 1
                assert len((masked_ids[i, pair] == input_ids[i, pair]).unique()) == 1


@pytest.mark.parametrize("whole_words", [False, True])
def test_the_rates(whole_words: bool) -> None:
    input_ids = torch.full((2000, 60), 50)
    word_ids = torch.arange(60).div(2, rounding_mode="floor").expand(2000, 60) if whole_words else None
    masked_ids, labels = mask_captions(
        input_ids, torch.ones(2000, 60, dtype=torch.bool), **options, word_ids=word_ids, generator=seeded()
    )
    chosen = labels != -100
    of_chosen = masked_ids[chosen]
    # 18,000 tokens (or 9,000 words) are chosen: five standard deviations of a share are at most 0.021
    assert chosen.double().mean().item() == pytest.approx(0.15, abs=0.01)
    assert (of_chosen == MASK).double().mean().item() == pytest.approx(0.8, abs=0.021)
    assert (of_chosen == 50).double().mean().item() == pytest.approx(0.1, abs=0.016)
    at_random = of_chosen[(of_chosen != MASK) & (of_chosen != 50)]
    assert len(at_random) / len(of_chosen) == pytest.approx(0.1, abs=0.016)
    assert at_random.unique().tolist() == ORDINARY.tolist()
    assert torch.bincount(at_random).max() / len(at_random) < 1.5 / len(ORDINARY)


def test_the_least_choice_is_fair() -> None:
    input_ids = torch.full((4000, 5), 50)
    maskable = torch.tensor([True, False, True, True, True]).expand(4000, 5)
    _, labels = mask_captions(input_ids, maskable, **options, probability=1e-6, generator=seeded())
    chosen = labels != -100
    assert chosen.sum(dim=1).eq(1).all()
    assert chosen.double().mean(dim=0).tolist() == pytest.approx([0.25, 0, 0.25, 0.25, 0.25], abs=0.035)


def test_the_generator_decides() -> None:
    input_ids, maskable = torch.full((4, 30), 50), torch.ones(4, 30, dtype=torch.bool)
    first, same, other = (mask_captions(input_ids, maskable, **options, generator=seeded(seed)) for seed in (1, 1, 2))
    assert torch.equal(first[0], same[0]) and torch.equal(first[1], same[1])
    assert not torch.equal(first[1], other[1])


def test_padding_with_the_end_token_is_left_alone() -> None:
    input_ids = torch.tensor([[1, 50, 51, 2, 2, 2, 2]])
    maskable = torch.tensor([[False, True, True, False, False, False, False]])
    for seed in range(20):
        masked_ids, labels = mask_captions(input_ids, maskable, **options, probability=1.0, generator=seeded(seed))
        assert masked_ids[0, [0, 3, 4, 5, 6]].tolist() == [1, 2, 2, 2, 2]
        assert labels.tolist() == [[-100, 50, 51, -100, -100, -100, -100]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_ids": torch.zeros(4, dtype=torch.long)}, r"input_ids must have shape \(batch, length\), got \(4,\)"),
        ({"maskable": torch.ones(1, 3, dtype=torch.bool)}, r"maskable has shape \(1, 3\), but input_ids \(1, 4\)"),
        ({"maskable": torch.ones(1, 4)}, "maskable must be boolean"),
        ({"word_ids": torch.zeros(1, 3, dtype=torch.long)}, r"word_ids has shape \(1, 3\), but input_ids \(1, 4\)"),
        ({"probability": 0.0}, "probability must be above 0 and at most 1, got 0.0"),
        ({"probability": 1.1}, r"got 1\.1"),
        ({"ordinary_ids": torch.tensor([], dtype=torch.long)}, "ordinary_ids must be the vocabulary without"),
        ({"ordinary_ids": torch.tensor([4, MASK])}, "ordinary_ids must be the vocabulary without"),
    ],
)
def test_bad_input_is_refused(change: dict, message: str) -> None:
    arguments = {"input_ids": torch.full((1, 4), 50), "maskable": torch.ones(1, 4, dtype=torch.bool), **options}
    with pytest.raises(ValueError, match=message):
        mask_captions(**{**arguments, **change})
