"""The gallery: an index of images on disk that is searched with sentences and images."""

import json
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from torch import Tensor
from torch.nn import functional as F

from scmm.modeling_scmm import SCMMModel
from scmm.processing import ImageError, SCMMProcessor
from scmm.retrieval.checkpoints import load_dual_encoder
from scmm.retrieval.gallery.approximate import RecallReport
from scmm.retrieval.gallery.building import (
    AddReport,
    add_source,
    content_hash,
    embed_source,
    read_file,
    take_embedded,
)
from scmm.retrieval.gallery.columns import KNOWN_COLUMNS, parse_value
from scmm.retrieval.gallery.filters import Filter, expired_before, is_expired
from scmm.retrieval.gallery.identity import ModelIdentity, identify
from scmm.retrieval.gallery.qdrant import QdrantStore, is_qdrant
from scmm.retrieval.gallery.qdrant_view import QdrantView
from scmm.retrieval.gallery.queries import Query, embed_queries
from scmm.retrieval.gallery.sources import EMBEDDINGS_KEY, Source, read_source
from scmm.retrieval.gallery.store import GalleryError, Store, VersionGoneError
from scmm.retrieval.gallery.view import View


AnyQuery = str | Query | Tensor
Result = TypeVar("Result")

# An erasing writer may take the files of the version that is being read; another one would have to follow at once.
_MAX_READS = 5


@dataclass(frozen=True)
class Hit:
    """
    An image that a search found.

    Args:
        id (`str`): its id in the gallery.
        score (`float`): the cosine of its embedding and the query.
        path (`str`, *optional*): its file, or `None` where the image was within a data set.
        camera (`str`, *optional*): the camera.
        time (`datetime`, *optional*): when it was taken, in UTC.
        person_id (`str`, *optional*): who it is, where that is known.
        columns (`dict`): the user's own columns.
    """

    id: str
    score: float
    path: str | None = None
    camera: str | None = None
    time: datetime | None = None
    person_id: str | None = None
    columns: dict[str, Any] = field(default_factory=dict)


def is_gallery(path: str | os.PathLike) -> bool:
    """Whether there is a gallery in this folder, or at this URL of a Qdrant collection."""
    return _store_class(path).exists(path)


class Gallery:
    """
    An index of images on disk: embeddings and what is known of each image, never the images themselves.

    [`Gallery.create`] makes one, [`Gallery.open`] opens it. It belongs to one model, and another one is refused. One
    process may write at a time; any number may search meanwhile, each in the newest version that is complete.

    Example:

    ```python
    >>> import tempfile
    >>> from PIL import Image
    >>> from scmm import Gallery, SCMMConfig, SCMMModel, SCMMProcessor
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3)
    >>> model = SCMMModel(SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for color in ("red", "blue"):
    ...         Image.new("RGB", (32, 64), color).save(f"{folder}/{color}.png")
    ...     gallery = Gallery.create(f"{folder}/gallery", model, processor)
    ...     report = gallery.add(folder)
    ...     hits = gallery.search("a man in a red coat", top_k=1)
    >>> report.added, len(hits)
    (2, 1)

    ```
    """

    def __init__(self, store: Store | QdrantStore):
        self._store = store
        self._model: tuple[SCMMModel, SCMMProcessor] | None = None
        self._current: View | None = None
        self._reading = threading.Lock()

    @classmethod
    def create(
        cls,
        path: str | os.PathLike,
        model: SCMMModel,
        processor: SCMMProcessor,
        *,
        retention_days: float | None = None,
    ) -> "Gallery":
        """
        Makes an empty gallery.

        Args:
            path (`str` or `os.PathLike`): a folder that does not exist or is empty; or the URL of a collection in
                Qdrant, `qdrant://HOST:PORT/COLLECTION` (see [`~scmm.retrieval.gallery.qdrant.QdrantStore`]).
            model ([`SCMMModel`]): the dual encoder whose embeddings it is to hold; an
                [`~scmm.hub.onnx.OnnxModel`] will do.
            processor ([`SCMMProcessor`]): the processor saved with it.
            retention_days (`float`, *optional*): see [`~Gallery.set_retention`].

        Returns:
            [`Gallery`]

        Raises:
            FileExistsError: if the folder holds something, a gallery included.
            ExtraNotInstalledError: if LanceDB is not installed.
        """
        manifest = {"model": identify(model, processor).to_dict(), "retention_days": _checked_days(retention_days)}
        gallery = cls(_store_class(path).create(path, model.config.projection_dim, manifest))
        gallery._model = (model, processor)
        return gallery

    @classmethod
    def open(
        cls,
        path: str | os.PathLike,
        *,
        model: SCMMModel | None = None,
        processor: SCMMProcessor | None = None,
    ) -> "Gallery":
        """
        Opens a gallery.

        Args:
            path (`str` or `os.PathLike`): its folder, or the URL of its collection in Qdrant.
            model ([`SCMMModel`], *optional*): the dual encoder that it was built with. By default the gallery loads it
                from where it came when it first needs it.
            processor ([`SCMMProcessor`], *optional*): the processor saved with the model.

        Returns:
            [`Gallery`]

        Raises:
            FileNotFoundError: if the folder is not a gallery.
            GalleryError: if it was built with another model.
        """
        gallery = cls(_store_class(path)(path))
        if (model is None) != (processor is None):
            raise ValueError("A gallery is opened with a model and its processor, or with neither.")
        if model is not None and processor is not None:
            gallery._take_model(model, processor)
        return gallery

    @property
    def path(self) -> Path | str:
        """Its folder, or its URL."""
        return self._store.path

    @property
    def identity(self) -> ModelIdentity:
        """The model that it was built with."""
        return ModelIdentity(**self._store.read_manifest()["model"])

    @property
    def retention_days(self) -> float | None:
        """How long images are kept; `None` if without end."""
        return self._store.read_manifest()["retention_days"]

    @property
    def model(self) -> SCMMModel:
        """The dual encoder; it is loaded when it is first asked for."""
        return self._loaded_model()[0]

    @property
    def processor(self) -> SCMMProcessor:
        """The model's processor."""
        return self._loaded_model()[1]

    def __len__(self) -> int:
        """How many images it holds."""
        return len(self._view().snapshot)

    def add(self, source: str | os.PathLike | Dataset | Source, *, progress: bool = False) -> AddReport:
        """
        Adds the images of a source, and brings those up to date that the gallery holds already.

        An image that the gallery holds under the same id with the same content is not embedded again. Images are
        embedded in batches of one shape, so that on one machine an image gets the same embedding bit for bit whatever
        is beside it. What is done is committed every second (in a long job every hundredth of its time): after a
        kill at any moment the gallery can be searched, and the same call goes on where it ended.

        Args:
            source (`str`, `os.PathLike` or `datasets.Dataset`):
                See [`~scmm.retrieval.gallery.sources.read_source`].
            progress (`bool`, defaults to `False`): whether to show a progress bar.

        Returns:
            [`AddReport`]: corrupt, oversized and vanished images are skipped and named there, as are images older than
            the retention.

        Raises:
            SourceError: if the source cannot be used.
            GalleryError: if it brings embeddings of another model along.
            GalleryBusyError: if another process is writing.
            OSError: if the source does not exist, or is a folder without images.
        """
        listed = read_source(source)
        if listed.identity is None:
            embed = partial(embed_source, *self._loaded_model())
        else:
            self._check_model(listed.identity)
            embed = take_embedded
        with self._store.writing():
            report = add_source(self._store, listed.newer_than(self.retention_days), embed, progress)
            if self._remove_expired():
                self._store.erase()
            else:
                self._store.compact_if_scattered()
        return report

    def remove(self, where: Filter, *, erase: bool = False) -> int:
        """
        Removes images from the index. Their files are not touched.

        Args:
            where ([`Filter`]): which ones. There must be a condition.
            erase (`bool`, defaults to `False`):
                Whether to remove every trace from the disk: the table is written anew, and with the images removed now
                all that were removed before are gone from the gallery's folder. By default they are only no longer
                found, and their data go some time after the next [`~Gallery.compact`]. Qdrant cannot promise it.

        Returns:
            `int`: how many images were removed.

        Raises:
            ValueError: if the filter has no condition, or names a column that does not exist.
            GalleryError: if it is to erase in Qdrant.
            GalleryBusyError: if another process is writing.
        """
        self._check_erase(erase)
        with self._store.writing():
            rows = self._store.snapshot().matching(where)
            self._store.delete(rows)
            if erase:
                self._store.erase()
        return len(rows)

    def compact(self, *, erase: bool = False) -> int:
        """
        Removes images that are older than the retention, joins small files and removes old versions of the table.

        Args:
            erase (`bool`, defaults to `False`): whether to remove every trace of removed images from the disk, as
                [`~Gallery.remove`] does. It always is so if an image was older than the retention.

        Returns:
            `int`: how many images were older than the retention.

        Raises:
            GalleryBusyError: if another process is writing.
        """
        self._check_erase(erase)
        with self._store.writing():
            expired = self._remove_expired()
            if erase or expired:
                self._store.erase()
            else:
                self._store.compact()
        return expired

    def set_retention(self, days: float | None) -> None:
        """
        Says how long images are kept.

        An image whose time is older is never found again from then on, and is erased by the next [`~Gallery.add`] or
        [`~Gallery.compact`]. Images without a time are kept.

        Args:
            days (`float`, *optional*): how many days; `None` keeps images without end.

        Raises:
            ValueError: if it is not above 0.
            GalleryBusyError: if another process is writing.
        """
        with self._store.writing():
            self._store.write_manifest({**self._store.read_manifest(), "retention_days": _checked_days(days)})

    def embed(self, queries: Sequence[AnyQuery]) -> Tensor:
        """
        The vectors of queries: what [`~Gallery.search`] compares with the images.

        Args:
            queries (sequence of `str`, [`Query`] or `torch.Tensor` of shape `(dim,)`): the queries.

        Returns:
            `torch.Tensor` of shape `(queries, dim)`: float32, normalized, on the CPU.

        Raises:
            ValueError: if a query is empty, a vector has the wrong shape or is zero, or an image cannot be read.
        """
        described = [Query(query) if isinstance(query, str) else query for query in queries]
        to_embed = [query for query in described if isinstance(query, Query)]
        embedded = iter(embed_queries(*self._loaded_model(), to_embed, self.embedding) if to_embed else ())
        vectors = [next(embedded) if isinstance(query, Query) else self._checked_vector(query) for query in described]
        return torch.stack(vectors) if vectors else torch.empty(0, self._store.dim)

    def embedding(self, id: str) -> Tensor:
        """
        The stored embedding of an image.

        Args:
            id (`str`): its id.

        Returns:
            `torch.Tensor` of shape `(dim,)`: float16.

        Raises:
            GalleryError: if there is no image with this id.
        """
        return torch.tensor(self._record(id, ["embedding"])["embedding"], dtype=torch.float16)

    def get(self, id: str) -> Hit:
        """
        What is known of an image.

        Args:
            id (`str`): its id.

        Returns:
            [`Hit`]: with a score of 1.

        Raises:
            GalleryError: if there is no image with this id.
        """
        return _hit(self._record(id, self._store.metadata_columns()), 1.0)

    def read_image(self, id: str) -> bytes:
        """
        The encoded image of an id, as it was when it was indexed.

        Args:
            id (`str`): its id.

        Returns:
            `bytes`: the content of its file.

        Raises:
            GalleryError: if there is no image with this id, or it is older than the retention.
            ImageError: if its file has changed since, or the image was within a data set.
            OSError: if its file is gone.
        """
        record = self._record(id, ["path", "content_hash"])
        content = read_file(record["path"], id)
        if content_hash(content) != record["content_hash"]:
            raise ImageError(f"{record['path']} has changed since it was indexed: add its folder again.")
        return content

    def search(
        self,
        query: AnyQuery,
        *,
        top_k: int = 10,
        where: Filter | None = None,
        group_by: str | None = None,
        min_score: float | None = None,
        approximate: bool = False,
    ) -> list[Hit]:
        """
        Finds the images that are most similar to a query.

        The search is exact: every image is compared. Equal scores rank by id.

        Args:
            query (`str`, [`Query`] or `torch.Tensor` of shape `(dim,)`): a sentence, a query of another kind, or a
                vector.
            top_k (`int`, defaults to 10): how many images to find.
            where ([`Filter`], *optional*): conditions that the images have to meet.
            group_by (`str`, *optional*): a column of which each value is to appear once, by its best image; `"person"`
                is short for `person_id`. Images without a value stand for themselves. Or `"near-duplicates"`, which
                leaves out images of the same camera as a better one whose embeddings have a cosine of 0.9 or more
                with it: further frames of one track.
            min_score (`float`, *optional*): the least score. Scores of different models, and of sentences and images,
                are on different scales.
            approximate (`bool`, defaults to `False`):
                Scan compressed vectors and compare only the most promising images exactly. Some images may be missed:
                [`~Gallery.recall`] measures how many on your own queries. With conditions, and among a few
                thousand images, the search stays exact.

        Returns:
            `list[Hit]`: the images, best first.

        Raises:
            ValueError: if the query is empty, `top_k` is below 1, or a column does not exist.
        """
        return self.search_batch(
            [query], top_k=top_k, where=where, group_by=group_by, min_score=min_score, approximate=approximate
        )[0]

    def search_batch(
        self,
        queries: Sequence[AnyQuery],
        *,
        top_k: int = 10,
        where: Filter | None = None,
        group_by: str | None = None,
        min_score: float | None = None,
        approximate: bool = False,
    ) -> list[list[Hit]]:
        """
        As [`~Gallery.search`], for several queries, which together are faster than one after the other.

        Returns:
            `list[list[Hit]]`: the images of each query, best first.
        """
        if top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {top_k}.")
        vectors = self.embed(queries)
        found = self._read(
            lambda view: view.search(vectors, top_k, view.rows(where, self.retention_days), group_by, approximate)
        )
        return [
            [_hit(record, score) for record, score in ranked if min_score is None or score >= min_score]
            for ranked in found
        ]

    def recall(self, queries: Sequence[AnyQuery], *, top_k: int = 10) -> RecallReport:
        """
        Measures what approximate search finds of what exact search finds, and how long both take.

        The result is kept beside the compressed vectors until the gallery changes.

        Args:
            queries (sequence of `str`, [`Query`] or `torch.Tensor`): queries such as yours will be.
            top_k (`int`, defaults to 10): how many images of each query to compare.

        Returns:
            [`RecallReport`]

        Raises:
            ValueError: if there are no queries.
            ExtraNotInstalledError: if faiss is not installed.
        """
        if len(queries) == 0:
            raise ValueError("The recall is measured on queries, and there are none.")
        vectors = self.embed(queries)
        return self._read(lambda view: view.recall(vectors, top_k))

    def stats(self) -> dict[str, Any]:
        """
        Figures of the gallery.

        Returns:
            `dict`: `path`, `model`, `retention_days`, `dim`, `files` and `bytes` on the disk, `version` of the table,
            `images`, `persons`, `cameras`, `oldest` and `newest` time, `without_time`, `expired` (images older than
            the retention that are still on the disk), `columns` (the user's own), and `approximate`: `None` while
            there are no compressed vectors of this version, then their `bytes` and the measured `recall`.
        """
        return self._read(lambda view: {**self._store.stats(), **view.stats(self.retention_days)})

    def export(self, path: str | os.PathLike) -> int:
        """
        Writes the whole gallery into a Parquet file: what is known of each image, and its embedding in float16.

        Args:
            path (`str` or `os.PathLike`): the file; one that exists is replaced once the new one is complete.

        Returns:
            `int`: how many images it holds.
        """
        path = Path(path)
        partial = path.with_name(f".{path.name}.{os.getpid()}.partial")

        def write(view: View) -> int:
            columns = [*self._store.metadata_columns(), "content_hash", "embedding"]
            schema = pa.schema([view.snapshot.schema.field(name) for name in columns])
            schema = schema.with_metadata({EMBEDDINGS_KEY: json.dumps(self.identity.to_dict())})
            with pq.ParquetWriter(partial, schema) as writer:
                for table in view.snapshot.scan(columns):
                    writer.write_table(table.cast(schema))
            return len(view.snapshot)

        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            count = self._read(write)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return count

    def parse_value(self, column: str, text: str) -> Any:
        """
        A value of a column's type from text, for [`Filter`].

        Args:
            column (`str`): the column.
            text (`str`): the value as a user writes it.

        Returns:
            `str`, `int`, `float`, `bool` or `datetime`.

        Raises:
            GalleryError: if there is no such column, or the text is no such value.
        """
        if column not in self._store.metadata_columns():
            columns = ", ".join(self._store.metadata_columns())
            raise GalleryError(f"{self.path} has no column {column!r}, only {columns}.")
        return parse_value(text, self._store.schema.field(column).type, column)

    def _loaded_model(self) -> tuple[SCMMModel, SCMMProcessor]:
        if self._model is None:
            identity = self.identity
            self._take_model(*load_dual_encoder(identity.name, identity.revision, identity.backend))
        assert self._model is not None
        return self._model

    def _take_model(self, model: SCMMModel, processor: SCMMProcessor) -> None:
        self._check_model(identify(model, processor))
        self._model = (model, processor)

    def _check_model(self, given: ModelIdentity) -> None:
        if not given.is_same_model(self.identity):
            raise GalleryError(
                f"{self.path} was built with {self.identity}, not with {given}: embeddings of two models cannot be "
                "compared. Use the first one, or build another gallery."
            )

    def _read(self, work: Callable[[View], Result]) -> Result:
        """Does something with the newest version; if it is erased meanwhile, with the next one."""
        for _ in range(_MAX_READS - 1):
            try:
                return work(self._view())
            except VersionGoneError:
                self._current = None
        return work(self._view())

    def _view(self) -> View:
        with self._reading:
            version = self._store.newest_version()
            if self._current is None or self._current.snapshot.version != version:
                self._current = None  # its vectors go before the new ones come
                self._current = QdrantView(self._store) if isinstance(self._store, QdrantStore) else View(self._store)
            return self._current

    def _remove_expired(self) -> int:
        """Deletes what is older than the retention; the caller writes."""
        if self.retention_days is None:
            return 0
        rows = self._store.snapshot().matching(Filter(before=expired_before(self.retention_days)))
        self._store.delete(rows)
        return len(rows)

    def _record(self, id: str, columns: Sequence[str]) -> dict[str, Any]:
        def find(view: View) -> dict[str, Any]:
            record = view.snapshot.find(id, list(dict.fromkeys([*columns, "time"])))
            if record is None or is_expired(record["time"], self.retention_days):
                raise GalleryError(f"{self.path} has no image with the id {id!r}.")
            return record

        return self._read(find)

    def _check_erase(self, erase: bool) -> None:
        if erase and not self._store.can_erase:
            raise GalleryError(
                f"{self.path}: Qdrant decides itself when removed images leave its disk, so that erasing cannot be "
                "promised. Remove them without it, or delete the collection."
            )

    def _checked_vector(self, vector: Tensor) -> Tensor:
        if vector.shape != (self._store.dim,) or not vector.isfinite().all() or not vector.any():
            shape = tuple(vector.shape)
            raise ValueError(f"A query vector must be finite, not 0, and of shape ({self._store.dim},), got {shape}.")
        return F.normalize(vector.detach().cpu().float(), dim=0)


def _store_class(path: str | os.PathLike) -> Any:
    if is_qdrant(path):
        return QdrantStore
    if "://" in str(path):
        raise GalleryError(f"{path}: a gallery is a folder on a local disk, or qdrant://HOST:PORT/COLLECTION.")
    return Store


def _hit(record: dict[str, Any], score: float) -> Hit:
    known = {name: record[name] for name in KNOWN_COLUMNS}
    return Hit(score=score, **known, columns={name: record[name] for name in record if name not in KNOWN_COLUMNS})


def _checked_days(days: float | None) -> float | None:
    if days is not None:
        expired_before(days)  # raises if it is out of range
    return days
