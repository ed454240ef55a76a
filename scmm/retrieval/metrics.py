"""
Rank-k, mAP and mINP of person search: exact, tie-safe and bounded in memory.

The field's protocol: every query is ranked against the whole gallery, highest score first, and a gallery item is right
when its person id equals the query's. All three figures depend on the ranks of the right items alone, so no ranking is
built: a chunk of queries at a time, the scores are sorted without their indices, and the right items are looked up.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch


Array = torch.Tensor | np.ndarray | Sequence

# Matrix products of fewer rows go through other kernels, which round otherwise.
_MIN_PRODUCT_ROWS = 64

# Scores held at a time: 16 MiB in float32. Many small chunks would be slower, above all on a busy machine.
_CHUNK_SCORES = 2**22


@torch.no_grad()
def retrieval_metrics(
    query_embeds: Array,
    gallery_embeds: Array,
    query_ids: Array,
    gallery_ids: Array,
    *,
    ks: Sequence[int] = (1, 5, 10),
    chunk_size: int | None = None,
) -> dict[str, float]:
    """
    Rank-k, mAP and mINP of ranking the gallery by cosine similarity to each query.

    The figures are those of an exact ranking in which equal scores rank by gallery index. The cosines are float32 on
    the CPU, whatever the embeddings' type and whether or not autocast is on; they are float64 for float64 embeddings
    and on a GPU, where float32 products may be cut to TF32. Identical gallery rows tie exactly. Cosines of distinct
    rows that differ by rounding alone rank as the matrix product rounds them. Products of few rows round in another
    way, so small chunks are padded: with MKL, the chunk size then changes no bit of the result.

    Memory beyond the embeddings: normalized copies of them, and the scores of a chunk of queries twice.

    Source: the evaluation protocol of CUHK-PEDES, ICFG-PEDES and RSTPReid; the rule for ties is this project's.

    Args:
        query_embeds (`torch.Tensor` or `np.ndarray` of shape `(num_queries, dim)`):
            Embeddings of any floating-point type, not necessarily normalized; a zero vector has cosine 0 with all
            others. The computation runs on their device.
        gallery_embeds (`torch.Tensor` or `np.ndarray` of shape `(gallery_size, dim)`):
            Embeddings of the gallery.
        query_ids (integer `torch.Tensor`, `np.ndarray` or list of length `num_queries`):
            Person id of each query.
        gallery_ids (integer `torch.Tensor`, `np.ndarray` or list of length `gallery_size`):
            Person id of each gallery item.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
            The ranks k to report.
        chunk_size (`int`, *optional*):
            Number of queries scored at a time; by default as many as make four million scores.

    Returns:
        `dict[str, float]`: `rank{k}` for each k, `mAP` and `mINP` in percent, means over the queries that have a right
        item in the gallery (0.0 if none has); and the counts `num_queries` (all) and `num_queries_without_match` (left
        out of the means).

    Raises:
        ValueError: If an input is empty, has the wrong shape, length or type, or holds NaN or infinity, or if a k or
            the chunk size is below 1.

    Example:

    ```python
    >>> import torch
    >>> from scmm.retrieval.metrics import retrieval_metrics

    >>> captions = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> images = torch.tensor([[0.9, 0.1], [0.8, 0.3], [0.7, 0.9]])
    >>> retrieval_metrics(captions, images, query_ids=[4, 8], gallery_ids=[4, 8, 4], ks=(1, 2))
    {'rank1': 50.0, 'rank2': 100.0, 'mAP': 66.66..., 'mINP': 58.33...,
     'num_queries': 2, 'num_queries_without_match': 0}

    ```
    """
    queries, query_norms = _embeddings("query_embeds", query_embeds)
    gallery, gallery_norms = _embeddings("gallery_embeds", gallery_embeds)
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query_embeds and gallery_embeds must have the same width, got {queries.shape[1]} and {gallery.shape[1]}"
        )
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    device = queries.device
    exact = device.type != "cpu" or torch.float64 in (queries.dtype, gallery.dtype)
    dtype = torch.float64 if exact else torch.float32
    queries = queries.to(dtype) / query_norms.to(dtype)
    gallery = gallery.to(device, dtype) / gallery_norms.to(device, dtype)
    # A product may round the columns of identical rows differently, so each distinct row is multiplied once.
    distinct, place = gallery.unique(dim=0, return_inverse=True)
    has_twins = len(distinct) < len(gallery)
    factor = (distinct if has_twins else gallery).T

    def cosines(rows: torch.Tensor) -> torch.Tensor:
        padding = max(0, _MIN_PRODUCT_ROWS - len(rows))
        with torch.autocast(device.type, enabled=False):
            scores = (torch.nn.functional.pad(queries[rows], (0, 0, 0, padding)) @ factor)[: len(rows)]
        return scores[:, place] if has_twins else scores

    query_ids = _person_ids("query_ids", query_ids, len(queries), device)
    gallery_ids = _person_ids("gallery_ids", gallery_ids, len(gallery), device)
    return _metrics(cosines, query_ids, gallery_ids, ks, chunk_size)


@torch.no_grad()
def retrieval_metrics_from_scores(
    scores: Array, query_ids: Array, gallery_ids: Array, *, ks: Sequence[int] = (1, 5, 10)
) -> dict[str, float]:
    """
    The metrics of [`retrieval_metrics`] from a score matrix, for rankings that no embeddings stand behind.

    Scores are compared as they are: only equal numbers tie, and ties rank by gallery index.

    Args:
        scores (`torch.Tensor` or `np.ndarray` of shape `(num_queries, gallery_size)`):
            Floating-point or integer scores, higher is better; infinities are allowed.
        query_ids (integer `torch.Tensor`, `np.ndarray` or list of length `num_queries`):
            Person id of each query.
        gallery_ids (integer `torch.Tensor`, `np.ndarray` or list of length `gallery_size`):
            Person id of each gallery item.
        ks (`Sequence[int]`, *optional*, defaults to `(1, 5, 10)`):
            The ranks k to report.

    Returns:
        `dict[str, float]`: As [`retrieval_metrics`] returns.

    Raises:
        ValueError: If an input is empty, has the wrong shape, length or type, or holds NaN, or if a k is below 1.

    Example:

    ```python
    >>> from scmm.retrieval.metrics import retrieval_metrics_from_scores

    >>> scores = [[0.9, 0.2, 0.5], [0.1, 0.4, 0.4]]
    >>> retrieval_metrics_from_scores(scores, query_ids=[7, 3], gallery_ids=[7, 7, 3], ks=(1,))
    {'rank1': 50.0, 'mAP': 66.66..., 'mINP': 58.33..., 'num_queries': 2, 'num_queries_without_match': 0}

    ```
    """
    scores = _tensor("scores", scores)
    if scores.ndim != 2 or scores.numel() == 0:
        raise ValueError(
            f"scores must be a non-empty (num_queries, gallery_size) matrix, got shape {tuple(scores.shape)}"
        )
    if scores.is_complex() or scores.dtype == torch.bool:
        raise ValueError(f"scores must be floating-point or integer numbers, got {scores.dtype}")
    if scores.isnan().any():
        row, column = scores.isnan().nonzero()[0].tolist()
        raise ValueError(f"scores[{row}, {column}] is NaN: a score must be a number")
    device = scores.device
    wide = _wide_type(scores)
    return _metrics(
        lambda rows: scores[rows].to(wide),
        _person_ids("query_ids", query_ids, scores.shape[0], device),
        _person_ids("gallery_ids", gallery_ids, scores.shape[1], device),
        ks,
    )


def _metrics(
    scores_of: Callable[[torch.Tensor], torch.Tensor],
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
    ks: Sequence[int],
    chunk_size: int | None = None,
) -> dict[str, float]:
    """The figures of both public functions; `scores_of` gives the rows of scores of the queries with these indices."""
    if any(k < 1 for k in ks):
        raise ValueError(f"every k of ks must be at least 1, got {tuple(ks)}")
    # In the gallery sorted by person id, the right items of a query are a slice.
    grouped_ids, grouped = gallery_ids.sort()
    starts = torch.searchsorted(grouped_ids, query_ids)
    counts = torch.searchsorted(grouped_ids, query_ids, right=True) - starts
    matched = counts.nonzero().squeeze(1)

    chunk_size = chunk_size or max(1, _CHUNK_SCORES // len(gallery_ids))
    best_ranks, average_precisions, inverse_penalties = [], [], []
    for rows in matched.split(chunk_size) if len(matched) else ():
        count = counts[rows, None]
        slots = torch.arange(int(count.max()), device=count.device)
        right = grouped[(starts[rows, None] + slots).clamp(max=len(grouped) - 1)]
        ranks = _ranks(scores_of(rows), right)
        ranks = ranks.masked_fill(slots >= count, len(grouped) + 1).sort(dim=1).values
        # Summed one after the other, so that the padding to the chunk's largest count changes no rounding.
        precisions = ((slots + 1) / ranks.double()).cumsum(dim=1)
        best_ranks.append(ranks[:, 0])
        average_precisions.append((precisions.gather(1, count - 1) / count).squeeze(1))
        inverse_penalties.append((count / ranks.gather(1, count - 1).double()).squeeze(1))

    def percentage(values: list[torch.Tensor]) -> float:
        return 100 * torch.cat(values).double().mean().item() if values else 0.0

    return {
        **{f"rank{k}": percentage([ranks <= k for ranks in best_ranks]) for k in ks},
        "mAP": percentage(average_precisions),
        "mINP": percentage(inverse_penalties),
        "num_queries": len(query_ids),
        "num_queries_without_match": len(query_ids) - len(matched),
    }


def _ranks(scores: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """
    The ranks, from 1, of some columns in every row of scores: by score, descending, then by column.

    Args:
        scores (`torch.Tensor` of shape `(rows, gallery_size)`): Scores, without NaN.
        columns (`torch.Tensor` of shape `(rows, n)`): The columns to rank, for every row its own.

    Returns:
        `torch.Tensor` of shape `(rows, n)`: int64.
    """
    chosen = scores.gather(1, columns)
    ascending = _sort_rows(scores)
    above = scores.shape[1] - torch.searchsorted(ascending, chosen, right=True)
    at_least = scores.shape[1] - torch.searchsorted(ascending, chosen)
    ranks = above + 1
    tied = (at_least > ranks).any(dim=1).nonzero().squeeze(1)
    if len(tied):
        order = scores[tied].sort(dim=1, descending=True, stable=True).indices
        places = torch.arange(1, scores.shape[1] + 1, device=scores.device).expand_as(order)
        ranks[tied] = torch.empty_like(order).scatter_(1, order, places).gather(1, columns[tied])
    return ranks


def _sort_rows(scores: torch.Tensor) -> torch.Tensor:
    """Ascending values of every row. On the CPU, NumPy's vectorized sort is some ten times faster than torch's."""
    if scores.device.type == "cpu":
        return torch.from_numpy(np.sort(scores.numpy(), axis=1))
    return scores.sort(dim=1).values


def _wide_type(scores: torch.Tensor) -> torch.dtype:
    """A type that holds these scores and that every step here can sort."""
    if not scores.is_floating_point():
        return torch.int64
    return torch.promote_types(scores.dtype, torch.float32)


def _tensor(name: str, values: Array) -> torch.Tensor:
    if isinstance(values, torch.Tensor):
        return values
    try:
        # torch refuses reversed views and warns about read-only arrays: both are copied.
        return torch.from_numpy(np.require(values, requirements=["C", "W"]))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be a tensor, an array or a list of numbers: {error}") from error


def _embeddings(name: str, values: Array) -> tuple[torch.Tensor, torch.Tensor]:
    """The embeddings as a tensor, and their float64 norms as a column, 1 in place of 0."""
    embeds = _tensor(name, values)
    if embeds.ndim != 2 or embeds.numel() == 0:
        raise ValueError(f"{name} must be a non-empty (number, width) matrix, got shape {tuple(embeds.shape)}")
    if not embeds.is_floating_point():
        raise ValueError(f"{name} must be of a floating-point type, got {embeds.dtype}")
    if embeds.device.type == "mps":
        embeds = embeds.cpu()  # it has no float64
    norms = torch.linalg.vector_norm(embeds, dim=1, keepdim=True, dtype=torch.float64)
    usable = norms <= torch.finfo(torch.float32).max
    if not usable.all():
        row = int((~usable).nonzero()[0, 0])
        raise ValueError(f"{name}[{row}] holds NaN, infinity or numbers beyond float32: check the model's output")
    return embeds, norms.masked_fill(norms == 0, 1)


def _person_ids(name: str, values: Array, length: int, device: torch.device) -> torch.Tensor:
    ids = _tensor(name, values)
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise ValueError(f"{name} must be integers, got {ids.dtype}")
    if ids.shape != (length,):
        raise ValueError(f"{name} must hold one person id per row: expected shape ({length},), got {tuple(ids.shape)}")
    return ids.to(device, torch.int64)
