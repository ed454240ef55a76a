"""
Time and memory of `retrieval_metrics` against the usual way: full score matrix, argsort, gather, cumulative sum.

    python benchmarks/retrieval_metrics.py
    python benchmarks/retrieval_metrics.py --queries 2000 --gallery 1000 --persons 200

The default size is the test split of CUHK-PEDES. Each measurement runs in a process of its own, both ways in turn; the
memory is what the process's peak grows by beyond the loaded embeddings. Prints both, their ratios, and how far the
results differ, and fails if they disagree.
"""

import argparse
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from scmm.retrieval.metrics import retrieval_metrics


def full_argsort_metrics(
    query_embeds: torch.Tensor, gallery_embeds: torch.Tensor, query_ids: torch.Tensor, gallery_ids: torch.Tensor
) -> dict[str, float]:
    """The straightforward way, written without regard to memory but without loops over queries either."""
    scores = torch.nn.functional.normalize(query_embeds) @ torch.nn.functional.normalize(gallery_embeds).T
    order = scores.argsort(dim=1, descending=True)
    right = gallery_ids[order] == query_ids[:, None]
    found = right.cumsum(dim=1)
    counts = found[:, -1]
    ranks = torch.arange(1, len(gallery_ids) + 1)
    average_precision = (found / ranks * right).sum(dim=1) / counts
    last_rank = (right * ranks).amax(dim=1)
    return {
        **{f"rank{k}": 100 * (found[:, k - 1] > 0).double().mean().item() for k in (1, 5, 10)},
        "mAP": 100 * average_precision.double().mean().item(),
        "mINP": 100 * (counts / last_rank).double().mean().item(),
    }


WAYS = {"full argsort": full_argsort_metrics, "retrieval_metrics": retrieval_metrics}


def make_embeddings(num_queries: int, gallery_size: int, dim: int, num_persons: int) -> dict[str, torch.Tensor]:
    """Queries and gallery items scatter about their person's vector, so far that rank-1 is near a half."""
    generator = torch.Generator().manual_seed(0)
    persons = torch.randn(num_persons, dim, generator=generator)
    ids = {"query": torch.arange(num_queries) % num_persons, "gallery": torch.arange(gallery_size) % num_persons}
    embeddings = {"query_ids": ids["query"], "gallery_ids": ids["gallery"]}
    for kind, person_ids in ids.items():
        noise = torch.randn(len(person_ids), dim, generator=generator)
        embeddings[f"{kind}_embeds"] = persons[person_ids] + 2.5 * noise
    return embeddings


def peak_mebibytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def measure(way: str, embeddings_file: str, repeats: int) -> tuple[dict[str, float], float, float]:
    """The result, the seconds of the fastest of several calls, and the growth of this process's peak in MiB."""
    embeddings = load_file(embeddings_file)
    few = {name: tensor[:64] for name, tensor in embeddings.items()}
    WAYS[way](**few)  # threads and kernels are loaded here
    before = peak_mebibytes()
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = WAYS[way](**embeddings)
        seconds.append(time.perf_counter() - start)
    return result, min(seconds), peak_mebibytes() - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=6156)
    parser.add_argument("--gallery", type=int, default=3074)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--persons", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="processes per way, in turn; the median counts")
    parser.add_argument("--repeats", type=int, default=3, help="calls per process; the fastest counts")
    args = parser.parse_args()

    size = f"{args.queries} x {args.gallery} x {args.dim}"
    print(f"{size}, {args.persons} persons, {torch.get_num_threads()} threads, torch {torch.__version__}")
    results, seconds, mebibytes = {}, {way: [] for way in WAYS}, {way: [] for way in WAYS}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        embeddings_file = str(Path(folder) / "embeddings.safetensors")
        save_file(make_embeddings(args.queries, args.gallery, args.dim, args.persons), embeddings_file)
        for _ in range(args.rounds):
            for way in WAYS:
                with context.Pool(1) as pool:
                    results[way], time_taken, memory = pool.apply(measure, (way, embeddings_file, args.repeats))
                seconds[way].append(time_taken)
                mebibytes[way].append(memory)

    print(f"\n{'':20}{'seconds':>10}{'peak MiB':>10}{'rank-1':>10}{'mAP':>10}{'mINP':>10}")
    for way, result in results.items():
        figures = "".join(f"{result[name]:10.4f}" for name in ("rank1", "mAP", "mINP"))
        print(f"{way:20}{statistics.median(seconds[way]):10.3f}{statistics.median(mebibytes[way]):10.1f}{figures}")

    usual, ours = WAYS
    for label, measured in (("time", seconds), ("memory", mebibytes)):
        ratio = statistics.median(measured[usual]) / statistics.median(measured[ours])
        rounds = ", ".join(f"{a / b:.1f}" for a, b in zip(measured[usual], measured[ours], strict=True))
        print(f"{label} ratio: {ratio:.1f} times less (rounds: {rounds})")

    # The usual way's float32 scores may swap near-equal items: one query's rank-1 is worth 100 / queries.
    difference = max(abs(results[ours][name] - figure) for name, figure in results[usual].items())
    print(f"largest difference of a figure: {difference:.5f} percentage points")
    if difference > 200 / args.queries:
        sys.exit("the results disagree")


if __name__ == "__main__":
    main()
