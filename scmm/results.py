"""The results file of a run, and the table that compares runs: mean and standard deviation over seeds."""

import json
import os
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


RESULTS_NAME = "results.json"

METRICS = {"rank1": "rank-1", "rank5": "rank-5", "rank10": "rank-10", "mAP": "mAP", "mINP": "mINP"}
SPLITS = ("val", "test")

_KEYS = ("data", "recipe", "seed", "selection", "best", "last", "arguments")


def write_json(path: str | os.PathLike, values: dict[str, Any]) -> None:
    """Writes a JSON file under another name first, so that it is whole or absent."""
    path = Path(path)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def read_results(folder: str | os.PathLike) -> dict[str, Any]:
    """
    Reads the results of a finished run, as [`~scmm.runs.run_recipe`] wrote them.

    Args:
        folder (`str` or `os.PathLike`): the run's `output_dir`.

    Returns:
        `dict`: `data`, `recipe`, `seed`, `selection`, `best`, `last`, `arguments` and what the run took. `best` and
        `last` have `epoch`, `step` and the metrics of each split, in percent.

    Raises:
        FileNotFoundError: if the folder has no `results.json`.
        ValueError: if that file is none of a run's.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.results import read_results
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     read_results(folder)
    Traceback (most recent call last):
    FileNotFoundError: ... has no results.json: no run has finished there.

    ```
    """
    path = Path(folder) / RESULTS_NAME
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {RESULTS_NAME}: no run has finished there.")
    try:
        results = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # no JSON, or no UTF-8
        raise ValueError(f"{path} is broken: {error}.") from None
    missing = [key for key in _KEYS if key not in results] if isinstance(results, dict) else list(_KEYS)
    if missing:
        raise ValueError(f"{path} is not the results of a run: it has no {', '.join(missing)}.")
    return results


def find_runs(folder: str | os.PathLike) -> list[Path]:
    """
    The finished runs in a folder: itself, or those anywhere below it.

    Raises:
        FileNotFoundError: if there is none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder.")
    found = [folder] if (folder / RESULTS_NAME).is_file() else [path.parent for path in folder.rglob(RESULTS_NAME)]
    if not found:
        raise FileNotFoundError(f"{folder} has no {RESULTS_NAME}, nor has a folder in it: no run has finished there.")
    return sorted(found)


def results_table(results: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """
    Puts runs side by side. Runs of one recipe, data set and set of arguments that differ in the seed alone are one
    row, and each row comes twice: for the best checkpoint and for the last one.

    Args:
        results (`list[dict]`): of each run, as [`read_results`] returns them.

    Returns:
        `list[dict]`: `recipe`, `dataset`, `arguments` (those that tell rows of one recipe and data set apart,
        `checkpoint` (`"best"` or `"last"`), `seeds`, `selection_split`, `epoch`, `val` and `test`. The last two have
        `{"mean": float, "std": float or None}` for each metric, in percent; `epoch` is such a pair too. The standard
        deviation is that of a sample, `None` for one run. A split that not all runs have is empty.

    Example:

    ```python
    >>> from scmm.results import results_table
    >>> run = {"recipe": "r.yaml", "data": {"dataset": "paperdoll", "selection_split": "val"}, "arguments": {}}
    >>> figures = [{"epoch": 3.0, "step": 9, "val": {"rank1": rank1}} for rank1 in (40.0, 42.0)]
    >>> runs = [{**run, "seed": seed, "best": best, "last": best} for seed, best in enumerate(figures)]
    >>> row = results_table(runs)[0]
    >>> row["checkpoint"], row["seeds"], row["val"]["rank1"]
    ('best', [0, 1], {'mean': 41.0, 'std': 1.414...})

    ```
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in results:
        same = (run["recipe"], run["data"]["dataset"], run["data"]["selection_split"], run["arguments"])
        groups.setdefault(json.dumps(same, sort_keys=True), []).append(run)
    rows = []
    for runs in groups.values():
        runs = sorted(runs, key=lambda run: run["seed"])
        recipe, dataset = runs[0]["recipe"], runs[0]["data"]["dataset"]
        siblings = [
            group[0]["arguments"]
            for group in groups.values()
            if (group[0]["recipe"], group[0]["data"]["dataset"]) == (recipe, dataset)
        ]
        for checkpoint in ("best", "last"):
            figures = [run[checkpoint] for run in runs]
            rows.append(
                {
                    "recipe": recipe,
                    "dataset": dataset,
                    "arguments": _telling(runs[0]["arguments"], siblings),
                    "checkpoint": checkpoint,
                    "seeds": [run["seed"] for run in runs],
                    "selection_split": runs[0]["data"]["selection_split"],
                    "epoch": _mean_and_std([one["epoch"] for one in figures]),
                    **{split: _means(figures, split) for split in SPLITS},
                }
            )
    return rows


def table_cells(rows: Iterable[dict[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """The rows of [`results_table`] as text, a header and cells such as "41.00 ± 1.41", without empty columns."""
    lines = [
        {
            "recipe": " + ".join(Path(part).stem for part in row["recipe"].split(" + ")),
            "data": row["dataset"],
            "arguments": ", ".join(f"{name}={value}" for name, value in row["arguments"].items()) or "-",
            "model": f"best on {row['selection_split']}" if row["checkpoint"] == "best" else "last",
            "seeds": str(len(row["seeds"])),
            "epoch": _shown(row["epoch"], digits=1),
            "val rank-1": _shown(row["val"].get("rank1")),
            **{f"test {label}": _shown(row["test"].get(metric)) for metric, label in METRICS.items()},
        }
        for row in rows
    ]
    header = [name for name in lines[0] if any(line[name] != "-" for line in lines)] if lines else []
    return header, [[line[name] for name in header] for line in lines]


def _telling(arguments: dict[str, Any], siblings: list[dict[str, Any]]) -> dict[str, Any]:
    """The arguments that not all siblings give the same value; `"default"` where this run leaves it."""
    names = sorted({name for other in siblings for name in other})
    values = {name: [other.get(name, "default") for other in siblings] for name in names}
    differing = [name for name in names if any(value != values[name][0] for value in values[name])]
    return {name: arguments.get(name, "default") for name in differing}


def _means(figures: list[dict[str, Any]], split: str) -> dict[str, dict[str, float | None]]:
    if not all(split in one for one in figures):
        return {}
    shared = [metric for metric in METRICS if all(metric in one[split] for one in figures)]
    return {metric: _mean_and_std([one[split][metric] for one in figures]) for metric in shared}


def _mean_and_std(values: list[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def _shown(value: dict[str, float | None] | None, digits: int = 2) -> str:
    if value is None:
        return "-"
    mean, std = value["mean"], value["std"]
    return f"{mean:.{digits}f}" if std is None else f"{mean:.{digits}f} ± {std:.{digits}f}"
