"""The curves of a training run: the losses, and beside them how retrieval on the validation split improves."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from .png import write_png
from .style import COLORS, INK, tidy_axes


# Steps and values.
Curve = tuple[list[float], list[float]]

# Names in the legend; a term that is not listed keeps its own, in capitals.
_LOSS_LABELS = {
    "loss": "total, weighted",
    "loss_sew": "sew calibration",
    "loss_mcm": "masked caption modeling",
    "loss_id": "identity",
    "loss_triplet": "triplet",
}
_METRIC_LABELS = {"eval_rank1": "rank-1", "eval_mAP": "mAP"}


def loss_curves_figure(log_history: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> Path:
    """
    Draws a training run's losses, and its rank-1 and mAP on the validation split, into a PNG file.

    Args:
        log_history (`list[dict]`):
            `trainer.state.log_history`: entries with a `step` and either `loss` and its terms, such as `loss_sew`, or
            `eval_rank1` and `eval_mAP` in percent. Other keys are passed over. Without any evaluation, the losses are
            drawn alone.
        path (`str` or `os.PathLike`):
            The PNG file to write. It is replaced once the picture is complete; its folder is made where it is missing.

    Returns:
        `Path`: The file.

    Raises:
        ValueError: If no entry has a loss or a metric to draw.
        OSError: If the file cannot be written.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.analysis.loss_curves import loss_curves_figure

    >>> log_history = [
    ...     {"step": 10, "loss": 4.1, "loss_sew": 0.3, "loss_mcm": 2.9},
    ...     {"step": 20, "loss": 3.2, "loss_sew": 0.2, "loss_mcm": 2.4},
    ...     {"step": 20, "eval_rank1": 31.0, "eval_mAP": 24.5},
    ... ]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     loss_curves_figure(log_history, f"{folder}/loss_curves.png").name
    'loss_curves.png'

    ```
    """
    terms = sorted({key for entry in log_history for key in entry if key.startswith("loss_")})
    panels = [
        (_draw_losses, _curves(log_history, ["loss", *terms])),
        (_draw_metrics, _curves(log_history, list(_METRIC_LABELS))),
    ]
    panels = [(draw, curves) for draw, curves in panels if curves]
    if not panels:
        raise ValueError(
            "log_history has nothing to draw: no entry has a loss, eval_rank1 or eval_mAP beside its step"
        )
    # A figure of its own, not pyplot's: nothing global changes and no window system is asked for.
    figure = Figure(figsize=(5.6 * len(panels), 4.4), dpi=150, layout="constrained")
    for axes, (draw, curves) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, curves)
        axes.set_xlabel("training step")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10], integer=True))
        tidy_axes(axes)
        axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return write_png(path, lambda file: figure.savefig(file, format="png"))


def _curves(log_history: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> dict[str, Curve]:
    """The curve of each key that occurs."""
    curves = {}
    for key in keys:
        entries = [entry for entry in log_history if key in entry and "step" in entry]
        if entries:
            curves[key] = [entry["step"] for entry in entries], [entry[key] for entry in entries]
    return curves


def _draw_losses(axes: Axes, curves: dict[str, Curve]) -> None:
    for index, (key, (steps, values)) in enumerate(curves.items()):
        color, width = (INK, 2.2) if key == "loss" else (COLORS[(index - 1) % len(COLORS)], 1.6)
        label = _LOSS_LABELS.get(key, key.removeprefix("loss_").upper())
        axes.plot(steps, values, color=color, linewidth=width, label=label, marker=_marker(steps))
    if all(value > 0 for _, values in curves.values() for value in values):
        # The terms differ by orders of magnitude: on a linear scale, the small ones would lie on the axis.
        axes.set_yscale("log")
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_major_formatter(plain)
        axes.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axes.yaxis.set_minor_formatter(plain)
    axes.set_title("Training loss")
    axes.set_ylabel("loss")


def _draw_metrics(axes: Axes, curves: dict[str, Curve]) -> None:
    for color, (key, (steps, values)) in zip(COLORS, curves.items(), strict=False):
        axes.plot(
            steps,
            values,
            color=color,
            linewidth=2,
            label=f"{_METRIC_LABELS[key]}, best {max(values):.1f}",
            marker="o",
            markersize=4,
        )
    axes.set_ylim(bottom=0)
    axes.set_title("Retrieval on the validation split, text to image")
    axes.set_ylabel("percent")


def _marker(steps: list[float]) -> str | None:
    """A lone point is no line."""
    return "o" if len(steps) == 1 else None
