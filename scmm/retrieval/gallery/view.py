"""One version of a gallery in memory, and the search in it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from scmm.retrieval.gallery import approximate as approximate_search
from scmm.retrieval.gallery.approximate import Codes, RecallReport
from scmm.retrieval.gallery.columns import KNOWN_COLUMNS
from scmm.retrieval.gallery.exact import exact_top_k
from scmm.retrieval.gallery.filters import Filter
from scmm.retrieval.gallery.store import Store


Ranked = list[tuple[dict[str, Any], float]]


class View:
    """
    The newest version of a store; it stays as it is. What it needs is read when it is first needed.

    Args:
        store ([`Store`]): the store.
    """

    def __init__(self, store: Store):
        self.store = store
        self.snapshot = store.snapshot()
        self.codes = Codes(store.path, self.snapshot.version)

    @cached_property
    def vectors(self) -> Tensor:
        """All embeddings, on the GPU where there is one: float16 of shape `(images, dim)`."""
        return torch.from_numpy(self.snapshot.vectors()).to("cuda" if torch.cuda.is_available() else "cpu")

    def expired(self, retention_days: float | None) -> np.ndarray:
        """Which images are older than the retention: an entry of dtype bool for each."""
        if retention_days is None:
            return np.zeros(len(self.snapshot), bool)
        limit = datetime.now(UTC) - timedelta(days=retention_days)
        return Filter(before=limit).mask(self.snapshot.column)

    def rows(self, where: Filter | None, retention_days: float | None) -> Tensor | None:
        """The places of the images that a search may find; `None` if it may find all of them."""
        if (where is None or where.is_empty) and retention_days is None:
            return None
        mask = ~self.expired(retention_days)
        if where is not None and not where.is_empty:
            mask &= where.mask(self.snapshot.column)
        return torch.from_numpy(np.flatnonzero(mask)).to(self.vectors.device)

    def search(
        self, queries: Tensor, top_k: int, rows: Tensor | None, group_by: str | None, approximate: bool
    ) -> list[Ranked]:
        """For each query the best images' records with their scores; equal scores rank by id."""
        find = self._finder(queries, rows, approximate)
        groups = None if group_by is None else self._groups(group_by)
        count = len(self.snapshot) if rows is None else len(rows)
        wanted = top_k
        while True:
            found = find(wanted)
            records = self._records(found)
            ranked = [_ranked(part, records, top_k, groups) for part in found]
            if groups is None or wanted >= count or all(len(part) >= top_k for part in ranked):
                return ranked
            wanted *= 4

    def recall(self, queries: Tensor, top_k: int) -> RecallReport:
        """Measures approximate against exact search, query by query."""
        found, seconds = {}, {}
        for approximate in (False, True):
            find = self._finder(queries[:1], None, approximate)
            find(top_k)  # the first call sets things up
            start = time.perf_counter()
            found[approximate] = [self._finder(query[None], None, approximate)(top_k)[0] for query in queries]
            seconds[approximate] = (time.perf_counter() - start) / len(queries)
        shares = []
        for (exact, _), (rows, _) in zip(found[False], found[True], strict=True):
            best = set(exact.tolist())
            least = min(top_k, len(best))
            # What ties with the last one is as right as it.
            shares.append(len(best.intersection(rows.tolist()[:least])) / least if least else 1.0)
        report = RecallReport(
            recall=float(np.mean(shares)),
            top_k=top_k,
            queries=len(queries),
            exact_seconds=seconds[False],
            approximate_seconds=seconds[True],
        )
        self.codes.keep_recall(report)
        return report

    def stats(self, retention_days: float | None) -> dict[str, Any]:
        """Figures of what the gallery holds."""
        column = self.snapshot.column
        times = pc.min_max(column("time")).as_py()
        codes = None
        if self.codes.file.is_file():
            recall = self.codes.recall
            codes = {"bytes": self.codes.file.stat().st_size, "recall": None if recall is None else asdict(recall)}
        return {
            "version": self.snapshot.version,
            "images": len(self.snapshot),
            "persons": pc.count_distinct(column("person_id")).as_py(),
            "cameras": sorted(value for value in column("camera").unique().to_pylist() if value is not None),
            "oldest": times["min"],
            "newest": times["max"],
            "without_time": column("time").null_count,
            "expired": int(self.expired(retention_days).sum()),
            "columns": [name for name in self.store.metadata_columns() if name not in KNOWN_COLUMNS],
            "approximate": codes,
        }

    def _finder(
        self, queries: Tensor, rows: Tensor | None, approximate: bool
    ) -> Callable[[int], list[tuple[Tensor, Tensor]]]:
        """What finds a number of images for each query."""
        queries = queries.to(self.vectors.device)
        if approximate and rows is None and len(self.snapshot) > approximate_search.RERANK:
            self.codes.load(self.vectors, self._is_newest)
            return lambda count: self.codes.top_k(self.vectors, queries, count)
        return lambda count: exact_top_k(self.vectors, queries, count, rows)

    def _is_newest(self) -> bool:
        return self.store.newest_version() == self.snapshot.version

    def _groups(self, column: str) -> np.ndarray:
        """A number for each image that says its group; images without a value are groups of their own."""
        values = self.snapshot.column("person_id" if column == "person" else column)
        indices = values.combine_chunks().dictionary_encode().indices
        numbers = np.asarray(pc.fill_null(indices.cast("int64"), -1))
        return np.where(numbers < 0, -1 - np.arange(len(numbers)), numbers)

    def _records(self, found: Sequence[tuple[Tensor, Tensor]]) -> dict[int, dict[str, Any]]:
        rows = torch.cat([rows for rows, _ in found]).unique().tolist() if found else []
        return dict(zip(rows, self.snapshot.take(rows, self.store.metadata_columns()), strict=True))


def _ranked(
    found: tuple[Tensor, Tensor], records: dict[int, dict[str, Any]], top_k: int, groups: np.ndarray | None
) -> Ranked:
    rows, scores = (values.tolist() for values in found)
    order = sorted(range(len(rows)), key=lambda index: (-scores[index], records[rows[index]]["id"]))
    ranked, seen = [], set()
    for index in order:
        if groups is not None:
            group = int(groups[rows[index]])
            if group in seen:
                continue
            seen.add(group)
        ranked.append((records[rows[index]], scores[index]))
        if len(ranked) == top_k:
            break
    return ranked
