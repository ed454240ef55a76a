"""The `evaluate` metric gives what `retrieval_metrics` gives, however its rows arrive."""

import importlib
import sys

import pytest
import torch

from scmm.retrieval.metrics import retrieval_metrics


pytest.importorskip("evaluate")

from scmm.retrieval.evaluate_metric import RetrievalMetric


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(60, 8, generator=generator)
    embeddings[40:50] = embeddings[30:40]  # ties
    embeddings[50:] = embeddings[20:30] + 1e-4 * torch.randn(10, 8, generator=generator)  # apart in float32 alone
    person_ids = torch.randint(12, (60,), generator=generator)
    is_query = torch.rand(60, generator=generator) < 0.4
    return {"embeddings": embeddings, "person_ids": person_ids, "is_query": is_query}


def expected_metrics(rows, **kwargs):
    embeddings, person_ids, is_query = rows.values()
    return retrieval_metrics(
        embeddings[is_query], embeddings[~is_query], person_ids[is_query], person_ids[~is_query], **kwargs
    )


@pytest.mark.parametrize("keep_in_memory", [True, False])
def test_batches_equal_the_function(rows, keep_in_memory, tmp_path):
    metric = RetrievalMetric(keep_in_memory=keep_in_memory, cache_dir=str(tmp_path))
    for start in range(0, 60, 17):
        metric.add_batch(**{name: column[start : start + 17] for name, column in rows.items()})
    result = metric.compute(ks=(1, 3))
    assert result == expected_metrics(rows, ks=(1, 3))
    assert 0 < result["mAP"] < 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("convert", [lambda column: column, lambda column: column.tolist()], ids=["tensors", "lists"])
def test_compute_alone_takes_what_the_function_takes(rows, dtype, convert, tmp_path):
    rows = rows | {"embeddings": rows["embeddings"].to(dtype)}
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    assert metric.compute(**{name: convert(column) for name, column in rows.items()}) == expected_metrics(rows)


def test_row_by_row(rows, tmp_path):
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    for index in range(60):
        metric.add(**{name: column[index].numpy() for name, column in rows.items()})
    assert metric.compute() == expected_metrics(rows)


def test_errors_are_clear(tmp_path):
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="query_embeds must be a non-empty"):
        metric.compute(embeddings=[[1.0, 2.0]], person_ids=[1], is_query=[False])
    metric = RetrievalMetric(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"Mismatch in the number of embeddings \(1\) and person_ids \(2\)"):
        metric.add_batch(embeddings=[[1.0, 2.0]], person_ids=[1, 1], is_query=[True])


def test_without_evaluate_the_import_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "evaluate", None)
    monkeypatch.delitem(sys.modules, "scmm.retrieval.evaluate_metric")
    with pytest.raises(ImportError, match=r"pip install 'scmm\[evaluate\]'"):
        importlib.import_module("scmm.retrieval.evaluate_metric")
