"""Adds images to a gallery: reads and decodes ahead, embeds in batches of one shape, commits often."""

import hashlib
import io
import json
import os
import stat
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from tqdm import tqdm

from scmm.data.transforms import load_pixels
from scmm.modeling_scmm import SCMMModel
from scmm.processing import ImageError, SCMMProcessor
from scmm.retrieval.encode import embed_pixels
from scmm.retrieval.gallery.identity import backend_of
from scmm.retrieval.gallery.qdrant import QdrantSnapshot, QdrantStore
from scmm.retrieval.gallery.sources import Source, SourceError
from scmm.retrieval.gallery.store import Snapshot, Store


# Numbers that one batch holds between two layers: what a processor's caches hold, and what keeps a GPU busy.
_NUMBERS = {"cpu": 3 * 2**18, "cuda": 3 * 2**23}
_MAX_BATCH = 128
# A kill loses what was not committed yet: the work of a second, or of a hundredth of the time so far. Commits at a
# steady pace would leave a long job with more small files than a table can bear.
_COMMIT_SECONDS = 1.0
_COMMIT_SHARE = 0.01
_COMMIT_ROWS = 16384
# No image of 64 megapixels needs more, and a file is read whole.
_MAX_FILE_BYTES = 2**29


@dataclass
class AddReport:
    """
    What became of the images of a source.

    Args:
        added (`int`): images that were new.
        updated (`int`): images whose content or columns had changed.
        unchanged (`int`): images that the gallery held already.
        skipped (`list[tuple[str, str]]`): the ids of images that could not be read, and why.
    """

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Item:
    """
    An image on its way into a gallery.

    Args:
        row (`int`): its place in the source.
        content_hash (`str`): of its file, if it could be read.
        pixels (`torch.Tensor`, *optional*): until it is embedded.
        embedding (`np.ndarray` of shape `(dim,)`, *optional*): float16; `None` if the one that is known is right.
        error (`Exception`, *optional*): why it could not be read.
    """

    row: int
    content_hash: str = ""
    pixels: Tensor | None = None
    embedding: np.ndarray | None = None
    error: Exception | None = None


def batch_size_for(model: SCMMModel) -> int:
    """
    Images in one batch, for a model on its device.

    Always the same number, the last batch filled up: a product of another shape may be computed by another kernel,
    which rounds otherwise. In batches of one shape an image gets the same embedding bit for bit, whatever is beside
    it. In int8 one scale stands for a whole batch, so that each image is one of its own.
    """
    if backend_of(model) == "onnx-int8":
        return 1
    config: Any = model.config.vision_config
    height, width = config.image_size
    tokens = 1 + (height // config.patch_size) * (width // config.patch_size)
    numbers = _NUMBERS.get(model.device.type, _NUMBERS["cuda"])
    return max(1, min(_MAX_BATCH, numbers // (tokens * config.hidden_size)))


def embed_source(
    model: SCMMModel, processor: SCMMProcessor, source: Source, known_hash: Callable[[str], str | None]
) -> Generator[Item]:
    """
    Embeds the images of a source.

    Args:
        model ([`SCMMModel`]): the dual encoder.
        processor ([`SCMMProcessor`]): the processor saved with it.
        source ([`Source`]): the images.
        known_hash (`Callable`): gives the content's hash of an image, by its id, that needs no embedding.

    Yields:
        [`Item`]: one for each image of the source, in no particular order.

    Raises:
        SourceError: if an embedding is not finite.
    """
    size = batch_size_for(model)
    batch: list[Item] = []

    def embed() -> Generator[Item]:
        pixels = torch.stack([item.pixels for item in batch if item.pixels is not None])
        filled = torch.cat([pixels, pixels.new_zeros(size - len(pixels), *pixels.shape[1:])])
        embeds = embed_pixels(model, processor, filled)[: len(pixels)]
        if not embeds.isfinite().all():
            first = source.table["id"][batch[0].row].as_py()
            raise SourceError(f"The model gives no finite embedding for {first} and its neighbors.")
        for item, embedding in zip(batch, embeds.half().numpy(), strict=True):
            yield Item(item.row, item.content_hash, embedding=embedding)
        batch.clear()

    for item in _read_ahead(source, known_hash, processor, 2 * size):
        if item.pixels is None:
            yield item
        else:
            batch.append(item)
        if len(batch) == size:
            yield from embed()
    if batch:
        yield from embed()


def take_embedded(source: Source, known_hash: Callable[[str], str | None]) -> Generator[Item]:
    """As [`embed_source`], for a source that brings the embeddings along."""
    assert source.computed is not None
    for row, identifier in enumerate(source.table["id"].to_pylist()):
        content_hash, embedding = source.computed(row)
        yield Item(row, content_hash, embedding=None if content_hash == known_hash(identifier) else embedding)


def add_source(
    store: Store | QdrantStore,
    source: Source,
    embed: Callable[[Source, Callable[[str], str | None]], Iterable[Item]],
    progress: bool,
) -> AddReport:
    """
    Brings a store up to date with a source. The caller holds the writer's lock.

    Args:
        store ([`Store`]): the store.
        source ([`Source`]): the images.
        embed (`Callable`): [`embed_source`] of a model, or [`take_embedded`].
        progress (`bool`): whether to show a progress bar.
    """
    _prepare_columns(store, source)
    snapshot = store.snapshot()
    known = _Known(snapshot, source)
    report = AddReport(skipped=list(source.skipped))
    writer = _Writer(store, snapshot, known, source)
    with tqdm(total=len(source), desc="Indexing", unit="img", disable=not progress) as bar:
        for item in embed(source, known.content_hash):
            identifier = writer.id_of(item)
            if item.error is not None:
                report.skipped.append((identifier, str(item.error)))
            elif item.embedding is not None:
                writer.write(item)
                report.updated += identifier in known
                report.added += identifier not in known
            elif writer.record_hashes[item.row] != known.record_hash(identifier):
                writer.write(item)
                report.updated += 1
            else:
                report.unchanged += 1
            writer.commit_if_due()
            bar.update()
        writer.commit()
    return report


class _Known:
    """What the table holds at the start of a source's images: the hashes of each, and where it stands."""

    def __init__(self, snapshot: Snapshot | QdrantSnapshot, source: Source):
        self._entries = snapshot.hashes(source.table["id"].to_pylist())

    def __contains__(self, identifier: str) -> bool:
        return identifier in self._entries

    def place(self, identifier: str) -> Any:
        return self._entries[identifier][0]

    def content_hash(self, identifier: str) -> str | None:
        return self._entries[identifier][1] if identifier in self._entries else None

    def record_hash(self, identifier: str) -> str | None:
        return self._entries[identifier][2]


class _Writer:
    """Collects rows and commits them."""

    def __init__(self, store: Store | QdrantStore, snapshot: Snapshot | QdrantSnapshot, known: _Known, source: Source):
        self.store, self.snapshot, self.known, self.source = store, snapshot, known, source
        self.ids: list[str] = source.table["id"].to_pylist()
        self.record_hashes = record_hashes(source.table)
        self.waiting: list[Item] = []
        self.start = self.last_commit = time.monotonic()

    def id_of(self, item: Item) -> str:
        return self.ids[item.row]

    def write(self, item: Item) -> None:
        """Takes a row; without an embedding the one that the table holds stays."""
        self.waiting.append(item)

    def commit_if_due(self) -> None:
        now = time.monotonic()
        due = self.last_commit + max(_COMMIT_SECONDS, _COMMIT_SHARE * (now - self.start))
        if len(self.waiting) >= _COMMIT_ROWS or now > due:
            self.commit()

    def commit(self) -> None:
        self.last_commit = time.monotonic()
        waiting, self.waiting = self.waiting, []
        kept = [item for item in waiting if item.embedding is None]
        rows = self.snapshot.take([self.known.place(self.id_of(item)) for item in kept], ["embedding"])
        stored = {item.row: np.asarray(row["embedding"], np.float16) for item, row in zip(kept, rows, strict=True)}
        for is_new, save in ((True, self.store.append), (False, self.store.replace)):
            items = [item for item in waiting if (self.id_of(item) not in self.known) == is_new]
            if not items:
                continue
            embeddings = [stored[item.row] if item.embedding is None else item.embedding for item in items]
            table = self.source.table.take([item.row for item in items])
            flat = pa.array(np.concatenate(embeddings))
            table = table.append_column("content_hash", pa.array([item.content_hash for item in items]))
            table = table.append_column("record_hash", pa.array([self.record_hashes[item.row] for item in items]))
            save(table.append_column("embedding", pa.FixedSizeListArray.from_arrays(flat, self.store.dim)))


def _prepare_columns(store: Store | QdrantStore, source: Source) -> None:
    """Adds the source's columns that the table lacks; the others must have the table's types."""
    new = []
    for entry in source.table.schema:
        if entry.name not in store.schema.names:
            new.append(entry)
        elif entry.type != (known := store.schema.field(entry.name).type):
            raise SourceError(f"{source.name}: the column {entry.name} holds {entry.type}, in the gallery {known}.")
    store.add_columns(new)


def record_hashes(table: pa.Table) -> list[str]:
    """For each row a hash of what the source says of it; columns without a value do not count."""
    hashes = []
    for batch in table.to_batches(max_chunksize=4096):
        for record in batch.to_pylist():
            said = {name: str(value) for name, value in record.items() if value is not None}
            hashes.append(hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest())
    return hashes


def read_file(path: str | None, identifier: str) -> bytes:
    """The content of a file, if it is one that can be an image."""
    if path is None:
        raise ImageError(f"{identifier}: the source has neither the image nor its path")
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise ImageError(f"{path}: not a file")
    if status.st_size > _MAX_FILE_BYTES:
        raise ImageError(f"{path}: {status.st_size:,} bytes are more than the limit of {_MAX_FILE_BYTES:,}")
    with open(path, "rb") as file:
        return file.read()


def content_hash(content: bytes) -> str:
    """What tells one image file from another."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _read_ahead(
    source: Source, known_hash: Callable[[str], str | None], processor: SCMMProcessor, ahead: int
) -> Generator[Item]:
    """The items in the source's order, some being read by threads while the model computes."""
    ids = source.table["id"].to_pylist()
    paths = source.table["path"].to_pylist()

    def read(row: int) -> Item:
        try:
            encoded = source.embedded(row)
            content = read_file(paths[row], ids[row]) if encoded is None else encoded
            item = Item(row, content_hash(content))
            if item.content_hash != known_hash(ids[row]):
                stream = io.BytesIO(content)
                stream.name = paths[row] or ids[row]  # for messages
                item.pixels = load_pixels(stream, processor.image_processor)
            return item
        except (ImageError, OSError) as error:
            return Item(row, error=error)

    with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
        waiting = deque()
        try:
            for row in range(len(ids)):
                waiting.append(pool.submit(read, row))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
