"""The search of a gallery in Qdrant: the server finds candidates, and their order is settled here."""

from typing import Any

import torch
from torch import Tensor

from scmm.retrieval.gallery.approximate import RecallReport, measure_recall
from scmm.retrieval.gallery.exact import rescore
from scmm.retrieval.gallery.filters import Filter
from scmm.retrieval.gallery.qdrant import QdrantStore, is_local
from scmm.retrieval.gallery.view import NEAR_DUPLICATES, Ranked, View, ranked_records


# Further points that are asked for, and what rounding in half precision may do to a difference of two scores.
_AHEAD, _MARGIN = 16, 2**-9


class QdrantView(View):
    """
    A collection as it is now. What Qdrant finds is scored again in float64, as in a gallery on the disk.

    Args:
        store ([`QdrantStore`]): the collection.
    """

    store: QdrantStore

    def __init__(self, store: QdrantStore):
        self.store = store
        self.snapshot = store.snapshot()

    def rows(self, where: Filter | None, retention_days: float | None) -> Any:
        """What a search may find, in Qdrant's form; `None` if it may find everything."""
        return self.store.condition(where, retention_days)

    def search(self, queries: Tensor, top_k: int, rows: Any, group_by: str | None, approximate: bool) -> list[Ranked]:
        """For each query the best images' records with their scores; equal scores rank by id."""
        column, apart = self.group_column(group_by), group_by == NEAR_DUPLICATES
        found = []
        for query in queries:
            wanted = top_k
            while True:
                records, scores, vectors, is_all = self._nearest(query, wanted, rows, approximate)
                ranked = ranked_records(records, scores, top_k, column, vectors if apart else None)
                if group_by is None or is_all or len(ranked) == top_k:
                    break
                wanted *= 4
            found.append(ranked)
        return found

    def recall(self, queries: Tensor, top_k: int) -> RecallReport:
        """Measures Qdrant's own index against its exact search, query by query."""

        def find(query: int, approximate: bool) -> list[str]:
            return [record["id"] for record in self._nearest(queries[query], top_k, None, approximate)[0]]

        return measure_recall(find, len(queries), top_k)

    def approximate_stats(self) -> None:
        """Qdrant keeps its index to itself."""

    def _nearest(
        self, query: Tensor, count: int, condition: Any, approximate: bool
    ) -> tuple[list[dict[str, Any]], list[float], Tensor, bool]:
        """
        The best `count` images and what ties with the last of them, their scores and embeddings, and whether these are
        all there are.
        """
        store, limit = self.store, count + _AHEAD
        # The client's local mode is exact always, and warns of being told.
        params = None if is_local(store.client) else store.models.SearchParams(exact=not approximate)
        while True:
            points = store.client.query_points(
                store.collection,
                query=query.tolist(),
                query_filter=condition,
                limit=limit,
                search_params=params,
                with_payload=True,
                with_vectors=True,
            ).points
            is_all = len(points) < limit
            if is_all or approximate or points[-1].score < points[count - 1].score - _MARGIN:
                break
            limit *= 4
        vectors = torch.tensor([point.vector for point in points]).view(-1, len(query))
        scores = rescore(vectors, query[None], torch.zeros(len(points), dtype=torch.int64), torch.arange(len(points)))
        scores, order = scores.sort(descending=True, stable=True)
        kept = scores >= scores[count - 1] if len(scores) > count else torch.ones(len(scores), dtype=torch.bool)
        columns = store.metadata_columns()
        records = [store.record(points[place], columns) for place in order[kept].tolist()]
        return records, scores[kept].tolist(), vectors[order[kept]], is_all and bool(kept.all())
