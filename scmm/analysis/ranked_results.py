"""A picture of search results: the sentence, and below it the best images, framed green if right and red if wrong."""

import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from ..processing import load_image
from .png import write_png
from .style import FAINT, GRAY, INK, text_font, wrap_text


Hit = tuple[str | os.PathLike | Image.Image, float, bool | None]

# Sizes in pixels, for a picture that a page shows at about half its size.
_IMAGE_WIDTH, _IMAGE_HEIGHT = 132, 264
_FRAME = 7
_CELL_WIDTH = _IMAGE_WIDTH + 2 * _FRAME
_GAP = 14
_MARGIN = 36
_QUERY_SIZE, _LABEL_SIZE = 28, 21
_QUERY_HEIGHT, _LABEL_HEIGHT = 38, 40
_MAX_QUERY_LINES = 4
_HITS_PER_LINE = 10
_MIN_HITS_PER_LINE = 5

# The color of a right, a wrong and an unjudged image, and a sign that tells them apart without color.
_STYLES = {True: ("#16914a", "✓"), False: ("#cf222e", "✗"), None: (GRAY, "")}


def ranked_results_figure(rows: Sequence[tuple[str, Sequence[Hit]]], path: str | os.PathLike) -> Path:
    """
    Draws ranked search results into a PNG file.

    Below each query stand its images, best first, ten to a line, each with its rank and score. A right image has a
    green frame and a check mark, a wrong one a red frame and a cross, and one of which nothing is known a gray frame.

    Args:
        rows (sequence of `(query, hits)`):
            The queries, each with its hits, best first. A hit is a tuple of the image (a path or a PIL image), its
            score, and whether it is right, or `None` where that is unknown. A query is drawn as it is, without any
            markup; more than four lines of it are cut.
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
    >>> from scmm.analysis.ranked_results import ranked_results_figure

    >>> red, blue = Image.new("RGB", (64, 128), "red"), Image.new("RGB", (64, 128), "blue")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = [("a person in red", [(red, 0.71, True), (blue, 0.32, False)])]
    ...     ranked_results_figure(rows, f"{folder}/results.png").name
    'results.png'

    ```
    """
    if not rows:
        raise ValueError("rows is empty: there are no results to draw")
    columns = max(len(hits) for _, hits in rows)
    columns = max(_MIN_HITS_PER_LINE, min(columns, _HITS_PER_LINE))
    drawn = [_draw_row(query, hits, columns) for query, hits in rows]
    picture = Image.new("RGB", (drawn[0].width, sum(row.height for row in drawn)), "white")
    top = 0
    for row in drawn:
        picture.paste(row, (0, top))
        if top:
            line = [(_MARGIN, top), (picture.width - _MARGIN, top)]
            ImageDraw.Draw(picture).line(line, fill=FAINT, width=2)
        top += row.height
    return write_png(path, lambda file: picture.save(file, format="PNG", optimize=True))


def _draw_row(query: str, hits: Sequence[Hit], columns: int) -> Image.Image:
    """One query and its hits, on white."""
    width = 2 * _MARGIN + columns * (_CELL_WIDTH + _GAP) - _GAP
    query_lines = list(wrap_text(query, text_font(_QUERY_SIZE), width - 2 * _MARGIN, _MAX_QUERY_LINES))
    hits_top = _MARGIN + len(query_lines) * _QUERY_HEIGHT + _GAP
    cell_height = _IMAGE_HEIGHT + 2 * _FRAME + _LABEL_HEIGHT
    hit_lines = -(-len(hits) // columns)
    row = Image.new("RGB", (width, hits_top + hit_lines * (cell_height + _GAP) + _MARGIN - _GAP), "white")
    draw = ImageDraw.Draw(row)
    for index, text in enumerate(query_lines):
        draw.text((_MARGIN, _MARGIN + index * _QUERY_HEIGHT), text, fill=INK, font=text_font(_QUERY_SIZE))
    for index, hit in enumerate(hits):
        line, column = divmod(index, columns)
        _draw_hit(row, _MARGIN + column * (_CELL_WIDTH + _GAP), hits_top + line * (cell_height + _GAP), index + 1, hit)
    return row


def _draw_hit(row: Image.Image, left: int, top: int, rank: int, hit: Hit) -> None:
    """A framed image, standing on its label: the rank at the left, the mark and score at the right."""
    source, score, correct = hit
    color, mark = _STYLES[None if correct is None else bool(correct)]
    image = load_image(source)
    scale = min(_IMAGE_WIDTH / image.width, _IMAGE_HEIGHT / image.height)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BICUBIC)
    x = left + _FRAME + (_IMAGE_WIDTH - image.width) // 2
    y = top + _FRAME + _IMAGE_HEIGHT - image.height
    draw = ImageDraw.Draw(row)
    outer = (x - _FRAME, y - _FRAME, x + image.width + _FRAME - 1, y + image.height + _FRAME - 1)
    draw.rounded_rectangle(outer, radius=_FRAME, fill=color)
    row.paste(image, (x, y))
    baseline = top + _IMAGE_HEIGHT + 2 * _FRAME + round(0.72 * _LABEL_HEIGHT)
    font = text_font(_LABEL_SIZE)
    draw.text((left + 2, baseline), f"{rank}", fill=_STYLES[None][0], font=font, anchor="ls")
    draw.text((left + _CELL_WIDTH - 2, baseline), f"{mark} {score:.3f}", fill=color, font=font, anchor="rs")
