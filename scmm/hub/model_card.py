"""The model card of a checkpoint, and its results in the Hub's format, from the recorded facts of the run."""

import csv
import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import EvalResultEntry, ModelCard, ModelCardData, eval_result_entries_to_yaml

from scmm.configuration import PRESETS, SCMMConfig
from scmm.modeling_scmm import SCMMModel
from scmm.results import METRICS, RESULTS_NAME, read_results


CARD_NAME = "README.md"
EVAL_RESULTS_FOLDER = ".eval_results"  # where the Hub looks for them
EMISSIONS_NAME = "emissions.csv"  # codecarbon's, written into a trainer's output folder

DATASET_NAMES = {
    "paperdoll": "PaperDoll",
    "cuhk-pedes": "CUHK-PEDES",
    "icfg-pedes": "ICFG-PEDES",
    "rstpreid": "RSTPReid",
}
OWN_DATA = ("json", "folder")  # readers rather than names
TAGS = ["scmm", "text-based-person-search", "text-to-image-retrieval", "person-re-identification"]

RANDOM_WEIGHTS = "random weights"  # what a model started from that was made from a configuration

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_model_card(
    folder: str | os.PathLike,
    results: dict[str, Any] | None = None,
    *,
    repo_id: str | None = None,
    dataset_id: str | None = None,
    metadata: dict[str, Any] | None = None,
) -> Path:
    """
    Writes the model card of a checkpoint, `README.md`, and its metrics as `.eval_results/*.yaml`.

    Args:
        folder (`str` or `os.PathLike`): the checkpoint's folder. An existing card is replaced.
        results (`dict`, *optional*): the facts of the run in the form of `results.json`; by default they are read
            from that file of the folder, and without one the card says that they are not recorded.
        repo_id (`str`, *optional*): the repository's id on the Hub, which the card's examples load; by default they
            load the folder.
        dataset_id (`str`, *optional*): the data set's id on the Hub, for the card's metadata and the metrics; by
            default the metrics name the data set as `scmm` does, and the metadata none.
        metadata (`dict`, *optional*): fields of `huggingface_hub.ModelCardData` in place of the card's own, as far as
            they are not `None`; tags are added.

    Returns:
        `Path`: the card's file.

    Raises:
        ValueError: if the folder holds no SCMM checkpoint, or `results.json` is broken.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm import SCMMConfig
    >>> from scmm.hub.model_card import write_model_card
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     SCMMConfig.from_preset("tiny").save_pretrained(folder)
    ...     card = write_model_card(folder, repo_id="me/person-search").read_text()
    >>> [line for line in card.splitlines() if "scmm search" in line]
    ['With the package: `scmm search me/person-search path/to/crops "a man in a blue jacket" --picture found.png`.']

    ```
    """
    folder = Path(folder)
    if results is None:
        results = read_results(folder) if (folder / RESULTS_NAME).is_file() else {}
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} holds no checkpoint: it has no config.json.")
    config = SCMMConfig.from_pretrained(folder)
    carbon = _read_emissions(folder / EMISSIONS_NAME)
    metadata = {**(metadata or {}), **({"datasets": dataset_id} if dataset_id else {})}
    card = model_card(config, results, repo_id or str(folder), carbon=carbon, metadata=metadata)
    _write_text(folder / CARD_NAME, f"{card}\n")
    entries = eval_results(results, dataset_id=dataset_id)
    if entries:
        path = folder / EVAL_RESULTS_FOLDER / f"{entries[0].dataset_id.rpartition('/')[2]}.yaml"
        path.parent.mkdir(exist_ok=True)
        _write_text(path, yaml.safe_dump(eval_result_entries_to_yaml(entries), sort_keys=False))
    return folder / CARD_NAME


def model_card(
    config: SCMMConfig,
    results: dict[str, Any],
    source: str,
    *,
    carbon: dict[str, Any] | None = None,
    metadata: dict[str, Any] | None = None,
) -> ModelCard:
    """
    Renders a model card.

    Args:
        config ([`SCMMConfig`]): the model's configuration.
        results (`dict`): the facts of the run in the form of `results.json`; empty if they are unknown.
        source (`str`): id on the Hub, or folder, that the examples load.
        carbon (`dict`, *optional*): `emissions` in kg of CO2 equivalent, `energy_consumed` in kWh, `duration` in
            seconds and `country_name`, as codecarbon records them.
        metadata (`dict`, *optional*): as in [`write_model_card`].

    Returns:
        `huggingface_hub.ModelCard`

    Example:

    ```python
    >>> from scmm import SCMMConfig
    >>> from scmm.hub.model_card import model_card
    >>> model_card(SCMMConfig.from_preset("tiny"), {}, "me/person-search").data.pipeline_tag
    'zero-shot-image-classification'

    ```
    """
    dataset = results.get("data", {}).get("dataset")
    own = "data of its author's own" if dataset in OWN_DATA else "data that are not recorded"
    trained_on = DATASET_NAMES.get(dataset, own)
    start = results.get("model", {}).get("start")
    # A preset has no slash, and a folder of this machine is nobody's business.
    is_on_hub = start is not None and _HUB_ID.fullmatch(start) is not None and not Path(start).exists()
    data = _card_data(results, start if is_on_hub else None, carbon, metadata or {})
    return ModelCard.from_template(
        data,
        template_str=files("scmm.hub").joinpath("model_card_template.md").read_text(encoding="utf-8"),
        title=source.rpartition("/")[2] if _HUB_ID.fullmatch(source) else f"SCMM trained on {trained_on}",
        source=source,
        text=config.text_config,
        vision=config.vision_config,
        projection_dim=config.projection_dim,
        parameters=_count_parameters(config),
        results=results,
        dataset=dataset,
        only_drawn=_has_only_seen_drawings(results),
        trained_on=trained_on,
        base_model=data.base_model,
        start=_describe_start(start, is_on_hub),
        selection=_describe_selection(results),
        duration=_describe_seconds(results.get("wall_seconds") or 0),
        hardware=_describe_hardware(results.get("hardware")),
        versions=", ".join(f"{name} {version}" for name, version in results.get("versions", {}).items()),
        arguments=[
            (argument, " ".join(value.split()) if isinstance(value, str) else json.dumps(value))
            for argument, value in results.get("arguments", {}).items()
            if argument != "model_name_or_path"  # what it started from, which stands above
        ],
        metrics=METRICS,
        scores=_score_rows(results),
        carbon=None
        if carbon is None
        else {
            "grams": f"{1000 * carbon['emissions']:.3g}",
            "energy": f"{carbon['energy_consumed']:.3g}",
            "duration": _describe_seconds(carbon["duration"]),
            "country": carbon["country_name"],
        },
    )


def eval_results(results: dict[str, Any], *, dataset_id: str | None = None) -> list[EvalResultEntry]:
    """
    A run's metrics in the format of the Hub's `.eval_results/*.yaml`: those of its best checkpoint, on every split.

    Args:
        results (`dict`): the facts of the run in the form of `results.json`.
        dataset_id (`str`, *optional*): the data set's id on the Hub; by default a benchmark's name in `scmm`.

    Returns:
        `list[EvalResultEntry]`: one for each split and metric, with the task `"<split>_<metric>"`, in percent; none
        for data without a name.

    Example:

    ```python
    >>> from scmm.hub.model_card import eval_results
    >>> run = {"data": {"dataset": "paperdoll"}, "seed": 0, "best": {"test": {"rank1": 57.1}}}
    >>> eval_results(run)[0].task_id
    'test_rank1'

    ```
    """
    dataset = dataset_id or results.get("data", {}).get("dataset")
    if dataset in (None, *OWN_DATA):
        return []
    notes = f"text to image, percent; seed {results['seed']}; {_describe_selection(results)}"
    return [
        EvalResultEntry(dataset_id=dataset, task_id=f"{split}_{metric}", value=values[metric], notes=notes)
        for split, values in _splits(results.get("best", {})).items()
        for metric in METRICS
        if metric in values
    ]


def _card_data(
    results: dict[str, Any], base_model: str | None, carbon: dict[str, Any] | None, given: dict[str, Any]
) -> ModelCardData:
    """The metadata at the top of a card, which the Hub's search and filters read."""
    is_free = _has_only_seen_drawings(results)
    given = {name: value for name, value in given.items() if value is not None}
    tags = given.pop("tags", [])
    fields: dict[str, Any] = {
        "language": "en",
        "license": "apache-2.0" if is_free else "other",
        "license_name": None if is_free or "license" in given else "see-data-and-licenses",
        "library_name": "transformers",
        "pipeline_tag": "zero-shot-image-classification",
        "tags": [*TAGS, *([tags] if isinstance(tags, str) else tags)],
        "base_model": base_model,
        "co2_eq_emissions": None if carbon is None else _emissions_metadata(carbon, results),
        **given,
    }
    return ModelCardData(**fields)


def _splits(checkpoint: dict[str, Any]) -> dict[str, dict[str, float]]:
    """The metrics by split, beside which a checkpoint has its epoch and step."""
    return {name: values for name, values in checkpoint.items() if isinstance(values, dict)}


def _score_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    best, last = results.get("best", {}), results.get("last", {})
    named = [("best", best)] if best else []
    if last and last.get("step") != best.get("step"):
        named.append(("last", last))
    named.append(("the oracle, which ranks by the true attributes", results.get("oracle", {})))
    return [
        {"checkpoint": name, "split": split, "figures": values}
        for name, checkpoint in named
        for split, values in _splits(checkpoint).items()
    ]


def _describe_selection(results: dict[str, Any]) -> str:
    selection, best = results.get("selection", {}), results.get("best", {})
    where = [f"epoch {best['epoch']:g}"] if best.get("epoch") is not None else []
    where += [f"step {best['step']}"] if best.get("step") is not None else []
    place = f" ({', '.join(where)})" if where else ""
    if not selection.get("metric"):
        return f"the last one{place}"
    split = f" on the split {selection['split']}" if selection.get("split") else ""
    return f"the best by {METRICS.get(selection['metric'], selection['metric'])}{split}{place}"


def _starts_at_random(results: dict[str, Any]) -> bool:
    return results.get("model", {}).get("start") in (*PRESETS, RANDOM_WEIGHTS)


def _has_only_seen_drawings(results: dict[str, Any]) -> bool:
    return results.get("data", {}).get("dataset") == "paperdoll" and _starts_at_random(results)


def _describe_start(start: str | None, is_on_hub: bool) -> str:
    if is_on_hub:
        return f"[{start}](https://huggingface.co/{start})"
    if start in PRESETS:
        return f"random weights (preset `{start}`)"
    if start == RANDOM_WEIGHTS:
        return start
    return "a checkpoint on the disk" if start else "not recorded"


def _describe_hardware(hardware: dict[str, Any] | None) -> str:
    if not hardware:
        return ""
    parts = list(hardware.get("gpus", [])) if hardware.get("device", "").startswith("cuda") else []
    if hardware.get("cores"):
        parts.append(f"{hardware['cores']} cores of {hardware.get('processor') or 'a processor'}")
    if hardware.get("memory_gib"):
        parts.append(f"{hardware['memory_gib']:g} GiB memory")
    return ", ".join(parts)


def _describe_seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 2 * 3600:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _count_parameters(config: SCMMConfig) -> int:
    """Of the dual encoder, without what only training needs."""
    with torch.device("meta"):
        return SCMMModel(config).num_parameters()


def _emissions_metadata(carbon: dict[str, Any], results: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        "emissions": round(1000 * carbon["emissions"], 6),  # the Hub counts grams
        "source": "codecarbon",
        "training_type": "pre-training" if _starts_at_random(results) else "fine-tuning",
        "geographical_location": carbon["country_name"],
        "hardware_used": _describe_hardware(results.get("hardware")),
    }
    return {name: value for name, value in metadata.items() if value not in (None, "")}


def _read_emissions(path: Path) -> dict[str, Any] | None:
    """What codecarbon recorded, summed over the rows that a resumed run has added."""
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        sums = {name: sum(float(row[name]) for row in rows) for name in ("emissions", "energy_consumed", "duration")}
        return {**sums, "country_name": rows[-1]["country_name"]}
    except (KeyError, ValueError, IndexError, TypeError) as error:
        raise ValueError(f"{path} is not codecarbon's record of emissions: {error!r}.") from None


def _write_text(path: Path, text: str) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
