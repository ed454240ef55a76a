"""Samplers: in which order training visits the captions."""

from collections import defaultdict
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


class IdentityBalancedSampler(torch.utils.data.Sampler[int]):
    """
    Fills every batch with as many captions of each of its people: batch size / `images_per_identity` people, and that
    many captions of each, of different images where the person has enough.

    An epoch visits every caption at least once. The captions of a person are split into groups at random; the last
    group is filled up with other captions of the person, and the last batch with other groups of random people, so
    that an epoch is somewhat longer than the number of captions. Its length depends on the data alone. The order
    follows from the run's seed and the epoch: every process draws the same, and so does a resumed run.

    Source: the P x K batches of person re-identification (Hermans et al., arXiv 1703.07737); the epoch is this
    project's choice.

    Args:
        items ([`~scmm.data.collator.CaptionItems`]): the training items, which know seed and epoch.
        batch_size (`int`): pairs in the batch of all processes.
        images_per_identity (`int`, defaults to 4): captions of each person in a batch.

    Raises:
        ValueError: if the batch cannot be divided so, or the data have too few people to fill it.

    Example:

    ```python
    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> from scmm import SCMMProcessor
    >>> from scmm.data.collator import CaptionItems
    >>> from scmm.data.samplers import IdentityBalancedSampler
    >>> from scmm.data.schema import FEATURES
    >>> row = {"image": Image.new("RGB", (8, 16)), "captions": ["a man"], "image_id": 0, "camera_id": -1}
    >>> people = [{**row, "file_name": f"{index}.png", "person_id": index // 3} for index in range(9)]
    >>> processor = SCMMProcessor.from_captions(["a man"] * 3, quality_measure="constant")
    >>> items = CaptionItems(Dataset.from_list(people, features=FEATURES), processor)
    >>> sampler = IdentityBalancedSampler(items, batch_size=4, images_per_identity=2)
    >>> order = list(sampler)
    >>> len(sampler), sorted(set(order)), [items[index]["person_id"] for index in order[:4]]
    (12, [0, 1, 2, 3, 4, 5, 6, 7, 8], [...])

    ```
    """

    def __init__(self, items: CaptionItems, batch_size: int, images_per_identity: int = 4):
        self.items = items
        self.images_per_identity = images_per_identity
        self.people_per_batch, rest = divmod(batch_size, images_per_identity)
        if rest or self.people_per_batch < 2:
            raise ValueError(
                f"A batch of {batch_size} pairs (of all processes) is not two or more people with "
                f"images_per_identity={images_per_identity} each: choose a multiple."
            )
        # The captions of each image of each person.
        captions: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for index, row in enumerate(items.rows):
            captions[items.person_ids[row]][row].append(index)
        self.captions = [list(images.values()) for _, images in sorted(captions.items())]
        if len(self.captions) < self.people_per_batch:
            raise ValueError(
                f"A batch of {batch_size} pairs needs {self.people_per_batch} people with images_per_identity="
                f"{images_per_identity}, the training data have {len(self.captions)}."
            )
        self.groups = [-(-sum(map(len, images)) // images_per_identity) for images in self.captions]
        # Nobody is twice in a batch, so that there are at least as many batches as one person has groups.
        self.num_batches = max(-(-sum(self.groups) // self.people_per_batch), *self.groups)

    def __len__(self) -> int:
        return self.num_batches * self.people_per_batch * self.images_per_identity

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(mixed_seed("people", self.items.seed, self.items.epoch))
        people = _shuffled(list(range(len(self.captions))), generator)
        groups = list(self.groups)
        missing = self.num_batches * self.people_per_batch - sum(groups)
        while missing:
            for person in people:
                added = missing > 0 and groups[person] < self.num_batches
                groups[person] += added
                missing -= added
        # One person's groups follow each other here and are at most one for each batch: dealt out to the batches in
        # turn, no two get into the same.
        dealt = [group for person in people for group in self._groups_of(person, groups[person], generator)]
        for batch in torch.randperm(self.num_batches, generator=generator).tolist():
            for group in dealt[batch :: self.num_batches]:
                yield from group

    def _groups_of(self, person: int, count: int, generator: torch.Generator) -> list[list[int]]:
        """Groups of a person's captions, with every caption in them, and in each as many images as there are."""
        images = [_shuffled(captions, generator) for captions in _shuffled(self.captions[person], generator)]
        # First one caption of every image, then the next of every image: neighbors are of different images.
        turns = max(map(len, images))
        queue = [captions[turn] for turn in range(turns) for captions in images if turn < len(captions)]
        size = self.images_per_identity
        groups = [queue[start : start + size] for start in range(0, len(queue), size)]
        groups += [[] for _ in range(count - len(groups))]
        for group in groups:
            while len(group) < size:
                seen = {self.items.rows[index] for index in group}
                others = [index for index in queue if index not in group] or queue
                others = [index for index in others if self.items.rows[index] not in seen] or others
                group.append(others[int(torch.randint(len(others), (), generator=generator))])
        return groups


def _shuffled(values: list, generator: torch.Generator) -> list:
    return [values[index] for index in torch.randperm(len(values), generator=generator).tolist()]
