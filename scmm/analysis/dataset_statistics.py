"""A picture of a data set's statistics: the captions' lengths and quality, and the images per identity."""

import math
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..data.stats import SplitStats
from .png import write_png
from .style import COLORS, tidy_axes


# Title, label of the axis and its upper limit, where that is given; counts have bins of whole numbers.
_PANELS = {
    "words": ("Length of captions", "words", None),
    "quality": ("Quality of captions", "caption quality", 1.0),
    "images_per_identity": ("Images per identity", "images", None),
}
_BINS = 30


def dataset_statistics_figure(stats: Mapping[str, SplitStats], path: str | os.PathLike) -> Path:
    """
    Draws three histograms into a PNG file: the words of a caption, the quality of captions, and the images of a
    person. Each split is a line, in percent of its own captions or people, so that splits of any size compare.

    Args:
        stats (`dict[str, SplitStats]`):
            What [`~scmm.data.stats.dataset_stats`] returned.
        path (`str` or `os.PathLike`):
            The PNG file to write. It is replaced once the picture is complete; its folder is made where it is missing.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If no split has a caption.
        OSError: If the file cannot be written.

    Example:

    ```python
    >>> import tempfile
    >>> from datasets import Dataset
    >>> from scmm.analysis.dataset_statistics import dataset_statistics_figure
    >>> from scmm.data.stats import dataset_stats

    >>> rows = Dataset.from_dict({"captions": [["a man in red", "a man"], ["a man walks"]], "person_id": [7, 9]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     dataset_statistics_figure(dataset_stats({"train": rows}), f"{folder}/statistics.png").name
    'statistics.png'

    ```
    """
    if not any(len(split.words) for split in stats.values()):
        raise ValueError("stats has nothing to draw: no split has a caption")
    figure = Figure(figsize=(4.6 * len(_PANELS), 4.0), dpi=150, layout=ConstrainedLayoutEngine(wspace=0.06))
    for axes, (name, (title, label, limit)) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        values = {split: getattr(one, name) for split, one in stats.items()}
        _draw_histogram(axes, values, limit)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.set_ylabel("people of the split" if name == "images_per_identity" else "captions of the split")
        axes.yaxis.set_major_formatter(PercentFormatter(decimals=0))
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        tidy_axes(axes)
    handles = [Line2D([], [], color=color, linewidth=2) for color, _ in zip(COLORS, stats, strict=False)]
    figure.legend(handles, list(stats), frameon=False, loc="outside lower center", ncols=len(handles))
    return write_png(path, lambda file: figure.savefig(file, format="png"))


def _draw_histogram(axes: Axes, values: Mapping[str, np.ndarray], limit: float | None) -> None:
    """A line for each split, the bins shared."""
    if limit is None:
        # Bins a whole number wide, with whole numbers in them and not at their edges, so that each holds as many.
        highest = max(int(counted.max(initial=0)) for counted in values.values())
        width = math.ceil((highest + 1) / _BINS)
        edges = np.arange(-0.5, highest + width, width)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    else:
        edges = np.linspace(0, limit, _BINS + 1)
    for color, counted in zip(COLORS, values.values(), strict=False):
        heights, _ = np.histogram(counted, edges)
        axes.stairs(100 * heights / max(len(counted), 1), edges, color=color, linewidth=1.8)
