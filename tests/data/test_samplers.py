"""Orders of an epoch: complete, reproducible, and as cheap as they promise."""

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmm.data.collator import CaptionItems
from scmm.data.samplers import IdentityBalancedSampler, LengthGroupedSampler


@pytest.fixture
def items(paperdoll, processor) -> CaptionItems:
    return CaptionItems(paperdoll["train"], processor, seed=3)


class TestLengthGroupedSampler:
    @pytest.mark.parametrize("batch_size", [1, 5, 48, 100])
    def test_every_caption_once(self, items, batch_size):
        sampler = LengthGroupedSampler(items, batch_size)
        assert len(sampler) == 48
        assert sorted(sampler) == list(range(48))

    def test_less_padding(self, items):
        def padded(order: list[int]) -> int:
            lengths = [len(items.input_ids[index]) for index in order]
            return sum(4 * max(lengths[start : start + 4]) for start in range(0, 48, 4))

        assert padded(list(LengthGroupedSampler(items, 4))) < 0.95 * padded(list(range(48)))

    def test_the_order_follows_from_seed_and_epoch(self, items, paperdoll, processor):
        def order(seed: int, epoch: int) -> list[int]:
            items = CaptionItems(paperdoll["train"], processor, seed=seed)
            items.set_epoch(epoch)
            return list(LengthGroupedSampler(items, 4))

        assert order(3, 0) == order(3, 0)
        assert len({tuple(order(seed, epoch)) for seed, epoch in ((3, 0), (3, 1), (4, 0))}) == 3


def people(images: list[list[int]], seed: int = 0, epoch: int = 0) -> Any:
    """Items with the given numbers of captions, for each image of each person; the rows are not in their order."""
    captions = [(person, count) for person, counts in enumerate(images) for count in counts]
    order = sorted(range(len(captions)), key=lambda row: row * 7919 % len(captions))
    rows = [row for row, number in enumerate(order) for _ in range(captions[number][1])]
    person_ids = [100 - captions[number][0] for number in order]
    return SimpleNamespace(rows=rows, person_ids=person_ids, seed=seed, epoch=epoch)


class TestIdentityBalancedSampler:
    @given(
        images=st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=9), min_size=2, max_size=12),
        share=st.floats(0, 1),
        images_per_identity=st.integers(1, 5),
        seed=st.integers(0, 99),
    )
    def test_every_batch_has_its_people_and_every_caption_comes(self, images, share, images_per_identity, seed):
        num_people = 2 + round(share * (len(images) - 2))
        items = people(images, seed)
        sampler = IdentityBalancedSampler(items, num_people * images_per_identity, images_per_identity)
        order = list(sampler)
        assert len(order) == len(sampler), "the length is true"
        for start in range(0, len(order), num_people * images_per_identity):
            batch = order[start : start + num_people * images_per_identity]
            person_ids = [items.person_ids[items.rows[index]] for index in batch]
            groups = [range(first, first + images_per_identity) for first in range(0, len(batch), images_per_identity)]
            assert all(len({person_ids[place] for place in group}) == 1 for group in groups)
            assert Counter(person_ids) == dict.fromkeys(person_ids, images_per_identity)
            for group in groups:
                captions = [batch[place] for place in group]
                own = images[100 - person_ids[group[0]]]
                if sum(own) >= images_per_identity:
                    assert len(set(captions)) == images_per_identity, "no caption twice while there are others"
                if len(set(own)) == 1 and len(own) >= images_per_identity:
                    assert len({items.rows[index] for index in captions}) == images_per_identity, "different images"
        counts = Counter(order)
        assert counts.keys() == set(range(len(items.rows)))

    def test_where_all_divides_an_epoch_visits_every_caption_once(self):
        order = list(IdentityBalancedSampler(people([[2] * 4] * 6), batch_size=16, images_per_identity=4))
        assert sorted(order) == list(range(48))

    def test_no_longer_than_it_must_be(self):
        # 3 people with 5 captions each are 2 groups of 4 each: 6 groups, 3 batches of 2 people, 24 captions.
        assert len(IdentityBalancedSampler(people([[1] * 5] * 3), batch_size=8, images_per_identity=4)) == 24
        # One person's 5 groups need 5 batches, whose other places the three others share.
        assert (
            len(IdentityBalancedSampler(people([[1] * 10, [1], [1], [1]]), batch_size=4, images_per_identity=2)) == 20
        )

    def test_the_order_follows_from_seed_and_epoch(self):
        def order(seed: int, epoch: int) -> tuple[int, ...]:
            return tuple(IdentityBalancedSampler(people([[2] * 4] * 9, seed, epoch), batch_size=8))

        assert order(3, 0) == order(3, 0)
        assert len({order(seed, epoch) for seed in (3, 4) for epoch in (0, 1)}) == 4

    def test_everybody_meets_everybody(self):
        """Over epochs, each pair of people shares a batch about equally often."""
        meetings: Counter[tuple[int, int]] = Counter()
        epochs = 200
        for epoch in range(epochs):
            items = people([[1] * 4] * 6, epoch=epoch)
            order = list(IdentityBalancedSampler(items, batch_size=8, images_per_identity=4))
            for start in range(0, len(order), 8):
                met = {items.person_ids[items.rows[index]] for index in order[start : start + 8]}
                meetings[min(met), max(met)] += 1
        # 15 pairs, of which 3 meet in an epoch: chi-squared has a mean of about 14 and exceeds 37 once in a thousand.
        expected = 3 * epochs / 15
        assert len(meetings) == 15
        assert sum((count - expected) ** 2 / expected for count in meetings.values()) < 37

    def test_the_epoch_is_the_items(self, items):
        sampler = IdentityBalancedSampler(items, batch_size=8, images_per_identity=4)
        first = list(sampler)
        items.set_epoch(1)
        assert list(sampler) != first and sorted(set(first)) == list(range(48))

    @pytest.mark.parametrize(
        "batch_size, images_per_identity, message",
        [
            (10, 4, r"10 pairs .* images_per_identity=4 each: choose a multiple"),
            (4, 4, "two or more people"),
            (28, 4, "needs 7 people with images_per_identity=4, the training data have 6"),
        ],
    )
    def test_what_cannot_be(self, items, batch_size, images_per_identity, message):
        with pytest.raises(ValueError, match=message):
            IdentityBalancedSampler(items, batch_size, images_per_identity)
