"""`scmm index`: a gallery from the command line, from building to exporting."""

import json
import shutil
import socket
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from scmm import Gallery, SCMMModel
from scmm.retrieval.search import find_images


SENTENCE = "a man in a red coat"


@pytest.fixture
def source(paperdoll_root, tmp_path) -> Path:
    """A folder of twelve images with the metadata of two cameras, three persons, twelve days, and a broken image."""
    folder = tmp_path / "source"
    folder.mkdir()
    lines = ["file_name,id,camera,person_id,time,gate"]
    for number, path in enumerate(find_images(paperdoll_root / "PaperDoll" / "imgs")[:12]):
        shutil.copy(path, folder / f"{number}.jpg")
        gate = "[bold]north" if number < 3 else "east"  # what looks like markup is shown as it is
        lines.append(f"{number}.jpg,{number},{number % 2},{number // 4},2026-03-{number + 1:02}T08:00,{gate}")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "metadata.csv").write_text("\n".join([*lines, "broken.jpg,12,0,3,,"]))
    return folder


@pytest.fixture
def gallery(scmm, checkpoint, source, tmp_path) -> Path:
    assert scmm("index", "build", source, "--model", checkpoint, "--gallery", tmp_path / "gallery")[0] == 0
    return tmp_path / "gallery"


class TestBuild:
    def test_reports_and_goes_on(self, scmm, checkpoint, source, tmp_path):
        args = ("index", "build", source, "--model", checkpoint, "--gallery", tmp_path / "gallery")
        code, out, err = scmm(*args)
        assert code == 0
        assert out == f"{tmp_path}/gallery: 12 images added, 0 updated, 0 unchanged, 1 skipped.\n"
        assert f"skipped {source}/broken.jpg: the image cannot be read" in err and "13/13" in err and "img/s" in err
        shutil.copy(source / "1.jpg", source / "0.jpg")
        assert scmm(*args)[1] == f"{tmp_path}/gallery: 0 images added, 1 updated, 11 unchanged, 1 skipped.\n"

    def test_a_benchmark(self, scmm, mistake, checkpoint, paperdoll_root, tmp_path):
        args = ("index", "build", paperdoll_root, "--model", checkpoint, "--gallery", tmp_path / "gallery")
        code, out, _ = scmm(*args, "--benchmark", "paperdoll")
        assert code == 0 and "16 images added" in out
        code, out, _ = scmm(
            "index", "add", tmp_path / "gallery", paperdoll_root, "--benchmark", "paperdoll", "--split", "val"
        )
        assert code == 0 and "12 images added" in out and Gallery.open(tmp_path / "gallery").stats()["persons"] == 7
        assert "has no split 'dev'" in mistake(*args, "--benchmark", "paperdoll", "--split", "dev")

    def test_a_wrong_source_leaves_no_gallery(self, mistake, source, checkpoint, tmp_path):
        (source / "metadata.csv").write_text("file_name,time\n0.jpg,soon\n")
        assert "soon" in mistake("index", "build", source, "--model", checkpoint, "--gallery", tmp_path / "gallery")
        assert not (tmp_path / "gallery").exists()

    def test_images_without_metadata_are_named(self, scmm, checkpoint, source, tmp_path, caplog):
        shutil.copy(source / "1.jpg", source / "new.jpg")
        build = ("index", "build", source, "--model", checkpoint, "--gallery", tmp_path / "gallery")
        assert "12 images added" in scmm(*build)[1]
        assert "metadata.csv does not name 1 of the images beside it" in caplog.text and "new.jpg" in caplog.text

    def test_int8(self, scmm, checkpoint, source, tmp_path):
        model, gallery, shards = tmp_path / "model", tmp_path / "gallery", tmp_path / "shards"
        shutil.copytree(checkpoint, model)
        assert scmm("export", "onnx", model, model)[0] == 0
        build = ("index", "build", source, "--model", model, "--gallery", gallery)
        assert "12 images added" in scmm(*build, "--backend", "onnx-int8")[1]
        assert "onnx-int8" in scmm("index", "stats", gallery)[1]
        assert "12 unchanged" in scmm(*build)[1]  # the gallery knows
        (source / "1.jpg").unlink()
        assert "11 unchanged" in scmm("index", "add", gallery, source)[1]
        code, out, _ = scmm("search", gallery, SENTENCE, "--json")
        assert code == 0 and len(json.loads(out)) == 10
        embed = ("index", "embed", source, "--model", model, "--output", shards)
        assert "11 images embedded" in scmm(*embed, "--backend", "onnx-int8")[1]
        assert "11 unchanged" in scmm("index", "add", gallery, shards)[1]

    def test_another_model_is_refused(self, mistake, gallery, source, checkpoint, tmp_path):
        model = SCMMModel.from_pretrained(checkpoint)
        with torch.no_grad():
            model.text_projection.weight.add_(0.1)
        shutil.copytree(checkpoint, tmp_path / "other")
        model.save_pretrained(tmp_path / "other")
        line = mistake("index", "build", source, "--model", tmp_path / "other", "--gallery", gallery)
        assert f"{gallery} was built with {checkpoint} (" in line and f"not with {tmp_path}/other (" in line

    def test_mistakes(self, mistake, checkpoint, gallery, source, tmp_path):
        options = ("--model", checkpoint, "--gallery", tmp_path / "new")
        assert "none does not exist" in mistake("index", "build", tmp_path / "none", *options)
        line = mistake("index", "build", source, "--model", checkpoint, "--gallery", source)
        assert "a gallery needs a folder of its own" in line
        (source / "metadata.csv").write_text("name\n0.jpg\n")
        assert "has no column file_name" in mistake("index", "add", gallery, source)
        assert "is not a gallery" in mistake("index", "add", tmp_path, source)

    def test_retention(self, scmm, source, checkpoint, gallery):
        code, out, err = scmm(
            "index", "build", source, "--model", checkpoint, "--gallery", gallery, "--retention-days", 0.5
        )
        assert code == 0 and "12 images added" not in out and "skipped 0: older than the retention of 0.5 days" in err
        assert len(Gallery.open(gallery)) == 0


class TestRemove:
    @pytest.mark.parametrize(
        "options, left",
        [
            (["--id", "3", "--id", "4"], 10),
            (["--person", "1"], 8),
            (["--camera", "1", "--before", "2026-03-05"], 10),
            (["--older-than-days", "1"], 0),
            (["--camera", "7"], 12),
        ],
    )
    def test_conditions(self, scmm, gallery, options, left):
        code, out, _ = scmm("index", "remove", gallery, *options, "--erase")
        assert code == 0 and out == f"Erased {12 - left} images from {gallery}.\n"
        assert len(Gallery.open(gallery)) == left

    def test_mistakes(self, mistake, gallery):
        assert "Say which images" in mistake("index", "remove", gallery, "--erase")
        assert "exclude each other" in mistake(
            "index", "remove", gallery, "--before", "2026-03-01", "--older-than-days", 3
        )
        assert "'soon' is not a time" in mistake("index", "remove", gallery, "--before", "soon")
        for days in (-1, 0, "nan", 1e9):  # -1 would be every image until tomorrow
            assert "must be above 0" in mistake("index", "remove", gallery, "--older-than-days", days)
        assert len(Gallery.open(gallery)) == 12


class TestOthers:
    def test_stats(self, scmm, gallery, checkpoint, monkeypatch):
        monkeypatch.setenv("COLUMNS", "200")
        code, out, _ = scmm("index", "stats", gallery)
        rows = dict([cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "│" in line)
        assert code == 0
        assert (rows["images"], rows["persons"], rows["cameras"]) == ("12", "3", "0, 1")
        assert rows["time"] == "2026-03-01 08:00:00+00:00 to 2026-03-12 08:00:00+00:00"
        assert (rows["model"], rows["retention"]) == (str(checkpoint), "without end")
        figures = json.loads(scmm("index", "stats", gallery, "--json")[1])
        assert figures["images"] == 12 and figures["oldest"] == "2026-03-01 08:00:00+00:00"

    def test_compact(self, scmm, gallery):
        code, out, _ = scmm("index", "compact", gallery)
        assert code == 0 and out.startswith(f"{gallery} takes ") and "Erased" not in out
        code, out, _ = scmm("index", "compact", gallery, "--retention-days", 2)
        assert code == 0 and "Erased 12 images that were older than the retention of 2 days." in out

    def test_recall(self, scmm, mistake, gallery, tmp_path):
        sentences = tmp_path / "sentences.txt"
        sentences.write_text(f"{SENTENCE}\n\n a woman \n")
        code, out, _ = scmm("index", "recall", gallery, sentences, "--top-k", 3)
        assert code == 0 and out.startswith("recall@3: 1.0000 on 2 sentences\n") and " ms a query" in out
        assert json.loads(scmm("index", "recall", gallery, sentences, "--json")[1])["top_k"] == 10
        sentences.write_text("\n")
        assert f"{sentences} holds no sentences" in mistake("index", "recall", gallery, sentences)
        assert "none.txt" in mistake("index", "recall", gallery, tmp_path / "none.txt")

    def test_export(self, scmm, gallery, tmp_path):
        code, out, _ = scmm("index", "export", gallery, tmp_path / "gallery.parquet")
        assert code == 0 and out == f"{tmp_path}/gallery.parquet holds 12 images.\n"
        assert pq.read_table(tmp_path / "gallery.parquet")["id"].to_pylist() == [str(number) for number in range(12)]

    def test_not_a_gallery(self, mistake, tmp_path):
        for args in (["stats"], ["compact"], ["remove", "--id", "1"], ["export", tmp_path / "x.parquet"]):
            command, *rest = args
            assert f"{tmp_path} is not a gallery: `scmm index build` makes one" in mistake(
                "index", command, tmp_path, *rest
            )


class TestSearch:
    def results(self, scmm, gallery, *args) -> list[dict]:
        code, out, _ = scmm("search", gallery, *args, "--json")
        assert code == 0
        return json.loads(out)

    def test_json_is_a_list_of_results(self, scmm, gallery):
        results = self.results(scmm, gallery, SENTENCE, "a woman", "--top-k", 4)
        expected = [
            (query, rank, hit)
            for query in (SENTENCE, "a woman")
            for rank, hit in enumerate(Gallery.open(gallery).search(query, top_k=4), start=1)
        ]
        assert len(results) == 8
        for result, (query, rank, hit) in zip(results, expected, strict=True):
            assert result == {
                "query": query,
                "rank": rank,
                "score": pytest.approx(hit.score),
                "path": hit.path,
                "id": hit.id,
                "person_id": hit.person_id,
                "camera": hit.camera,
                "time": hit.time.isoformat(),
                **hit.columns,
            }

    def test_table(self, scmm, gallery):
        code, out, _ = scmm("search", gallery, SENTENCE, "--top-k", 12)
        results = self.results(scmm, gallery, SENTENCE, "--top-k", 12)
        assert code == 0
        names = [cell.strip() for cell in next(line for line in out.splitlines() if "rank" in line).split("┃")[1:-1]]
        assert names == ["rank", "score", "id", "person_id", "camera", "time", "gate", "path"]
        rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
        assert [[row[0], row[2], row[7]] for row in rows] == [[str(r["rank"]), r["id"], r["path"]] for r in results]
        assert {row[6] for row in rows} == {"[bold]north", "east"}

    def test_conditions(self, scmm, gallery):
        def ids(*args):
            return sorted(int(result["id"]) for result in self.results(scmm, gallery, SENTENCE, "--top-k", 99, *args))

        assert ids("--camera", 1) == [1, 3, 5, 7, 9, 11]
        assert ids("--after", "2026-03-03", "--before", "2026-03-05T00:00Z") == [2, 3]
        assert ids("--where", "gate=east", "--camera", 0) == [4, 6, 8, 10]
        assert ids("--where", "time>=2026-03-10", "--where", "time<=2026-03-11T12:00") == [9, 10]
        assert ids("--where", "gate=east", "--where", "gate=west") == [3, 4, 5, 6, 7, 8, 9, 10, 11]
        assert len(ids("--group-by", "person")) == 3
        scores = [result["score"] for result in self.results(scmm, gallery, SENTENCE)]
        assert len(ids("--min-score", scores[4])) == 5
        code, out, _ = scmm("search", gallery, SENTENCE, "--camera", 7)
        assert code == 0 and out == "Nothing found.\n"

    def test_images_and_what_should_not_be_there(self, scmm, gallery, source):
        by_image = self.results(scmm, gallery, "--image", source / "5.jpg")
        assert by_image[0]["id"] == "5" and by_image[0]["query"] == f"{source}/5.jpg"
        assert self.results(scmm, gallery, "--like", 5)[0]["id"] == "5"
        both = self.results(scmm, gallery, SENTENCE, "--like", 5, "--without", "a bag", "--without", "a hat")
        assert both[0]["query"] == f"{SENTENCE} + 5 - a bag - a hat" and len(both) == 10
        assert [r["score"] for r in both] != [r["score"] for r in self.results(scmm, gallery, SENTENCE, "--like", 5)]

    def test_approximate_search_says_what_is_known_of_its_recall(self, scmm, gallery):
        code, _, err = scmm("search", gallery, SENTENCE, "--approximate")
        assert code == 0 and "Approximate search: its recall has not been measured, `scmm index recall` does." in err

    def test_pictures(self, scmm, gallery, source, tmp_path, monkeypatch):
        (source / "0.jpg").unlink()
        path = tmp_path / "new" / "found.png"
        code, _, err = scmm("search", gallery, SENTENCE, "--top-k", 12, "--save-image", path)
        assert code == 0 and path.read_bytes().startswith(b"\x89PNG")
        assert "not drawn: [Errno 2] No such file or directory" in err and f"{source}/0.jpg" in err
        opened = []
        monkeypatch.setattr("typer.launch", opened.append)
        assert scmm("search", gallery, SENTENCE, "--open", "--save-image", path)[0] == 0
        assert scmm("search", gallery, SENTENCE, "--open")[0] == 0
        assert opened[0] == str(path) and Path(opened[1]).is_file()
        shutil.rmtree(Path(opened[1]).parent)

    def test_a_model_that_has_moved(self, scmm, mistake, checkpoint, source, tmp_path):
        shutil.copytree(checkpoint, tmp_path / "here")
        scmm("index", "build", source, "--model", tmp_path / "here", "--gallery", tmp_path / "gallery")
        (tmp_path / "here").rename(tmp_path / "there")
        line = mistake("search", tmp_path / "gallery", SENTENCE)
        assert f"{tmp_path}/here is not a folder, and not found on the Hub" in line
        assert len(self.results(scmm, tmp_path / "gallery", SENTENCE, "--model", tmp_path / "there")) == 10

    def test_mistakes(self, mistake, gallery):
        assert "nothing to search for" in mistake("search", gallery)
        assert "query is empty" in mistake("search", gallery, " ")
        assert "no column 'color'" in mistake("search", gallery, "a", "--where", "color=red")
        assert "--where 'color' is not of the form" in mistake("search", gallery, "a", "--where", "color")
        assert "the column time holds timestamp[us, tz=UTC]; 'soon' is none" in mistake(
            "search", gallery, "a", "--where", "time>=soon"
        )
        assert "no image with the id 'x'" in mistake("search", gallery, "--like", "x")
        assert "none.jpg" in mistake("search", gallery, "--image", "none.jpg")
        assert "no column 'track'" in mistake("search", gallery, "a", "--group-by", "track")
        assert "end in .png" in mistake("search", gallery, "a", "--save-image", "found.txt")

    def test_says_what_the_gallery_does_not_know(self, scmm, gallery, checkpoint, paperdoll_root, tmp_path):
        code, out, err = scmm("search", gallery, SENTENCE, "--camera", 1, "--camera", 7)
        assert code == 0 and "no camera 7; its cameras: 0, 1." in err
        bare = tmp_path / "bare"
        scmm("index", "build", paperdoll_root / "PaperDoll" / "imgs", "--model", checkpoint, "--gallery", bare)
        code, out, err = scmm("search", bare, SENTENCE, "--camera", 1, "--group-by", "person")
        assert code == 0 and "Nothing found" in out
        assert "its cameras: none" in err and "does not know who" in err

    def test_a_port_in_use(self, mistake, gallery):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert f"port {port}: Address already in use. Choose another" in mistake("serve", gallery, "--port", port)
