"""
Time of `load_benchmark`, the first time and from its cache, against the usual way: json.load and Dataset.from_dict.

    python benchmarks/load_benchmark.py
    python benchmarks/load_benchmark.py --records 4000

The set has the layout, the size and the sub-folders of CUHK-PEDES, with captions of PaperDoll and empty image files,
which no way opens. Each measurement runs in a process of its own, all ways in turn, imports not counted; the median
of the rounds counts. Unlike the usual way, `load_benchmark` also checks every record and looks for every image. Prints
the times and their ratios, and fails if the rows differ.
"""

import argparse
import json
import logging
import multiprocessing
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import datasets
import pyarrow as pa
from datasets import Dataset, DatasetDict

from scmm.data.benchmarks import load_benchmark
from scmm.data.paperdoll import paperdoll_records
from scmm.data.paperdoll.export import tokens
from scmm.data.schema import FEATURES


FOLDERS = ("cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query")


def make_set(root: Path, num_records: int) -> None:
    """Three images a person and two captions an image; a twelfth of the people for validation and one for testing."""
    people = -(-num_records // 3)
    records = paperdoll_records(
        train_identities=people - 2 * (people // 13),
        val_identities=people // 13,
        test_identities=people // 13,
        images_per_identity=3,
    )[:num_records]
    images = root / "CUHK-PEDES" / "imgs"
    for folder in FOLDERS:
        (images / folder).mkdir(parents=True)
    written = []
    for number, record in enumerate(records):
        file_path = f"{FOLDERS[number % len(FOLDERS)]}/{record['id'] + 1:05d}_{number:06d}.jpg"
        (images / file_path).touch()
        captions = record["captions"]
        written.append(
            {
                "split": record["split"],
                "captions": captions,
                "file_path": file_path,
                "processed_tokens": [tokens(caption) for caption in captions],
                "id": record["id"] + 1,
            }
        )
    (root / "CUHK-PEDES" / "reid_raw.json").write_text(json.dumps(written))


def usual_way(root: Path, cache: Path) -> DatasetDict:
    """What a script does: reads the list, trusts it, and keeps the table in memory."""
    folder = root / "CUHK-PEDES"
    with open(folder / "reid_raw.json") as file:
        records = json.load(file)
    columns: dict[str, dict[str, list]] = {}
    for number, record in enumerate(records):
        rows = columns.setdefault(record["split"], {name: [] for name in FEATURES})
        rows["image"].append(str(folder / "imgs" / record["file_path"]))
        rows["captions"].append(record["captions"])
        rows["person_id"].append(record["id"])
        rows["image_id"].append(number)
        rows["camera_id"].append(-1)
        rows["file_name"].append(record["file_path"])
    return DatasetDict({split: Dataset.from_dict(rows, features=FEATURES) for split, rows in columns.items()})


def first_time(root: Path, cache: Path) -> DatasetDict:
    shutil.rmtree(cache, ignore_errors=True)
    return load_benchmark("cuhk-pedes", root, cache_dir=cache)


def second_time(root: Path, cache: Path) -> DatasetDict:
    return load_benchmark("cuhk-pedes", root, cache_dir=cache)


WAYS = {"json.load, from_dict": usual_way, "first time": first_time, "second time": second_time}


def measure(way: str, root: Path, cache: Path) -> tuple[float, dict[str, int]]:
    """The seconds of one call, and what came out: the hash of each split's rows."""
    start = time.perf_counter()
    splits = WAYS[way](root, cache)
    seconds = time.perf_counter() - start
    tables = {str(split): rows.with_format("arrow")[:] for split, rows in splits.items()}
    return seconds, {split: hash(json.dumps(table.to_pylist())) for split, table in sorted(tables.items())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=40206)
    parser.add_argument("--rounds", type=int, default=3, help="processes per way, in turn; the median counts")
    args = parser.parse_args()
    logging.getLogger("scmm").setLevel(logging.ERROR)  # that the figures are not the official ones

    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    context = multiprocessing.get_context("fork")  # so that texts have one hash in all processes
    with tempfile.TemporaryDirectory() as folder:
        root, cache = Path(folder, "data").resolve(), Path(folder, "cache")
        make_set(root, args.records)
        size = (root / "CUHK-PEDES" / "reid_raw.json").stat().st_size
        print(
            f"{args.records} records, {size / 1e6:.1f} MB, datasets {datasets.__version__}, pyarrow {pa.__version__}"
        )
        for _ in range(args.rounds):
            results = {}
            for way in WAYS:
                with context.Pool(1) as pool:
                    time_taken, results[way] = pool.apply(measure, (way, root, cache))
                seconds[way].append(time_taken)
            if len({tuple(result.items()) for result in results.values()}) != 1:
                sys.exit("the rows differ")

    usual = statistics.median(seconds["json.load, from_dict"])
    print(f"\n{'':22}{'seconds':>10}{'ratio':>8}")
    for way, taken in seconds.items():
        median = statistics.median(taken)
        rounds = ", ".join(f"{one:.3f}" for one in taken)
        print(f"{way:22}{median:10.3f}{median / usual:8.2f}   rounds: {rounds}")


if __name__ == "__main__":
    main()
