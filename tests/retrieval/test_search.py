"""Searching a folder: the ranking of a plain comparison, and everything that a folder may hold."""

from pathlib import Path

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from scmm.retrieval.search import find_images, search_folder


QUERIES = ["a man in a red coat", "a woman with a bag", "hat"]


@pytest.fixture
def images(paperdoll_root) -> Path:
    return paperdoll_root / "PaperDoll" / "imgs"


class TestFindImages:
    def test_by_suffix_below_the_folder_in_order(self, tmp_path):
        for name in ["b.JPG", "a/z.png", "a/b/c.webp", "c.jpeg", "notes.txt", "data.json", "jpg", "d.png.bak"]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "folder.png").mkdir()
        found = [path.relative_to(tmp_path).as_posix() for path in find_images(str(tmp_path))]
        assert found == ["a/b/c.webp", "a/z.png", "b.JPG", "c.jpeg"]

    def test_no_folder(self, tmp_path):
        (tmp_path / "file.png").touch()
        for path in (tmp_path / "none", tmp_path / "file.png"):
            with pytest.raises(NotADirectoryError, match=f"{path} is not a folder"):
                find_images(path)

    def test_no_images(self, tmp_path):
        (tmp_path / "notes.txt").touch()
        with pytest.raises(FileNotFoundError, match=rf"{tmp_path} holds no images .*\.jpg"):
            find_images(tmp_path)


class TestSearchFolder:
    @pytest.mark.parametrize("batch_size", [7, 64])
    def test_ranks_as_a_plain_comparison(self, model, processor, images, batch_size):
        found = search_folder(model, processor, images, QUERIES, top_k=52, batch_size=batch_size)
        paths = sorted(images.rglob("*.jpg"))
        assert found.num_images == len(paths) == 52 and found.skipped == []
        inputs = processor(images=[Image.open(path) for path in paths], text=QUERIES, return_tensors="pt")
        with torch.no_grad():
            output = model(**inputs)
        scores = F.cosine_similarity(output.text_embeds[:, None], output.image_embeds[None], dim=-1)
        for query_scores, ranked in zip(scores, found.ranked, strict=True):
            assert sorted(path for path, _ in ranked) == paths
            assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
            for path, score in ranked:
                assert score == pytest.approx(query_scores[paths.index(path)].item(), abs=1e-5)
        assert len({ranked[0][0] for ranked in found.ranked}) > 1

    def test_top_k(self, model, processor, images):
        whole = search_folder(model, processor, images, QUERIES, top_k=52)
        for top_k in (1, 5, 1000):
            found = search_folder(model, processor, images, QUERIES, top_k=top_k)
            assert found.ranked == [ranked[:top_k] for ranked in whole.ranked]
        with pytest.raises(ValueError, match="top_k must be at least 1, got 0"):
            search_folder(model, processor, images, QUERIES, top_k=0)

    def test_ten_by_default(self, model, processor, images):
        assert [len(ranked) for ranked in search_folder(model, processor, images, QUERIES).ranked] == [10] * 3

    def test_equal_images_rank_by_name(self, model, processor, tmp_path):
        for name in ["c.png", "a.png", "b/a.png", "b.png"]:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (16, 32), "red").save(tmp_path / name)
        ranked = search_folder(model, processor, tmp_path, ["a man"]).ranked[0]
        assert [path for path, _ in ranked] == find_images(tmp_path)

    def test_unreadable_images_are_named_and_skipped(self, model, processor, images, tmp_path):
        good = sorted(images.rglob("*.jpg"))[:3]
        for index, path in enumerate(good):
            (tmp_path / f"{2 * index}.jpg").write_bytes(path.read_bytes())
        (tmp_path / "1.jpg").write_bytes(good[0].read_bytes()[:300])
        (tmp_path / "3.png").touch()
        found = search_folder(model, processor, tmp_path, QUERIES, batch_size=1)
        assert found.num_images == 3
        assert [path.name for path, _ in found.skipped] == ["1.jpg", "3.png"]
        assert all(reason.startswith(str(path)) for path, reason in found.skipped)
        expected = search_folder(model, processor, images, QUERIES, top_k=52)
        for ranked, whole in zip(found.ranked, expected.ranked, strict=True):
            score_of = dict(whole)
            assert {path.name for path, _ in ranked} == {"0.jpg", "2.jpg", "4.jpg"}
            for path, score in ranked:
                assert score == pytest.approx(score_of[good[int(path.stem) // 2]], abs=1e-5)

    def test_no_readable_image(self, model, processor, tmp_path):
        (tmp_path / "a.png").write_bytes(b"no image")
        (tmp_path / "b.png").touch()
        with pytest.raises(ValueError, match=rf"None of the 2 images in {tmp_path} can be read; the first: .*a\.png"):
            search_folder(model, processor, tmp_path, QUERIES)

    @pytest.mark.parametrize("query", ["", " \n\t"])
    def test_an_empty_query(self, model, processor, images, query):
        with pytest.raises(ValueError, match="query is empty: describe the person"):
            search_folder(model, processor, images, ["a man", query])

    @pytest.mark.parametrize("query", ["🧥", "红色外套", "word " * 10_000])
    def test_odd_queries(self, model, processor, images, query):
        scores = [score for _, score in search_folder(model, processor, images, [query]).ranked[0]]
        assert len(scores) == 10 and all(-1.001 <= score <= 1.001 for score in scores)

    def test_no_queries(self, model, processor, images):
        assert search_folder(model, processor, images, []).ranked == []
