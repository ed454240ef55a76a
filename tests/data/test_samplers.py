"""Orders of an epoch: complete, reproducible, and as cheap as they promise."""

import pytest

from scmm.data.collator import CaptionItems
from scmm.data.samplers import LengthGroupedSampler


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
