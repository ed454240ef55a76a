"""
Time and memory of a gallery's search against faiss, on the embeddings of a trained model scaled up.

    python benchmarks/gallery_search.py runs/demo/checkpoint runs/demo/data
    python benchmarks/gallery_search.py runs/demo/checkpoint runs/demo/data --images 100000 --rounds 1

The demo's checkpoint embeds some of its training images and test captions. Each vector of the gallery is one of these
images, moved by the difference of two images of one person; all are turned into the wider space by a random rotation,
which keeps their cosines. The queries are the captions.

Each measurement runs in a process of its own, both ways in turn, and the median of the rounds counts. Time is that of
the whole call, from a vector to the records of the images found. Memory is what the process's peak grows by, from the
imports to the end. Prints the ratios and the targets.
"""

import argparse
import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch.nn import functional as F


TOP_K = 10
# Recall is measured on as many captions, and a batch has as many queries.
QUERIES = 1000
# So many of the demo's images are embedded.
IMAGES = 8000


def make_data(checkpoint: str, data_root: str, folder: Path, images: int, dim: int) -> None:
    """Writes the gallery, its vectors for faiss, and the queries."""
    from scmm.data.benchmarks import load_benchmark
    from scmm.retrieval.checkpoints import load_dual_encoder
    from scmm.retrieval.encode import encode_captions, encode_images
    from scmm.retrieval.gallery.store import Store

    model, processor = load_dual_encoder(checkpoint)
    splits = load_benchmark("paperdoll", data_root)
    captions = [captions[0] for captions in splits["test"]["captions"]][:QUERIES]
    queries = encode_captions(model, processor, captions)
    person_ids = torch.tensor(splits["train"]["person_id"][:])
    order = person_ids.sort(stable=True).indices[:IMAGES]
    root = Path(data_root) / "PaperDoll" / "imgs"
    paths = [str(root / name) for name in splits["train"]["file_name"]]
    embeds = encode_images(model, processor, [paths[row] for row in order], progress=True)
    pairs = (person_ids[order][1:] == person_ids[order][:-1]).nonzero().squeeze(1)

    generator = torch.Generator().manual_seed(0)
    rotation = torch.linalg.qr(torch.randn(dim, embeds.shape[1], generator=generator)).Q
    np.save(folder / "queries.npy", (queries @ rotation.T).numpy())
    manifest = {"model": {"name": checkpoint, "revision": None, "weights_hash": "", "processor_hash": ""}}
    store = Store.create(folder / "gallery", dim, {**manifest, "retention_days": None})
    vectors = np.lib.format.open_memmap(folder / "vectors.npy", "w+", np.float16, (images, dim))
    for start in range(0, images, 2**16):
        count = min(2**16, images - start)
        base, pair = (torch.randint(size, (count,), generator=generator) for size in (len(embeds), len(pairs)))
        moved = embeds[base] + embeds[pairs[pair]] - embeds[pairs[pair] + 1]
        vectors[start : start + count] = (F.normalize(moved, dim=1) @ rotation.T).half().numpy()
        names = [f"/data/crops/camera_{row % 8}/{row:08}.jpg" for row in range(start, start + count)]
        flat = pa.array(vectors[start : start + count].reshape(-1))
        store.append(
            pa.table(
                {
                    "id": names,
                    "path": names,
                    "camera": [str(row % 8) for row in range(start, start + count)],
                    "embedding": pa.FixedSizeListArray.from_arrays(flat, dim),
                }
            )
        )
    store.compact()


def seconds_of(call: Callable[[], object], repeats: int) -> float:
    """The fastest of several calls, after one that sets things up."""
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return min(taken)


def peak_bytes() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak


def measure_gallery(folder: Path, what: str) -> dict[str, float]:
    import lancedb  # noqa: F401  imported before the clock and the memory start

    from scmm import Gallery

    queries = torch.from_numpy(np.load(folder / "queries.npy"))
    torch.ones(64, 64) @ torch.ones(64, 64)
    before = peak_bytes()
    start = time.perf_counter()
    gallery = Gallery.open(folder / "gallery")
    gallery.search(queries[0], top_k=TOP_K)
    figures = {"first": time.perf_counter() - start}
    if what == "one":
        figures["seconds"] = seconds_of(lambda: gallery.search(queries[1], top_k=TOP_K), 10)
    elif what == "batch":
        figures["seconds"] = seconds_of(lambda: gallery.search_batch(queries, top_k=TOP_K), 1)
    else:
        figures["seconds"] = seconds_of(lambda: gallery.search(queries[1], top_k=TOP_K, approximate=True), 30)
        report = gallery.recall(queries[:200], top_k=TOP_K)
        figures.update(recall=report.recall, exact=report.exact_seconds, approximate=report.approximate_seconds)
    return {**figures, "bytes": peak_bytes() - before}


def measure_faiss(folder: Path, what: str) -> dict[str, float]:
    import faiss

    queries = np.load(folder / "queries.npy")
    before = peak_bytes()
    vectors = np.load(folder / "vectors.npy", mmap_mode="r")
    index = faiss.IndexFlatIP(vectors.shape[1])
    for start in range(0, len(vectors), 2**16):
        index.add(vectors[start : start + 2**16].astype(np.float32))
    chosen = queries[1:2] if what == "one" else queries
    seconds = seconds_of(lambda: index.search(chosen, TOP_K), 10 if what == "one" else 1)
    return {"seconds": seconds, "bytes": peak_bytes() - before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="the demo's checkpoint")
    parser.add_argument("data_root", help="the demo's data")
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3, help="processes for each measurement; the median counts")
    parser.add_argument("--folder", type=Path, help="keep the data here, or use what is here (some 2 GB)")
    args = parser.parse_args()

    context = multiprocessing.get_context("spawn")
    folder = args.folder or Path(tempfile.mkdtemp(prefix="gallery-search-"))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if not (folder / "queries.npy").exists() or not (folder / "gallery" / "gallery.json").exists():
            with context.Pool(1) as pool:
                pool.apply(make_data, (args.checkpoint, args.data_root, folder, args.images, args.dim))
        measurements = [
            (measure_gallery, "one"),
            (measure_faiss, "one"),
            (measure_gallery, "batch"),
            (measure_faiss, "batch"),
            (measure_gallery, "approximate"),
        ]
        figures = {}
        for _ in range(args.rounds):
            for measure, what in measurements:
                with context.Pool(1) as pool:
                    found = pool.apply(measure, (folder, what))
                for name, value in found.items():
                    figures.setdefault((measure.__name__.removeprefix("measure_"), what, name), []).append(value)
    finally:
        if args.folder is None:
            shutil.rmtree(folder)
    report(args, {key: statistics.median(values) for key, values in figures.items()})


def report(args: argparse.Namespace, figures: dict[tuple[str, str, str], float]) -> None:
    ours, theirs = ({what: figures[way, what, "seconds"] for what in ("one", "batch")} for way in ("gallery", "faiss"))
    memory = figures["gallery", "one", "bytes"]
    print(f"\n{args.images:,} x {args.dim}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{'':44}{'gallery':>10}{'faiss':>10}{'ratio':>8}  target")
    for what, label, scale, target in (
        ("one", "one query, exact (ms)", 1e3, 1.3),
        ("batch", f"batch of {QUERIES} queries, exact (s)", 1, 1.5),
    ):
        ratio = ours[what] / theirs[what]
        print(f"{label:44}{scale * ours[what]:10.2f}{scale * theirs[what]:10.2f}{ratio:8.2f}  <= {target}")
    print(f"{'memory for it (GB)':44}{memory / 1e9:10.2f}{figures['faiss', 'one', 'bytes'] / 1e9:10.2f}{'':8}  <= 1.2")
    print(f"{'opening and the first query (s)':44}{figures['gallery', 'one', 'first']:10.2f}{'':18}  <= 3")
    fast = {name: figures["gallery", "approximate", name] for name in ("exact", "approximate", "recall")}
    label = f"approximate, one query (ms; exact {1e3 * fast['exact']:.1f})"
    print(f"{label:44}{1e3 * fast['approximate']:10.2f}{'':10}{fast['exact'] / fast['approximate']:8.1f}  >= 10")
    print(f"{'recall@10 of approximate search':44}{fast['recall']:10.4f}{'':18}  >= 0.98")


if __name__ == "__main__":
    main()
