"""One version of a gallery in memory, and the search in it."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow.compute as pc
import torch
from torch import Tensor

from scmm.retrieval.gallery import approximate as approximate_search
from scmm.retrieval.gallery.approximate import Codes, RecallReport, measure_recall
from scmm.retrieval.gallery.columns import KNOWN_COLUMNS
from scmm.retrieval.gallery.exact import exact_top_k
from scmm.retrieval.gallery.filters import Filter, expired_before
from scmm.retrieval.gallery.store import GalleryError, Store


Ranked = list[tuple[dict[str, Any], float]]

# What `group_by` may be beside a column: images of one camera whose embeddings have at least this cosine are likely
# frames of one track. On the demo's test images it is reached by 45 % of the pairs of one person, and by 0.02 % of the
# pairs of two.
NEAR_DUPLICATES = "near-duplicates"
_NEAR_COSINE = 0.9


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
        return Filter(before=expired_before(retention_days)).mask(self.snapshot.column)

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
        column, apart = self.group_column(group_by), group_by == NEAR_DUPLICATES
        count = len(self.snapshot) if rows is None else len(rows)
        wanted = top_k
        while True:
            found = find(wanted)
            records = self._records(found)
            ranked = [
                ranked_records(
                    [records[row] for row in rows_of.tolist()],
                    scores.tolist(),
                    top_k,
                    column,
                    self.vectors[rows_of] if apart else None,
                )
                for rows_of, scores in found
            ]
            if group_by is None or wanted >= count or all(len(part) >= top_k for part in ranked):
                return ranked
            wanted *= 4

    def recall(self, queries: Tensor, top_k: int) -> RecallReport:
        """Measures approximate against exact search, query by query."""

        def find(query: int, approximate: bool) -> list[int]:
            ((rows, _),) = self._finder(queries[query, None], None, approximate)(top_k)
            return rows.tolist()

        report = measure_recall(find, len(queries), top_k)
        self.codes.keep_recall(report)
        return report

    def stats(self, retention_days: float | None) -> dict[str, Any]:
        """Figures of what the gallery holds."""
        column = self.snapshot.column
        times = pc.min_max(column("time")).as_py()
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
            "approximate": self.approximate_stats(),
        }

    def approximate_stats(self) -> dict[str, Any] | None:
        """What is known of the compressed vectors, if there are any."""
        if not self.codes.file.is_file():
            return None
        recall = self.codes.recall
        return {"bytes": self.codes.file.stat().st_size, "recall": None if recall is None else asdict(recall)}

    def group_column(self, group_by: str | None) -> str | None:
        """The column of which each value is to appear once, if it is a column."""
        if group_by == NEAR_DUPLICATES:
            return None
        column = "person_id" if group_by == "person" else group_by
        if column is not None and column not in self.store.metadata_columns():
            raise GalleryError(
                f"The gallery has no column {column!r}, only {', '.join(self.store.metadata_columns())}."
            )
        return column

    def _finder(
        self, queries: Tensor, rows: Tensor | None, approximate: bool
    ) -> Callable[[int], list[tuple[Tensor, Tensor]]]:
        """What finds a number of images for each query."""
        queries = queries.to(self.vectors.device)
        if approximate and rows is None and len(self.snapshot) > approximate_search.RERANK:
            self.codes.load(self.vectors, self._is_newest)
            return lambda count: (
                self.codes.top_k(self.vectors, queries, count)
                if count <= len(self.snapshot) / 10  # of more, the codes may give too few
                else exact_top_k(self.vectors, queries, count)
            )
        return lambda count: exact_top_k(self.vectors, queries, count, rows)

    def _is_newest(self) -> bool:
        return self.store.newest_version() == self.snapshot.version

    def _records(self, found: Sequence[tuple[Tensor, Tensor]]) -> dict[int, dict[str, Any]]:
        rows = torch.cat([rows for rows, _ in found]).unique().tolist() if found else []
        return dict(zip(rows, self.snapshot.take(rows, self.store.metadata_columns()), strict=True))


def ranked_records(
    records: Sequence[dict[str, Any]],
    scores: Sequence[float],
    top_k: int,
    column: str | None,
    vectors: Tensor | None,
) -> Ranked:
    """
    The best records with their scores; equal scores rank by id.

    Args:
        records (`Sequence[dict]`): the columns of the images that were found.
        scores (`Sequence[float]`): their scores.
        top_k (`int`): how many to keep.
        column (`str`, *optional*): a column of which each value is to appear once; images without a value stand for
            themselves.
        vectors (`torch.Tensor` of shape `(records, dim)`, *optional*): their embeddings, of norm 1, if near-duplicates
            of a better image of the same camera are to be left out.
    """
    ranked: Ranked = []
    seen: set[Any] = set()
    shown: list[int] = []
    for place in sorted(range(len(records)), key=lambda place: (-scores[place], records[place]["id"])):
        record = records[place]
        if column is not None and record[column] is not None:
            if record[column] in seen:
                continue
            seen.add(record[column])
        if vectors is not None:
            others = [other for other in shown if records[other]["camera"] == record["camera"]]
            if others and (vectors[others].float() @ vectors[place].float()).max() >= _NEAR_COSINE:
                continue
            shown.append(place)
        ranked.append((record, scores[place]))
        if len(ranked) == top_k:
            break
    return ranked
