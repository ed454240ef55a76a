"""Exact search against a plain comparison in float64, above all where scores tie or nearly tie."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from scmm.retrieval.gallery import exact
from scmm.retrieval.gallery.exact import exact_top_k


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def brute_force(vectors, queries, k, rows=None):
    """For each query the rows by score, then place; with what ties with the last of the first k."""
    ranked = []
    for query in queries.double():
        places = range(len(vectors)) if rows is None else rows.tolist()
        scores = {row: (vectors[row].double() * query).sum().item() for row in places}
        order = sorted(scores, key=lambda row: (-scores[row], row))
        last = scores[order[min(k, len(order)) - 1]] if order else 0.0
        ranked.append([(row, scores[row]) for row in order if scores[row] >= last])
    return ranked


def found(vectors, queries, k, rows=None):
    return [
        list(zip(best.tolist(), scores.tolist(), strict=True))
        for best, scores in exact_top_k(vectors, queries, k, rows)
    ]


@pytest.mark.parametrize("num_queries", [1, 3, 70])
@pytest.mark.parametrize("k", [1, 10, 3000])
def test_finds_what_a_plain_comparison_finds(num_queries, k):
    vectors, queries = unit(2000, 16).half(), unit(num_queries, 16, seed=1)
    expected = brute_force(vectors, queries[:3], k)
    for ranked, wanted in zip(found(vectors, queries, k)[:3], expected, strict=True):
        assert [row for row, _ in ranked] == [row for row, _ in wanted]
        assert [score for _, score in ranked] == pytest.approx([score for _, score in wanted], abs=1e-12)


def test_some_rows_alone():
    vectors, queries = unit(500, 16).half(), unit(4, 16, seed=1)
    rows = torch.tensor([3, 5, 99, 400, 401])
    for ranked, wanted in zip(found(vectors, queries, 3, rows), brute_force(vectors, queries, 3, rows), strict=True):
        assert [row for row, _ in ranked] == [row for row, _ in wanted]


def test_equal_rows_tie_exactly_and_all_of_them_come(monkeypatch):
    monkeypatch.setattr(exact, "_SCORES", 64)  # several blocks, and products of an odd size at the end
    monkeypatch.setitem(exact._ROWS, "cpu", 5)
    twins = unit(1, 32).half()
    vectors = torch.cat([unit(53, 32, seed=1).half(), twins, unit(41, 32, seed=2).half(), twins.expand(7, -1)])
    [(rows, scores)] = exact_top_k(vectors, twins.float(), 2)
    assert rows.tolist() == [53, *range(95, 102)]
    assert len(set(scores.tolist())) == 1


def test_scores_do_not_depend_on_the_company():
    vectors, queries = unit(3000, 24).half(), unit(50, 24, seed=1)
    together = found(vectors, queries, 5)
    assert together == [found(vectors, query[None], 5)[0] for query in queries]
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    for ranked, shuffled in zip(together, found(vectors[order], queries, 5), strict=True):
        assert ranked == [(order[row].item(), score) for row, score in shuffled]


def test_near_ties_rank_by_their_true_score():
    query = unit(1, 64)
    vectors = query + 1e-7 * unit(400, 64, seed=3)  # float32 products cannot tell them apart
    wanted = brute_force(vectors, query, 20)[0]
    assert [row for row, _ in found(vectors, query, 20)[0]] == [row for row, _ in wanted]


def test_nothing_to_find():
    assert found(torch.empty(0, 8).half(), unit(2, 8), 3) == [[], []]
    assert found(unit(5, 8).half(), torch.empty(0, 8), 3) == []
    assert found(unit(5, 8).half(), unit(1, 8), 3, torch.empty(0, dtype=torch.int64)) == [[]]


@settings(deadline=None, max_examples=60)
@given(
    size=st.integers(1, 40), num_queries=st.integers(1, 4), k=st.integers(1, 45), block=st.integers(1, 50),
    values=st.integers(1, 3), seed=st.integers(0, 10**6),
)  # fmt: skip
def test_any_sizes_with_many_ties(size, num_queries, k, block, values, seed):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randint(-values, values + 1, (size, 4), generator=generator).half()
    queries = torch.randint(-values, values + 1, (num_queries, 4), generator=generator).float()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact, "_SCORES", block)
        patch.setitem(exact._ROWS, "cpu", 3)
        assert found(vectors, queries, k) == brute_force(vectors, queries, k)
