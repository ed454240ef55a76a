"""Statistics of a data set: how long and how telling its captions are, and how many images each person has."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Dataset

from scmm.caption_quality import WORD, CaptionQuality


@dataclass
class SplitStats:
    """
    What was counted in one split.

    Args:
        captions_per_image (`np.ndarray` of shape `(images,)`): int64.
        images_per_identity (`np.ndarray` of shape `(identities,)`): int64, in the order of the first image.
        words (`np.ndarray` of shape `(captions,)`): int64, words of each caption, as caption quality counts them.
        quality (`np.ndarray` of shape `(captions,)`): float64, the quality of each caption in [0, 1].
    """

    captions_per_image: np.ndarray
    images_per_identity: np.ndarray
    words: np.ndarray
    quality: np.ndarray

    def summary(self) -> dict[str, Any]:
        """
        Returns:
            `dict[str, Any]`: `images`, `identities`, `identities_with_one_image` and `captions` as numbers, and for
            `captions_per_image`, `images_per_identity`, `words` and `quality` a `dict` of their `mean`, `min`, `p5`,
            `median`, `p95` and `max` (percentiles interpolated linearly), empty where there is nothing to count.
        """
        return {
            "images": len(self.captions_per_image),
            "identities": len(self.images_per_identity),
            "identities_with_one_image": int((self.images_per_identity == 1).sum()),
            "captions": len(self.words),
            **{name: _spread(getattr(self, name)) for name in SPREADS},
        }


SPREADS = ("words", "quality", "captions_per_image", "images_per_identity")


def dataset_stats(splits: Mapping[Any, Dataset]) -> dict[str, SplitStats]:
    """
    Counts captions, words, images and people, without reading an image.

    Caption quality is the information measure ([`CaptionQuality`]), fitted on the training captions as in training; on
    the captions of all splits where there is no training split.

    Args:
        splits (`dict[str, datasets.Dataset]`): splits of rows of [`~scmm.data.schema.FEATURES`], as
            [`load_benchmark`] returns them.

    Returns:
        `dict[str, SplitStats]`: by the split's name.

    Raises:
        ValueError: if the captions are too few for their quality to be measured.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from scmm.data.stats import dataset_stats
    >>> captions = [["a man in red", "a man"], ["a man in a hat"], ["a man walks"]]
    >>> stats = dataset_stats({"train": Dataset.from_dict({"captions": captions, "person_id": [7, 7, 9]})})
    >>> summary = stats["train"].summary()
    >>> summary["identities"], summary["identities_with_one_image"], summary["words"]["max"]
    (2, 1, 5.0)

    ```
    """
    captions_of = {str(name): rows["captions"][:] for name, rows in splits.items()}
    fitted_on = [captions_of["train"]] if "train" in captions_of else captions_of.values()
    quality = CaptionQuality().fit(caption for rows in fitted_on for captions in rows for caption in captions)
    stats = {}
    for (name, captions_of_row), rows in zip(captions_of.items(), splits.values(), strict=True):
        captions = [caption for captions in captions_of_row for caption in captions]
        stats[name] = SplitStats(
            captions_per_image=np.array([len(captions) for captions in captions_of_row], dtype=np.int64),
            images_per_identity=np.array(list(Counter(rows["person_id"][:]).values()), dtype=np.int64),
            words=np.array([len(WORD.findall(caption)) for caption in captions], dtype=np.int64),
            quality=np.array(quality(captions), dtype=np.float64),
        )
    return stats


def sample_rows(dataset: Dataset, count: int, seed: int = 0) -> Dataset:
    """
    Draws rows to look at, of as many people as there are.

    Args:
        dataset (`datasets.Dataset`): rows of [`~scmm.data.schema.FEATURES`].
        count (`int`): rows; fewer where the data set is smaller.
        seed (`int`, defaults to 0): of the draw.

    Returns:
        `datasets.Dataset`: a person comes again only once everybody has been drawn as often.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from scmm.data.stats import sample_rows
    >>> rows = Dataset.from_dict({"person_id": [0, 0, 0, 0, 1, 2]})
    >>> sorted(sample_rows(rows, 3)["person_id"])
    [0, 1, 2]

    ```
    """
    order = np.random.RandomState(seed).permutation(len(dataset)).tolist()
    person_ids, seen = dataset["person_id"][:], Counter()
    rounds = []
    for row in order:
        rounds.append(seen[person_ids[row]])
        seen[person_ids[row]] += 1
    chosen = sorted(range(len(order)), key=rounds.__getitem__)[:count]  # stable: random within a round
    return dataset.select([order[index] for index in chosen])


def _spread(values: np.ndarray) -> dict[str, float]:
    if not len(values):
        return {}
    p5, median, p95 = np.percentile(values, [5, 50, 95])
    named = {"mean": values.mean(), "min": values.min(), "p5": p5, "median": median, "p95": p95, "max": values.max()}
    return {name: float(value) for name, value in named.items()}
