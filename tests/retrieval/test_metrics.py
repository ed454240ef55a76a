"""The retrieval metrics against the field's definitions, computed slowly with exact arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scmm.retrieval import metrics
from scmm.retrieval.metrics import retrieval_metrics, retrieval_metrics_from_scores


GOLDEN_SCORES = [
    [0.9, 0.1, 0.5, 0.3, 0.2, 0.05],
    [0.2, 0.8, 0.7, 0.1, 0.6, 0.3],
    [0.4, 0.35, 0.3, 0.25, 0.2, 0.15],
    [0.1, 0.2, 0.3, 0.9, 0.8, 0.7],
]
GOLDEN_QUERY_IDS = [7, 7, 9, 3]
GOLDEN_GALLERY_IDS = [7, 3, 7, 9, 3, 9]


def naive_metrics(scores, query_ids, gallery_ids, ks=(1, 5, 10)):
    """The definitions, one sorted list per query; scores may be any numbers that Python compares."""
    hits, precisions, penalties = [], [], []
    for row, query_id in zip(scores, query_ids, strict=True):
        ranking = sorted(range(len(gallery_ids)), key=lambda index: (-row[index], index))
        right_ranks = [rank for rank, index in enumerate(ranking, 1) if gallery_ids[index] == query_id]
        if right_ranks:
            hits.append([right_ranks[0] <= k for k in ks])
            precisions.append(sum(found / rank for found, rank in enumerate(right_ranks, 1)) / len(right_ranks))
            penalties.append(len(right_ranks) / right_ranks[-1])

    def percentage(values):
        return 100 * sum(values) / len(values) if values else 0.0

    return {
        **{f"rank{k}": percentage([hit[i] for hit in hits]) for i, k in enumerate(ks)},
        "mAP": percentage(precisions),
        "mINP": percentage(penalties),
        "num_queries": len(query_ids),
        "num_queries_without_match": len(query_ids) - len(hits),
    }


def ordered_cosine(query, item):
    """A fraction that orders like the cosine of two vectors of integers with the same query, without any rounding."""
    product = sum(a * b for a, b in zip(query, item, strict=True))
    return Fraction(product * abs(product), sum(b * b for b in item) or 1)


@st.composite
def retrieval_problems(draw, values):
    """Rows for queries and a gallery, of few distinct values, so many ties, and ids, some of them without a match."""
    num_queries, gallery_size = draw(st.integers(1, 9)), draw(st.integers(1, 12))
    ids = st.integers(-2, 3)
    query_ids = draw(st.lists(ids, min_size=num_queries, max_size=num_queries))
    gallery_ids = draw(st.lists(ids, min_size=gallery_size, max_size=gallery_size))
    return *values(draw, num_queries, gallery_size), query_ids, gallery_ids


def score_matrices(draw, num_queries, gallery_size):
    row = st.lists(
        st.sampled_from([-1.5, 0.0, -0.0, 0.25, 0.5, float("inf")]), min_size=gallery_size, max_size=gallery_size
    )
    return (draw(st.lists(row, min_size=num_queries, max_size=num_queries)),)


def exact_embeddings(draw, num_queries, gallery_size):
    """Vectors of ones and minus ones, times a power of two, and zero: float32 holds every step of their cosines."""
    signs = st.lists(st.sampled_from([-1, 1]), min_size=4, max_size=4)
    row = st.tuples(signs, st.sampled_from([0, 1, 2, 8])).map(lambda pair: [sign * pair[1] for sign in pair[0]])
    return tuple(draw(st.lists(row, min_size=n, max_size=n)) for n in (num_queries, gallery_size))


def person_embeddings(num_queries, gallery_size, num_persons, seed=0):
    """Noisy float32 copies of one vector per person."""
    generator = torch.Generator().manual_seed(seed)
    persons = torch.randn(num_persons, 32, generator=generator)
    query_ids = torch.randint(num_persons, (num_queries,), generator=generator)
    gallery_ids = torch.randint(num_persons, (gallery_size,), generator=generator)
    noise = 3 * torch.randn(num_queries + gallery_size, 32, generator=generator)
    queries, gallery = persons[query_ids] + noise[:num_queries], persons[gallery_ids] + noise[num_queries:]
    return queries, gallery, query_ids, gallery_ids


def test_golden_example_text_to_image():
    result = retrieval_metrics_from_scores(GOLDEN_SCORES, GOLDEN_QUERY_IDS, GOLDEN_GALLERY_IDS, ks=(1, 2, 4))
    assert list(result) == ["rank1", "rank2", "rank4", "mAP", "mINP", "num_queries", "num_queries_without_match"]
    assert [result["rank1"], result["rank2"], result["rank4"]] == [25.0, 75.0, 100.0]
    assert result["mAP"] == pytest.approx(54.7917, abs=5e-5)
    assert result["mINP"] == pytest.approx(53.3333, abs=5e-5)
    assert (result["num_queries"], result["num_queries_without_match"]) == (4, 0)


def test_golden_example_image_to_text():
    scores = torch.tensor(GOLDEN_SCORES, dtype=torch.float64).T
    result = retrieval_metrics_from_scores(scores, GOLDEN_GALLERY_IDS, GOLDEN_QUERY_IDS, ks=(1, 3))
    assert [result["rank1"], result["rank3"]] == [50.0, 100.0]
    assert result["mAP"] == pytest.approx(63.8889, abs=5e-5)
    assert result["mINP"] == pytest.approx(61.1111, abs=5e-5)


@given(
    retrieval_problems(score_matrices), st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16])
)
def test_scores_with_ties_match_the_naive_reference(problem, dtype):
    scores, query_ids, gallery_ids = problem
    result = retrieval_metrics_from_scores(torch.tensor(scores, dtype=dtype), query_ids, gallery_ids, ks=(1, 2, 5))
    assert result == pytest.approx(naive_metrics(scores, query_ids, gallery_ids, ks=(1, 2, 5)))


@given(
    retrieval_problems(exact_embeddings),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.integers(1, 10),
)
def test_embeddings_with_ties_match_the_naive_reference(problem, dtype, chunk_size):
    queries, gallery, query_ids, gallery_ids = problem
    result = retrieval_metrics(
        torch.tensor(queries, dtype=dtype),
        torch.tensor(gallery, dtype=dtype),
        query_ids,
        gallery_ids,
        chunk_size=chunk_size,
    )
    exact = [[ordered_cosine(query, item) for item in gallery] for query in queries]
    assert result == pytest.approx(naive_metrics(exact, query_ids, gallery_ids))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("num_persons", [80, 4], ids=["few right items", "many right items"])
def test_noisy_embeddings_match_the_naive_reference(num_persons, dtype):
    queries, gallery, query_ids, gallery_ids = person_embeddings(70, 150, num_persons)
    queries, gallery = queries.to(dtype), gallery.to(dtype)
    result = retrieval_metrics(queries, gallery, query_ids, gallery_ids)
    cosines = torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(gallery.double()).T
    expected = naive_metrics(cosines.tolist(), query_ids.tolist(), gallery_ids.tolist())
    assert result == pytest.approx(expected)
    assert 0 < expected["rank1"] < 100
    assert (expected["num_queries_without_match"] > 0) == (num_persons == 80)


def test_the_chunk_size_changes_nothing():
    queries, gallery, query_ids, gallery_ids = person_embeddings(101, 230, 12)
    problem = queries.sign(), gallery.sign(), query_ids, gallery_ids  # many ties, and cosines that no product rounds
    results = [retrieval_metrics(*problem, chunk_size=chunk_size) for chunk_size in (1, 7, 64, 1000)]
    assert all(result == results[0] for result in results)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="the padding is made for MKL's kernels")
def test_the_chunk_size_changes_no_rounding():
    # Rows so close that the last bits of their cosines decide.
    queries, _, query_ids, gallery_ids = person_embeddings(101, 230, 12)
    generator = torch.Generator().manual_seed(1)
    gallery = torch.randn(32, generator=generator) + 1e-7 * torch.randn(230, 32, generator=generator)
    problem = queries, gallery, query_ids, gallery_ids
    results = [retrieval_metrics(*problem, chunk_size=chunk_size) for chunk_size in (1, 7, 64, 1000)]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_identical_gallery_rows_rank_by_index(dtype, monkeypatch):
    # The right item comes last among identical rows, at widths where matrix products treat the last columns apart.
    monkeypatch.setattr(metrics, "_MIN_PRODUCT_ROWS", 1)  # and for one query, many products do so
    for gallery_size in (3, 17, 33, 65):
        generator = torch.Generator().manual_seed(gallery_size)
        gallery = torch.randn(1, 67, generator=generator).expand(gallery_size, -1).to(dtype)
        queries = torch.randn(50, 67, generator=generator).to(dtype)
        gallery_ids = [0] * (gallery_size - 1) + [1]
        result = retrieval_metrics(queries, gallery, [1] * 50, gallery_ids, chunk_size=1)
        assert result["mINP"] == pytest.approx(100 / gallery_size)


def test_identical_rows_among_others_keep_their_places():
    queries, gallery, query_ids, gallery_ids = person_embeddings(60, 90, 12)
    gallery[30:50] = gallery[torch.arange(20, 0, -1)]
    cosines = torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(gallery.double()).T
    cosines[:, 30:50] = cosines[:, torch.arange(20, 0, -1)]
    expected = naive_metrics(cosines.tolist(), query_ids.tolist(), gallery_ids.tolist())
    assert retrieval_metrics(queries, gallery, query_ids, gallery_ids) == pytest.approx(expected)


def test_float64_embeddings_keep_their_precision():
    gallery = torch.tensor([[1.0, 1e-5], [1.0, 0.0]], dtype=torch.float64)
    query = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    assert retrieval_metrics(query, gallery, [1], [0, 1])["rank1"] == 100.0


def test_vectors_need_no_normalization_and_autocast_changes_nothing():
    queries, gallery, query_ids, gallery_ids = person_embeddings(40, 90, 12)
    expected = retrieval_metrics(queries, gallery, query_ids, gallery_ids)
    lengths = 2.0 ** torch.arange(90).remainder(21).sub(10)[:, None]
    assert retrieval_metrics(queries * 64, gallery * lengths, query_ids, gallery_ids) == expected
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert retrieval_metrics(queries, gallery, query_ids, gallery_ids) == expected


def test_a_zero_vector_has_cosine_zero():
    result = retrieval_metrics(torch.ones(1, 2), torch.tensor([[-1.0, -1], [0, 0], [1, 1]]), [1], [0, 1, 2], ks=(1, 2))
    assert (result["rank1"], result["rank2"]) == (0.0, 100.0)


def test_arrays_lists_and_tensors_give_the_same():
    queries, gallery, query_ids, gallery_ids = person_embeddings(20, 30, 6)
    expected = retrieval_metrics(queries, gallery, query_ids, gallery_ids)
    read_only = gallery.numpy().copy()
    read_only.flags.writeable = False
    assert retrieval_metrics(queries.numpy(), read_only, query_ids.tolist(), gallery_ids.numpy()) == expected
    reverse = queries.numpy()[::-1], gallery, query_ids.numpy()[::-1].astype(np.uint8), gallery_ids.int()
    assert retrieval_metrics(*reverse) == pytest.approx(expected)
    assert retrieval_metrics(queries.requires_grad_(), gallery, query_ids, gallery_ids) == expected


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int8, torch.uint8, torch.int64])
def test_a_gallery_larger_than_the_type_of_scores_can_count(dtype):
    scores = torch.ones(1, 5001, dtype=dtype)
    scores[0, 4000] = 0
    result = retrieval_metrics_from_scores(scores, [1], [0] * 4000 + [1] + [0] * 1000)
    assert result["mINP"] == pytest.approx(100 / 5001)


def test_integer_scores_keep_every_bit():
    result = retrieval_metrics_from_scores(torch.tensor([[2**60, 2**60 + 1], [255, 256]]), [1, 1], [0, 1])
    assert result["rank1"] == 100.0


def test_ids_of_64_bits_stay_apart():
    # float32 and float64 would both confuse these.
    result = retrieval_metrics_from_scores([[2.0, 1.0]], [2**60], [2**60 + 1, 2**60])
    assert (result["rank1"], result["rank5"]) == (0.0, 100.0)


@pytest.mark.parametrize("person_id, rank1, without_match", [(5, 100.0, 0), (6, 0.0, 1)])
def test_single_items(person_id, rank1, without_match):
    result = retrieval_metrics(torch.ones(1, 4), -torch.ones(1, 4), [5], [person_id])
    assert result == {
        "rank1": rank1,
        "rank5": rank1,
        "rank10": rank1,
        "mAP": rank1,
        "mINP": rank1,
        "num_queries": 1,
        "num_queries_without_match": without_match,
    }


def test_never_holds_more_than_a_chunk_of_scores(monkeypatch):
    rows, ranks = [], metrics._ranks

    def record(scores, columns):
        rows.append(scores.shape)
        return ranks(scores, columns)

    monkeypatch.setattr(metrics, "_ranks", record)
    problem = torch.ones(10, 2), torch.ones(6, 2), [0] * 10, [0] * 6
    retrieval_metrics(*problem, chunk_size=4)
    assert rows == [(4, 6), (4, 6), (2, 6)]
    rows.clear()
    monkeypatch.setattr(metrics, "_CHUNK_SCORES", 20)
    retrieval_metrics(*problem)
    retrieval_metrics_from_scores(torch.ones(4, 6), [0] * 4, [0] * 6)
    assert rows == [(3, 6), (3, 6), (3, 6), (1, 6), (3, 6), (1, 6)]
    rows.clear()
    monkeypatch.setattr(metrics, "_CHUNK_SCORES", 5)  # less than a row
    retrieval_metrics_from_scores(torch.ones(2, 6), [0] * 2, [0] * 6)
    assert rows == [(1, 6), (1, 6)]


@pytest.mark.parametrize(
    "change, message",
    [
        (
            {"query_embeds": torch.ones(0, 3), "query_ids": []},
            r"query_embeds must be a non-empty .* got shape \(0, 3\)",
        ),
        ({"gallery_embeds": torch.ones(0, 3), "gallery_ids": []}, r"gallery_embeds must be a non-empty"),
        (
            {"query_embeds": torch.ones(3)},
            r"query_embeds must be a non-empty \(number, width\) matrix, got shape \(3,\)",
        ),
        ({"query_embeds": torch.ones(2, 4)}, "the same width, got 4 and 3"),
        ({"gallery_embeds": torch.ones(4, 3, dtype=torch.int64)}, "gallery_embeds must be of a floating-point type"),
        ({"gallery_embeds": [["a"]]}, "gallery_embeds must be a tensor, an array or a list of numbers"),
        ({"query_embeds": torch.tensor([[1.0, 2, 3], [1, float("nan"), 3]])}, r"query_embeds\[1\] holds NaN"),
        ({"gallery_embeds": torch.full((4, 3), torch.inf)}, r"gallery_embeds\[0\] holds NaN, infinity"),
        ({"gallery_embeds": torch.full((4, 3), 3e38)}, r"gallery_embeds\[0\] holds .* numbers beyond float32"),
        ({"query_ids": [1, 2, 3]}, r"query_ids must hold one person id per row: expected shape \(2,\), got \(3,\)"),
        ({"gallery_ids": [[1, 2, 1, 2]]}, r"gallery_ids .* expected shape \(4,\), got \(1, 4\)"),
        ({"query_ids": [1.0, 2.0]}, "query_ids must be integers, got torch.float64"),
        ({"query_ids": [True, False]}, "query_ids must be integers, got torch.bool"),
        ({"gallery_ids": ["p1", "p2", "p1", "p2"]}, "gallery_ids must be a tensor, an array or a list of numbers"),
        ({"ks": (1, 0)}, r"every k of ks must be at least 1, got \(1, 0\)"),
        ({"chunk_size": 0}, "chunk_size must be at least 1, got 0"),
    ],
)
def test_bad_embeddings_are_refused(change, message):
    good = {
        "query_embeds": torch.ones(2, 3),
        "gallery_embeds": torch.ones(4, 3),
        "query_ids": [1, 2],
        "gallery_ids": [1, 2, 1, 2],
    }
    retrieval_metrics(**good)
    with pytest.raises(ValueError, match=message):
        retrieval_metrics(**good | change)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scores": torch.ones(0, 2), "query_ids": []}, r"scores must be a non-empty .* got shape \(0, 2\)"),
        ({"scores": [1.0, 2.0]}, r"got shape \(2,\)"),
        ({"scores": [[True, False]]}, "scores must be floating-point or integer numbers, got torch.bool"),
        ({"scores": [[0.0, float("nan")]]}, r"scores\[0, 1\] is NaN"),
        ({"query_ids": [1, 2]}, r"query_ids .* expected shape \(1,\), got \(2,\)"),
        ({"gallery_ids": [1]}, r"gallery_ids .* expected shape \(2,\), got \(1,\)"),
        ({"ks": (-1,)}, "every k of ks must be at least 1"),
    ],
)
def test_bad_scores_are_refused(change, message):
    good = {"scores": [[0.5, 0.25]], "query_ids": [1], "gallery_ids": [1, 2]}
    retrieval_metrics_from_scores(**good)
    with pytest.raises(ValueError, match=message):
        retrieval_metrics_from_scores(**good | change)
