"""The retrieval metrics as a Hugging Face `evaluate` metric, which collects embeddings over batches and processes."""

from collections.abc import Sequence

import numpy as np
from datasets import Features, List, Value

from .metrics import retrieval_metrics


try:
    import evaluate
except ImportError as error:
    raise ImportError("RetrievalMetric needs the evaluate library: pip install 'scmm[evaluate]'") from error


class RetrievalMetric(evaluate.Metric):
    """
    [`retrieval_metrics`] as an `evaluate.Metric` that needs no download.

    Queries and gallery differ in number, but a metric's inputs are columns of one table. So each row is one embedding,
    in any order and mix of both kinds; the order of the gallery's rows is the gallery index, which breaks ties. With
    `num_process` above 1, the rows come process after process.

    Inputs of `add_batch` and `compute`, of equal length:

    - embeddings (floating-point tensor or array of shape `(rows, dim)`): Kept in float32, not necessarily normalized.
    - person_ids (integers of shape `(rows,)`): Person ids.
    - is_query (bools of shape `(rows,)`): Whether the row is a query; otherwise it is a gallery item.

    `compute` also takes `ks`, and returns what [`retrieval_metrics`] returns; its errors are the same too.

    Example:

    ```python
    >>> from scmm.retrieval.evaluate_metric import RetrievalMetric

    >>> metric = RetrievalMetric(keep_in_memory=True)
    >>> metric.add_batch(embeddings=[[1.0, 0.0], [0.0, 1.0]], person_ids=[4, 8], is_query=[True, True])
    >>> metric.add_batch(embeddings=[[0.1, 0.9], [0.9, 0.1]], person_ids=[8, 8], is_query=[False, False])
    >>> metric.compute(ks=(1, 5))
    {'rank1': 100.0, 'rank5': 100.0, 'mAP': 100.0, 'mINP': 100.0, 'num_queries': 2, 'num_queries_without_match': 1}

    ```
    """

    def _info(self) -> evaluate.MetricInfo:
        info = evaluate.MetricInfo(
            description="Rank-k, mAP and mINP of ranking a gallery by cosine similarity to each query.",
            citation="",
            inputs_description="embeddings, person_ids, is_query: a row for each query and for each gallery item.",
            features=Features(
                {"embeddings": List(Value("float32")), "person_ids": Value("int64"), "is_query": Value("bool")}
            ),
        )
        # Arrays instead of one Python float per number. MetricInfo's check refuses this for lists, though it works.
        info.format = "numpy"
        return info

    def _compute(  # ty: ignore[incompatible-method-override]  # evaluate passes the features by their names
        self, embeddings: np.ndarray, person_ids: np.ndarray, is_query: np.ndarray, ks: Sequence[int] = (1, 5, 10)
    ) -> dict[str, float]:
        return retrieval_metrics(
            embeddings[is_query], embeddings[~is_query], person_ids[is_query], person_ids[~is_query], ks=ks
        )
