"""What a gallery is built from: a folder, metadata beside images, a Parquet file, or a `datasets` data set."""

import contextlib
import json
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature

from scmm.retrieval.gallery.columns import KNOWN_COLUMNS, TIME, ColumnError, normalize_columns
from scmm.retrieval.gallery.filters import expired_before
from scmm.retrieval.gallery.identity import ModelIdentity
from scmm.retrieval.gallery.shards import check_complete, shard_files
from scmm.retrieval.search import find_images


logger = logging.getLogger(__name__)

# In the metadata of a Parquet file: the model of the embeddings in it, and the images that were left out, with why.
EMBEDDINGS_KEY, SKIPPED_KEY = b"scmm_model", b"scmm_skipped"
METADATA_NAMES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")


@dataclass
class Source:
    """
    The images that a gallery is to hold.

    Args:
        name (`str`): for messages.
        table (`pyarrow.Table`): a row per image: [`KNOWN_COLUMNS`] and the user's own.
        embedded (`Callable`, *optional*): gives the encoded image of a row, or `None` where a file holds it.
        skipped (`list[tuple[str, str]]`): files that cannot even be listed, and why.
        identity ([`ModelIdentity`], *optional*): the model of the embeddings, where the source brings them along.
        computed (`Callable`, *optional*): then gives the hash of a row's content and its float16 embedding.
    """

    name: str
    table: pa.Table
    embedded: Callable[[int], bytes | None] = lambda row: None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    identity: ModelIdentity | None = None
    computed: Callable[[int], tuple[str, np.ndarray]] | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    def take(self, rows: np.ndarray | range) -> "Source":
        """Some rows of it, with nothing skipped yet."""
        computed = self.computed
        return Source(
            self.name,
            self.table.take(np.asarray(rows, np.int64)),
            lambda row: self.embedded(int(rows[row])),
            identity=self.identity,
            computed=None if computed is None else lambda row: computed(int(rows[row])),
        )

    def newer_than(self, days: float | None) -> "Source":
        """Without the images that are older than some days, which are skipped; `None` keeps all."""
        if days is None:
            return self
        limit = pa.scalar(expired_before(days), TIME)
        old = pc.fill_null(pc.less(self.table["time"], limit), False)
        reason = f"older than the retention of {days:g} days"
        skipped = [(name, f"{name}: {reason}") for name in self.table.filter(old)["id"].to_pylist()]
        return replace(self.take(np.flatnonzero(~np.asarray(old))), skipped=[*self.skipped, *skipped])


class SourceError(ValueError):
    """A source that cannot be used; the message names the file, the record and the value."""


def read_source(source: str | os.PathLike | Dataset | Source) -> Source:
    """
    Lists the images that a gallery is to hold, without reading them.

    The columns `id`, `camera` (or `camera_id`, where -1 means unknown), `time` (or `timestamp`; without a zone it is
    UTC) and `person_id` are what they say. Other columns are kept as the user's own if they hold text, numbers, truth
    values or times. An image without an `id` is known by the absolute path of its file or, where the image is within
    the data, by the name it has there.

    Args:
        source (`str`, `os.PathLike` or `datasets.Dataset`):
            - a folder of images, searched with its sub-folders;
            - a folder with a `metadata.csv`, `metadata.jsonl` or `metadata.parquet` whose rows name images by
              `file_name`, relative to the folder, or by an absolute `path`; or such a file itself;
            - a Parquet file with the images in it, in a column `image` as `datasets` writes it;
            - a data set, or the folder into which it was saved with `save_to_disk`;
            - what this function returned;
            - embeddings: the folder that `scmm index embed` wrote, or the Parquet file that a gallery's export wrote.

    Returns:
        [`Source`]

    Raises:
        SourceError: if the source cannot be read, a record has no image or a value of a wrong type, two records have
            the same id, or a `file_name` leaves the folder.
        OSError: if the source does not exist, or a folder holds no images.

    Example:

    ```python
    >>> import tempfile
    >>> from pathlib import Path
    >>> from PIL import Image
    >>> from scmm.retrieval.gallery.sources import read_source
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 16)).save(f"{folder}/crop.png")
    ...     _ = Path(folder, "metadata.csv").write_text("file_name,camera,gate\\ncrop.png,07,north\\n")
    ...     read_source(folder).table.select(["camera", "gate"]).to_pylist()
    [{'camera': '07', 'gate': 'north'}]

    ```
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, DatasetDict):
        raise SourceError(f"The data set has the splits {', '.join(map(str, source))}: choose one.")
    if isinstance(source, Dataset):
        return _from_dataset(source, "data set")
    path = Path(os.path.abspath(source))
    if path.is_file():
        return _from_file(path)
    if not path.is_dir():
        raise FileNotFoundError(f"{source} does not exist: a source is a folder of images, or a file that lists them.")
    if (path / "dataset_dict.json").is_file():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise SourceError(f"{path} has the splits {', '.join(splits)}: choose one, such as {path / splits[0]}.")
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return _from_dataset(Dataset.load_from_disk(path), str(path))
    if files := shard_files(path):
        check_complete(path, files)
        return _from_embeddings(files, str(path))
    metadata = [path / name for name in METADATA_NAMES if (path / name).is_file()]
    if len(metadata) > 1:
        raise SourceError(f"{path} has {' and '.join(file.name for file in metadata)}: give the one to use as source.")
    if not metadata:
        return _from_folder(path)
    listed, unlisted = _from_file(metadata[0]), []
    with contextlib.suppress(FileNotFoundError):  # a folder may hold nothing but the metadata
        unlisted = sorted(set(map(str, find_images(path))) - set(listed.table["path"].to_pylist()))
    if unlisted:
        text = "%s does not name %d of the images beside it, which are left out, such as %s."
        logger.warning(text, metadata[0], len(unlisted), unlisted[0])
    return listed


def _from_folder(folder: Path) -> Source:
    paths, skipped = [], []
    for path in map(str, find_images(folder)):
        try:
            path.encode()
        except UnicodeEncodeError:
            shown = ascii(path)[1:-1]
            skipped.append((shown, f"{shown}: its name is not UTF-8; rename the file"))
        else:
            paths.append(path)
    return Source(str(folder), _source_table({}, paths, paths, str(folder)), skipped=skipped)


def _from_file(file: Path) -> Source:
    """
    A CSV, JSON lines or Parquet file.

    pyarrow reads it, because `datasets` would leave a copy in its cache, out of reach of a gallery's erasing.
    """
    try:
        if file.suffix == ".csv":
            # Identifiers are not numbers: 007 keeps its zeros.
            texts = dict.fromkeys((*KNOWN_COLUMNS, "file_name", "camera_id", "timestamp"), pa.string())
            options = pa.csv.ConvertOptions(column_types=texts, strings_can_be_null=True)
            table = pa.csv.read_csv(file, convert_options=options)
        elif file.suffix == ".jsonl":
            table = pa.json.read_json(file)
        elif file.suffix == ".parquet":
            parquet = pq.ParquetFile(file)
            if EMBEDDINGS_KEY in (parquet.schema_arrow.metadata or {}):
                return _from_embeddings([file], str(file))
            if "image.bytes" in {parquet.schema.column(index).path for index in range(len(parquet.schema))}:
                return _from_parquet_of_images(parquet, str(file))
            table = parquet.read()
        else:
            raise SourceError(f"{file} is neither a folder nor a .csv, .jsonl or .parquet file.")
    except pa.ArrowException as error:
        raise SourceError(f"{file} cannot be read: {error}") from error
    columns = {name: table[name] for name in table.column_names}
    paths = _listed_paths(columns, file)
    return Source(str(file), _source_table(columns, paths, paths, str(file)))


def _listed_paths(columns: dict[str, Any], file: Path) -> list[str]:
    """Takes the column of paths out of the columns of a metadata file."""
    key = next((key for key in ("file_name", "path", "image") if key in columns), None)
    if key is None:
        raise SourceError(f"{file} has no column file_name, which names each image relative to {file.parent}.")
    paths = []
    for number, value in enumerate(columns.pop(key).to_pylist()):
        if not isinstance(value, str) or not value:
            raise SourceError(f"{file}: record {number} has no {key}, but {value!r}.")
        path = os.path.normpath(file.parent / value)
        if not Path(path).is_relative_to(file.parent) and not (key == "path" and os.path.isabs(value)):
            raise SourceError(f"{file}: record {number} has the {key} {value!r}, which leaves {file.parent}.")
        paths.append(path)
    return paths


def _from_parquet_of_images(parquet: pq.ParquetFile, name: str) -> Source:
    table = parquet.read([column for column in parquet.schema_arrow.names if column != "image"])
    columns = {column: table[column] for column in table.column_names}
    stored = parquet.read(["image.path"])["image"].to_pylist() if "path" in _image_fields(parquet) else []
    names = [image["path"] if image else None for image in stored] or [None] * table.num_rows
    groups = [parquet.metadata.row_group(index).num_rows for index in range(parquet.num_row_groups)]
    place = [(group, row) for group, rows in enumerate(groups) for row in range(rows)]
    lock = threading.Lock()

    @lru_cache(maxsize=2)  # images are asked for in order, by a few threads
    def images_of(group: int) -> pa.ChunkedArray:
        return pc.struct_field(parquet.read_row_group(group, ["image.bytes"])["image"], "bytes")

    def embedded(row: int) -> bytes | None:
        group, index = place[row]
        with lock:
            return images_of(group)[index].as_py()

    return Source(name, _source_table(columns, [None] * table.num_rows, names, name), embedded)


def _from_embeddings(files: Sequence[Path], name: str) -> Source:
    """Parquet files of embeddings, which are read a file at a time."""
    parquets = []
    for file in files:
        try:
            parquets.append(pq.ParquetFile(file))
        except pa.ArrowException as error:
            raise SourceError(f"{file} cannot be read: {error}") from error
    identities = [json.loads(parquet.schema_arrow.metadata[EMBEDDINGS_KEY]) for parquet in parquets]
    identity = ModelIdentity(**identities[0])
    for file, other in zip(files, identities, strict=True):
        if not ModelIdentity(**other).is_same_model(identity):
            raise SourceError(f"{files[0]} is of {identity}, but {file} of {ModelIdentity(**other)}.")
    own = ("content_hash", "embedding")
    try:
        table = pa.concat_tables(
            parquet.read([column for column in parquet.schema_arrow.names if column not in own])
            for parquet in parquets
        ).replace_schema_metadata()
    except pa.ArrowException as error:
        raise SourceError(f"{name}: its files have different columns: {error}") from error
    starts = np.cumsum([0, *(parquet.metadata.num_rows for parquet in parquets)])

    @lru_cache(maxsize=1)  # rows are asked for in order
    def content_of(number: int) -> tuple[list[str], np.ndarray]:
        part = parquets[number].read(own)
        dim = part.schema.field("embedding").type.list_size
        vectors = part["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, dim)
        return part["content_hash"].to_pylist(), vectors

    def computed(row: int) -> tuple[str, np.ndarray]:
        number = int(np.searchsorted(starts, row, side="right")) - 1
        hashes, vectors = content_of(number)
        return hashes[row - starts[number]], vectors[row - starts[number]]

    metadata = [parquet.schema_arrow.metadata for parquet in parquets]
    skipped = [tuple(entry) for entries in metadata for entry in json.loads(entries.get(SKIPPED_KEY, b"[]"))]
    columns = {column: table[column] for column in table.column_names}
    paths = columns.pop("path").to_pylist()
    return Source(
        name, _source_table(columns, paths, paths, name), skipped=skipped, identity=identity, computed=computed
    )


def _image_fields(parquet: pq.ParquetFile) -> list[str]:
    return [entry.name for entry in parquet.schema_arrow.field("image").type]


def _from_dataset(dataset: Dataset, name: str) -> Source:
    key = next((key for key, feature in dataset.features.items() if isinstance(feature, ImageFeature)), None)
    if key is None:
        raise SourceError(f"{name} has no column of images, only {', '.join(dataset.column_names)}.")
    images = dataset.select_columns([key]).cast_column(key, ImageFeature(decode=False))
    table = dataset.remove_columns([key]).with_format("arrow")[:]
    columns = {column: table[column] for column in table.column_names}
    names, paths = [], []
    for batch in images.with_format("arrow").iter(1000):
        stored = pc.struct_field(batch[key], "path").to_pylist()
        is_file = pc.struct_field(batch[key], "bytes").is_null().to_pylist()
        names += stored
        paths += [os.path.abspath(path) if path and file else None for path, file in zip(stored, is_file, strict=True)]
    return Source(name, _source_table(columns, paths, names, name), lambda row: images[row][key]["bytes"])


def _source_table(
    columns: Mapping[str, Any], paths: Sequence[str | None], names: Sequence[str | None], where: str
) -> pa.Table:
    """The normalized columns, with an id for every image: the user's, its path, or its name in the data."""
    columns = dict(columns)
    file_names = columns.pop("file_name", None)
    columns["path"] = pa.array(paths, pa.string())
    if "id" not in columns:
        named = names if file_names is None else file_names.to_pylist()
        columns["id"] = pa.array([path or name for path, name in zip(paths, named, strict=True)], pa.string())
    try:
        table = normalize_columns(columns)
    except ColumnError as error:
        raise SourceError(f"{where}: {error}") from error
    ids = table["id"]
    if ids.null_count:
        number = ids.is_null().index(True).as_py()
        raise SourceError(f"{where}: record {number} has neither an id nor a file name; give the data a column id.")
    counts = ids.value_counts()
    twice = pc.filter(pc.struct_field(counts, "values"), pc.greater(pc.struct_field(counts, "counts"), 1))
    if len(twice):
        first, second = [number for number, value in enumerate(ids.to_pylist()) if value == twice[0].as_py()][:2]
        raise SourceError(f"{where}: records {first} and {second} have the same id {twice[0].as_py()!r}.")
    return table
