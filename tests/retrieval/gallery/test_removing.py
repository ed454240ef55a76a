"""Removing, erasing and the retention: what is to be gone is gone, also from the bytes on the disk."""

import json
import os
import shutil
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from scmm import Gallery
from scmm.retrieval.gallery import Filter, Query
from scmm.retrieval.search import find_images


SENTENCE = "a man in a red coat"


@pytest.fixture
def source(images, tmp_path) -> Path:
    """Twelve images with telling names, of three cameras, six persons and twelve successive days until today."""
    folder = tmp_path / "source"
    folder.mkdir()
    records = []
    for number, path in enumerate(find_images(images)[:12]):
        shutil.copy(path, folder / f"telling-name-{number:02}.jpg")
        taken = datetime.now(UTC) - timedelta(days=11 - number, hours=1)
        records.append(
            {
                "file_name": f"telling-name-{number:02}.jpg",
                "id": f"telling-id-{number:02}",
                "camera": str(number % 3),
                "person_id": f"telling-person-{number // 2}",
                "time": taken.isoformat(),
                "note": f"telling-note-{number:02}",
            }
        )
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder


@pytest.fixture
def filled(gallery, source) -> Gallery:
    gallery.add(source)
    return gallery


def numbers(gallery: Gallery) -> list[int]:
    return sorted(int(hit.id[-2:]) for hit in gallery.search(SENTENCE, top_k=99))


def traces(gallery: Gallery, number: int, vector: bytes) -> list[str]:
    """In which files of the gallery something of an image is left."""
    needles = [f"telling-{what}-{number:02}".encode() for what in ("name", "id", "note")] + [vector]
    files = [path for path in gallery.path.rglob("*") if path.is_file()]
    return [path.name for path in files if any(needle in path.read_bytes() for needle in needles)]


@pytest.mark.parametrize(
    "where, removed",
    [
        (Filter(ids=["telling-id-03", "telling-id-11", "unknown"]), [3, 11]),
        (Filter(person_ids=["telling-person-2"]), [4, 5]),
        (Filter(cameras=[1]), [1, 4, 7, 10]),
        (Filter(cameras=[1], before=datetime.now(UTC) - timedelta(days=6)), [1, 4]),
        (Filter(columns={"note": "telling-note-07"}), [7]),
        (Filter(ids=["unknown"]), []),
    ],
)
@pytest.mark.parametrize("erase", [False, True])
def test_what_is_removed_is_no_longer_found(filled, where, removed, erase):
    assert filled.remove(where, erase=erase) == len(removed)
    left = [number for number in range(12) if number not in removed]
    assert numbers(filled) == left and len(filled) == len(left)
    assert numbers(Gallery.open(filled.path)) == left


def test_a_removal_needs_a_condition(filled):
    with pytest.raises(ValueError, match="no condition"):
        filled.remove(Filter())
    with pytest.raises(ValueError, match="no column 'nothing'"):
        filled.remove(Filter(columns={"nothing": 1}))
    assert len(filled) == 12


def test_erasing_leaves_no_bytes(filled, source):
    vectors = {number: filled.embedding(f"telling-id-{number:02}").numpy().tobytes() for number in range(12)}
    for number in (2, 5, 8):  # versions, and an image that was replaced
        shutil.copy(source / "telling-name-00.jpg", source / f"telling-name-{number:02}.jpg")
        filled.add(source)
    filled.remove(Filter(ids=["telling-id-05"]))
    assert traces(filled, 5, vectors[5])  # so this can fail
    opened = Gallery.open(filled.path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened.remove(Filter(ids=["telling-id-07"]), erase=True) == 1
    for number in (5, 7):
        assert traces(filled, number, vectors[number]) == []
    assert traces(filled, 2, vectors[2]) and traces(filled, 3, vectors[3])
    assert vectors[2] not in b"".join(path.read_bytes() for path in filled.path.rglob("*") if path.is_file())
    assert numbers(filled) == [0, 1, 2, 3, 4, 6, 8, 9, 10, 11]


def test_erasing_takes_what_a_kill_left_behind(filled):
    [data] = (filled.path / "images.lance" / "data").iterdir()
    shutil.copy(data, data.with_name("0" * 40 + ".lance"))
    vector = filled.embedding("telling-id-04").numpy().tobytes()
    filled.remove(Filter(ids=["telling-id-04"]), erase=True)
    assert traces(filled, 4, vector) == []


def test_formerly_removed_images_can_be_erased_later(filled):
    vector = filled.embedding("telling-id-04").numpy().tobytes()
    filled.remove(Filter(ids=["telling-id-04"]))
    assert filled.compact(erase=True) == 0
    assert traces(filled, 4, vector) == [] and len(filled) == 11


def test_an_erased_image_is_gone_for_a_reader_that_has_the_gallery_open(filled):
    reader = Gallery.open(filled.path)
    best = reader.search(SENTENCE)[0]
    filled.remove(Filter(ids=[best.id]), erase=True)
    assert best.id not in {hit.id for hit in reader.search(SENTENCE, top_k=99)}
    view = reader._view()
    filled.remove(Filter(ids=["telling-id-00"]), erase=True)
    reader._view = lambda: view if not calls.append(1) and len(calls) == 1 else Gallery._view(reader)
    calls = []  # between its look at the version and its reading another version came
    assert "telling-id-00" not in {hit.id for hit in reader.search(SENTENCE, top_k=99)} and len(calls) == 2


def test_compacting_keeps_everything(filled, source):
    before = filled.search(SENTENCE, top_k=99)
    for number in range(12):
        os.utime(source / f"telling-name-{number:02}.jpg")
        (source / f"telling-name-{number:02}.jpg").write_bytes((source / "telling-name-00.jpg").read_bytes())
        filled.add(source)
    after = filled.search(SENTENCE, top_k=99)
    files = filled.stats()["files"]
    assert filled.compact() == 0
    assert filled.search(SENTENCE, top_k=99) == after and len(after) == len(before) == 12
    assert filled._store.table.stats()["fragment_stats"]["num_fragments"] == 1
    assert filled.compact(erase=True) == 0 and filled.stats()["files"] < files


def test_many_small_additions_do_not_scatter_the_table(gallery, source):
    for path in sorted(source.glob("*.jpg")) * 2:
        path.write_bytes(path.read_bytes() + b"\0")
        gallery.add(source)
    assert gallery._store.table.stats()["fragment_stats"]["num_fragments"] <= 17


class TestRetention:
    def test_old_images_are_not_found_and_then_erased(self, filled):
        vector = filled.embedding("telling-id-00").numpy().tobytes()
        filled.set_retention(5)
        assert numbers(filled) == numbers(Gallery.open(filled.path)) == [7, 8, 9, 10, 11]
        assert filled.stats()["expired"] == 7 and filled.stats()["retention_days"] == 5
        hits = filled.search(SENTENCE, where=Filter(cameras=[0]), approximate=True)
        assert [hit.id for hit in hits] == ["telling-id-09"]
        assert traces(filled, 0, vector)
        assert filled.compact() == 7
        assert traces(filled, 0, vector) == [] and len(filled) == 5 and filled.stats()["expired"] == 0

    def test_adding_erases_and_does_not_take_old_images(self, gallery, source, images, model, processor, tmp_path):
        gallery.add(source)
        vector = gallery.embedding("telling-id-00").numpy().tobytes()
        gallery.set_retention(5)
        report = gallery.add(source)
        assert (report.added, report.unchanged, len(report.skipped)) == (0, 5, 7)
        assert report.skipped[0] == ("telling-id-00", "telling-id-00: older than the retention of 5 days")
        assert traces(gallery, 0, vector) == [] and numbers(gallery) == [7, 8, 9, 10, 11]
        fresh = Gallery.create(tmp_path / "fresh", model, processor, retention_days=5)
        assert fresh.add(source).added == 5 and numbers(fresh) == [7, 8, 9, 10, 11]

    def test_images_without_a_time_stay(self, gallery, images):
        gallery.set_retention(0.001)
        assert gallery.add(images).added == 52 and gallery.compact() == 0
        assert len(gallery.search(SENTENCE, top_k=99)) == 52
        gallery.set_retention(None)
        assert Gallery.open(gallery.path).retention_days is None

    def test_an_expired_image_is_no_query(self, filled):
        filled.set_retention(5)
        with pytest.raises(ValueError, match="no image with the id 'telling-id-00'"):
            filled.search(Query(like="telling-id-00"))

    @pytest.mark.parametrize("days", [0, -1, float("nan"), 1e6, float("inf")])
    def test_mistakes(self, gallery, days):
        with pytest.raises(ValueError, match="A number of days must be above 0"):
            gallery.set_retention(days)


def test_the_bytes_of_a_vector_are_found_where_they_are(filled):
    """The needle of these tests is one that a stored vector really has."""
    for number in range(12):
        vector = filled.embedding(f"telling-id-{number:02}").numpy()
        assert vector.dtype == np.float16 and traces(filled, number, vector.tobytes())
        files = [path.read_bytes() for path in filled.path.rglob("*.lance") if path.is_file()]
        assert any(vector.tobytes() in content for content in files)
