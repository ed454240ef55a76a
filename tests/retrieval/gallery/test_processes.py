"""Builds that are killed, readers while another process writes, and a second writer."""

import multiprocessing
import random
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gallery_processes import build
from PIL import Image

from scmm import Gallery
from scmm.retrieval.gallery import Filter, GalleryBusyError, is_gallery


SENTENCE = "a man in a red coat"


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.ForkServerContext:
    """Starts processes that have the package imported already, but nothing running."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["gallery_processes"])
    warm = context.Process()
    warm.start()
    warm.join()
    return context


def make_images(folder: Path, count: int) -> Path:
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (count, 32, 16, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"{number:05}.bmp")
    return folder


def contents(gallery: Gallery) -> dict[str, bytes]:
    return {
        row["id"]: np.float16(row["embedding"]).tobytes()
        for table in gallery._view().snapshot.scan(["id", "embedding"])
        for row in table.to_pylist()
    }


def kills(processes, checkpoint: Path, tmp_path: Path, count: int, num_images: int) -> Iterator[int]:
    """
    Kills builds at random moments, of one gallery until it is complete and then of the next. Gives the number of
    images that each killed build left behind, and checks that the gallery can be used.
    """
    source = make_images(tmp_path / "source", num_images)
    start = time.monotonic()
    whole = processes.Process(target=build, args=(checkpoint, source, tmp_path / "whole"))
    whole.start()
    whole.join()
    duration = time.monotonic() - start
    expected = contents(Gallery.open(tmp_path / "whole"))
    assert whole.exitcode == 0 and len(expected) == num_images
    choice = random.Random(0)
    done = number = 0
    while done < count:
        path = tmp_path / f"gallery {number}"
        victim = processes.Process(target=build, args=(checkpoint, source, path))
        victim.start()
        victim.join(choice.uniform(0.2, 1.0) * duration)
        if victim.is_alive():
            victim.kill()
            victim.join()
            done += 1
            found = contents(Gallery.open(path)) if is_gallery(path) else {}
            assert found.items() <= expected.items()
            if found:
                assert len(Gallery.open(path).search(SENTENCE, top_k=5)) == 5
            yield len(found)
            if done < count:
                continue
            victim = processes.Process(target=build, args=(checkpoint, source, path))
            victim.start()
            victim.join()
        assert victim.exitcode == 0
        gallery = Gallery.open(path)
        assert contents(gallery) == expected
        gallery.compact(erase=True)
        assert contents(gallery) == expected
        number += 1


def test_a_killed_build_goes_on(processes, checkpoint, tmp_path):
    assert len(list(kills(processes, checkpoint, tmp_path, count=2, num_images=1500))) == 2


@pytest.mark.slow
def test_builds_that_are_killed_at_many_moments(processes, checkpoint, tmp_path):
    left = list(kills(processes, checkpoint, tmp_path, count=25, num_images=6000))
    print(f"25 kills left {left} of 6000 images")
    assert len(left) == 25 and len(set(left)) > 5  # or the kills missed the interesting moments


def test_readers_and_a_second_writer_while_a_process_writes(processes, checkpoint, gallery, tmp_path):
    source = make_images(tmp_path / "source", 3000)
    reader = Gallery.open(gallery.path)
    writer = processes.Process(target=build, args=(checkpoint, source, gallery.path))
    writer.start()
    counts, refusals = [], set()
    while writer.is_alive():
        hits = reader.search(SENTENCE, top_k=4000)
        assert len({hit.id for hit in hits}) == len(hits)
        counts.append(len(hits))
        if 0 < len(hits) < 3000:  # so the other one has the lock
            try:
                gallery.remove(Filter(ids=["unknown"]))
            except GalleryBusyError as error:
                refusals.add(str(error))
    assert writer.exitcode == 0
    assert counts == sorted(counts) and counts[0] == 0
    assert refusals == {f"{gallery.path} is being written to by another process: wait until it has finished."}
    assert len(reader.search(SENTENCE, top_k=4000)) == 3000
    assert gallery.remove(Filter(ids=[f"{source}/00000.bmp"])) == 1


def test_a_killed_writers_lock_does_not_block(processes, checkpoint, gallery, tmp_path):
    source = make_images(tmp_path / "source", 3000)
    writer = processes.Process(target=build, args=(checkpoint, source, gallery.path))
    writer.start()
    while len(gallery) == 0:
        assert writer.is_alive()
    with pytest.raises(GalleryBusyError):
        gallery.remove(Filter(ids=["unknown"]))
    writer.kill()
    writer.join()
    assert gallery.remove(Filter(ids=["unknown"])) == 0
