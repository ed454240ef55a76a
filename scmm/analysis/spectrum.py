"""
The singular-value spectrum of embeddings: how many directions of the embedding space a model uses, and how evenly.

The paper's Figure 4 compares the spectra of image and text embeddings of a baseline and of SCMM by the difference of
their logarithms. What the public material leaves open is fixed here, as a reconstruction: embeddings are normalized,
then centered, and singular values are divided by the square root of the number of rows.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from torch import Tensor

from .png import write_png
from .style import COLORS, INK, tidy_axes


# The singular values of one model's image embeddings and text embeddings.
Spectra = tuple[Tensor, Tensor]

_MODALITIES = ("image", "text")
_ZERO = 1e-4  # times the largest singular value: below that stand rounding errors


def embedding_spectrum(embeds: Tensor) -> Tensor:
    """
    The singular values of normalized, centered embeddings, divided by the square root of the number of rows: the
    standard deviations along the principal axes, which do not depend on how many rows there are.

    Centered, the spectrum tells how embeddings differ; the direction that they all share, which else is by far the
    largest, is the modality gap's matter ([`~scmm.analysis.gap.modality_gap`]).

    Args:
        embeds (`torch.Tensor` of shape `(rows, dim)`): embeddings, normalized or not; at least two rows.

    Returns:
        `torch.Tensor` of shape `(min(rows - 1, dim),)`: float64, descending.

    Raises:
        ValueError: if there are fewer than two rows.

    Example:

    ```python
    >>> import torch
    >>> from scmm.analysis.spectrum import embedding_spectrum
    >>> embedding_spectrum(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [0.0, -1.0]]))
    tensor([0.7071, 0.7071], dtype=torch.float64)

    ```
    """
    if embeds.ndim != 2 or len(embeds) < 2:
        raise ValueError(f"A spectrum needs at least two embeddings in rows, got the shape {tuple(embeds.shape)}.")
    rows = torch.nn.functional.normalize(embeds.double(), dim=1)
    values = torch.linalg.svdvals(rows - rows.mean(dim=0)) / math.sqrt(len(rows))
    return values[: len(rows) - 1]  # centering takes one direction of the rows away


def effective_rank(spectrum: Tensor) -> float:
    """
    How many directions carry the embeddings: the exponential of the entropy of the singular values, taken as shares of
    their sum. It is the number of values if all are equal, and 1 if all but one are 0.

    Source: Roy and Vetterli, "The effective rank", 2007.

    Args:
        spectrum (`torch.Tensor` of shape `(values,)`): singular values, not all 0.

    Returns:
        `float`

    Example:

    ```python
    >>> import torch
    >>> from scmm.analysis.spectrum import effective_rank
    >>> round(effective_rank(torch.tensor([2.0, 2.0, 2.0, 0.0])), 6)
    3.0

    ```
    """
    shares = spectrum.double() / spectrum.double().sum()
    return float(torch.special.entr(shares).sum().exp())


def log_difference(spectrum_a: Tensor, spectrum_b: Tensor) -> Tensor:
    """
    The difference of the natural logarithms of two spectra, B minus A: above 0 where B's embeddings vary more along
    their i-th axis.

    Args:
        spectrum_a (`torch.Tensor` of shape `(values_a,)`): singular values, descending.
        spectrum_b (`torch.Tensor` of shape `(values_b,)`): likewise.

    Returns:
        `torch.Tensor` of shape `(min(values_a, values_b),)`: float64; NaN from where either spectrum is 0 but for
        rounding.

    Example:

    ```python
    >>> import torch
    >>> from scmm.analysis.spectrum import log_difference
    >>> log_difference(torch.tensor([4.0, 1.0]), torch.tensor([2.0, 2.0, 1.0]))
    tensor([-0.6931,  0.6931], dtype=torch.float64)

    ```
    """
    shared = min(len(spectrum_a), len(spectrum_b))
    return _log(spectrum_b)[:shared] - _log(spectrum_a)[:shared]


def spectrum_figure(spectra: Sequence[tuple[str, Spectra]], path: str | os.PathLike) -> Path:
    """
    Draws two models' spectra of image and text embeddings, and the difference of their logarithms, into a PNG file.

    Args:
        spectra (two pairs of `(label, (image_spectrum, text_spectrum))`): what [`embedding_spectrum`] returned.
        path (`str` or `os.PathLike`):
            The PNG file to write. It is replaced once the picture is complete; its folder is made where it is missing.

    Returns:
        `Path`: the file.

    Example:

    ```python
    >>> import tempfile, torch
    >>> from scmm.analysis.spectrum import embedding_spectrum, spectrum_figure
    >>> image, text = (embedding_spectrum(torch.randn(50, 8)) for _ in range(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     spectrum_figure([("baseline", (image, text)), ("SCMM", (text, image))], f"{folder}/spectrum.png").name
    'spectrum.png'

    ```
    """
    (label_a, spectra_a), (label_b, spectra_b) = spectra
    figure = Figure(figsize=(13.2, 4.2), dpi=150, layout="constrained")
    *panels, difference = figure.subplots(1, 3)
    for axes, modality, values_a, values_b in zip(panels, _MODALITIES, spectra_a, spectra_b, strict=True):
        for color, label, values in ((INK, label_a, values_a), (COLORS[0], label_b, values_b)):
            positive = _log(values).isfinite()
            _draw(axes, values[positive], color, f"{label}, effective rank {effective_rank(values):.1f}")
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_title(f"{modality.capitalize()} embeddings")
    panels[0].set_ylabel("singular value")
    for color, modality, values_a, values_b in zip(COLORS[1:], _MODALITIES, spectra_a, spectra_b, strict=False):
        _draw(difference, log_difference(values_a, values_b), color, modality)
    difference.axhline(0, color=INK, linewidth=0.8)
    difference.set_title("Difference of the logarithms")
    difference.set_ylabel(f"log {label_b} - log {label_a}")
    for axes in (*panels, difference):
        axes.set_xlabel("singular value, by size")
        axes.set_xlim(left=0)
        tidy_axes(axes)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return write_png(path, lambda file: figure.savefig(file, format="png"))


def _draw(axes: Axes, values: Tensor, color: str, label: str) -> None:
    axes.plot(range(1, len(values) + 1), values.tolist(), color=color, linewidth=2, label=label)


def _log(spectrum: Tensor) -> Tensor:
    """Logarithms, NaN for what is 0 but for the rounding of the float32 embeddings."""
    spectrum = spectrum.double()
    return spectrum.log().masked_fill(spectrum <= _ZERO * spectrum.max(), torch.nan)
