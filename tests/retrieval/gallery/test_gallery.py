"""The gallery from building to removing; the search against a plain comparison."""

import json
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset, Features
from datasets import Image as ImageFeature
from PIL import Image
from torch.nn import functional as F

from scmm import Gallery, SCMMModel, SCMMProcessor
from scmm.retrieval.encode import encode_captions, encode_images
from scmm.retrieval.gallery import Filter, GalleryError, Query, Range, SourceError
from scmm.retrieval.search import find_images


SENTENCE = "a man in a red coat"


def contents(gallery: Gallery) -> dict[str, bytes]:
    """Every image's id and the bits of its embedding."""
    table = gallery._view().snapshot
    return {
        row["id"]: np.float16(row["embedding"]).tobytes() for row in table.take(range(len(table)), ["id", "embedding"])
    }


@pytest.fixture
def described(images, tmp_path) -> Path:
    """A folder of 52 images with metadata: 13 persons, 2 cameras, an hour between the images, one of two gates."""
    folder = tmp_path / "described"
    shutil.copytree(images, folder)
    paths = find_images(folder)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    records = [
        {
            "file_name": str(path.relative_to(folder)),
            "id": f"{number:02}",
            "camera": number % 2,
            "time": (start + timedelta(hours=number)).isoformat(),
            "person_id": number // 4,
            "gate": "north" if number % 3 else "east",
            "height": 1 + number / 100,
        }
        for number, path in enumerate(paths)
    ]
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
    return folder


@pytest.fixture
def filled(gallery, described) -> Gallery:
    assert gallery.add(described).added == 52
    return gallery


def test_vectors_are_read_in_parts_by_threads(filled, monkeypatch):
    expected = b"".join(contents(filled).values())
    monkeypatch.setattr("scmm.retrieval.gallery.store._READ_ROWS", 7)
    assert filled._view().snapshot.vectors().tobytes() == expected


@pytest.fixture
def few(images, tmp_path) -> Path:
    """A folder of five images."""
    folder = tmp_path / "few"
    folder.mkdir()
    for number, path in enumerate(sorted(images.rglob("*.jpg"))[:5]):
        shutil.copy(path, folder / f"{number}.jpg")
    return folder


class TestAdd:
    def test_embeddings_are_those_of_a_plain_encoding(self, gallery, images, model, processor):
        report = gallery.add(images)
        assert (report.added, report.updated, report.unchanged, report.skipped) == (52, 0, 0, [])
        paths = find_images(images)
        expected = encode_images(model, processor, paths)
        found = contents(gallery)
        for path, embedding in zip(paths, expected, strict=True):
            np.testing.assert_allclose(np.frombuffer(found[str(path)], np.float16), embedding, atol=1e-3)

    def test_what_is_there_is_not_embedded_again(self, gallery, few):
        before = contents(gallery) if gallery.add(few).added == 5 else {}
        version = gallery.stats()["version"]
        again = gallery.add(few)
        assert (again.added, again.updated, again.unchanged) == (0, 0, 5)
        assert contents(gallery) == before and gallery.stats()["version"] == version

    def test_identical_embeddings_in_any_company(self, gallery, few, images, tmp_path, model, processor):
        gallery.add(few)
        expected = contents(gallery)
        for path in sorted(few.iterdir(), reverse=True):  # one at a time, in another order
            alone = tmp_path / "alone"
            alone.mkdir(exist_ok=True)
            shutil.move(path, alone / path.name)
            other = Gallery.create(tmp_path / f"gallery of {path.name}", model, processor)
            other.add(alone)
            for name, embedding in contents(other).items():
                assert embedding == expected[name.replace(str(alone), str(few))]

    def test_a_changed_image_is_embedded_again(self, gallery, few):
        gallery.add(few)
        before = contents(gallery)
        shutil.copy(few / "0.jpg", few / "3.jpg")
        shutil.copy(few / "0.jpg", few / "9.jpg")
        report = gallery.add(few)
        assert (report.added, report.updated, report.unchanged) == (1, 1, 4)
        zero, three, nine = (f"{few}/{name}.jpg" for name in (0, 3, 9))
        assert contents(gallery) == {**before, three: before[zero], nine: before[zero]}

    def test_changed_metadata_alone(self, filled, described, monkeypatch):
        before = contents(filled)
        text = (described / "metadata.jsonl").read_text()
        (described / "metadata.jsonl").write_text(text.replace('"gate": "east"', '"gate": "south"'))
        monkeypatch.setattr("scmm.retrieval.gallery.building.embed_pixels", lambda *args: pytest.fail("embedded"))
        report = filled.add(described)
        assert (report.added, report.updated, report.unchanged) == (0, 18, 34)
        assert contents(filled) == before
        assert len(filled.search(SENTENCE, top_k=99, where=Filter(columns={"gate": "south"}))) == 18

    def test_new_columns(self, gallery, few, described):
        gallery.add(few)
        gallery.add(described)
        assert len(gallery) == 57
        hits = gallery.search(SENTENCE, top_k=57)
        assert {hit.columns["gate"] for hit in hits} == {"north", "east", None}
        (few / "metadata.csv").write_text("file_name,height\n0.jpg,tall\n")
        with pytest.raises(SourceError, match=r"metadata\.csv: the column height holds string, in the gallery double"):
            gallery.add(few)

    def test_unreadable_images_are_skipped_named_and_counted(self, gallery, few, tmp_path):
        (few / "1.jpg").write_bytes((few / "0.jpg").read_bytes()[:300])
        (few / "2.jpg").write_bytes(b"")
        Image.new("1", (9000, 9000)).save(few / "huge.png")
        (few / "metadata.csv").write_text(
            "file_name\n" + "\n".join(["0.jpg", "1.jpg", "2.jpg", "3.jpg", "gone.jpg", "huge.png", "folder.jpg"])
        )
        (few / "folder.jpg").mkdir()
        report = gallery.add(few)
        assert report.added == 2 and set(contents(gallery)) == {f"{few}/0.jpg", f"{few}/3.jpg"}
        reasons = {name.removeprefix(f"{few}/"): reason for name, reason in report.skipped}
        assert list(reasons) == ["1.jpg", "2.jpg", "gone.jpg", "huge.png", "folder.jpg"]
        assert all(f"{few}/{name}" in reason for name, reason in reasons.items())
        assert "empty" in reasons["2.jpg"] and "No such file" in reasons["gone.jpg"]
        assert "9000 x 9000 pixels are more than the limit" in reasons["huge.png"]
        assert "not a file" in reasons["folder.jpg"]

    def test_a_file_that_is_too_large_is_not_read(self, gallery, few):
        with open(few / "1.jpg", "r+b") as file:
            file.truncate(2**40)
        [(name, reason)] = gallery.add(few).skipped
        assert name == f"{few}/1.jpg" and "1,099,511,627,776 bytes are more than the limit" in reason

    def test_images_within_a_data_set(self, gallery, few):
        images = [{"bytes": path.read_bytes(), "path": path.name} for path in sorted(few.iterdir())]
        images.append({"bytes": b"no image", "path": "broken.jpg"})
        report = gallery.add(Dataset.from_dict({"image": images}, features=Features({"image": ImageFeature()})))
        assert report.added == 5 and report.skipped[0][0] == "broken.jpg"
        assert "broken.jpg: the image cannot be read" in report.skipped[0][1]
        assert {hit.path for hit in gallery.search(SENTENCE)} == {None}

    def test_no_copy_of_an_image(self, gallery, few):
        gallery.add(few)
        stored = b"".join(path.read_bytes() for path in gallery.path.rglob("*") if path.is_file())
        for path in few.iterdir():
            assert path.read_bytes()[200:300] not in stored

    def test_a_model_that_gives_no_numbers(self, gallery, few, model):
        with torch.no_grad():
            model.visual_projection.weight.fill_(float("nan"))
        with pytest.raises(SourceError, match="no finite embedding"):
            gallery.add(few)


class TestSearch:
    @pytest.fixture
    def scores(self, filled, model, processor):
        """A function that gives every image's score for a vector, in float64, from what is stored."""

        def score(vector: torch.Tensor) -> dict[str, float]:
            return {
                name: float(np.frombuffer(bits, np.float16).astype(np.float64) @ vector.double().numpy())
                for name, bits in contents(filled).items()
            }

        return score

    def check(self, hits, expected: dict[str, float]) -> None:
        order = sorted(expected, key=lambda name: (-expected[name], name))[: len(hits)]
        assert [hit.id for hit in hits] == order
        assert [hit.score for hit in hits] == pytest.approx([expected[name] for name in order], abs=1e-12)

    def test_ranks_as_a_plain_comparison(self, filled, scores, model, processor):
        vector = encode_captions(model, processor, [SENTENCE])[0]
        for top_k in (1, 10, 52, 100):
            hits = filled.search(SENTENCE, top_k=top_k)
            assert len(hits) == min(top_k, 52)
            self.check(hits, scores(vector))
        self.check(filled.search(vector), scores(vector))
        assert [hit.id for hit in filled.search(3 * vector)] == [hit.id for hit in filled.search(vector)]

    def test_several_queries(self, filled):
        queries = [SENTENCE, Query("a woman"), filled.embedding("07")]
        found = filled.search_batch(queries, top_k=5)
        assert [[hit.id for hit in hits] for hits in found] == [
            [hit.id for hit in filled.search(query, top_k=5)] for query in queries
        ]
        assert filled.search_batch([]) == []

    def test_what_a_hit_says(self, filled, described):
        hit = next(hit for hit in filled.search(SENTENCE, top_k=52) if hit.id == "07")
        assert hit.path == str(find_images(described)[7])
        assert (hit.camera, hit.person_id, hit.columns) == ("1", "1", {"gate": "north", "height": 1.07})
        assert hit.time == datetime(2026, 3, 1, 7, tzinfo=UTC)
        assert filled.get("07").path == hit.path

    def test_equal_images_rank_by_id(self, gallery, few):
        for name in ("z", "b/a", "b", "a"):
            (few / name).parent.mkdir(exist_ok=True)
            shutil.copy(few / "0.jpg", few / f"{name}.jpg")
        gallery.add(few)
        (few / "c.jpg").write_bytes((few / "0.jpg").read_bytes())
        gallery.add(few)
        twins = sorted(f"{few}/{name}.jpg" for name in ("0", "a", "b", "b/a", "c", "z"))
        assert [hit.id for hit in gallery.search(Query(like=f"{few}/z.jpg"), top_k=6)] == twins
        assert [hit.id for hit in gallery.search(Query(like=f"{few}/z.jpg"), top_k=2)] == twins[:2]

    @pytest.mark.parametrize(
        "where, accepted",
        [
            (Filter(cameras=[1]), lambda number: number % 2 == 1),
            (Filter(cameras=["7"]), lambda number: False),
            (Filter(person_ids=["3", "4"]), lambda number: number // 4 in (3, 4)),
            (Filter(after="2026-03-02", before="2026-03-02T06:00"), lambda number: 24 <= number < 30),
            (Filter(ids=["01", "50"]), lambda number: number in (1, 50)),
            (
                Filter(columns={"gate": "east", "height": Range(1.2, None)}),
                lambda number: number >= 20 and number % 3 == 0,
            ),
            (Filter(), lambda number: True),
        ],
    )
    def test_conditions(self, filled, scores, model, processor, where, accepted):
        expected = scores(encode_captions(model, processor, [SENTENCE])[0])
        expected = {name: score for name, score in expected.items() if accepted(int(name))}
        hits = filled.search(SENTENCE, top_k=99, where=where)
        assert len(hits) == len(expected)
        self.check(hits, expected)

    def test_one_of_each_person(self, filled):
        every = filled.search(SENTENCE, top_k=52)
        best = {}
        for hit in every:
            best.setdefault(hit.person_id, hit)
        for group_by in ("person", "person_id"):
            for top_k in (1, 5, 13, 40):
                assert filled.search(SENTENCE, top_k=top_k, group_by=group_by) == list(best.values())[:top_k]
        assert len(filled.search(SENTENCE, group_by="gate")) == 2
        some = filled.search(SENTENCE, top_k=3, group_by="person", where=Filter(cameras=[0]))
        assert len({hit.person_id for hit in some}) == 3 and {hit.camera for hit in some} == {"0"}

    def test_no_near_duplicates(self, filled):
        embeddings = {id: np.frombuffer(bits, np.float16).astype(np.float64) for id, bits in contents(filled).items()}
        kept = []
        for hit in filled.search(SENTENCE, top_k=52):
            better = [embeddings[other.id] for other in kept if other.camera == hit.camera]
            if all(other @ embeddings[hit.id] < 0.9 for other in better):
                kept.append(hit)
        assert 2 < len(kept) < 52
        for top_k in (1, 3, 52):
            assert filled.search(SENTENCE, top_k=top_k, group_by="near-duplicates") == kept[:top_k]

    def test_without_a_person_each_stands_for_itself(self, gallery, few):
        gallery.add(few)
        assert len(gallery.search(SENTENCE, group_by="person")) == 5

    def test_least_score(self, filled):
        every = filled.search(SENTENCE, top_k=52)
        assert filled.search(SENTENCE, top_k=52, min_score=every[7].score) == every[:8]
        assert filled.search(SENTENCE, min_score=2) == []

    def test_an_image_finds_itself(self, filled, described):
        path = find_images(described)[9]
        for query in (Query(image=path), Query(image=path.read_bytes()), Query(like="09"), filled.embedding("09")):
            hits = filled.search(query)
            assert hits[0].id == "09" and hits[0].score == pytest.approx(1, abs=1e-3)

    def test_a_sentence_about_an_image(self, filled, scores, model, processor, described):
        text = encode_captions(model, processor, [SENTENCE])[0]
        image = F.normalize(filled.embedding("09").float(), dim=0)
        expected = scores(F.normalize(0.7 * text + 0.3 * image, dim=0))
        hits = filled.search(Query(SENTENCE, like="09", image_weight=0.3))
        assert [hit.id for hit in hits] == sorted(expected, key=lambda name: -expected[name])[:10]

    def test_what_should_not_be_there(self, filled, scores, model, processor):
        text, bag, hat = encode_captions(model, processor, [SENTENCE, "a bag", "a hat"])
        expected = scores(F.normalize(text - 0.25 * bag - 0.25 * hat, dim=0))
        hits = filled.search(Query(SENTENCE, without=["a bag", "a hat"], without_weight=0.25), top_k=52)
        assert [hit.id for hit in hits] == sorted(expected, key=lambda name: -expected[name])

    def test_an_empty_gallery(self, gallery):
        assert len(gallery) == 0 and gallery.search(SENTENCE) == [] == gallery.search(SENTENCE, group_by="person")
        assert gallery.search(SENTENCE, where=Filter(cameras=[1])) == []
        assert gallery.stats()["images"] == 0

    @pytest.mark.parametrize(
        "query, options, message",
        [
            ("", {}, "query is empty"),
            (" \n", {}, "query is empty"),
            (SENTENCE, {"top_k": 0}, "top_k must be at least 1, got 0"),
            (SENTENCE, {"where": Filter(columns={"color": "red"})}, "no column 'color', only id, path"),
            (SENTENCE, {"group_by": "track"}, "no column 'track', only id, path"),
            (torch.ones(3), {}, r"of shape \(8,\), got \(3,\)"),
            (torch.zeros(8), {}, "finite, not 0"),
            (torch.full((8,), float("nan")), {}, "finite, not 0"),
        ],
    )  # fmt: skip
    def test_mistakes(self, filled, query, options, message):
        with pytest.raises(ValueError, match=message):
            filled.search(query, **options)

    def test_unknown_images(self, filled, tmp_path):
        with pytest.raises(GalleryError, match="no image with the id 'x'"):
            filled.search(Query(like="x"))
        with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
            filled.search(Query(image=tmp_path / "none.jpg"))

    @pytest.mark.parametrize(
        "options, message",
        [
            ({}, "needs a sentence or an image"),
            ({"text": "a", "image": "x.jpg", "like": "x"}, "takes one image"),
            ({"text": "a", "without": ["b", " "]}, "query is empty"),
            ({"text": "a", "like": "x", "image_weight": 1.5}, "image_weight must be from 0 to 1, got 1.5"),
            ({"text": "a", "without_weight": -1}, "without_weight must not be negative, got -1"),
        ],
    )
    def test_impossible_queries(self, options, message):
        with pytest.raises(ValueError, match=message):
            Query(**options)


class TestModel:
    @pytest.fixture
    def other(self, model) -> SCMMModel:
        with torch.no_grad():
            model.text_projection.weight[0, 0] += 1e-3
        return model

    def test_the_gallery_loads_its_own(self, filled, checkpoint):
        opened = Gallery.open(filled.path)
        assert opened.identity.name == str(checkpoint) and opened.identity.revision is None
        assert opened.search(SENTENCE) == filled.search(SENTENCE)
        assert opened.processor is not filled.processor

    def test_a_copy_of_it_will_do(self, filled, checkpoint, tmp_path):
        shutil.copytree(checkpoint, tmp_path / "copy")
        copy = SCMMModel.from_pretrained(tmp_path / "copy"), SCMMProcessor.from_pretrained(tmp_path / "copy")
        opened = Gallery.open(filled.path, model=copy[0], processor=copy[1])
        assert opened.search(SENTENCE) == filled.search(SENTENCE)

    def test_a_processor_in_use_is_the_same(self, gallery, checkpoint):
        used = SCMMProcessor.from_pretrained(checkpoint)
        used(text=["a man", "a man in a red coat"], return_tensors="pt", padding="max_length", max_length=20)
        Gallery.open(gallery.path, model=SCMMModel.from_pretrained(checkpoint), processor=used)

    def test_another_one_is_refused_with_both_names(self, gallery, other, processor, checkpoint, tmp_path):
        other.save_pretrained(tmp_path / "other")
        with pytest.raises(
            GalleryError, match=rf"was built with {checkpoint} \(weights \w{{12}}, .*not with {tmp_path}/other"
        ):
            Gallery.open(gallery.path, model=SCMMModel.from_pretrained(tmp_path / "other"), processor=processor)

    def test_another_processor_is_refused(self, gallery, model, checkpoint):
        processor = SCMMProcessor.from_pretrained(checkpoint)
        processor.image_processor.image_mean = [0.5, 0.5, 0.5]
        with pytest.raises(GalleryError, match="embeddings of two models cannot be compared"):
            Gallery.open(gallery.path, model=model, processor=processor)
        with pytest.raises(ValueError, match="a model and its processor, or with neither"):
            Gallery.open(gallery.path, model=model)

    def test_weights_that_were_replaced_are_noticed(self, model, processor, checkpoint, few, tmp_path):
        shutil.copytree(checkpoint, tmp_path / "changing")
        loaded = SCMMModel.from_pretrained(tmp_path / "changing")
        gallery = Gallery.create(tmp_path / "gallery", loaded, processor)
        gallery.add(few)
        with torch.no_grad():
            loaded.text_projection.weight[0, 0] += 1e-3
        loaded.save_pretrained(tmp_path / "changing")
        opened = Gallery.open(tmp_path / "gallery")
        assert len(opened) == 5  # no model is needed for this
        with pytest.raises(GalleryError, match="embeddings of two models cannot be compared"):
            opened.search(SENTENCE)


class TestFolder:
    def test_not_a_gallery(self, tmp_path):
        for path in (tmp_path, tmp_path / "none"):
            with pytest.raises(FileNotFoundError, match=f"{path} is not a gallery"):
                Gallery.open(path)
        with pytest.raises(GalleryError, match="s3://x/y: a gallery is a folder on a local disk"):
            Gallery.open("s3://x/y")

    def test_a_broken_or_later_one(self, gallery):
        manifest = gallery.path / "gallery.json"
        content = json.loads(manifest.read_text())
        manifest.write_text(json.dumps({**content, "format": 2}))
        with pytest.raises(GalleryError, match="has format 2; this version of scmm reads format 1"):
            Gallery.open(gallery.path)
        manifest.write_text("{")
        with pytest.raises(GalleryError, match=r"gallery\.json is broken"):
            Gallery.open(gallery.path)

    def test_creation_takes_no_foreign_folder(self, gallery, few, model, processor):
        with pytest.raises(FileExistsError, match=f"{few} already holds 0.jpg: a gallery needs a folder of its own"):
            Gallery.create(few, model, processor)
        with pytest.raises(FileExistsError, match=f"{gallery.path} already holds gallery.json"):
            Gallery.create(gallery.path, model, processor)
        with pytest.raises(FileExistsError, match="is a file"):
            Gallery.create(few / "0.jpg", model, processor)

    def test_a_creation_that_was_interrupted(self, gallery, few, model, processor):
        (gallery.path / "gallery.json").unlink()
        again = Gallery.create(gallery.path, model, processor)
        assert again.add(few).added == 5

    def test_stats(self, filled):
        stats = filled.stats()
        assert (stats["images"], stats["persons"], stats["cameras"], stats["dim"]) == (52, 13, ["0", "1"], 8)
        assert stats["oldest"] == datetime(2026, 3, 1, tzinfo=UTC) and stats["without_time"] == 0
        assert stats["columns"] == ["gate", "height"] and stats["approximate"] is None
        assert stats["bytes"] == sum(path.stat().st_size for path in filled.path.rglob("*") if path.is_file())

    def test_export(self, filled, tmp_path):
        assert filled.export(tmp_path / "new" / "gallery.parquet") == 52
        table = pq.read_table(tmp_path / "new" / "gallery.parquet")
        assert list((tmp_path / "new").iterdir()) == [tmp_path / "new" / "gallery.parquet"]
        assert {name: np.float16(row).tobytes() for name, row in zip(
            table["id"].to_pylist(), table["embedding"].to_pylist(), strict=True)} == contents(filled)  # fmt: skip
        assert table["gate"].to_pylist().count("east") == 18
        assert json.loads(table.schema.metadata[b"scmm_model"])["weights_hash"] == filled.identity.weights_hash
