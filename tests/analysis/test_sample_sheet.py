"""The sheet of samples: every image is on it, in its shape, with its captions."""

import io

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from scmm.analysis.sample_sheet import sample_sheet_figure
from scmm.data.schema import FEATURES
from scmm.processing import ImageError


BLUE = (0, 0, 255)


def rows(*rows: dict) -> Dataset:
    plain = {"captions": ["a man"], "person_id": 7, "image_id": 0, "camera_id": -1, "file_name": "x/0.png"}
    return Dataset.from_list([{**plain, **row} for row in rows], features=FEATURES)


def image(size=(32, 64)) -> Image.Image:
    return Image.new("RGB", size, BLUE)


def pixels(path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def test_six_images_to_a_line_all_of_their_shape(tmp_path):
    sheet = pixels(sample_sheet_figure(rows(*[{"image": image()}] * 8), tmp_path / "samples.png"))
    inside = (sheet == BLUE).all(axis=2)
    lines = np.flatnonzero(np.diff(inside.any(axis=1).astype(int)) == 1)
    assert [int((np.diff(inside[line + 5].astype(int)) == 1).sum()) for line in lines] == [6, 2]
    assert inside.sum() == 8 * 135 * 270


@pytest.mark.parametrize("size", [(128, 384), (64, 64), (400, 10), (1, 1), (1000, 1)])
def test_images_keep_their_shape(tmp_path, size):
    sheet = pixels(sample_sheet_figure(rows({"image": image(size)}), tmp_path / "samples.png"))
    y, x = np.nonzero((sheet == BLUE).all(axis=2))
    scale = min(250 / size[0], 270 / size[1])
    assert (np.ptp(x) + 1, np.ptp(y) + 1) == tuple(max(1, round(side * scale)) for side in size)


def test_longer_and_more_captions_take_more_room(tmp_path):
    heights = [
        len(pixels(sample_sheet_figure(rows({"image": image(), "captions": captions}), tmp_path / "samples.png")))
        for captions in ([], ["a man"], ["a man", "a man"], ["a man " * 40], ["a man " * 500])
    ]
    assert heights == sorted(heights) and len(set(heights)) == 5


@pytest.mark.parametrize("caption", ["", " \n", "$x^2$", "<b>red</b>", "穿红色外套的女人", "null \x00", "x" * 3000])
def test_any_caption_is_drawn(tmp_path, caption):
    path = sample_sheet_figure(rows({"image": image(), "captions": [caption]}), tmp_path / "samples.png")
    with Image.open(path) as picture:
        assert len(picture.convert("RGB").getcolors(2**24)) > 1, "something is drawn"


def test_bad_images_are_named_and_nothing_is_written(tmp_path):
    image().save(tmp_path / "good.png")
    (tmp_path / "broken.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    stream = io.BytesIO()
    image().save(stream, "PNG")
    good = [{"image": {"path": str(tmp_path / "good.png")}}, {"image": {"bytes": stream.getvalue()}}]
    assert pixels(sample_sheet_figure(rows(*good), tmp_path / "good_samples.png")).any()
    for path, error in (("broken.png", ImageError), ("missing.png", FileNotFoundError)):
        with pytest.raises(error, match=path):
            sample_sheet_figure(rows(*good, {"image": {"path": str(tmp_path / path)}}), tmp_path / "samples.png")
    with pytest.raises(ValueError, match="dataset has no rows"):
        sample_sheet_figure(rows({"image": image()}).select([]), tmp_path / "samples.png")
    assert not (tmp_path / "samples.png").exists()
