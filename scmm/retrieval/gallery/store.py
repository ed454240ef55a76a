"""The table of a gallery on disk: LanceDB, with one writer at a time and readers that each see one version of it."""

import contextlib
import json
import os
import warnings
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from filelock import FileLock, Timeout

from scmm.extras import import_extra
from scmm.retrieval.gallery.approximate import erase_codes
from scmm.retrieval.gallery.columns import KNOWN_COLUMNS
from scmm.retrieval.gallery.filters import Filter


MANIFEST = "gallery.json"
FORMAT = 1
OWN_COLUMNS = frozenset({"embedding", "content_hash", "record_hash"})
_MAX_FRAGMENTS = 16
_TABLE = "images"
_LOCK = ".lock"
# Rows read at a time: LanceDB's buffers grow with it.
_READ_ROWS = 4096
# Threads that read embeddings. Half of the time goes into memory that is touched for the first time.
_READERS = 4
# Readers of an older version have this long to finish; then its files go.
_KEEP_VERSIONS = timedelta(hours=1)


class GalleryError(ValueError):
    """A gallery that cannot be used in this way; the message names it and says what to do."""


class GalleryBusyError(GalleryError):
    """Another process is writing to the gallery."""


class Store:
    """
    The folder of a gallery: `gallery.json`, which says what it is, and the LanceDB table `images`.

    Every change of the table is one atomic commit, so a process may die at any moment. Files that a killed process
    left behind belong to no version and go with the next compaction.

    Args:
        path (`str` or `os.PathLike`): the folder.

    Raises:
        FileNotFoundError: if it holds no gallery.
        GalleryError: if a later version of scmm has written it.
    """

    can_erase = True

    def __init__(self, path: str | os.PathLike):
        self.path = Path(os.path.abspath(path))
        if not self.exists(self.path):
            raise FileNotFoundError(f"{path} is not a gallery: `scmm index build` makes one.")
        self.read_manifest()
        self.table = _connect(self.path).open_table(_TABLE)

    @staticmethod
    def exists(path: str | os.PathLike) -> bool:
        """Whether a folder holds a gallery."""
        return os.path.isfile(os.path.join(path, MANIFEST))

    @classmethod
    def create(cls, path: str | os.PathLike, dim: int, manifest: dict[str, Any]) -> "Store":
        """
        Makes an empty store.

        Args:
            path (`str` or `os.PathLike`): a folder that does not exist, is empty, or whose creation was interrupted.
            dim (`int`): width of the embeddings.
            manifest (`dict`): what `gallery.json` is to say.

        Raises:
            FileExistsError: if the folder holds something else.
        """
        path = Path(os.path.abspath(path))
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file; a gallery is a folder.")
        left_behind = {f"{_TABLE}.lance", _LOCK, "gallery.partial"}
        if path.exists() and (others := {entry.name for entry in path.iterdir()} - left_behind):
            raise FileExistsError(f"{path} already holds {min(others)}: a gallery needs a folder of its own.")
        path.mkdir(parents=True, exist_ok=True)
        with _lock(path):
            schema = pa.schema(
                [
                    *(pa.field(name, dtype, nullable=name != "id") for name, dtype in KNOWN_COLUMNS.items()),
                    pa.field("content_hash", pa.string()),
                    pa.field("record_hash", pa.string()),
                    pa.field("embedding", pa.list_(pa.float16(), dim)),
                ]
            )
            mode = "overwrite" if (path / f"{_TABLE}.lance").exists() else "create"
            _connect(path).create_table(_TABLE, schema=schema, mode=mode)
            _write_json(path / MANIFEST, {"format": FORMAT, **manifest})
        return cls(path)

    def read_manifest(self) -> dict[str, Any]:
        """What `gallery.json` says now."""
        try:
            manifest = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
            version = manifest["format"]
        except (ValueError, KeyError, TypeError) as error:
            raise GalleryError(f"{self.path / MANIFEST} is broken: {error!r}") from None
        if version != FORMAT:
            raise GalleryError(f"{self.path} has format {version}; this version of scmm reads format {FORMAT}.")
        return manifest

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replaces `gallery.json`."""
        _write_json(self.path / MANIFEST, manifest)

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """
        Holds the lock that every writer needs. It ends with the process that holds it, however that ends.

        Raises:
            GalleryBusyError: if another process holds it.
        """
        with _lock(self.path):
            self.table.checkout_latest()
            yield

    def snapshot(self) -> "Snapshot":
        """The newest version of the table."""
        return Snapshot(self.path, self.newest_version())

    def newest_version(self) -> int:
        """The number of the newest version of the table."""
        self.table.checkout_latest()
        return self.table.version

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return self.table.schema

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.schema.field("embedding").type.list_size

    def metadata_columns(self) -> list[str]:
        """The names of what is known of an image, the user's columns included."""
        return [name for name in self.table.schema.names if name not in OWN_COLUMNS]

    def stats(self) -> dict[str, Any]:
        """Where the gallery is and what it takes of the disk."""
        manifest = self.read_manifest()
        files = [path for path in self.path.rglob("*") if path.is_file()]
        return {
            "path": str(self.path),
            "model": manifest["model"],
            "retention_days": manifest["retention_days"],
            "dim": self.dim,
            "files": len(files),
            "bytes": sum(path.stat().st_size for path in files),
        }

    def add_columns(self, columns: Sequence[pa.Field]) -> None:
        """Adds columns, null in every row."""
        if columns:
            self.table.add_columns(pa.schema(columns))

    def append(self, rows: pa.Table) -> None:
        """Adds rows whose ids are new."""
        self.table.add(_in_order(rows, self.table.schema))

    def replace(self, rows: pa.Table) -> None:
        """Replaces the rows of the same ids."""
        rows = _in_order(rows, self.table.schema)
        self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(rows)

    def delete(self, row_ids: np.ndarray) -> None:
        """Deletes rows. They are named by numbers, since a condition is kept in the table's history as text."""
        for part in np.array_split(row_ids, max(1, -(-len(row_ids) // 10_000))):
            if len(part):
                self.table.delete(f"_rowid IN ({', '.join(map(str, part.tolist()))})")

    def compact(self) -> None:
        """Joins small files, and removes the versions that are older than an hour."""
        self.table.optimize(cleanup_older_than=_KEEP_VERSIONS)

    def compact_if_scattered(self) -> None:
        """Compacts once there are many small files; after each small change it would rewrite large ones."""
        if self.table.stats()["fragment_stats"]["num_fragments"] > _MAX_FRAGMENTS:
            self.compact()

    def erase(self) -> None:
        """Writes the table anew and removes every other file of it, so that nothing that was deleted is left."""
        self.table.add(self._all_rows(), mode="overwrite")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it warns of readers; ours turn to the newest version
            self.table.optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        erase_codes(self.path)

    def _all_rows(self) -> pa.RecordBatchReader:
        snapshot = self.snapshot()
        schema = self.table.schema
        return pa.RecordBatchReader.from_batches(
            schema, (batch for table in snapshot.scan(schema.names) for batch in table.to_batches())
        )


class Snapshot:
    """
    One version of the table, which stays as it is whatever a writer does.

    Only erasing takes its files away; reading then raises [`VersionGoneError`].
    """

    def __init__(self, path: Path, version: int):
        self.version = version
        self._table = _connect(path).open_table(_TABLE)
        with _gone():
            self._table.checkout(version)
            # A column has to be read along; this one is short.
            rows = self._table.search().select(["time"]).with_row_id(True).to_arrow()
        self.row_ids: np.ndarray = rows["_rowid"].to_numpy()
        self._columns: dict[str, pa.ChunkedArray] = {}

    def __len__(self) -> int:
        return len(self.row_ids)

    @property
    def schema(self) -> pa.Schema:
        return self._table.schema

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column, in the order of the rows."""
        if name not in self._columns:
            names = [entry for entry in self.schema.names if entry != "embedding"]
            if name not in names:
                raise GalleryError(f"The gallery has no column {name!r}, only {', '.join(names)}.")
            with _gone():
                self._columns[name] = self._table.search().select([name]).to_arrow()[name]
        return self._columns[name]

    def hashes(self, ids: Sequence[str]) -> dict[str, tuple[int, str, str]]:
        """For these images and perhaps others that are there the place, the content's hash and the record's."""
        columns = (self.column(name).to_pylist() for name in ("id", "content_hash", "record_hash"))
        return {name: (place, *hashes) for place, (name, *hashes) in enumerate(zip(*columns, strict=True))}

    def matching(self, where: Filter) -> np.ndarray:
        """The row ids of the images that meet the conditions."""
        return self.row_ids[where.mask(self.column)]

    def find(self, identifier: str, columns: Sequence[str]) -> dict[str, Any] | None:
        """Some columns of the image with this id, if there is one."""
        place = pc.index(self.column("id"), identifier).as_py()
        return None if place < 0 else self.take([place], columns)[0]

    def scan(self, columns: Sequence[str]) -> Generator[pa.Table]:
        """All rows in order, some thousands at a time."""
        for start in range(0, len(self), _READ_ROWS):
            yield self._read(columns, start)

    def vectors(self) -> np.ndarray:
        """All embeddings: float16 of shape `(rows, dim)`."""
        dim = self.schema.field("embedding").type.list_size
        vectors = np.empty((len(self), dim), np.float16)

        def read(start: int) -> None:
            part = self._read(["embedding"], start)["embedding"].combine_chunks()
            vectors[start : start + _READ_ROWS] = part.flatten().to_numpy().reshape(-1, dim)

        with ThreadPoolExecutor(_READERS) as pool:
            list(pool.map(read, range(0, len(self), _READ_ROWS)))
        return vectors

    def take(self, rows: Sequence[int], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of the rows at these places, in this order."""
        if len(rows) == 0:
            return []
        row_ids = self.row_ids[np.asarray(rows)].tolist()
        with _gone():
            found = self._table.take_row_ids(row_ids).with_row_id().select(list(columns)).to_arrow()
        by_row_id = {row.pop("_rowid"): row for row in found.to_pylist()}
        return [by_row_id[row_id] for row_id in row_ids]

    def _read(self, columns: Sequence[str], start: int) -> pa.Table:
        """Some thousand rows from a place on."""
        with _gone():
            rows = self._table.search().select(list(columns)).offset(start).limit(_READ_ROWS)
            return rows.to_batches(_READ_ROWS).read_all()


class VersionGoneError(GalleryError):
    """The files of this version have been erased: the newest version has to be read."""


@contextlib.contextmanager
def _gone() -> Generator[None]:
    try:
        yield
    except (RuntimeError, ValueError, OSError) as error:
        if "not found" in str(error).lower() or "no longer exists" in str(error):
            raise VersionGoneError(f"This version of the gallery has been erased: {error}") from error
        raise


def _in_order(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table's columns in its order, null where the rows have none."""
    columns = [
        rows[entry.name].cast(entry.type) if entry.name in rows.column_names else pa.nulls(len(rows), entry.type)
        for entry in schema
    ]
    return pa.table(columns, schema=schema)


def _connect(path: Path) -> Any:
    return import_extra("lancedb", "gallery").connect(path)


@contextlib.contextmanager
def _lock(path: Path) -> Generator[None]:
    """A lock that the operating system frees when its process ends, even by a kill."""
    lock = FileLock(path / _LOCK, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise GalleryBusyError(f"{path} is being written to by another process: wait until it has finished.") from None
    try:
        yield
    finally:
        lock.release()


def _write_json(path: Path, content: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    with open(partial, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
