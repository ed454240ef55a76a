"""Approximate search: only on request, measured, made anew when the gallery changes, written whole or not at all."""

import json
import shutil

import pytest
import torch
from torch.nn import functional as F

from scmm import Gallery
from scmm.retrieval.gallery import Filter, approximate
from scmm.retrieval.gallery.approximate import Codes


SENTENCE = "a man in a red coat"


@pytest.fixture
def filled(gallery, images, monkeypatch) -> Gallery:
    """52 images, of which the approximate search compares 40 exactly."""
    monkeypatch.setattr(approximate, "RERANK", 40)
    gallery.add(images)
    return gallery


def codes(gallery: Gallery) -> list[str]:
    folder = gallery.path / "codes"
    return sorted(path.name for path in folder.iterdir() if path.name != ".lock") if folder.is_dir() else []


class TestGallery:
    def test_only_on_request(self, filled):
        filled.search(SENTENCE, top_k=3)
        assert codes(filled) == []
        assert filled.search(SENTENCE, top_k=3, approximate=True) == filled.search(SENTENCE, top_k=3)
        assert codes(filled) == [f"{filled.stats()['version']}.faiss"]

    def test_kept_for_other_processes_and_made_anew_when_stale(self, filled, images, tmp_path):
        filled.search(SENTENCE, approximate=True)
        [name] = codes(filled)
        time = (filled.path / "codes" / name).stat().st_mtime_ns
        other = Gallery.open(filled.path)
        other.search(SENTENCE, approximate=True)
        assert (filled.path / "codes" / name).stat().st_mtime_ns == time
        best = other.search(SENTENCE)[0]
        filled.remove(Filter(ids=[best.id]))
        for gallery in (filled, other):
            assert best.id not in {hit.id for hit in gallery.search(SENTENCE, top_k=99, approximate=True)}
        assert codes(filled) == [f"{filled.stats()['version']}.faiss"] != [name]

    def test_erasing_takes_the_codes_too(self, filled):
        best = filled.search(SENTENCE, top_k=1, approximate=True)[0]
        assert codes(filled)
        filled.remove(Filter(ids=[best.id]), erase=True)
        assert codes(filled) == []

    def test_conditions_and_groups(self, filled):
        ids = [hit.id for hit in filled.search(SENTENCE, top_k=20)][5:]
        where = Filter(ids=ids)
        assert [hit.id for hit in filled.search(SENTENCE, top_k=99, where=where, approximate=True)] == ids
        assert len(filled.search(SENTENCE, top_k=99, group_by="path", approximate=True)) == 52

    def test_recall_is_measured_and_kept(self, filled):
        report = filled.recall([SENTENCE, "a woman"], top_k=5)
        assert (report.top_k, report.queries) == (5, 2) and 0.5 < report.recall <= 1
        assert report.exact_seconds > 0 < report.approximate_seconds
        assert Gallery.open(filled.path).stats()["approximate"]["recall"]["recall"] == report.recall
        filled.remove(Filter(ids=[filled.search(SENTENCE)[0].id]))
        assert filled.stats()["approximate"] is None
        filled.search(SENTENCE, approximate=True)
        assert filled.stats()["approximate"]["recall"] is None
        with pytest.raises(ValueError, match="there are none"):
            filled.recall([])

    def test_a_small_gallery_is_searched_exactly(self, gallery, images):
        assert gallery.search(SENTENCE, approximate=True) == []
        gallery.add(images)
        assert gallery.search(SENTENCE, top_k=99, approximate=True) == gallery.search(SENTENCE, top_k=99)
        assert gallery.recall([SENTENCE]).recall == 1.0 and codes(gallery) == []


@pytest.fixture(scope="module")
def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Data with structure, as embeddings have it: clusters in a part of the space, queries beside them."""
    generator = torch.Generator().manual_seed(0)
    basis = torch.randn(24, 64, generator=generator)
    centers = torch.randn(300, 24, generator=generator)
    points = centers.repeat(40, 1) + 0.5 * torch.randn(12_000, 24, generator=generator)
    vectors = F.normalize(points @ basis + 0.3 * torch.randn(12_000, 64, generator=generator), dim=1)
    noise = torch.randn(50, 64, generator=generator)
    return vectors.half(), F.normalize(centers[:50] @ basis + 2 * noise + 3, dim=1)


class TestCodes:
    def test_finds_most(self, data, tmp_path):
        vectors, queries = data
        made = Codes(tmp_path, 1)
        made.load(vectors, lambda: True)
        scores = queries.double() @ vectors.double().T
        expected, wanted = scores.topk(10)
        shares = []
        for (rows, found), best, right in zip(made.top_k(vectors, queries, 10), expected, wanted, strict=True):
            assert len(rows) == 10 and found.tolist() == sorted(found.tolist(), reverse=True)
            shares.append(len(set(rows.tolist()) & set(right.tolist())) / 10)
            torch.testing.assert_close(found[:1], best[:1], rtol=0, atol=1e-2)
        assert sum(shares) / len(shares) > 0.97
        again = Codes(tmp_path, 1)
        again.load(vectors, lambda: pytest.fail("it was there"))
        for (rows, found), (same, same_found) in zip(
            made.top_k(vectors, queries, 10), again.top_k(vectors, queries, 10), strict=True
        ):
            assert rows.tolist() == same.tolist() and found.tolist() == same_found.tolist()
        assert made.file.stat().st_size < 12_000 * 64 * 2 / 4

    def test_scores_are_exact(self, data, tmp_path):
        vectors, queries = data
        made = Codes(tmp_path, 1)
        made.load(vectors[:600], lambda: True)
        for query, (rows, scores) in zip(queries, made.top_k(vectors[:600], queries, 5), strict=True):
            expected = (vectors[rows].double() * query.double()).sum(dim=1)
            assert scores.tolist() == pytest.approx(expected.tolist(), abs=1e-12)

    def test_what_is_out_of_date_is_not_written(self, data, tmp_path):
        made = Codes(tmp_path, 1)
        made.load(data[0][:100], lambda: False)
        assert [path.name for path in (tmp_path / "codes").iterdir()] == [".lock"]
        assert len(made.top_k(data[0][:100], data[1][:1], 5)[0][0]) == 5

    def test_a_kill_leaves_nothing_half(self, data, tmp_path):
        folder = tmp_path / "codes"
        folder.mkdir()
        (folder / "1.faiss.partial").write_bytes(b"half")
        (folder / "0.faiss").write_bytes(b"old")
        (folder / "0.json").write_text("{}")
        made = Codes(tmp_path, 1)
        made.load(data[0][:100], lambda: True)
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "1.faiss"]

    def test_a_broken_file_is_made_anew(self, data, tmp_path):
        made = Codes(tmp_path, 1)
        made.load(data[0][:100], lambda: True)
        whole = made.file.read_bytes()
        made.file.write_bytes(whole[:200])
        again = Codes(tmp_path, 1)
        again.load(data[0][:100], lambda: True)
        assert made.file.read_bytes() == whole
        shutil.rmtree(tmp_path / "codes")
        assert json.dumps(again.recall) == "null"
