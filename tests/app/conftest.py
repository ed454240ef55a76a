"""A small gallery with awkward names, served by the real application."""

import csv
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from scmm import SCMMForPreTraining, SCMMModel, SCMMProcessor
from scmm.retrieval.gallery import Gallery


pytest.importorskip("gradio", reason='gradio is not installed: pip install "scmm[app]"')

MARKUP = "<img src=x onerror=window.hacked=1>${window.hacked=2}{{this}}"


@pytest.fixture(scope="session")
def crops(paperdoll_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of twelve images, one with markup for a name, and what is known of them. Not to be written to."""
    folder = tmp_path_factory.mktemp("crops")
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["file_name", "id", "camera", "time", "person_id", "remark"])
        for number, image in enumerate(sorted((paperdoll_root / "PaperDoll" / "imgs").rglob("*.jpg"))[:12]):
            name = f"{MARKUP.replace('/', '')}.jpg" if number == 0 else f"{number:02}.jpg"
            shutil.copy(image, folder / name)
            remark = MARKUP if number < 3 else ""
            table.writerow([name, name, f"{number % 3}", f"2026-03-01T{number + 8:02}:00", f"p{number // 4}", remark])
    return folder


def build_gallery(crops: Path, checkpoint: Path, path: Path) -> Gallery:
    gallery = Gallery.create(path, SCMMModel.from_pretrained(checkpoint), SCMMProcessor.from_pretrained(checkpoint))
    assert gallery.add(crops).added == 12
    return gallery


@pytest.fixture(scope="session")
def gallery(crops: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Gallery:
    """The gallery of `crops`. Not to be written to."""
    return build_gallery(crops, checkpoint, tmp_path_factory.mktemp("gallery") / "gallery")


@pytest.fixture
def own_crops(crops: Path, tmp_path: Path) -> Path:
    """A copy of `crops` that a test may spoil."""
    return Path(shutil.copytree(crops, tmp_path / "crops"))


@pytest.fixture
def own_gallery(own_crops: Path, checkpoint: Path, tmp_path: Path) -> Gallery:
    """The gallery of `own_crops`."""
    return build_gallery(own_crops, checkpoint, tmp_path / "gallery")


@pytest.fixture
def bare_gallery(own_crops: Path, checkpoint: Path, tmp_path: Path) -> Gallery:
    """The gallery of a folder of which nothing is known: no cameras, times or persons."""
    (own_crops / "metadata.csv").unlink()
    return build_gallery(own_crops, checkpoint, tmp_path / "gallery")


@pytest.fixture(scope="session")
def training_checkpoint(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`checkpoint` with a decoder of random weights, as a training run saves it."""
    folder = tmp_path_factory.mktemp("training-checkpoint")
    encoder = SCMMModel.from_pretrained(checkpoint)
    torch.manual_seed(0)
    model = SCMMForPreTraining(encoder.config)
    model.scmm.load_state_dict(encoder.state_dict())
    model.save_pretrained(folder)
    SCMMProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return folder


@pytest.fixture
def serving() -> Callable:
    """Serves an application on a free port of this machine while the block runs; gives the address."""
    import uvicorn

    @contextmanager
    def serve(app) -> Iterator[str]:
        config = uvicorn.Config(app, port=0, log_level="error", access_log=False, timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        with config.bind_socket() as socket:
            thread = threading.Thread(target=server.run, args=([socket],), daemon=True)
            thread.start()
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            yield f"http://127.0.0.1:{socket.getsockname()[1]}"
            server.should_exit = True
            thread.join(timeout=20)

    return serve
