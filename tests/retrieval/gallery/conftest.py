"""What the gallery's tests share."""

from pathlib import Path

import pytest

from scmm import Gallery


@pytest.fixture
def images(paperdoll_root) -> Path:
    """A folder with 52 images in sub-folders. Not to be written to."""
    return paperdoll_root / "PaperDoll" / "imgs"


@pytest.fixture
def gallery(tmp_path, model, processor) -> Gallery:
    """An empty gallery."""
    return Gallery.create(tmp_path / "gallery", model, processor)
