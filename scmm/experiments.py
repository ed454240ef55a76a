"""
The paper's ablations: which runs each study compares, and the runner that trains them, one after the other.

A study is a list of arms, and an arm is the recipe with some of its values replaced. A run's folder is named after
what its arm changes, so that studies which share an arm share its runs, and an interrupted study goes on where it was.
"""

import gc
import json
import os
import shutil
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from scmm.analysis.ablation import ArmResults, ablation_figure
from scmm.analysis.tables import markdown_table, write_csv, write_text
from scmm.caption_quality import CaptionQuality
from scmm.data.benchmarks import load_benchmark
from scmm.recipes import Recipe, RecipeError, read_recipe
from scmm.results import METRICS, RESULTS_NAME, read_results, results_table, write_json
from scmm.runs import changed_arguments, run_recipe


@dataclass(frozen=True)
class Arm:
    """
    One row of a study's table.

    Args:
        label (`str`): its name in table and figure.
        overrides (`dict[str, Any]`): the recipe's values that it replaces.
        x (`float`, *optional*): its place on the axis of a sweep; an arm without one is what the sweep compares with.
    """

    label: str
    overrides: dict[str, Any]
    x: float | None = None


@dataclass(frozen=True)
class Study:
    """
    What a table and a figure compare.

    Args:
        title (`str`): of both.
        arms (`list` of [`Arm`]): the rows.
        x_label (`str`, *optional*): the axis of a sweep.
    """

    title: str
    arms: list[Arm]
    x_label: str | None = None


STUDIES = ("components", "margin", "quality", "mask-ratio", "decoder")

NO_SEW, NO_MCM = {"sew_weight": 0.0}, {"mcm_weight": 0.0}


def define_study(name: str, mean_margin: float, margin_max: float) -> Study:
    """
    The definition of a study. The recipe is the whole method: sew calibration with an adaptive margin and masked
    caption modeling beside an alignment loss.

    The studies of margin and quality are about sew calibration, so they leave masked caption modeling out.

    Args:
        name (`str`): one of `STUDIES`.
        mean_margin (`float`):
            The mean of the adaptive margin over the training captions. A fixed margin of this size is as strict on
            average, so that what differs is the adapting alone.
        margin_max (`float`): the largest adaptive margin; the sweep of fixed margins goes from 0 to twice that.

    Returns:
        [`Study`]

    Raises:
        ValueError: if there is no such study.

    Example:

    ```python
    >>> from scmm.experiments import define_study
    >>> [arm.label for arm in define_study("quality", mean_margin=0.25, margin_max=0.4).arms]
    ['information', 'length', 'distinct', 'constant']

    ```
    """

    def fixed(margin: float) -> dict[str, Any]:
        return {**NO_MCM, "margin_min": margin, "margin_max": margin}

    if name == "components":
        return Study(
            "Components",
            [
                Arm("alignment alone", {**NO_SEW, **NO_MCM}),
                Arm(f"+ sew, fixed margin {mean_margin:g}", fixed(mean_margin)),
                Arm("+ sew, adaptive margin", NO_MCM),
                Arm("+ MCM", NO_SEW),
                Arm("+ masked global branch, no MCM", {**NO_SEW, **NO_MCM, "mask_global_branch": True}),
                Arm("all: + sew, adaptive, + MCM", {}),
            ],
        )
    if name == "margin":
        margins = sorted({mean_margin, *(round(factor * margin_max, 3) for factor in (0.0, 0.5, 1.0, 2.0))})
        fixed_arms = [Arm(f"fixed, {margin:g}", fixed(margin), x=margin) for margin in margins]
        return Study("Margin of sew calibration", [*fixed_arms, Arm("adaptive", NO_MCM)], "fixed margin")
    if name == "quality":
        measures = ("information", "length", "distinct")
        arms = [Arm(measure, {**NO_MCM, "quality_measure": measure}) for measure in measures]
        # "constant" scores every caption 1, which makes the margin a fixed one: it shares that one's runs.
        return Study("Measure of caption quality", [*arms, Arm("constant", fixed(margin_max))])
    if name == "mask-ratio":
        arms = [Arm(f"{ratio:g}", {"mask_probability": ratio}, x=ratio) for ratio in (0.05, 0.15, 0.3, 0.5, 0.7)]
        return Study("Share of masked tokens", [*arms, Arm("without MCM", NO_MCM)], "mask probability")
    if name == "decoder":
        arms = [Arm(str(layers), {"decoder_layers": layers}, x=layers) for layers in (1, 2, 4, 6)]
        return Study("Layers of the decoder", [*arms, Arm("without MCM", NO_MCM)], "decoder layers")
    raise ValueError(f"There is no study {name!r}; choose one of {', '.join(STUDIES)}.")


def run_study(
    name: str,
    recipe: str | os.PathLike,
    seeds: Sequence[int],
    *,
    output_dir: str | os.PathLike | None = None,
    data_root: str | os.PathLike | None = None,
) -> Path:
    """
    Trains every arm of a study with every seed, and writes the table and the figure.

    A run lives in `runs/<what it changes>/seed-<seed>` of the output folder. One that has finished is not trained
    again, for this study or another; one that was interrupted goes on from its last checkpoint. A finished run keeps
    its best model and its results, not its checkpoints.

    Args:
        name (`str`): one of `STUDIES`.
        recipe (`str` or `os.PathLike`): the YAML file of the whole method, see [`define_study`].
        seeds (sequence of `int`): the seeds of each arm.
        output_dir (`str` or `os.PathLike`, *optional*):
            Gets `runs/` and the study's `.md`, `.csv` and `.png`; by default the recipe's `output_dir`.
        data_root (`str` or `os.PathLike`, *optional*): instead of the recipe's.

    Returns:
        `Path`: the Markdown file; the CSV file and the figure stand beside it.

    Raises:
        ValueError: if there is no such study, a seed occurs twice, the recipe is not the whole method, or the output
            folder holds runs with other settings.
    """
    if name not in STUDIES:
        raise ValueError(f"There is no study {name!r}; choose one of {', '.join(STUDIES)}.")
    if not seeds or len(set(seeds)) < len(seeds):
        raise ValueError(f"The seeds must be different numbers, got {', '.join(map(str, seeds)) or 'none'}.")
    whole = read_recipe(recipe, data_root=data_root)
    _check_is_whole_method(whole, str(recipe))
    output_dir = Path(output_dir or str(whole[2].output_dir))
    study = define_study(name, mean_margin(whole), whole[2].margin_max)
    folders = [output_dir / "runs" / run_name(arm, whole) for arm in study.arms]

    planned = []
    for seed in seeds:  # seed by seed: what there is after an interruption compares all arms
        for arm, folder in zip(study.arms, folders, strict=True):
            changes = {**arm.overrides, "output_dir": str(folder / f"seed-{seed}"), "seed": seed}
            planned.append((arm, read_recipe(recipe, data_root=data_root, **changes)))
    for _, parsed in planned:  # all of them before the first one takes its hours
        _note_settings(parsed)
    console = Console(stderr=True)
    for number, (arm, parsed) in enumerate(planned, start=1):
        console.rule(f"{study.title}, run {number} of {len(planned)}: {arm.label}, seed {parsed[2].seed}")
        _run_or_resume(parsed, recipe)
        gc.collect()  # a trainer is full of cycles; its model would stay beside the next one's

    if whole[2].process_index == 0:
        results = [[read_results(folder / f"seed-{seed}") for seed in seeds] for folder in folders]
        write_study(study, results, output_dir / name)
    return output_dir / f"{name}.md"


def mean_margin(recipe: Recipe) -> float:
    """The mean of a recipe's adaptive margin over its training captions, to three digits."""
    data, model_args, args = recipe
    splits = load_benchmark(data.dataset, data.data_root)
    captions = [caption for captions in splits["train"]["captions"] for caption in captions]
    quality = CaptionQuality(model_args.quality_measure).fit(captions)  # ty: ignore[invalid-argument-type]
    return round(args.margin_min + (args.margin_max - args.margin_min) * statistics.fmean(quality(captions)), 3)


def run_name(arm: Arm, recipe: Recipe) -> str:
    """What an arm's runs change of the recipe: the same for arms that come to the same."""
    values = {key: value for group in recipe for key, value in vars(group).items()}
    changes = {key: value for key, value in sorted(arm.overrides.items()) if values[key] != value}
    return ",".join(f"{key}={value}" for key, value in changes.items()) or "recipe"


def write_study(study: Study, results: Sequence[Sequence[dict[str, Any]]], stem: Path) -> None:
    """
    Writes a study's table as Markdown and CSV and its figure, and prints the table's chief columns.

    Args:
        study ([`Study`]): the study.
        results (sequence of sequences): for each arm, what `results.json` holds of each seed.
        stem (`Path`): the files' path without `.md`, `.csv` and `.png`.
    """
    lines, rows, arms = [], [], []
    chief = ("val rank-1", "val mAP", "test rank-1", "test mAP", "seconds")
    terminal = Table("", *(Column(name, justify="right") for name in chief), title=study.title)
    for arm, runs in zip(study.arms, results, strict=True):
        of_splits = results_table(runs)[0]  # the first row is about the best checkpoint, the second about the last
        seconds = statistics.fmean(run["wall_seconds"] for run in runs)
        cells = []
        for split in ("val", "test"):
            figures = of_splits[split]
            if figures:
                lines.append([arm.label, split, *(_shown(figures, metric) for metric in METRICS), f"{seconds:.0f}"])
                values = [figures[metric][what] for metric in METRICS for what in ("mean", "std")]
                rows.append([arm.label, split, len(runs), *values, round(seconds, 1)])
            cells += [_shown(figures, "rank1", digits=1), _shown(figures, "mAP", digits=1)]
        terminal.add_row(arm.label, *cells, f"{seconds:.0f}")
        arms.append(ArmResults(arm.label, [run["best"] for run in runs], arm.x))

    columns = [f"{metric}_{what}" for metric in METRICS for what in ("mean", "std")]
    write_csv(stem.with_suffix(".csv"), ["arm", "split", "seeds", *columns, "wall_seconds"], rows)
    note = _note(results)
    table = markdown_table([study.title, "split", *METRICS.values(), "seconds"], lines)
    write_text(stem.with_suffix(".md"), f"{table}\n\n{note}\n")
    ablation_figure(study.title, arms, stem.with_suffix(".png"), study.x_label)
    Console().print(terminal, note)


def _note(results: Sequence[Sequence[dict[str, Any]]]) -> str:
    """What a reader has to know of a table."""
    selection, seeds = results[0][0]["selection"], [str(run["seed"]) for run in results[0]]
    which = "the last model"
    if selection["metric"]:
        which = f"the best checkpoint by {selection['metric']} on {selection['split']}"
    spread = f"mean ± standard deviation over the seeds {', '.join(seeds)}" if len(seeds) > 1 else f"seed {seeds[0]}"
    resumed = sum(run["resumed"] for runs in results for run in runs)
    runs = "1 run was" if resumed == 1 else f"{resumed} runs were"
    seconds = f" {runs} resumed; seconds before that are not counted." if resumed else ""
    return f"Percent, text to image, of {which}; {spread}.{seconds}"


def _run_or_resume(recipe: Recipe, source: str | os.PathLike) -> None:
    """Trains a run from where it is; nothing where it has finished."""
    args = recipe[2]
    folder = Path(str(args.output_dir))
    with args.main_process_first(local=False):  # the first process tidies up, the others find it tidy
        if (folder / RESULTS_NAME).is_file():
            return
        checkpoints = list(folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"))
        for checkpoint in checkpoints:
            if not (checkpoint / "trainer_state.json").is_file():  # written last: this one was interrupted
                shutil.rmtree(checkpoint)
        can_resume = any(checkpoint.is_dir() for checkpoint in checkpoints)
        if not can_resume and folder.is_dir():
            shutil.rmtree(folder)
    run_recipe(recipe, source, resume=can_resume)
    if args.process_index == 0:
        for checkpoint in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*"):
            shutil.rmtree(checkpoint)


def _check_is_whole_method(recipe: Recipe, source: str) -> None:
    """Arms take parts away: a part that the recipe lacks would leave arms the same, or nothing to train."""
    args = recipe[2]
    lacking = {
        "sew_weight": args.sew_weight == 0,
        "mcm_weight": args.mcm_weight == 0,
        "align": args.align is None,
        "align_weight": args.align_weight == 0,
        "margin_max": args.margin_max == args.margin_min,
        "mask_global_branch": args.mask_global_branch,
    }
    for key, lacks in lacking.items():
        if lacks:
            raise RecipeError(
                f"{source}: {key} is {getattr(args, key)!r}. A study starts from the whole method: an alignment "
                "loss, sew calibration with margin_min below margin_max, and masked caption modeling whose global "
                "branch sees the clean caption."
            )


def _note_settings(recipe: Recipe) -> None:
    """Writes a run's settings beside its seeds; refuses where they differ from those of the runs that are there."""
    data, _, args = recipe
    path = Path(str(args.output_dir)).parent / "settings.json"
    settings = {"dataset": data.dataset, "data_root": str(data.data_root), **changed_arguments(recipe)}
    settings = json.loads(json.dumps(settings))  # as they come back
    if not path.is_file():
        if args.process_index == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, settings)
        return
    there = json.loads(path.read_text(encoding="utf-8"))
    for key in sorted({*there, *settings}):
        if there.get(key) != settings.get(key):
            raise ValueError(
                f"{path.parent} holds runs with {key} {there.get(key)!r}, not {settings.get(key)!r}: choose another "
                "--output-dir, or remove that folder."
            )


def _shown(figures: dict[str, dict[str, float | None]], metric: str, digits: int = 2) -> str:
    if metric not in figures:
        return "-"
    mean, std = figures[metric]["mean"], figures[metric]["std"]
    return f"{mean:.{digits}f}" if std is None else f"{mean:.{digits}f} ± {std:.{digits}f}"
