"""A recipe's run from start to end: trained, evaluated on every split, saved, and its results written down."""

import os
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
import torch
from datasets import Dataset, DatasetDict
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import get_last_checkpoint

import scmm
from scmm.recipes import Recipe, build_trainer
from scmm.results import RESULTS_NAME, write_json
from scmm.trainer import SCMMTrainer
from scmm.training_arguments import SCMMTrainingArguments


def run_recipe(recipe: Recipe, source: str | os.PathLike = "recipe", resume: bool = False) -> dict[str, Any]:
    """
    Trains as a recipe says, evaluates the last and the best model, and saves the best into the recipe's `output_dir`,
    with `results.json` and the model card beside it; with `push_to_hub`, pushes them all.

    Args:
        recipe: what [`~scmm.recipes.read_recipe`] returned.
        source (`str` or `os.PathLike`, *optional*): the recipe's file or name, for the results.
        resume (`bool`, *optional*, defaults to `False`): whether to go on from the last checkpoint in `output_dir`.

    Returns:
        `dict`: the content of `results.json`. `best` is the checkpoint that `metric_for_best_model` selects on
        `eval_split`, `last` the one at the end; each has the metrics of the validation and the test split, as far as
        the data set has them. Without `load_best_model_at_end`, the last is the best. `arguments` are those that
        differ from the defaults, but for the seed and the folders. `wall_seconds` and `peak_memory_mib` are this
        process's own, without what a resumed run took before; the peak is that of the process so far, without the
        workers that load data.

    Raises:
        FileExistsError: if `output_dir` already holds something, and `resume` is not set.
        ValueError: if there is no checkpoint to resume from.
        RecipeError, BenchmarkError, OSError: as in [`~scmm.recipes.build_trainer`].

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> from scmm.recipes import parse_recipe
    >>> from scmm.runs import run_recipe
    >>> values = {"dataset": "paperdoll", "preset": "tiny", "max_steps": 1, "use_cpu": True, "disable_tqdm": True}
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=3, val_identities=2, test_identities=2, progress=False)
    ...     results = run_recipe(parse_recipe({**values, "data_root": root, "output_dir": f"{root}/run"}), "mine")
    {...}
    >>> results["recipe"], results["last"]["step"], results["best"]["test"]["num_queries"]
    ('mine', 1, 16)

    ```
    """
    started = time.monotonic()
    data, model_args, args = recipe
    target = Path(str(args.output_dir))
    checkpoint = get_last_checkpoint(str(target)) if target.is_dir() else None
    if resume and checkpoint is None:
        raise ValueError(f"{target} has no checkpoint to resume from.")
    # Of several processes the first one looks: it may have begun to write when the others get here.
    if not resume and int(os.environ.get("RANK", 0)) == 0 and target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"{target} already holds a run: resume it (--resume), or choose another output_dir.")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()

    arguments = changed_arguments(recipe)  # before there is a trainer: making arguments resets accelerate's state
    trainer, splits = build_trainer(recipe)
    selects_best = args.load_best_model_at_end
    args.load_best_model_at_end = False  # not before the last model is evaluated
    reached = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME)) if checkpoint else None
    if checkpoint and reached and 0 < args.max_steps <= reached.global_step:
        trainer._load_from_checkpoint(checkpoint)  # interrupted after its last step, beyond which Trainer would go
        trainer.state = reached
    else:
        trainer.train(resume_from_checkpoint=checkpoint)
    args.load_best_model_at_end = selects_best
    state, names = trainer.state, [name for name in ("val", "test") if name in splits]
    names += [] if data.eval_split in names else [data.eval_split]
    last = best = {"epoch": state.epoch, "step": state.global_step, **_metrics(trainer, splits, names)}
    if selects_best and state.best_model_checkpoint is not None and state.best_global_step != state.global_step:
        trainer._load_best_model()
        epoch = next(entry["epoch"] for entry in state.log_history if entry["step"] == state.best_global_step)
        best = {"epoch": epoch, "step": state.best_global_step, **_metrics(trainer, splits, names)}
    trainer.save_model(_internal_call=True)  # pushed below, with its results
    trainer.save_state()

    metric = str(args.metric_for_best_model).removeprefix("eval_") if selects_best else None
    results = {
        "data": {
            "dataset": data.dataset,
            "root": str(data.data_root),
            "selection_split": data.eval_split,
            "train": count(splits["train"]),
        },
        "recipe": str(source),
        "seed": args.seed,
        "selection": {"split": data.eval_split, "metric": metric},
        "best": best,
        "last": last,
        "arguments": arguments,
        "model": {
            "parameters": trainer.model.scmm.num_parameters(),
            "start": model_args.preset or str(model_args.model_name_or_path),
        },
        **environment(args.device),
        "wall_seconds": round(time.monotonic() - started, 1),
        "peak_memory_mib": _peak_memory_mib(),
        "resumed": resume,
    }
    if torch.cuda.is_available():
        results["peak_gpu_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    if trainer.is_world_process_zero():
        write_json(target / RESULTS_NAME, results)
    trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()
    return results


def changed_arguments(recipe: Recipe) -> dict[str, Any]:
    """The arguments of a recipe that differ from the defaults, but for the data set, the folders and the seed."""
    data, model_args, args = recipe
    default = SCMMTrainingArguments(str(args.output_dir), use_cpu=args.use_cpu)
    changed = {
        name: value
        for group in (data, model_args)
        for name, value in vars(group).items()
        if value != getattr(type(group), name, None)  # a required field has no default
    }
    defaults = {**default.to_dict(), "use_cpu": False}
    changed.update({name: value for name, value in args.to_dict().items() if value != defaults[name]})
    elsewhere = {"dataset", "data_root", "output_dir", "seed"}
    return {name: changed[name] for name in sorted(changed.keys() - elsewhere)}


def _metrics(trainer: SCMMTrainer, splits: DatasetDict, names: list[str]) -> dict[str, dict[str, float]]:
    """The retrieval metrics of the trainer's model on each split, without the evaluation's own timing."""
    found = {}
    for name in names:
        metrics = trainer.evaluate(splits[name], metric_key_prefix=name)  # ty: ignore[invalid-argument-type]
        timing = ("runtime", "samples_per_second", "steps_per_second")
        found[name] = {
            key.removeprefix(f"{name}_"): value
            for key, value in metrics.items()
            if key.startswith(f"{name}_") and not key.endswith(timing)
        }
    return found


def count(dataset: Dataset) -> dict[str, int]:
    """How much a data set holds."""
    captions = sum(len(captions) for captions in dataset["captions"])
    return {"people": len(set(dataset["person_id"])), "images": len(dataset), "captions": captions}


def environment(device: torch.device) -> dict[str, dict[str, Any]]:
    """The versions and the hardware that a run has run with."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {
        "versions": {
            "scmm": scmm.__version__,
            **{name: version(name) for name in ("torch", "transformers", "datasets", "accelerate")},
            "python": platform.python_version(),
        },
        "hardware": {
            "device": str(device),
            "processor": _processor(),
            "cores": cores,
            "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
            "gpus": gpus,
        },
    }


def _processor() -> str:
    """The processor's name, which Python itself does not know on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _peak_memory_mib() -> float:
    if sys.platform == "win32":
        return round(psutil.Process().memory_info().peak_wset / 2**20, 1)
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)  # in bytes there, in KiB elsewhere
