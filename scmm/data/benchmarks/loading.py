"""`load_benchmark`: a benchmark as a `datasets.DatasetDict`, cached as Arrow, its images by reference."""

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
from datasets import DatasetDict, DatasetInfo, SplitGenerator
from datasets.fingerprint import Hasher
from datasets.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

from scmm.data import schema
from scmm.data.benchmarks.paths import find_images
from scmm.data.benchmarks.rules import Row, check_records, to_tables, warnings_of
from scmm.data.benchmarks.sources import BenchmarkError, Source, find_source, parse_annotations


logger = logging.getLogger(__name__)


class BenchmarkSplits(DatasetDict):
    """The splits of a benchmark; asking for one that it does not have says what can be done."""

    def __missing__(self, split: str) -> None:
        advice = ""
        if split == "val" and "train" in self:
            advice = (
                " Set hold_out_identities to move that many training identities into a validation split, or "
                "select on another one (eval_split in a recipe)."
            )
        name = next(iter(self.values())).info.dataset_name
        raise BenchmarkError(f"{name} has no split {split!r}, only {', '.join(sorted(map(str, self)))}.{advice}")


def load_benchmark(
    name: str,
    root: str | os.PathLike,
    *,
    fields: dict[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
    hold_out_identities: int = 0,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
) -> BenchmarkSplits:
    """
    Loads a benchmark from disk, one row per image, images by reference.

    The rows are written as Arrow into the cache of `datasets` and mapped from there the next time. They are read anew
    when the content of the annotation file, the image folder's place, an option or the reader has changed. Each time,
    the images are looked for, and figures other than the official ones are logged as a warning, since users work on
    subsets.

    `"json"` and `"folder"` read sets of the user's own. UFine6926 and SYNTH-PEDES fit `"json"` as they are; MALS does
    with `fields={"image": "image", "captions": "caption", "person_id": "image_id"}`. In such sets

    - the captions are a list or one text, and the paths are relative to the annotation file's folder, or `image_root`;
    - `"validation"` is read as `"val"`, and without any split everything is `"train"`;
    - ids of persons that are not all integers are numbered from 0 in the order of their first record.

    Args:
        name (`str`): `"cuhk-pedes"`, `"icfg-pedes"`, `"rstpreid"`, `"paperdoll"`, `"json"` or `"folder"`.
        root (`str` or `os.PathLike`):
            The folder that contains the benchmark's own folder (`CUHK-PEDES`, `ICFG-PEDES`, `RSTPReid`, `PaperDoll`),
            with `imgs/` and the annotation file in it. For `"json"`, the file: a list of records, or a record a line
            in `.jsonl` and `.csv`. For `"folder"`, the folder of `metadata.jsonl` or `metadata.csv` and the images.
        fields (`dict[str, str]`, *optional*):
            For `"json"` and `"folder"`, under which keys a record keeps `image`, `captions`, `person_id`, `split` and
            `camera_id`. By default `file_path`, `captions`, `id`, `split` and no camera in `"json"`, and `file_name`,
            `captions`, `person_id`, `split` and `camera_id` in `"folder"`.
        image_root (`str` or `os.PathLike`, *optional*): for `"json"` and `"folder"`, the folder of the images.
        hold_out_identities (`int`, *optional*, defaults to 0):
            How many training identities make up the validation split, for a set without one, such as ICFG-PEDES. A
            larger number includes those of a smaller one.
        seed (`int`, *optional*, defaults to 0): which identities these are.
        cache_dir (`str` or `os.PathLike`, *optional*): instead of the cache of `datasets`.

    Returns:
        `datasets.DatasetDict`: the splits that the annotations name, among `"train"`, `"val"` and `"test"`, with the
        columns `image`, `captions`, `person_id` (as in the file), `image_id`, `camera_id` (-1: unknown) and
        `file_name`. A split that is not there raises a [`BenchmarkError`] that says what can be done.

    Raises:
        BenchmarkError: if a folder, file or image is missing, the annotations are broken, a record breaks a rule of
            [`~scmm.data.benchmarks.rules.check_records`], or identities cannot be held out; the message names the
            file, the record (counted from 0) and the value.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm import load_benchmark
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=3, val_identities=0, test_identities=1, progress=False)
    ...     splits = load_benchmark("paperdoll", root, hold_out_identities=1)
    >>> {split: rows.num_rows for split, rows in splits.items()}
    {'train': 8, 'val': 4, 'test': 4}

    ```
    """
    if hold_out_identities < 0:
        raise BenchmarkError(f"hold_out_identities must not be negative, got {hold_out_identities}.")
    source = find_source(name, root, fields=fields, image_root=image_root)
    builder = _BenchmarkBuilder(
        source,
        hold_out_identities=hold_out_identities,
        seed=seed,
        cache_dir=None if cache_dir is None else str(cache_dir),
    )
    with _without_bars():  # all rows are written at once
        builder.download_and_prepare()
    splits = BenchmarkSplits(builder.as_dataset())
    tables = {str(split): rows.with_format("arrow")[:] for split, rows in splits.items()}
    file_names = (name for table in tables.values() for name in table["file_name"].to_pylist())
    if problems := find_images(source.images, file_names).messages(source.images, source.annotations):
        raise BenchmarkError(" ".join(problems))
    if hold_out_identities:  # the official figures are those of the split as it came
        tables["train"] = pa.concat_tables([tables["train"], tables.pop("val")])
    for message in warnings_of(source, tables):
        logger.warning(message)
    return splits


def hold_out(source: Source, rows: list[Row], identities: int, seed: int) -> list[Row]:
    """
    Moves some training identities into a validation split.

    The identities are those with the least hashes of seed and id, so that the choice depends neither on the order of
    the records nor on the version of a random generator.

    Args:
        source (`Source`): for messages.
        rows (`list[Row]`): of all splits.
        identities (`int`): how many identities; 0 leaves the rows as they are.
        seed (`int`): which ones.

    Returns:
        `list[Row]`: the same rows in the same order.

    Raises:
        BenchmarkError: if there is a validation split, or too few identities.
    """
    if not identities:
        return rows
    if any(row.split == "val" for row in rows):
        raise BenchmarkError(
            f"{source.annotations} has a validation split: hold_out_identities is for sets without one; leave it at 0."
        )
    people = sorted({row.person_id for row in rows if row.split == "train"})
    if identities >= len(people):
        raise BenchmarkError(
            f"hold_out_identities is {identities}, but {source.annotations} has {len(people)} training identities, "
            f"and some must remain: choose a smaller number."
        )
    people.sort(key=lambda person_id: hashlib.sha256(f"{seed} {person_id}".encode()).digest())
    held_out = set(people[:identities])
    return [row._replace(split="val") if row.split == "train" and row.person_id in held_out else row for row in rows]


@dataclass
class _BenchmarkConfig(datasets.BuilderConfig):
    source: Any = None
    content: bytes = b""  # of the annotation file, read once, so that key and rows are of the same
    hold_out_identities: int = 0
    seed: int = 0

    def create_config_id(self, config_kwargs: dict, custom_features: Any = None) -> str:
        """The name of the cache entry, which follows from all that the rows follow from."""
        source: Source = self.source
        key = {
            "annotations": hashlib.sha256(self.content).hexdigest(),
            "format": source.annotations.suffix,
            "images": str(source.images),
            "fields": dataclasses.astuple(source.fields),
            "hold_out": (self.hold_out_identities, self.seed) if self.hold_out_identities else None,
        }
        return f"{self.name}-{Hasher.hash(key)}"


class _BenchmarkBuilder(datasets.ArrowBasedBuilder):
    BUILDER_CONFIG_CLASS = _BenchmarkConfig
    config: _BenchmarkConfig

    def __init__(self, source: Source, *, hold_out_identities: int, seed: int, cache_dir: str | None):
        super().__init__(
            cache_dir=cache_dir,
            dataset_name=source.name,
            hash=_reader_hash(),
            source=source,
            content=source.annotations.read_bytes(),
            hold_out_identities=hold_out_identities,
            seed=seed,
        )

    def _info(self) -> DatasetInfo:
        return DatasetInfo(features=schema.FEATURES)

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        config, source = self.config, self.config.source
        records = parse_annotations(source.annotations, config.content)
        rows = hold_out(source, check_records(source, records), config.hold_out_identities, config.seed)
        return [SplitGenerator(name=split, gen_kwargs={"table": table}) for split, table in to_tables(rows).items()]

    def _generate_tables(self, table: pa.Table) -> Iterator[tuple[int, pa.Table]]:  # ty: ignore[incompatible-method-override]
        yield 0, table


@functools.cache
def _reader_hash() -> str:
    """Of the code that makes the rows: another reader reads anew."""
    files = [*sorted(Path(__file__).parent.glob("*.py")), Path(schema.__file__)]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]


@contextlib.contextmanager
def _without_bars() -> Generator[None]:
    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
