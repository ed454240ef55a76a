"""What the pictures share: colors, axes, a font, and text broken into lines."""

import os
from collections.abc import Iterator
from functools import cache

import matplotlib
from matplotlib.axes import Axes
from PIL import ImageFont


# Okabe and Ito's colors, which color-blind readers can tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
INK, GRAY, FAINT, GRID = "#1b1f24", "#8b929c", "#d5d9df", "#e6e8eb"


def tidy_axes(axes: Axes) -> None:
    """A faint grid, and no box around the panel."""
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


@cache
def text_font(size: int) -> ImageFont.FreeTypeFont:
    """The font that comes with matplotlib: the same on every machine, and it has check marks and crosses."""
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"), size)


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, max_lines: int) -> Iterator[str]:
    """Lines no wider than a width in pixels, the last one ending in an ellipsis where the text goes on."""
    words = text.split()
    for number in range(1, max_lines + 1):
        line = ""
        while words and font.getlength(f"{line} {words[0]}".lstrip()) <= width:
            line = f"{line} {words.pop(0)}".lstrip()
        if words and not line:  # a word wider than the line
            end = 1
            while font.getlength(words[0][: end + 1]) <= width:
                end += 1
            line, words[0] = words[0][:end], words[0][end:]
        if number == max_lines and words:
            while font.getlength(line + " …") > width:
                line = line[:-1].rstrip()
            line += " …"
        if not line:
            return
        yield line
