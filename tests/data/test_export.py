"""Parquet exports, read back by what knows nothing of this package, and what may not be pushed."""

import json
import os
import resource
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow.parquet as pq
import pytest
from datasets import Dataset, Image, load_dataset

from scmm.data.export import ACADEMIC, check_push, export_parquet
from scmm.retrieval.encode import encode_dataset


def undecoded(rows: Dataset) -> Dataset:
    return rows.cast_column("image", Image(decode=False))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """What `load_dataset` prepares goes away with the test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


class TestParquet:
    @pytest.mark.parametrize("max_shard_bytes, files", [(500_000_000, 3), (10_000, 6)])
    def test_plain_datasets_reads_it(self, paperdoll, tmp_path, max_shard_bytes, files):
        written = export_parquet(paperdoll, tmp_path / "out", max_shard_bytes=max_shard_bytes)
        assert len(written) >= files and all(path.is_file() for path in written)
        assert (len(written) > 3) == (files > 3)
        for loaded in (
            load_dataset(str(tmp_path / "out")),
            load_dataset("parquet", data_dir=str(tmp_path / "out")),
            load_dataset("parquet", data_files={s: str(tmp_path / f"out/data/{s}-*") for s in paperdoll}),
        ):
            assert set(loaded) == set(paperdoll)
            for split, rows in paperdoll.items():
                assert loaded[split].features == rows.features
                assert loaded[split].remove_columns("image")[:] == rows.remove_columns("image")[:]
                for ours, theirs in zip(undecoded(rows)["image"], undecoded(loaded[split])["image"], strict=True):
                    with open(ours["path"], "rb") as file:
                        assert theirs["bytes"] == file.read()
                assert loaded[split][0]["image"].size == (16, 32)

    def test_the_folder_needs_nothing_else_and_tells_nothing_of_the_machine(self, paperdoll, paperdoll_root, tmp_path):
        for path in export_parquet(paperdoll, tmp_path / "out"):
            assert str(paperdoll_root).encode() not in path.read_bytes()
            image = pq.read_table(path)["image"][0].as_py()
            assert "/" not in image["path"] and image["bytes"].startswith(b"\xff\xd8")

    def test_it_embeds_as_the_original_does(self, paperdoll, model, processor, tmp_path):
        export_parquet(paperdoll, tmp_path / "out")
        loaded = load_dataset(str(tmp_path / "out"), split="test")
        ours, theirs = encode_dataset(model, processor, paperdoll["test"]), encode_dataset(model, processor, loaded)
        assert ours.image_embeds.equal(theirs.image_embeds) and ours.text_embeds.equal(theirs.text_embeds)

    def test_an_export_can_be_exported_again(self, paperdoll, tmp_path):
        export_parquet(paperdoll, tmp_path / "out")
        loaded = load_dataset(str(tmp_path / "out"))
        export_parquet(loaded, tmp_path / "again", max_shard_bytes=10_000)
        again = load_dataset(str(tmp_path / "again"))
        assert undecoded(again["val"])[:] == undecoded(loaded["val"])[:]

    def test_a_place_that_is_taken(self, paperdoll, tmp_path):
        (tmp_path / "empty").mkdir()
        assert export_parquet(paperdoll, tmp_path / "empty")[0].is_file()
        (tmp_path / "file").touch()
        for name in ("empty", "file"):
            with pytest.raises(FileExistsError, match=f"{tmp_path / name} exists and is not an empty folder"):
                export_parquet(paperdoll, tmp_path / name)

    def test_missing_images_are_counted_before_anything_is_written(self, paperdoll, tmp_path):
        image = [{"path": path, "bytes": None} for path in ("/none/0.jpg", "/none/1.jpg")]
        val = undecoded(paperdoll["val"])
        broken = Dataset.from_list(
            [row | {"image": image.pop(0)} if number in (3, 5) else row for number, row in enumerate(val)],
            features=paperdoll["val"].features,
        )
        with pytest.raises(FileNotFoundError, match=r"2 of 12 images are missing, the first of them /none/0\.jpg"):
            export_parquet({"train": paperdoll["train"], "val": broken}, tmp_path / "out")
        assert list(tmp_path.iterdir()) == []

    def test_a_full_disk_leaves_nothing_behind(self, paperdoll, tmp_path):
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                export_parquet(paperdoll, tmp_path / "out")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(tmp_path.iterdir()) == []


class TestPush:
    @pytest.mark.parametrize("name", ACADEMIC)
    def test_academic_data_are_refused_before_the_hub_is_asked(self, name):
        with pytest.raises(PermissionError, match=rf"{name} shows real people.* add --i-have-permission"):
            check_push(name, "me/mine", public=False, has_permission=False)

    def test_a_repository_without_its_owner(self):
        with pytest.raises(ValueError, match="'mine' is no repository: give it as user/name"):
            check_push("paperdoll", "mine", public=False, has_permission=False)

    @pytest.fixture
    def hub(self):
        """A server that knows one public repository, makes none, and keeps what it was asked."""
        asked = []

        class Hub(BaseHTTPRequestHandler):
            def answer(self, status: int, body: dict) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                sent = json.loads(self.rfile.read(length)) if length else None
                asked.append((self.command, self.path.partition("?")[0], sent))
                text = json.dumps(body).encode()
                self.send_response(status)
                if status == 404:
                    self.send_header("X-Error-Code", "RepoNotFound")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def do_GET(self):
                name = self.path.partition("?")[0].removeprefix("/api/datasets/")
                if name == "me/public":
                    self.answer(200, {"id": name, "private": False, "siblings": []})
                else:
                    self.answer(404, {"error": "Repository not found"})

            def do_POST(self):
                self.answer(403, {"error": "This Hub makes none."})

            def log_message(self, *args):
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        server.server_close()

    def push(self, hub, root, *args: object) -> tuple[int, str, list]:
        """Runs the command in a process of its own, as the Hub's address is read at import."""
        url, asked = hub
        command = [sys.executable, "-m", "scmm.cli", "data", "export", "paperdoll", str(root), *map(str, args)]
        env = {**os.environ, "HF_ENDPOINT": url, "HF_TOKEN": "hf_x", "HF_HUB_OFFLINE": "0"}
        result = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        assert result.stdout == ""
        (line,) = (line for line in result.stderr.splitlines() if line.startswith("scmm: error: "))
        return result.returncode, line, asked

    def test_a_public_repository_is_refused(self, hub, paperdoll_root):
        code, line, asked = self.push(hub, paperdoll_root, "--push-to-hub", "me/public")
        assert code == 2 and line.startswith("scmm: error: me/public exists on the Hub and is public")
        assert {method for method, _, _ in asked} == {"GET"}

    @pytest.mark.parametrize("options, is_private", [([], True), (["--public"], False)])
    def test_what_is_made_is_private_unless_public_is_given(self, hub, paperdoll_root, options, is_private):
        code, line, asked = self.push(hub, paperdoll_root, "--push-to-hub", "me/new", *options)
        assert code == 2 and "This Hub makes none." in line
        (made,) = (sent for method, path, sent in asked if (method, path) == ("POST", "/api/repos/create"))
        assert (made["organization"], made["name"], made["type"]) == ("me", "new", "dataset")
        # Older clients say it in another way.
        assert (made["visibility"] == "private" if "visibility" in made else made["private"]) is is_private
