"""The API: searches, images and explanations, and everything that must not be served."""

import base64
import io
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from PIL import Image
from starlette.testclient import TestClient

from scmm.app.api import create_app
from scmm.app.guard import MAX_BODY, MAX_UPLOAD, Gate
from scmm.app.service import MAX_SENTENCE, SearchService
from scmm.processing import load_image
from scmm.retrieval.checkpoints import load_decoder
from scmm.retrieval.gallery import Filter, Query


SENTENCE = "a man in a red coat"


def client_of(gallery, folder: Path, **options) -> TestClient:
    folder.mkdir(exist_ok=True)
    log_queries = options.pop("log_queries", False)
    explainer = options.pop("explainer", None)
    app = create_app(SearchService(gallery, explainer, log_queries), folder, **options)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


@pytest.fixture(scope="module")
def client(gallery, tmp_path_factory) -> TestClient:
    return client_of(gallery, tmp_path_factory.mktemp("uploads"))


def found(response: httpx.Response) -> list[tuple[str, float]]:
    assert response.status_code == 200, response.text
    return [(hit["id"], hit["score"]) for hit in response.json()["results"]]


class TestSearch:
    def test_a_sentence(self, client, gallery):
        expected = [(hit.id, hit.score) for hit in gallery.search(SENTENCE, top_k=5)]
        assert found(client.get("/api/search", params={"q": SENTENCE, "top_k": 5})) == expected

    def test_conditions(self, client, gallery):
        params = {"q": SENTENCE, "camera": ["0", "2"], "after": "2026-03-01T10:00", "before": "2026-03-01T18:00"}
        where = Filter(cameras=["0", "2"], after="2026-03-01T10:00", before="2026-03-01T18:00")
        expected = [(hit.id, hit.score) for hit in gallery.search(SENTENCE, top_k=20, where=where)]
        assert 0 < len(expected) < 12
        assert found(client.get("/api/search", params=params)) == expected

    def test_the_best_image_of_each_person(self, client):
        response = client.get("/api/search", params={"q": SENTENCE, "group_by": "person"})
        assert sorted(hit["person_id"] for hit in response.json()["results"]) == ["p0", "p1", "p2"]

    def test_like_an_image(self, client, gallery):
        hits = found(client.get("/api/search", params={"like": "05.jpg"}))
        assert hits == [(hit.id, hit.score) for hit in gallery.search(Query(like="05.jpg"), top_k=20)]
        assert hits[0][0] == "05.jpg"
        assert client.get("/api/search", params={"like": "no such"}).status_code == 404

    def test_with_a_picture(self, client, crops):
        content = (crops / "07.jpg").read_bytes()
        assert found(client.post("/api/search", params={"top_k": 1}, content=content))[0][0] == "07.jpg"

    def test_the_link_reproduces_the_search(self, client):
        params = {"q": "a man & <b>", "camera": ["1", "2"], "top_k": 3, "before": "2026-03-01T15:00+01:00"}
        first = client.get("/api/search", params=params)
        again = client.get("/api/search" + first.json()["link"])
        assert again.json() == first.json() and len(found(first)) == 3

    @pytest.mark.parametrize(
        "sentence", ["🧥🔴", "<script>alert(1)</script>", "'; DROP TABLE images; --", "\u202ea\x00b"]
    )
    def test_odd_sentences(self, client, sentence):
        assert len(found(client.get("/api/search", params={"q": sentence}))) == 12

    def test_a_long_sentence_is_cut_and_said_to_be(self, client):
        response = client.get("/api/search", params={"q": "red coat " * 60})
        assert len(found(response)) == 12 and "only its beginning counts" in response.json()["notes"][0]
        assert client.get("/api/search", params={"q": SENTENCE}).json()["notes"] == []

    @pytest.mark.parametrize(
        ("params", "message"),
        [
            ({}, "Describe the person"),
            ({"q": " \n\t"}, "Describe the person"),
            ({"q": "x" * (MAX_SENTENCE + 1)}, "at most"),
            ({"q": SENTENCE, "after": "yesterday"}, "'yesterday' is not a time such as"),
            ({"q": SENTENCE, "top_k": 0}, "greater than"),
            ({"q": SENTENCE, "top_k": 101}, "less than"),
            ({"q": SENTENCE, "group_by": "shoe"}, "shoe"),
            ({"q": SENTENCE, "camera_id": "1"}, '["query","camera_id"],"msg":"Extra inputs are not permitted"'),
        ],
    )
    def test_what_cannot_be_searched(self, client, params, message):
        response = client.get("/api/search", params=params)
        assert response.status_code == 422 and message in response.text

    def test_pictures_that_cannot_be_used(self, client):
        bomb = io.BytesIO()
        Image.new("1", (9000, 9000)).save(bomb, "PNG")
        response = client.post("/api/search", content=bomb.getvalue())
        assert response.status_code == 422 and "more than the limit" in response.text
        assert client.post("/api/search", content=b"no image").status_code == 422
        assert client.post("/api/search", content=bytes(MAX_UPLOAD + 1)).status_code == 413
        assert client.post("/api/search", content=iter([b"without a length"])).status_code == 411

    @pytest.mark.parametrize("log_queries", [False, True])
    def test_queries_are_logged_only_on_request(self, gallery, tmp_path, caplog, log_queries):
        caplog.set_level(logging.DEBUG)
        client = client_of(gallery, tmp_path / "uploads", log_queries=log_queries)
        client.get("/api/search", params={"q": "a secret coat"})
        said = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore", "asyncio"))]
        assert any("secret" in record.getMessage() for record in said) == log_queries


class TestImages:
    def test_an_image_is_made_small_and_loses_its_notes(self, own_gallery, own_crops, tmp_path):
        large = Image.new("RGB", (900, 1800), "red")
        exif = Image.Exif()
        exif[0x010E] = "where it was taken"
        large.save(own_crops / "03.jpg", exif=exif)
        own_gallery.add(own_crops)
        response = client_of(own_gallery, tmp_path / "uploads").get("/image", params={"id": "03.jpg"})
        assert response.headers["content-type"] == "image/jpeg" and response.headers["cache-control"] == "no-store"
        shown = Image.open(io.BytesIO(response.content))
        assert shown.size == (320, 640) and not shown.getexif()

    @pytest.mark.parametrize(
        "id",
        [
            "../crops/03.jpg",
            "/etc/passwd",
            "..%2f..%2fetc%2fpasswd",
            "%2e%2e/03.jpg",
            "03.jpg\x00",
            "",
            "metadata.csv",
        ],
    )
    def test_what_is_not_in_the_gallery_is_not_served(self, client, id):
        for path in (f"/image?id={quote(id)}", f"/image?id={id}".replace("\x00", "%00")):
            assert client.get(path).status_code == 404

    def test_neither_are_the_files_of_this_machine(self, client, crops, gallery):
        image, secret = crops / "03.jpg", gallery.path
        targets = [
            image,
            crops / "metadata.csv",
            "/etc/passwd",
            *[path for path in secret.rglob("*") if path.is_file()][:3],
        ]
        for target in targets:
            for prefix in (
                "/gradio_api/file=",
                "/file=",
                "/gradio_api/file/",
                "/static/..",
                "/assets/../../../..",
                "/",
            ):
                for name in (str(target), quote(str(target), safe=""), "../../../../../.." + str(target)):
                    response = client.get(prefix + name)
                    assert response.status_code in (400, 403, 404, 405), (prefix, name)
                    assert b"root:" not in response.content

    def test_a_vanished_image(self, own_gallery, own_crops, tmp_path):
        client = client_of(own_gallery, tmp_path / "uploads")
        (own_crops / "04.jpg").unlink()
        response = client.get("/image", params={"id": "04.jpg"})
        assert response.status_code == 410 and "no longer there" in response.text
        assert client.get("/api/why", params={"id": "04.jpg", "q": SENTENCE}).status_code == 410
        assert len(found(client.get("/api/search", params={"q": SENTENCE}))) == 12

    @pytest.mark.parametrize("target", ["secret.txt", "other.jpg", "/dev/zero"])
    def test_a_file_that_became_a_link_to_another(self, own_gallery, own_crops, tmp_path, target):
        (tmp_path / "secret.txt").write_text("root: secret")
        Image.new("RGB", (16, 32), "red").save(tmp_path / "other.jpg")
        (own_crops / "04.jpg").unlink()
        (own_crops / "04.jpg").symlink_to(tmp_path / target)
        response = client_of(own_gallery, tmp_path / "uploads").get("/image", params={"id": "04.jpg"})
        assert response.status_code == 410 and b"secret" not in response.content

    def test_an_image_past_its_retention(self, own_gallery, tmp_path):
        client = client_of(own_gallery, tmp_path / "uploads")
        assert client.get("/image", params={"id": "04.jpg"}).status_code == 200
        own_gallery.set_retention(1)
        assert client.get("/image", params={"id": "04.jpg"}).status_code == 404


class TestWhy:
    def test_gradient(self, client, gallery):
        report = client.get("/api/why", params={"id": "05.jpg", "q": "A man, in <b>red</b>!"}).json()
        assert report["method"] == "gradient"
        assert [word["word"] for word in report["words"]][:3] == ["A", "man", "in"]
        assert all(len(word["map"]) == 4 and len(word["map"][0]) == 2 for word in report["words"])
        assert report["score"] == pytest.approx(
            next(hit.score for hit in gallery.search("A man, in <b>red</b>!", top_k=12) if hit.id == "05.jpg"),
            abs=2e-3,
        )

    def test_attention(self, gallery, training_checkpoint, tmp_path):
        decoder = load_decoder(training_checkpoint, gallery.model)
        assert decoder is None, "the dual encoder's own checkpoint has no decoder"
        from scmm.retrieval.checkpoints import load_dual_encoder

        encoder, _ = load_dual_encoder(training_checkpoint)
        decoder = load_decoder(training_checkpoint, encoder)
        client = client_of(gallery, tmp_path / "uploads", explainer=decoder)
        report = client.get("/api/why", params={"id": "05.jpg", "q": "a red coat"}).json()
        assert report["method"] == "attention" and [word["word"] for word in report["words"]] == ["a", "red", "coat"]

    @pytest.mark.parametrize(
        ("params", "status"),
        [({"id": "no such", "q": "red"}, 404), ({"id": "05.jpg", "q": " "}, 422), ({"id": "05.jpg", "q": "?!"}, 422)],
    )
    def test_what_cannot_be_explained(self, client, params, status):
        assert client.get("/api/why", params=params).status_code == status


class TestGuards:
    PATHS = (
        "/",
        "/image?id=05.jpg",
        "/api/search?q=red",
        "/api/gallery",
        "/config",
        "/gradio_api/info",
        "/api/openapi.json",
    )

    def test_user_and_password(self, gallery, tmp_path):
        client = client_of(gallery, tmp_path / "uploads", auth=("ann", "pass:wörd"))
        for path in self.PATHS:
            assert client.get(path).status_code == 401
            for wrong in (("ann", "x"), ("bob", "pass:wörd"), ("", "")):
                assert client.get(path, auth=wrong).status_code == 401
        for broken in ("Basic", "Basic ???", "Bearer x", "Basic " + base64.b64encode(b"ann").decode()):
            assert client.get("/", headers={"authorization": broken}).status_code == 401
        right = {"authorization": "Basic " + base64.b64encode("ann:pass:wörd".encode()).decode()}
        assert [client.get(path, headers=right).status_code for path in self.PATHS[:5]] == [200] * 5

    def test_another_sites_name_for_this_machine(self, client, gallery, tmp_path):
        for path in self.PATHS:
            assert client.get(path, headers={"host": "evil.example:7860"}).status_code == 400
        assert client.get("/api/gallery", headers={"host": "localhost:7860"}).status_code == 200
        public = client_of(gallery, tmp_path / "uploads", local_only=False)
        assert public.get("/api/gallery", headers={"host": "search.example"}).status_code == 200

    def test_a_browser_is_told_to_stay_here(self, client):
        for path in (*self.PATHS, "/no/such/page"):
            headers = client.get(path).headers
            assert headers["content-security-policy"].startswith("default-src 'self'")
            assert headers["referrer-policy"] == "no-referrer"
        page = client.get("/").text
        assert "fonts.googleapis.com" not in page and "cdnjs" not in page and '<link rel="preconnect"' not in page

    def test_uploads_do_not_fill_the_disk(self, gallery, tmp_path, monkeypatch):
        folder = tmp_path / "uploads"
        monkeypatch.setenv("GRADIO_TEMP_DIR", str(folder))
        client = client_of(gallery, folder)
        picture = {"files": ("a.jpg", b"x" * 1000, "image/jpeg")}
        assert client.post("/gradio_api/upload", files=picture).status_code == 200
        assert sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) == 1000
        with open(folder / "large", "wb") as file:
            os.truncate(file.fileno(), 2**28)
        assert client.post("/gradio_api/upload", files=picture).status_code == 503
        large = {"files": ("a.jpg", bytes(MAX_UPLOAD), "image/jpeg")}
        assert client.post("/gradio_api/upload", files=large).status_code == 413
        assert client.post("/gradio_api/run/predict", content=bytes(MAX_BODY + 1)).status_code == 413

    def test_a_flood_is_answered_or_refused(self, gallery, serving, tmp_path):
        folder = tmp_path / "uploads"
        folder.mkdir()
        app = create_app(SearchService(gallery), folder, gate=Gate(at_once=1, waiting=4))
        with serving(app) as url, httpx.Client(base_url=url, timeout=60) as client:
            paths = [f"/api/search?q=coat+{number}" if number % 2 else "/image?id=05.jpg" for number in range(200)]
            with ThreadPoolExecutor(20) as pool:
                answers = list(pool.map(client.get, paths))
            counts = {status: sum(answer.status_code == status for answer in answers) for status in (200, 503)}
            assert sum(counts.values()) == 200 and min(counts.values()) > 0, counts
            assert all(answer.headers["retry-after"] for answer in answers if answer.status_code == 503)
            assert client.get(paths[0]).status_code == 200
        assert not list(folder.rglob("*"))


def test_images_are_those_of_the_gallery(client, crops):
    shown = load_image(client.get("/image", params={"id": "05.jpg"}).content)
    assert shown.size == load_image(crops / "05.jpg").size
