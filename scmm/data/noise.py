"""
Noisy correspondence: captions of the training split that stand beside another pair's image.

The protocol is that of RDE (Qin et al., CVPR 2024) and of its published code. The training split is read as a list of
pairs, every caption with its image, in the order of the annotation file and, within an image, of its captions. A
permutation moves the captions and nothing else: pair `i` gets the caption of pair `permutation[i]`, and keeps its
image and its `person_id`, which from then on is the image's and not the caption's. An image keeps its number of
captions.
"""

import os

import numpy as np
from datasets import Dataset


def noise_permutation(num_captions: int, noise_ratio: float, seed: int = 0) -> np.ndarray:
    """
    Draws which captions change places.

    `round(noise_ratio * num_captions)` pairs are drawn, put into a random order, and each gets the next one's caption,
    the last one the first's. So every drawn pair loses its caption, and the ratio is exact. (RDE's code shuffles the
    drawn ones freely, and a few of them fall back to their place; its published files are read by
    [`read_noise_file`].)

    Args:
        num_captions (`int`): captions of the training split.
        noise_ratio (`float`): share of pairs that lose their caption, in [0, 1]. The field reports 0.2, 0.5 and 0.8.
        seed (`int`, defaults to 0): of the draw; the same permutation on every machine.

    Returns:
        `np.ndarray` of shape `(num_captions,)`: int64, for [`permute_captions`]. `np.save` makes a file of it that
        [`read_noise_file`] and the public code read.

    Raises:
        ValueError: if the ratio is outside [0, 1], or draws a single pair, which has none to swap with.

    Example:

    ```python
    >>> from scmm.data.noise import noise_permutation
    >>> permutation = noise_permutation(10, 0.5)
    >>> int((permutation != range(10)).sum())
    5

    ```
    """
    if not 0 <= noise_ratio <= 1:
        raise ValueError(f"noise_ratio must lie in [0, 1], got {noise_ratio}.")
    num_noisy = round(noise_ratio * num_captions)
    if num_noisy == 1:
        raise ValueError(f"noise_ratio={noise_ratio} of {num_captions} captions is one, with none to swap with.")
    permutation = np.arange(num_captions, dtype=np.int64)
    # RandomState's stream never changes, so that a seed names the same noise with any NumPy.
    drawn = np.random.RandomState(seed).permutation(num_captions)[:num_noisy]
    permutation[drawn] = np.roll(drawn, -1)
    return permutation


def read_noise_file(path: str | os.PathLike, num_captions: int) -> np.ndarray:
    """
    Reads a permutation of the training captions, as RDE publishes them (`noiseindex/CUHK-PEDES_0.2.npy` and so on).

    Args:
        path (`str` or `os.PathLike`): a `.npy` file of one int64 permutation.
        num_captions (`int`): captions of the training split, which the permutation must have as its length.

    Returns:
        `np.ndarray` of shape `(num_captions,)`: int64, for [`permute_captions`].

    Raises:
        ValueError: if the file is no `.npy` file of int64, of another length, or no permutation; the message names the
            file and the first wrong entry.
        OSError: if the file cannot be opened.

    Example:

    ```python
    >>> import tempfile
    >>> import numpy as np
    >>> from scmm.data.noise import read_noise_file
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/mine_0.5.npy", np.array([2, 1, 0, 3]))
    ...     read_noise_file(f"{folder}/mine_0.5.npy", num_captions=4)
    array([2, 1, 0, 3])

    ```
    """
    try:
        # Mapped, not read: whatever size the header claims, nothing is allocated before it is checked.
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not a .npy file of integers: {error}") from None
    if not isinstance(mapped, np.ndarray) or mapped.dtype != np.int64 or mapped.ndim != 1:
        found = f"{mapped.ndim}-dimensional {mapped.dtype}" if isinstance(mapped, np.ndarray) else "an archive"
        raise ValueError(f"{path} must hold one int64 permutation, a list of caption numbers, but holds {found}.")
    if len(mapped) != num_captions:
        raise ValueError(
            f"{path} permutes {len(mapped)} captions, but the training split has {num_captions}: it belongs to "
            f"another data set, or to another selection of this one."
        )
    permutation = np.array(mapped)
    outside = np.flatnonzero((permutation < 0) | (permutation >= num_captions))
    if len(outside):
        raise ValueError(
            f"{path} is no permutation: entry {outside[0]} is {permutation[outside[0]]}, "
            f"outside 0..{num_captions - 1}."
        )
    repeated = np.flatnonzero(np.bincount(permutation, minlength=num_captions) > 1)
    if len(repeated):
        raise ValueError(f"{path} is no permutation: caption {repeated[0]} occurs more than once.")
    return permutation


def permute_captions(dataset: Dataset, permutation: np.ndarray) -> Dataset:
    """
    Moves the captions of a data set: pair `i` gets the caption of pair `permutation[i]`.

    Args:
        dataset (`datasets.Dataset`): rows of [`~scmm.data.schema.FEATURES`].
        permutation (`np.ndarray` of shape `(captions,)`): from [`noise_permutation`] or [`read_noise_file`].

    Returns:
        `datasets.Dataset`: the same rows in the same order with other captions.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from scmm.data.noise import permute_captions
    >>> rows = Dataset.from_dict({"captions": [["a man", "a boy"], ["a woman"]], "person_id": [0, 1]})
    >>> permute_captions(rows, [2, 1, 0])[:]
    {'captions': [['a woman', 'a boy'], ['a man']], 'person_id': [0, 1]}

    ```
    """
    captions_of_row = dataset["captions"][:]
    captions = [caption for captions in captions_of_row for caption in captions]
    moved = (captions[source] for source in permutation)
    column = [[next(moved) for _ in captions] for captions in captions_of_row]
    noisy = dataset.remove_columns("captions").add_column("captions", column, feature=dataset.features["captions"])
    return noisy.select_columns(dataset.column_names)


def count_other_person(dataset: Dataset, permutation: np.ndarray) -> int:
    """
    Counts the pairs that a permutation gives another person's caption: a few of the moved captions come from another
    image of the same person, or from the same image, and are no noise to the identity.

    Args:
        dataset (`datasets.Dataset`): rows of [`~scmm.data.schema.FEATURES`], before [`permute_captions`].
        permutation (`np.ndarray` of shape `(captions,)`): as in [`permute_captions`].

    Returns:
        `int`: at most the number of moved captions, `(permutation != np.arange(len(permutation))).sum()`.

    Example:

    ```python
    >>> from datasets import Dataset
    >>> from scmm.data.noise import count_other_person
    >>> rows = Dataset.from_dict({"captions": [["a man", "a boy"], ["a woman"]], "person_id": [0, 1]})
    >>> count_other_person(rows, [1, 0, 2]), count_other_person(rows, [2, 1, 0])
    (0, 2)

    ```
    """
    counts = [len(captions) for captions in dataset["captions"][:]]
    person_ids = np.repeat(np.array(dataset["person_id"][:]), counts)
    return int((person_ids[permutation] != person_ids).sum())
