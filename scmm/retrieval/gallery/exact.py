"""Exact search: every vector of a gallery is compared, whatever it costs; which is little."""

import torch
from torch import Tensor


# Scores held at a time: 16 MiB in float32.
_SCORES = 2**22
# Scores whose maximum is looked at before they are.
_TILE = 64
# Numbers that a CPU's core widens to float32 at a time: 1 MiB.
_WIDE_NUMBERS = 2**18


@torch.inference_mode()
def exact_top_k(vectors: Tensor, queries: Tensor, k: int, rows: Tensor | None = None) -> list[tuple[Tensor, Tensor]]:
    """
    The rows that are most similar to each query, with everything that ties with the last of them.

    A fast product in float32 finds every row that can be among the best given the product's largest rounding error;
    these are scored again in float64, each alike wherever it stands. So the scores depend neither on the number of
    queries nor on the place of a row, equal rows tie exactly, and the ranking is exact.

    Args:
        vectors (`torch.Tensor` of shape `(gallery_size, dim)`): float16 or float32, of norm 1 up to rounding.
        queries (`torch.Tensor` of shape `(num_queries, dim)`): float32, of norm 1, on the same device.
        k (`int`): how many rows to find.
        rows (`torch.Tensor` of shape `(n,)`, *optional*): int64, the rows to search in; all of them by default.

    Returns:
        `list[tuple[torch.Tensor, torch.Tensor]]`: for each query the rows (int64) and their scores (float64, the
        inner products), best first, equal scores by row; k of them or, where the k-th ties with further ones, more.

    Example:

    ```python
    >>> import torch
    >>> from scmm.retrieval.gallery.exact import exact_top_k
    >>> vectors = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.6, 0.8], [1.0, 0.0]]).half()
    >>> [(rows, scores)] = exact_top_k(vectors, torch.tensor([[1.0, 0.0]]), k=1)
    >>> rows.tolist(), scores.tolist()
    ([1, 3], [1.0, 1.0])

    ```
    """
    found_queries, found_rows = _candidates(vectors, queries, k, rows)
    scores = rescore(vectors, queries, found_queries, found_rows)
    counts = torch.bincount(found_queries, minlength=len(queries)).tolist()
    ranked = []
    for of_query, of_scores in zip(found_rows.split(counts), scores.split(counts), strict=True):
        order = of_scores.sort(descending=True, stable=True).indices  # candidates come by row
        of_query, of_scores = of_query[order], of_scores[order]
        if len(of_scores) > k:
            of_query, of_scores = of_query[of_scores >= of_scores[k - 1]], of_scores[of_scores >= of_scores[k - 1]]
        ranked.append((of_query, of_scores))
    return ranked


@torch.inference_mode()
def rescore(vectors: Tensor, queries: Tensor, query_indices: Tensor, rows: Tensor) -> Tensor:
    """
    Inner products of some pairs of a query and a row, in float64.

    Args:
        vectors (`torch.Tensor` of shape `(gallery_size, dim)`): the gallery.
        queries (`torch.Tensor` of shape `(num_queries, dim)`): the queries.
        query_indices (`torch.Tensor` of shape `(pairs,)`): int64.
        rows (`torch.Tensor` of shape `(pairs,)`): int64.

    Returns:
        `torch.Tensor` of shape `(pairs,)`: float64.
    """
    scores = torch.empty(len(rows), dtype=torch.float64, device=vectors.device)
    for pairs in torch.arange(len(rows), device=vectors.device).split(2**14):
        scores[pairs] = (vectors[rows[pairs]].double() * queries[query_indices[pairs]].double()).sum(dim=1)
    return scores


def _candidates(vectors: Tensor, queries: Tensor, k: int, rows: Tensor | None) -> tuple[Tensor, Tensor]:
    """Pairs of a query and a row that hold each query's best k and their ties, sorted by query and row."""
    device, (num_queries, dim) = vectors.device, queries.shape
    gallery_size = len(vectors) if rows is None else len(rows)
    # What rounding may do to a difference of two scores; the inputs of a GPU's product may be cut to TF32.
    margin = 2 * dim * 2**-24 if device.type == "cpu" else 2**-9
    best = torch.full((num_queries,), torch.finfo(torch.float32).min, device=device)  # the k-th best score so far
    pool = (*torch.empty(2, 0, dtype=torch.int64, device=device), torch.empty(0, device=device))
    num_tiles = max(1, min(-(-gallery_size // _TILE), _SCORES // _TILE // max(1, num_queries)))
    scores = torch.empty(num_queries, num_tiles * _TILE, device=device)
    tiles = scores.view(num_queries, num_tiles, _TILE)
    wide = torch.empty(min(scores.shape[1], _rows_at_a_time(device, dim)), dim, device=device)
    for start in range(0, gallery_size, scores.shape[1]):
        size = min(scores.shape[1], gallery_size - start)
        with torch.autocast(device.type, enabled=False):
            for first in range(0, size, len(wide)):
                last = min(first + len(wide), size)
                part = slice(start + first, start + last)
                widened = wide[: last - first].copy_(vectors[part] if rows is None else vectors[rows[part]])
                torch.mm(queries, widened.T, out=scores[:, first:last])
        scores[:, size:] = -torch.inf
        # Most tiles hold nothing new, and the largest score of each tells.
        largest = tiles.amax(dim=2)
        if start == 0 and num_tiles >= k:  # k tiles have a score that is at least their k-th largest one
            best = largest.topk(k, sorted=False).values.amin(dim=1).clamp(min=torch.finfo(torch.float32).min)
        least = best - margin
        hot_queries, hot_tiles = (largest >= least[:, None]).nonzero(as_tuple=True)
        hot = tiles[hot_queries, hot_tiles]
        places, columns = (hot >= least[hot_queries, None]).nonzero(as_tuple=True)
        if len(places):
            pool = (
                torch.cat([pool[0], hot_queries[places]]),
                torch.cat([pool[1], start + _TILE * hot_tiles[places] + columns]),
                torch.cat([pool[2], hot[places, columns]]),
            )
            pool, best = _prune(pool, best, k, margin)
    found_queries, found_rows, _ = pool
    order = found_rows.sort(stable=True).indices
    order = order[found_queries[order].sort(stable=True).indices]
    found_queries, found_rows = found_queries[order], found_rows[order]
    return found_queries, found_rows if rows is None else rows[found_rows]


def _rows_at_a_time(device: torch.device, dim: int) -> int:
    """Rows to widen to float32: on a CPU those that stay in its cache between the conversion and the product."""
    return max(1, _WIDE_NUMBERS * torch.get_num_threads() // dim) if device.type == "cpu" else 2**16


def _prune(
    pool: tuple[Tensor, Tensor, Tensor], best: Tensor, k: int, margin: float
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Raises each query's k-th best score to what its candidates show, and drops what falls below it."""
    found_queries, found_rows, scores = pool
    order = scores.sort(descending=True).indices
    order = order[found_queries[order].sort(stable=True).indices]
    counts = torch.bincount(found_queries, minlength=len(best))
    full = counts >= k
    best[full] = scores[order[(counts.cumsum(0) - counts)[full] + k - 1]]
    kept = scores >= (best - margin)[found_queries]
    return (found_queries[kept], found_rows[kept], scores[kept]), best
