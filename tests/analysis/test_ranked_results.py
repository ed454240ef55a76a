"""The picture of ranked results: what is drawn, read back from its pixels."""

import numpy as np
import pytest
from PIL import Image, ImageColor

from scmm.analysis import ranked_results
from scmm.analysis.ranked_results import ranked_results_figure
from scmm.processing import ImageError


GREEN, RED, GRAY = (ImageColor.getrgb(ranked_results._STYLES[correct][0]) for correct in (True, False, None))
BLUE = (0, 0, 255)


def crop(color=BLUE, size=(64, 128)):
    return Image.new("RGB", size, color)


def pixels(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def frames(picture, color):
    """Boxes (left, top, right, bottom) of the areas framed in a color, from rows of at least a frame's width of it."""
    found = []
    is_color = (picture == color).all(axis=2)
    columns = np.flatnonzero(is_color.sum(axis=0) > 100)  # the upright bars; letters are shorter
    bars = np.split(columns, np.flatnonzero(np.diff(columns) > 1) + 1) if len(columns) else []
    for left, right in zip(bars[::2], bars[1::2], strict=True):
        rows = np.flatnonzero(is_color[:, left].all(axis=1))
        found.append((left[0], rows[0], right[-1] + 1, rows[-1] + 1))
    return found


def test_frames_tell_right_from_wrong_and_unknown(tmp_path):
    hits = [(crop(), 0.9, True), (crop(), 0.8, False), (crop(), 0.7, None), (crop(), 0.6, np.bool_(True))]
    path = ranked_results_figure([("a person", hits)], tmp_path / "results.png")
    picture = pixels(path)
    assert path == tmp_path / "results.png"
    green, red, gray = (frames(picture, color) for color in (GREEN, RED, GRAY))
    assert (len(green), len(red), len(gray)) == (2, 1, 1)
    assert green[0][0] < red[0][0] < gray[0][0] < green[1][0]
    for left, top, right, bottom in (*green, *red, *gray):
        assert (picture[(top + bottom) // 2, (left + right) // 2] == BLUE).all()


def test_right_and_wrong_differ_without_color(tmp_path):
    labels = []
    for correct in (True, False):
        path = ranked_results_figure([("a person", [(crop(), 0.5, correct)])], tmp_path / "results.png")
        picture = pixels(path)
        _, _, _, bottom = frames(picture, GREEN if correct else RED)[0]
        labels.append((picture[bottom + 2 :] < 200).any(axis=2))
    assert not np.array_equal(*labels)


def test_ten_images_to_a_line(tmp_path):
    picture = pixels(ranked_results_figure([("a person", [(crop(), 0.5, None)] * 13)], tmp_path / "results.png"))
    inside = (picture == BLUE).all(axis=2)
    lines = np.flatnonzero(np.diff(inside.any(axis=1).astype(int)) == 1)
    assert len(lines) == 2
    images = [int((np.diff(inside[line + 5].astype(int)) == 1).sum()) for line in lines]
    assert images == [10, 3]


def test_images_keep_their_shape(tmp_path):
    hits = [(crop(size=size), 0.5, True) for size in [(128, 384), (64, 64), (1, 1), (1000, 1)]]
    picture = pixels(ranked_results_figure([("a person", hits[:3])], tmp_path / "results.png"))
    inside = (picture == BLUE).all(axis=2)
    bottoms, shapes = set(), []
    for left, _, right, bottom in frames(picture, GREEN):
        rows, columns = np.nonzero(inside[:, left:right])
        bottoms.add(bottom)
        shapes.append((np.ptp(columns) + 1) / (np.ptp(rows) + 1))
    assert shapes == pytest.approx([1 / 3, 1, 1], rel=0.02)
    assert len(bottoms) == 1
    ranked_results_figure([("a person", hits)], tmp_path / "results.png")  # a line of pixels is an image too


@pytest.mark.parametrize(
    "query",
    [
        "",
        " \n\t ",
        "$x^2$ and \\frac{1}",
        "<b>red</b> &amp; {curly} %s",
        "穿红色外套的女人 😀👩🏽‍🦰",
        "عربي",
        "null \x00 bell \x07 lone \ud800",
        "x" * 5000,
        "hat " * 10_000,
    ],
)
def test_any_query_is_drawn(query, tmp_path):
    ranked_results_figure([(query, [(crop(), -0.25, None)])], tmp_path / "results.png")
    assert (tmp_path / "results.png").is_file()


def test_markup_is_drawn_as_it_is(tmp_path):
    pictures = []
    for query in ("$x^2$", "x^2", "x²", "<b>x</b>", "x"):
        pictures.append(pixels(ranked_results_figure([(query, [])], tmp_path / "results.png")))
    assert all(not np.array_equal(a, b) for i, a in enumerate(pictures) for b in pictures[:i])


def test_paths_are_read_and_bad_images_named(tmp_path):
    crop().save(tmp_path / "good.png")
    (tmp_path / "empty.jpg").touch()
    ranked_results_figure([("a person", [(tmp_path / "good.png", 1.0, True)])], tmp_path / "results.png")
    before = (tmp_path / "results.png").read_bytes()
    with pytest.raises(ImageError, match=r"empty\.jpg"):
        ranked_results_figure([("a person", [(tmp_path / "empty.jpg", 1.0, True)])], tmp_path / "results.png")
    with pytest.raises(FileNotFoundError, match=r"missing\.jpg"):
        ranked_results_figure([("a person", [(str(tmp_path / "missing.jpg"), 1.0, True)])], tmp_path / "results.png")
    assert (tmp_path / "results.png").read_bytes() == before


def test_no_rows_are_refused(tmp_path):
    with pytest.raises(ValueError, match="rows is empty"):
        ranked_results_figure([], tmp_path / "results.png")
    assert list(tmp_path.iterdir()) == []
