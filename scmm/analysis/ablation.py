"""The figure of an ablation: each arm's mean and standard deviation over the seeds, and each seed as a dot."""

import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .png import write_png
from .style import COLORS, INK, tidy_axes


# The metrics of each split, in percent, as a run's results have them.
Metrics = Mapping[str, Mapping[str, float]]

_METRICS = {"rank1": "rank-1", "mAP": "mAP"}
_SPLITS = {"val": "validation", "test": "test"}
_COLOR_OF = dict(zip(_SPLITS, COLORS, strict=False))
_DOT: dict[str, Any] = {"alpha": 0.45, "markersize": 5, "markeredgewidth": 0, "zorder": 3}


@dataclass(frozen=True)
class ArmResults:
    """
    What the figure draws of an arm.

    Args:
        label (`str`): its name.
        runs (`list` of dicts): for each seed `{"val": {"rank1": ..., "mAP": ...}, "test": {...}}`, in percent; other
            keys are passed over.
        x (`float`, *optional*): its place on the axis of a sweep.
    """

    label: str
    runs: Sequence[Metrics]
    x: float | None = None


def ablation_figure(
    title: str, arms: Sequence[ArmResults], path: str | os.PathLike, x_label: str | None = None
) -> Path:
    """
    Draws rank-1 and mAP of an ablation's arms, on each split that all runs have, into a PNG file.

    Args:
        title (`str`): the figure's.
        arms (sequence of [`ArmResults`]): the arms, in order.
        path (`str` or `os.PathLike`):
            The PNG file to write. It is replaced once the picture is complete; its folder is made where it is missing.
        x_label (`str`, *optional*):
            With it the arms are a sweep, drawn as a line over their `x`; an arm without `x` is what the sweep is
            compared with, a line across. Without it each arm has a row.

    Returns:
        `Path`: the file.

    Raises:
        ValueError: if there is no split that all runs have.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.analysis.ablation import ArmResults, ablation_figure
    >>> runs = [{"val": {"rank1": 60.0 + seed, "mAP": 61.0 - seed}} for seed in range(3)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     ablation_figure("Components", [ArmResults("baseline", runs)], f"{folder}/components.png").name
    'components.png'

    ```
    """
    splits = [split for split in _SPLITS if all(split in run for arm in arms for run in arm.runs)]
    if not splits or not any(arm.runs for arm in arms):
        raise ValueError("There is nothing to draw: no split has metrics in all runs.")
    height = 4.6 if x_label else 1.9 + 0.5 * len(arms)
    figure = Figure(figsize=(11.2, height), dpi=150, layout="constrained")
    panels = figure.subplots(1, len(_METRICS), sharey=x_label is None)
    for axes, (metric, name) in zip(panels, _METRICS.items(), strict=True):
        draw = _draw_rows if x_label is None else _draw_sweep
        for number, split in enumerate(splits):
            draw(axes, arms, split, metric, (number - (len(splits) - 1) / 2) * 0.3)
        tidy_axes(axes)
        axes.set_title(f"{name}, text to image")
        (axes.set_ylabel if x_label else axes.set_xlabel)("percent")
        if x_label:
            axes.set_xlabel(x_label)
    if x_label is None:
        panels[0].set_yticks(range(len(arms)), [arm.label for arm in arms])
        panels[0].invert_yaxis()
    figure.suptitle(title, color=INK)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside lower center", ncols=len(labels))
    return write_png(path, lambda file: figure.savefig(file, format="png"))


def _draw_rows(axes: Axes, arms: Sequence[ArmResults], split: str, metric: str, offset: float) -> None:
    """Each arm a row; the splits side by side in it."""
    color = _COLOR_OF[split]
    rows = [row + offset for row in range(len(arms))]
    for row, arm in zip(rows, arms, strict=True):
        values = _values(arm, split, metric)
        axes.plot(values, [row] * len(values), "o", color=color, **_DOT)
    means, stds = _means_and_stds(arms, split, metric)
    axes.errorbar(means, rows, xerr=stds, fmt="D", color=color, markersize=5, capsize=3, label=_SPLITS[split])


def _draw_sweep(axes: Axes, arms: Sequence[ArmResults], split: str, metric: str, offset: float) -> None:
    """The arms with an `x` as a line; those without as lines across, their seeds beside the right end."""
    color = _COLOR_OF[split]
    swept = sorted((arm for arm in arms if arm.x is not None), key=lambda arm: arm.x or 0.0)
    places = [arm.x or 0.0 for arm in swept]
    for place, arm in zip(places, swept, strict=True):
        values = _values(arm, split, metric)
        axes.plot([place] * len(values), values, "o", color=color, **_DOT)
    means, stds = _means_and_stds(swept, split, metric)
    axes.errorbar(places, means, yerr=stds, fmt="D-", color=color, markersize=5, capsize=3, label=_SPLITS[split])
    beside = max(places) + 0.06 * (max(places) - min(places) or 1.0)
    for arm, style in zip((arm for arm in arms if arm.x is None), ("--", ":", "-."), strict=False):
        values = _values(arm, split, metric)
        (mean,), (std,) = _means_and_stds([arm], split, metric)
        axes.axhline(mean, color=color, linestyle=style, linewidth=1.4, label=f"{arm.label}, {_SPLITS[split]}")
        axes.axhspan(mean - std, mean + std, color=color, alpha=0.1, linewidth=0)
        axes.plot([beside] * len(values), values, "o", color=color, **_DOT)


def _values(arm: ArmResults, split: str, metric: str) -> list[float]:
    return [run[split][metric] for run in arm.runs]


def _means_and_stds(arms: Sequence[ArmResults], split: str, metric: str) -> tuple[list[float], list[float]]:
    of_arms = [_values(arm, split, metric) for arm in arms]
    means = [statistics.fmean(values) for values in of_arms]
    return means, [statistics.stdev(values) if len(values) > 1 else 0.0 for values in of_arms]
