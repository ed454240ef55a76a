"""A gallery in Qdrant: the collection, on a server or a cluster, that holds the embeddings."""

import atexit
import contextlib
import json
import os
import re
import time
import uuid
from collections.abc import Generator, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from scmm.extras import import_extra
from scmm.retrieval.gallery.columns import KNOWN_COLUMNS, TIME, parse_time
from scmm.retrieval.gallery.filters import Filter, Range, expired_before, typed_value
from scmm.retrieval.gallery.store import FORMAT, OWN_COLUMNS, GalleryBusyError, GalleryError


_URL = re.compile(r"qdrant(?P<tls>\+https)?://(?P<place>.+)/(?P<collection>[\w.-]+)")
_MANIFEST = "scmm_gallery"
_TYPES = {str(dtype): dtype for dtype in (pa.string(), pa.bool_(), pa.int64(), pa.float64(), TIME)}
# Points in one request.
_PAGE = 1000


def is_qdrant(path: str | os.PathLike) -> bool:
    """Whether a gallery's path is the URL of a Qdrant collection."""
    return str(path).startswith(("qdrant://", "qdrant+https://"))


class QdrantStore:
    """
    A gallery's collection. It has the methods of [`~scmm.retrieval.gallery.store.Store`].

    A point's vector is the embedding and its payload the columns; what `gallery.json` says in a folder is the
    collection's metadata. A point is known by a UUID made of the image's id, so adding an image twice is no harm, and
    writers need no lock.

    Args:
        url (`str`): `qdrant://HOST:PORT/COLLECTION`, or `qdrant+https://...`, with the key in `QDRANT_API_KEY` if
            there is one. Without a server, for trials: `qdrant:///FOLDER/COLLECTION`, or
            `qdrant://:memory:/COLLECTION`, which lasts as long as the process.

    Raises:
        FileNotFoundError: if there is no such collection.
        GalleryError: if the collection is no gallery, or the server does not answer.
        ExtraNotInstalledError: if qdrant-client is not installed.
    """

    # When removed images leave the disk is up to Qdrant.
    can_erase = False

    def __init__(self, url: str):
        self.path = url
        self.client, self.collection = _connect(url)
        self.models = import_extra("qdrant_client.models", "qdrant")
        if not self.exists(url):
            raise FileNotFoundError(f"{url} is not a gallery: `scmm index build` makes one.")
        self.read_manifest()

    @staticmethod
    def exists(url: str) -> bool:
        """Whether there is such a collection."""
        client, collection = _connect(url)
        with _answering(url):
            return client.collection_exists(collection)

    @classmethod
    def create(cls, url: str, dim: int, manifest: dict[str, Any]) -> "QdrantStore":
        """As [`Store.create`]."""
        client, collection = _connect(url)
        models = import_extra("qdrant_client.models", "qdrant")
        if cls.exists(url):
            raise FileExistsError(f"{url} exists already.")
        # The inner product takes vectors as they are; for the cosine Qdrant would scale and so round them again.
        params = models.VectorParams(size=dim, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16)
        manifest = {"format": FORMAT, "columns": {}, **manifest}
        with _answering(url):
            client.create_collection(collection, vectors_config=params, metadata={_MANIFEST: json.dumps(manifest)})
        store = cls(url)
        store._index_columns(KNOWN_COLUMNS)
        return store

    def read_manifest(self) -> dict[str, Any]:
        """What the collection's metadata says now."""
        with _answering(self.path):
            metadata = self.client.get_collection(self.collection).config.metadata or {}
        if _MANIFEST not in metadata:
            raise GalleryError(f"{self.path} is a collection of something else, not a gallery.")
        self.manifest: dict[str, Any] = json.loads(metadata[_MANIFEST])
        if self.manifest["format"] != FORMAT:
            version = self.manifest["format"]
            raise GalleryError(f"{self.path} has format {version}; this version of scmm reads format {FORMAT}.")
        return self.manifest

    def write_manifest(self, manifest: dict[str, Any]) -> None:
        """Replaces it."""
        self.client.update_collection(self.collection, metadata={_MANIFEST: json.dumps(manifest)})
        self.manifest = manifest

    @contextlib.contextmanager
    def writing(self) -> Generator[None]:
        """Needs no lock; reads what another writer may have changed."""
        self.read_manifest()
        with _answering(self.path):
            yield

    def snapshot(self) -> "QdrantSnapshot":
        """The points as they are now."""
        return QdrantSnapshot(self, self.newest_version())

    def newest_version(self) -> int:
        """A new number each time: Qdrant does not say whether something has changed."""
        self.read_manifest()
        return time.monotonic_ns()

    @property
    def dim(self) -> int:
        """Width of the embeddings."""
        return self.client.get_collection(self.collection).config.params.vectors.size

    @property
    def schema(self) -> pa.Schema:
        """Names and types of the columns."""
        return pa.schema({**self._types, "embedding": pa.list_(pa.float16(), self.dim)})

    def metadata_columns(self) -> list[str]:
        """The names of what is known of an image, the user's columns included."""
        return [*KNOWN_COLUMNS, *self.manifest["columns"]]

    def type_of(self, column: str) -> pa.DataType:
        """The type of a column of these."""
        if column not in self.metadata_columns():
            raise GalleryError(f"The gallery has no column {column!r}, only {', '.join(self.metadata_columns())}.")
        return self._types[column]

    def stats(self) -> dict[str, Any]:
        """Where the gallery is; what it takes of the disk only its server knows."""
        return {
            "path": self.path,
            "model": self.manifest["model"],
            "retention_days": self.manifest["retention_days"],
            "dim": self.dim,
            "files": 0,
            "bytes": 0,
        }

    def add_columns(self, columns: Sequence[pa.Field]) -> None:
        """Adds columns, null in every point."""
        if columns:
            new = {column.name: column.type for column in columns}
            known = {**self.manifest["columns"], **{name: str(dtype) for name, dtype in new.items()}}
            self.write_manifest({**self.manifest, "columns": known})
            self._index_columns(new)

    def append(self, rows: pa.Table) -> None:
        """Writes points."""
        for start in range(0, len(rows), _PAGE):
            points = [self._point(row) for row in rows.slice(start, _PAGE).to_pylist()]
            self.client.upsert(self.collection, points, wait=True)

    def replace(self, rows: pa.Table) -> None:
        """Writes points over those of the same ids."""
        self.append(rows)

    def delete(self, row_ids: np.ndarray) -> None:
        """Deletes points."""
        for start in range(0, len(row_ids), _PAGE):
            points = self.models.PointIdsList(points=row_ids[start : start + _PAGE].tolist())
            self.client.delete(self.collection, points, wait=True)

    def compact(self) -> None:
        """Qdrant's optimizer does it by itself."""

    compact_if_scattered = erase = compact

    def condition(self, where: Filter | None, retention_days: float | None) -> Any:
        """A filter in Qdrant's form; `None` if it lets everything through."""
        models, must = self.models, []
        if where is not None:
            for name, values in where.listed():
                must.append(self._is_in(name, values))
            if where.after is not None:
                must.append(self._is_within("time", Range(low=where.after)))
            if where.before is not None:
                time_range = models.DatetimeRange(lt=parse_time(where.before))
                must.append(models.FieldCondition(key="time", range=time_range))
            for name, values in where.columns.items():
                if isinstance(values, Range):
                    must.append(self._is_within(name, values))
                else:
                    accepted = values if isinstance(values, list | tuple | set | frozenset) else [values]
                    must.append(self._is_in(name, list(accepted)))
        must_not = []
        if retention_days is not None:
            time_range = models.DatetimeRange(lt=expired_before(retention_days))
            must_not.append(models.FieldCondition(key="time", range=time_range))
        return models.Filter(must=must, must_not=must_not) if must or must_not else None

    def _is_in(self, name: str, values: Sequence[Any]) -> Any:
        models, dtype = self.models, self.type_of(name)
        values = [typed_value(value, dtype, name).as_py() for value in values]
        if dtype in (pa.string(), pa.int64()):
            return models.FieldCondition(key=name, match=models.MatchAny(any=values))
        if dtype == pa.bool_():
            equal = [models.FieldCondition(key=name, match=models.MatchValue(value=value)) for value in values]
        else:
            ranges = models.DatetimeRange if dtype == TIME else models.Range
            equal = [models.FieldCondition(key=name, range=ranges(gte=value, lte=value)) for value in values]
        return models.Filter(should=equal) if equal else models.HasIdCondition(has_id=[])

    def _is_within(self, name: str, limits: Range) -> Any:
        models, dtype = self.models, self.type_of(name)
        low, high = (
            None if limit is None else typed_value(limit, dtype, name).as_py() for limit in (limits.low, limits.high)
        )
        if dtype in (pa.string(), pa.bool_()):  # Qdrant orders numbers and times alone
            found = self.client.facet(self.collection, name, limit=2**31 - 1, exact=True).hits
            values = [hit.value for hit in found]
            within = [v for v in values if (low is None or v >= low) and (high is None or v <= high)]
            return self._is_in(name, within)
        ranges = models.DatetimeRange if dtype == TIME else models.Range
        return models.FieldCondition(key=name, range=ranges(gte=low, lte=high))

    def record(self, point: Any, columns: Sequence[str]) -> dict[str, Any]:
        """The columns of a point."""
        record = {}
        for name in columns:
            value = point.vector if name == "embedding" else point.payload.get(name)
            is_time = value is not None and self._types.get(name) == TIME
            record[name] = parse_time(value) if is_time else value
        return record

    @property
    def _types(self) -> dict[str, pa.DataType]:
        """The types of all columns but the embedding."""
        users = {name: _TYPES[dtype] for name, dtype in self.manifest["columns"].items()}
        return {**KNOWN_COLUMNS, "content_hash": pa.string(), "record_hash": pa.string(), **users}

    def _point(self, row: dict[str, Any]) -> Any:
        payload = {
            name: value.isoformat() if hasattr(value, "isoformat") else value
            for name, value in row.items()
            if value is not None and name != "embedding"
        }
        vector = np.asarray(row["embedding"], np.float32).tolist()
        return self.models.PointStruct(id=point_id(row["id"]), vector=vector, payload=payload)

    def _index_columns(self, columns: dict[str, pa.DataType]) -> None:
        """Lets a server filter by these columns; the client's local mode has no such indexes."""
        if is_local(self.client):
            return
        kinds = {"string": "keyword", "bool": "bool", "int64": "integer", "double": "float", str(TIME): "datetime"}
        for name, dtype in columns.items():
            self.client.create_payload_index(self.collection, name, field_schema=kinds[str(dtype)], wait=True)


class QdrantSnapshot:
    """
    The points of a collection. It has the methods of [`~scmm.retrieval.gallery.store.Snapshot`], but nothing keeps
    another writer from changing them meanwhile.
    """

    def __init__(self, store: QdrantStore, version: int):
        self.store, self.version = store, version

    def __len__(self) -> int:
        return self.store.client.count(self.store.collection, exact=True).count

    @property
    def schema(self) -> pa.Schema:
        return self.store.schema

    @cached_property
    def _points(self) -> list[Any]:
        """All points with their payloads, in one pass."""
        return list(self._scroll(None, with_payload=True))

    def column(self, name: str) -> pa.ChunkedArray:
        """A whole column, in the order of the rows."""
        if name not in (*self.store.metadata_columns(), *OWN_COLUMNS):
            self.store.type_of(name)  # raises
        values = [self.store.record(point, [name])[name] for point in self._points]
        return pa.chunked_array([pa.array(values, self.store.schema.field(name).type)])

    def matching(self, where: Filter) -> np.ndarray:
        """The row ids of the images that meet the conditions."""
        if where.is_empty:
            raise ValueError("The filter has no condition.")
        return _ids(list(self._scroll(self.store.condition(where, None), with_payload=False)))

    def find(self, identifier: str, columns: Sequence[str]) -> dict[str, Any] | None:
        """Some columns of the image with this id, if there is one."""
        points = self._retrieve([point_id(identifier)], columns)
        return self.store.record(points[0], columns) if points else None

    def scan(self, columns: Sequence[str]) -> Generator[pa.Table]:
        """All rows in order, some thousands at a time."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        page: list[dict[str, Any]] = []
        for point in self._scroll(None, with_payload=True, with_vectors="embedding" in columns):
            page.append(self.store.record(point, columns))
            if len(page) == _PAGE:
                yield _table(page, schema)
                page = []
        if page:
            yield _table(page, schema)

    def hashes(self, ids: Sequence[str]) -> dict[str, tuple[str, str, str]]:
        """For each of these images that is there its place, its content's hash and its record's."""
        points = self._retrieve([point_id(identifier) for identifier in ids], ["content_hash", "record_hash"])
        return {
            point.payload["id"]: (point.id, point.payload["content_hash"], point.payload["record_hash"])
            for point in points
        }

    def take(self, rows: Sequence[str], columns: Sequence[str]) -> list[dict[str, Any]]:
        """Some columns of the points at these places, which here are their ids, in this order."""
        by_id = {point.id: point for point in self._retrieve(rows, columns)}
        return [self.store.record(by_id[row], columns) for row in rows]

    def _retrieve(self, ids: Sequence[str], columns: Sequence[str]) -> list[Any]:
        return [
            point
            for start in range(0, len(ids), _PAGE)
            for point in self.store.client.retrieve(
                self.store.collection,
                list(ids[start : start + _PAGE]),
                with_payload=True,
                with_vectors="embedding" in columns,
            )
        ]

    def _scroll(self, condition: Any, **options: Any) -> Generator[Any]:
        offset = None
        while True:
            points, offset = self.store.client.scroll(
                self.store.collection, scroll_filter=condition, limit=_PAGE, offset=offset, **options
            )
            yield from points
            if offset is None:
                return


def point_id(identifier: str) -> str:
    """The id under which Qdrant knows an image."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, identifier))


def _ids(points: Sequence[Any]) -> np.ndarray:
    return np.array([point.id for point in points], dtype=object)


def _table(records: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    columns = []
    for entry in schema:
        values = [record[entry.name] for record in records]
        if entry.name == "embedding":
            flat = pa.array(np.asarray(values, np.float16).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, entry.type.list_size))
        else:
            columns.append(pa.array(values, entry.type))
    return pa.table(columns, schema=schema)


def _connect(url: str) -> tuple[Any, str]:
    found = _URL.fullmatch(url)
    if not found:
        raise GalleryError(f"{url} is not qdrant://HOST:PORT/COLLECTION.")
    with _answering(url):
        return _client(found["place"], bool(found["tls"])), found["collection"]


@cache  # a local folder lets one client in
def _client(place: str, tls: bool) -> Any:
    qdrant = import_extra("qdrant_client", "qdrant")
    if place == ":memory:":
        options = {"location": place}
    elif place.startswith("/"):
        options = {"path": place}
    else:
        scheme = "https" if tls else "http"
        options = {"url": f"{scheme}://{place}", "api_key": os.environ.get("QDRANT_API_KEY"), "timeout": 60}
    client = qdrant.QdrantClient(**options)
    atexit.register(client.close)  # it would try to when Python has gone already
    return client


def is_local(client: Any) -> bool:
    """Whether a client stores and searches by itself."""
    return type(client._client).__name__ == "QdrantLocal"


@contextlib.contextmanager
def _answering(url: str) -> Generator[None]:
    """Turns the client's errors into ours."""
    exceptions = import_extra("qdrant_client.http.exceptions", "qdrant")
    try:
        yield
    except (exceptions.ResponseHandlingException, exceptions.UnexpectedResponse) as error:
        raise GalleryError(f"{url} cannot be used: {error}") from error
    except RuntimeError as error:
        if "already accessed" not in str(error):
            raise
        raise GalleryBusyError(f"{url} is open in another process; without a server, one may use it.") from None
