"""Data sets as Parquet with the images in it: one folder that moves as a whole, or a repository on the Hub."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict, Image
from datasets.table import embed_table_storage
from huggingface_hub import HfApi
from tqdm import tqdm


# Their owners give them out for academic use; none may be passed on.
ACADEMIC = ("cuhk-pedes", "icfg-pedes", "rstpreid")
# As `push_to_hub`.
MAX_SHARD_BYTES = 500_000_000
ROWS_PER_GROUP = 100


def export_parquet(
    splits: Mapping[Any, Dataset],
    folder: str | os.PathLike,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: bool = False,
) -> list[Path]:
    """
    Writes splits as Parquet in the layout of the Hub, `data/train-00000-of-00002.parquet` and so on.

    The files' bytes are embedded as they are, unlike by `Dataset.to_parquet`, which writes the paths of local images
    alone. So `datasets.load_dataset(folder)`, and whatever else reads Parquet, needs nothing but the folder, and no
    path of this machine is in it. The folder appears once it is complete.

    Args:
        splits (`dict[str, datasets.Dataset]`): splits of rows of [`~scmm.data.schema.FEATURES`].
        folder (`str` or `os.PathLike`): where to; must not exist, or be empty.
        max_shard_bytes (`int`, defaults to 500,000,000): bytes of images in a file, about.
        progress (`bool`, defaults to `False`): whether to show a progress bar.

    Returns:
        `list[Path]`: the files.

    Raises:
        FileExistsError: if the folder holds anything.
        OSError: if an image is missing (all splits are looked through before anything is written), or a file cannot be
            written.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm import load_benchmark
    >>> from scmm.data.export import export_parquet
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=2, val_identities=0, test_identities=1, progress=False)
    ...     files = export_parquet(load_benchmark("paperdoll", root), f"{root}/parquet")
    >>> [path.name for path in files]
    ['train-00000-of-00001.parquet', 'test-00000-of-00001.parquet']

    ```
    """
    folder = Path(folder).absolute()
    check_free(folder)
    counts = {split: -(-_image_bytes(rows) // max_shard_bytes) or 1 for split, rows in splits.items()}
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    names = []
    try:
        (temporary / "data").mkdir(parents=True)
        total = sum(rows.num_rows for rows in splits.values())
        with tqdm(total=total, desc="Writing images", unit="img", disable=not progress) as bar:
            for split, rows in splits.items():
                for index in range(counts[split]):
                    shard = rows.shard(counts[split], index, contiguous=True)
                    name = f"data/{split}-{index:05d}-of-{counts[split]:05d}.parquet"
                    names.append(name)
                    _write_shard(shard, temporary / name, bar)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return [folder / name for name in names]


def check_free(folder: Path) -> None:
    """Raises `FileExistsError` where an export has no place."""
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise FileExistsError(f"{folder} exists and is not an empty folder: remove it, or choose another one.")


def check_push(name: str, repo_id: str, *, public: bool, has_permission: bool) -> None:
    """
    Raises where a data set must not go to the Hub.

    Args:
        name (`str`): the benchmark.
        repo_id (`str`): the repository, `"user/name"`.
        public (`bool`): whether the push says that the repository may be public.
        has_permission (`bool`): whether the user states that the owners permit it.

    Raises:
        PermissionError: if the benchmark may not be passed on, or the repository exists, everybody can read it, and
            `public` is not given.
        ValueError: if the repository is not given as `"user/name"`.
        OSError: if the Hub does not answer, or refuses.

    Example:

    ```python
    >>> from scmm.data.export import check_push
    >>> check_push("rstpreid", "me/rstpreid", public=False, has_permission=False)
    Traceback (most recent call last):
    PermissionError: rstpreid shows real people, ...

    ```
    """
    if name in ACADEMIC and not has_permission:
        raise PermissionError(
            f"{name} shows real people, and its owners give it out for academic use on the condition that it is not "
            f"passed on; a repository on the Hub is a copy in other hands, a private one too. If you have the owners' "
            f"permission, add --i-have-permission."
        )
    if "/" not in repo_id:  # whose it is would only turn out at the push
        raise ValueError(f"{repo_id!r} is no repository: give it as user/name.")
    api = HfApi()
    # `private` says what a new repository is; of an existing one it changes nothing.
    if not public and api.repo_exists(repo_id, repo_type="dataset") and not api.dataset_info(repo_id).private:
        raise PermissionError(
            f"{repo_id} exists on the Hub and is public: make it private, choose another one, or add --public."
        )


def push_splits(splits: DatasetDict, repo_id: str, *, public: bool = False) -> str:
    """
    Pushes splits to the Hub as Parquet, images embedded. [`check_push`] comes first.

    Args:
        splits (`datasets.DatasetDict`): splits of rows of [`~scmm.data.schema.FEATURES`].
        repo_id (`str`): the repository, `"user/name"`; made where it does not exist.
        public (`bool`, defaults to `False`): whether everybody can read a repository that is made.

    Returns:
        `str`: its address.
    """
    for rows in splits.values():
        _image_bytes(rows)  # a missing image should not end an upload half-way
    splits.push_to_hub(repo_id, private=not public)
    return f"{HfApi().endpoint}/datasets/{repo_id}"


def _image_bytes(rows: Dataset) -> int:
    """The size of all images, each file of which has to exist."""
    total, missing = 0, []
    undecoded = rows.select_columns("image").cast_column("image", Image(decode=False))
    for batch in undecoded.iter(batch_size=ROWS_PER_GROUP):
        for image in batch["image"]:
            if image["bytes"] is not None:
                total += len(image["bytes"])
            elif os.path.isfile(image["path"]):
                total += os.path.getsize(image["path"])
            else:
                missing.append(image["path"])
    if missing:
        raise FileNotFoundError(f"{len(missing)} of {len(rows)} images are missing, the first of them {missing[0]}.")
    return total


def _write_shard(shard: Dataset, path: Path, bar: tqdm) -> None:
    """As `Dataset.to_parquet`, but with the images, and never more of them in memory than a row group has."""
    schema = shard.features.arrow_schema
    with pq.ParquetWriter(path, schema, use_content_defined_chunking=True, write_page_index=True) as writer:
        for table in shard.with_format("arrow").iter(batch_size=ROWS_PER_GROUP):
            writer.write_table(embed_table_storage(table.cast(schema)))
            bar.update(len(table))
