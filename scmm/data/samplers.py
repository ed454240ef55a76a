"""Samplers: in which order training visits the captions."""

from collections.abc import Iterator

import torch
from transformers.trainer_pt_utils import get_length_grouped_indices

from scmm.data.collator import CaptionItems, mixed_seed


class LengthGroupedSampler(torch.utils.data.Sampler[int]):
    """
    Visits every caption once an epoch, those of similar length together, so that batches hold little padding.

    transformers' sampler of that name, with the batches shuffled. The order follows from the run's seed and the epoch:
    every process draws the same, and so does a resumed run.

    Args:
        items ([`~scmm.data.collator.CaptionItems`]): the training items, which know seed and epoch.
        batch_size (`int`): pairs in the batch of all processes.

    Example:

    ```python
    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> from scmm import SCMMProcessor
    >>> from scmm.data.collator import CaptionItems
    >>> from scmm.data.samplers import LengthGroupedSampler
    >>> from scmm.data.schema import FEATURES
    >>> row = {"image": Image.new("RGB", (8, 16)), "captions": ["a man", "red", "a man in red"], "person_id": 7}
    >>> rows = Dataset.from_list([{**row, "image_id": 0, "camera_id": -1, "file_name": "0.png"}], features=FEATURES)
    >>> items = CaptionItems(rows, SCMMProcessor.from_captions(row["captions"], quality_measure="constant"))
    >>> [items[index]["caption"] for index in LengthGroupedSampler(items, batch_size=4)]
    ['a man in red', 'a man', 'red']

    ```
    """

    def __init__(self, items: CaptionItems, batch_size: int):
        self.items = items
        self.batch_size = batch_size
        self.lengths = [len(input_ids) for input_ids in items.input_ids]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mixed_seed("order", self.items.seed, self.items.epoch))
        order = get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)
        whole = len(order) // self.batch_size
        batches = torch.tensor(order[: whole * self.batch_size]).view(whole, self.batch_size)
        # Long captions and short ones would otherwise take turns every 50 batches.
        yield from batches[torch.randperm(whole, generator=generator)].flatten().tolist()
        yield from order[whole * self.batch_size :]
