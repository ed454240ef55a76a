"""How fast PaperDoll is rendered, files included: one process against several, small images against large ones.

Run: `python benchmarks/render_paperdoll.py [--people 500]`
"""

import argparse
import os
import tempfile
import time

from scmm.data.paperdoll import paperdoll_records, render_paperdoll


def images_per_second(people: int, image_size: tuple[int, int], num_workers: int) -> float:
    with tempfile.TemporaryDirectory() as root:
        start = time.perf_counter()
        render_paperdoll(
            root,
            image_size=image_size,
            train_identities=people,
            val_identities=0,
            test_identities=0,
            num_workers=num_workers,
            progress=False,
        )
        return 4 * people / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=500, help="identities to render, four images each")
    people = parser.parse_args().people
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    start = time.perf_counter()
    count = len(paperdoll_records(train_identities=people, val_identities=0, test_identities=0))
    print(f"records alone           {count / (time.perf_counter() - start):8.0f} images/s")
    for image_size in ((128, 64), (384, 128)):
        one = images_per_second(people, image_size, 1)
        many = images_per_second(people, image_size, cores)
        label = f"{image_size[0]}x{image_size[1]}"
        print(f"{label:>8}  1 process    {one:8.0f} images/s")
        print(f"{label:>8}  {cores} processes  {many:8.0f} images/s  ({many / one:.2f} times one process)")


if __name__ == "__main__":
    main()
