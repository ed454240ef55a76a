"""A sheet of images with their captions, to look at a data set."""

import os
from pathlib import Path

from datasets import Dataset
from datasets import Image as ImageFeature
from PIL import Image, ImageDraw

from ..data.schema import image_source
from ..processing import load_image
from .png import write_png
from .style import FAINT, GRAY, INK, text_font, wrap_text


# Sizes in pixels.
_CELL_WIDTH, _IMAGE_HEIGHT = 250, 270
_GAP, _MARGIN = 28, 36
_TITLE_SIZE, _TEXT_SIZE = 14, 15
_LINE_HEIGHT = 20
_COLUMNS = 6
_MAX_LINES = 16  # a caption; some data sets have captions of a hundred words
_MAX_CAPTIONS = 4


def sample_sheet_figure(dataset: Dataset, path: str | os.PathLike) -> Path:
    """
    Draws every row of a small data set into a PNG file: the image, its person and file, and its captions below.

    Args:
        dataset (`datasets.Dataset`):
            Rows of [`~scmm.data.schema.FEATURES`], for instance from [`~scmm.data.stats.sample_rows`]. Of more than
            four captions the first four are drawn.
        path (`str` or `os.PathLike`):
            The PNG file to write. It is replaced once the picture is complete; its folder is made where it is missing.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If there are no rows, or an image cannot be read ([`~scmm.processing.ImageError`], which names it).
        OSError: If an image does not exist or the file cannot be written.

    Example:

    ```python
    >>> import tempfile
    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> from scmm.analysis.sample_sheet import sample_sheet_figure
    >>> from scmm.data.schema import FEATURES

    >>> row = {"image": Image.new("RGB", (32, 64), "red"), "captions": ["a man", "a man in red"], "person_id": 7}
    >>> rows = Dataset.from_list([{**row, "image_id": 0, "camera_id": -1, "file_name": "0.png"}], features=FEATURES)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sample_sheet_figure(rows, f"{folder}/samples.png").name
    'samples.png'

    ```
    """
    if not len(dataset):
        raise ValueError("dataset has no rows: there is nothing to draw")
    cells = [_draw_cell(row) for row in dataset.cast_column("image", ImageFeature(decode=False))]
    lines = [cells[start : start + _COLUMNS] for start in range(0, len(cells), _COLUMNS)]
    heights = [max(cell.height for cell in line) + _GAP for line in lines]
    width = 2 * _MARGIN + len(lines[0]) * (_CELL_WIDTH + _GAP) - _GAP
    sheet = Image.new("RGB", (width, 2 * _MARGIN + sum(heights) - _GAP), "white")
    top = _MARGIN
    for line, height in zip(lines, heights, strict=True):
        for column, cell in enumerate(line):
            sheet.paste(cell, (_MARGIN + column * (_CELL_WIDTH + _GAP), top))
        top += height
    return write_png(path, lambda file: sheet.save(file, format="PNG", optimize=True))


def _draw_cell(row: dict) -> Image.Image:
    """An image on white, standing on a line, with its texts below."""
    image = load_image(image_source(row))
    scale = min(_CELL_WIDTH / image.width, _IMAGE_HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    title = f"person {row['person_id']}, {Path(row['file_name']).name}"
    texts = [(line, _TITLE_SIZE, GRAY) for line in wrap_text(title, text_font(_TITLE_SIZE), _CELL_WIDTH, 3)]
    for caption in row["captions"][:_MAX_CAPTIONS]:
        lines = wrap_text(caption, text_font(_TEXT_SIZE), _CELL_WIDTH, _MAX_LINES)
        texts += [(line, _TEXT_SIZE, INK) for line in ("", *lines)]
    text_top = _IMAGE_HEIGHT + _LINE_HEIGHT // 2
    cell = Image.new("RGB", (_CELL_WIDTH, text_top + len(texts) * _LINE_HEIGHT), "white")
    cell.paste(image.resize(size, Image.Resampling.BICUBIC), (0, _IMAGE_HEIGHT - size[1]))
    draw = ImageDraw.Draw(cell)
    draw.line([(0, _IMAGE_HEIGHT), (_CELL_WIDTH, _IMAGE_HEIGHT)], fill=FAINT)
    for number, (text, text_size, color) in enumerate(texts):
        draw.text((0, text_top + number * _LINE_HEIGHT), text, fill=color, font=text_font(text_size))
    return cell
