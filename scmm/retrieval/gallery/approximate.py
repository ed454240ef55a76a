"""Approximate search: compressed vectors are scanned, and the most promising images are compared exactly."""

import json
import logging
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from scmm.extras import import_extra
from scmm.retrieval.gallery.exact import rescore


logger = logging.getLogger(__name__)

# Images that are compared exactly for each query; a gallery of no more has no use for compressed vectors.
RERANK = 500
_FOLDER = "codes"


@dataclass(frozen=True)
class RecallReport:
    """
    How approximate search compares with exact search.

    Args:
        recall (`float`): the share of the exact search's images that the approximate one finds, from 0 to 1.
        top_k (`int`): how many images of each query were compared.
        queries (`int`): on how many queries.
        exact_seconds (`float`): of a single query, on average.
        approximate_seconds (`float`): of a single query, on average.
    """

    recall: float
    top_k: int
    queries: int
    exact_seconds: float
    approximate_seconds: float


class Codes:
    """
    The compressed vectors of one version of a gallery, in its folder `codes`.

    They are made of the table alone and can be thrown away at any time: another version of the table makes them anew.
    The file is written under another name, flushed and renamed.

    Args:
        gallery (`Path`): the gallery's folder.
        version (`int`): of the table.
    """

    def __init__(self, gallery: Path, version: int):
        self.folder = gallery / _FOLDER
        self.version = version
        self._index: Any = None

    @property
    def file(self) -> Path:
        return self.folder / f"{self.version}.faiss"

    @property
    def recall(self) -> RecallReport | None:
        """What was measured on this version."""
        report = self.folder / f"{self.version}.json"
        return RecallReport(**json.loads(report.read_text(encoding="utf-8"))) if report.is_file() else None

    def keep_recall(self, report: RecallReport) -> None:
        """Keeps a measurement beside the file."""
        with _lock(self.folder):
            if self.file.is_file():
                self._write(f"{self.version}.json", lambda path: path.write_text(json.dumps(asdict(report), indent=2)))

    def load(self, vectors: Tensor, is_newest: Any) -> None:
        """
        Reads the codes, or makes them where they are missing.

        Args:
            vectors (`torch.Tensor` of shape `(images, dim)`): of this version.
            is_newest (`Callable[[], bool]`): whether the table still has this version. If not, nothing is written: an
                image that has been erased meanwhile must not come back to the disk.
        """
        if self._index is not None:
            return
        faiss = import_extra("faiss", "ann")
        with _lock(self.folder):
            if self.file.is_file():
                try:
                    self._index = faiss.read_index(str(self.file))
                    return
                except RuntimeError as error:
                    logger.warning("%s is broken and made anew: %s", self.file, error)
            logger.warning("Compressing %d vectors for approximate search.", len(vectors))
            self._index = _build(faiss, vectors)
            if is_newest():
                self._write(self.file.name, lambda path: faiss.write_index(self._index, str(path)))

    def top_k(self, vectors: Tensor, queries: Tensor, k: int) -> list[tuple[Tensor, Tensor]]:
        """As [`~scmm.retrieval.gallery.exact.exact_top_k`], of the most promising images alone."""
        count = min(len(vectors), max(RERANK, 2 * k))
        found = torch.from_numpy(self._index.search(queries.cpu().numpy(), count)[1]).to(vectors.device)
        ranked = []
        for query, rows in enumerate(found):
            rows = rows[rows >= 0].sort().values
            scores = rescore(vectors, queries, torch.full_like(rows, query), rows)
            scores, order = scores.sort(descending=True, stable=True)
            ranked.append((rows[order[:k]], scores[:k]))
        return ranked

    def _write(self, name: str, write: Any) -> None:
        partial = self.folder / f"{name}.partial"
        write(partial)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, self.folder / name)
        for path in self.folder.iterdir():  # of older versions, or left behind by a kill
            if path.suffix == ".partial" or path.stem not in ("", ".lock", str(self.version)):
                path.unlink()


def erase_codes(gallery: Path) -> None:
    """Removes the compressed vectors of every version."""
    folder = gallery / _FOLDER
    if folder.is_dir():
        with _lock(folder):
            for path in folder.iterdir():
                if path.name != ".lock":
                    path.unlink()


def _lock(folder: Path) -> FileLock:
    folder.mkdir(exist_ok=True)
    return FileLock(folder / ".lock")


def _build(faiss: Any, vectors: Tensor) -> Any:
    dim = vectors.shape[1]
    index = faiss.index_factory(dim, "RaBitQfs", faiss.METRIC_INNER_PRODUCT)
    blocks = vectors.split(2**16)
    sample = vectors[torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))[: 2**16]]
    index.train(sample.cpu().float().numpy())
    for block in blocks:
        index.add(np.ascontiguousarray(block.cpu().float().numpy()))
    return index
