"""
The demo: SCMM learns to find drawn pedestrians from sentences, from random weights, in minutes on two cores.

Renders PaperDoll, trains, evaluates beside the oracle, saves the checkpoint, reloads it, searches with free text, and
draws the ranked results and the loss curves.
"""

import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Image
from rich.console import Console
from rich.table import Table

import scmm
from scmm.analysis.loss_curves import loss_curves_figure
from scmm.analysis.ranked_results import ranked_results_figure
from scmm.data.benchmarks import read_records
from scmm.data.paperdoll import oracle_scores, render_paperdoll
from scmm.hub.model_card import write_model_card
from scmm.modeling_scmm import SCMMModel
from scmm.processing import SCMMProcessor
from scmm.recipes import build_trainer, parse_recipe
from scmm.results import RESULTS_NAME, write_json
from scmm.retrieval.encode import EncodedDataset, encode_captions, encode_dataset
from scmm.retrieval.metrics import retrieval_metrics, retrieval_metrics_from_scores
from scmm.runs import changed_arguments, count, environment


logger = logging.getLogger(__name__)

FREE_TEXT = "a woman in a red coat with a black backpack"

# More people than PaperDoll's default: variety is what lets a model recognize people whom it has not seen.
TRAIN_IDENTITIES = 10_000

# recipes/paperdoll.yaml holds the same values; a test keeps the two together.
RECIPE: dict[str, Any] = {
    "dataset": "paperdoll",
    "preset": "tiny",
    "max_length": 44,
    "num_train_epochs": 3,
    "per_device_train_batch_size": 96,
    "per_device_eval_batch_size": 128,
    "learning_rate": 1e-3,
    "muon_learning_rate": 6e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.05,
    "weight_decay": 0.2,
    "adam_beta2": 0.98,
    "sew_warmup_ratio": 0.4,
    "mcm_weight": 0.0,
    "crop_padding": 2,
    "cache_images": True,
    "train_sampling_strategy": "group_by_length",
    "logging_steps": 50,
    "dataloader_pin_memory": False,
}


def run_demo(output_dir: str | os.PathLike, seed: int = 0) -> dict[str, Any]:
    """
    Runs the demo into a new directory.

    Args:
        output_dir (`str` or `os.PathLike`): gets `data/`, `checkpoint/`, `metrics.json`, `demo.log`,
            `ranked_results.png`, `search.png` and `loss_curves.png`.
        seed (`int`, defaults to 0): of data and training; the same seed gives the same result on one machine.

    Returns:
        `dict`: the content of `metrics.json`.

    Raises:
        FileExistsError: if the directory exists and is not empty.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and any(output_dir.iterdir()):
        raise FileExistsError(
            f"{output_dir} already holds a run. Choose another --output-dir, or remove that folder first."
        )
    output_dir.mkdir(parents=True, exist_ok=True)
    console, started = Console(), time.monotonic()
    handler = logging.FileHandler(output_dir / "demo.log", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s: %(message)s"))
    for name in ("scmm", "transformers"):
        logging.getLogger(name).addHandler(handler)
    logging.getLogger("scmm").setLevel(logging.INFO)
    try:
        metrics = _run(output_dir, seed, console)
    finally:
        for name in ("scmm", "transformers"):
            logging.getLogger(name).removeHandler(handler)
        handler.close()
    _print_summary(console, output_dir, metrics, time.monotonic() - started)
    return metrics


def _run(output_dir: Path, seed: int, console: Console) -> dict[str, Any]:
    console.rule("1/5 Drawing pedestrians")
    render_paperdoll(output_dir / "data", seed=seed, train_identities=TRAIN_IDENTITIES)

    console.rule("2/5 Training")
    recipe = {
        **RECIPE,
        "seed": seed,
        "data_root": str(output_dir / "data"),
        "output_dir": str(output_dir / "training"),
        "use_cpu": not torch.cuda.is_available(),
    }
    parsed = parse_recipe(recipe, source="demo")
    arguments = changed_arguments(parsed)
    trainer, splits = build_trainer(parsed)
    result = trainer.train()
    for entry in trainer.state.log_history:
        logger.info(json.dumps(entry))
    loss_curves_figure(trainer.state.log_history, output_dir / "loss_curves.png")

    console.rule("3/5 Saving and reloading the checkpoint")
    checkpoint = output_dir / "checkpoint"
    trainer.model.scmm.save_pretrained(checkpoint)  # leaves out what only training needs
    trainer.processing_class.save_pretrained(checkpoint)
    model = SCMMModel.from_pretrained(checkpoint).to(trainer.args.device)
    processor = SCMMProcessor.from_pretrained(checkpoint)

    console.rule("4/5 Evaluating on people that the model has never seen")
    _, records = read_records("paperdoll", output_dir / "data")
    metrics: dict[str, Any] = {"oracle": {}}
    for split in ("val", "test"):
        encoded = encode_dataset(model, processor, splits[split], batch_size=128, progress=True)
        metrics[split] = retrieval_metrics(
            encoded.text_embeds, encoded.image_embeds, encoded.text_person_ids, encoded.image_person_ids
        )
        of_split = [record for record in records if record["split"] == split]
        metrics["oracle"][split] = retrieval_metrics_from_scores(*oracle_scores(of_split))
    metrics["selection"] = {"split": "val", "metric": "rank1", "best": trainer.state.best_metric}
    metrics["run"] = {
        "seed": seed,
        "training_seconds": round(result.metrics["train_runtime"], 1),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "scmm": scmm.__version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(trainer.args.device),
    }
    write_json(output_dir / "metrics.json", metrics)
    data = {
        "dataset": "paperdoll",
        "root": recipe["data_root"],
        "selection_split": "val",
        "train": count(splits["train"]),
    }
    write_json(checkpoint / RESULTS_NAME, {"data": data, "arguments": arguments, **_results(trainer, metrics)})
    write_model_card(checkpoint)
    files = [image["path"] for image in splits["test"].cast_column("image", Image(decode=False))["image"]]
    captions = [caption for captions in splits["test"]["captions"] for caption in captions]
    _draw_ranked_results(captions, files, encoded, output_dir / "ranked_results.png")

    console.rule("5/5 Searching the test gallery with free text")
    scores = encode_captions(model, processor, [FREE_TEXT])[0] @ encoded.image_embeds.T
    best = _ten_best(scores)
    ranked_results_figure(
        [(FREE_TEXT, [(files[index], float(scores[index]), None) for index in best])], output_dir / "search.png"
    )
    console.print(f'"{FREE_TEXT}": the best of {len(files)} images')
    for rank, index in enumerate(best[:5], start=1):
        console.print(f"  {rank}. {files[index]}  {scores[index]:.3f}", highlight=False, soft_wrap=True)
    return metrics


def _results(trainer: Any, metrics: dict[str, Any]) -> dict[str, Any]:
    """The facts of the run as `scmm train` records them, for the model card."""
    state, step = trainer.state, trainer.state.best_global_step
    epoch = next(entry["epoch"] for entry in state.log_history if entry["step"] == step)
    return {
        "recipe": "scmm demo",
        "seed": metrics["run"]["seed"],
        "selection": {"split": "val", "metric": "rank1"},
        "best": {"epoch": epoch, "step": step, "val": metrics["val"], "test": metrics["test"]},
        "last": {"epoch": state.epoch, "step": state.global_step},  # not evaluated by itself
        "oracle": metrics["oracle"],
        "notes": ["Test figures were looked at while the recipe was chosen, so they are optimistic too."],
        "model": {"parameters": metrics["run"]["parameters"], "start": RECIPE["preset"]},
        **environment(trainer.args.device),
        "wall_seconds": metrics["run"]["training_seconds"],
    }


def _ten_best(scores: torch.Tensor) -> list[int]:
    return torch.sort(scores, descending=True, stable=True).indices[:10].tolist()


def _draw_ranked_results(captions: list[str], files: list[str], encoded: EncodedDataset, path: Path) -> None:
    """The ten best images of six captions spread evenly over the split, whatever their result."""
    rows = []
    for query in torch.linspace(0, len(captions) - 1, 6).long().tolist():
        scores = encoded.text_embeds[query] @ encoded.image_embeds.T
        right = encoded.image_person_ids == encoded.text_person_ids[query]
        hits = [(files[index], float(scores[index]), bool(right[index])) for index in _ten_best(scores)]
        rows.append((captions[query], hits))
    ranked_results_figure(rows, path)


def _print_summary(console: Console, output_dir: Path, metrics: dict[str, Any], seconds: float) -> None:
    table = Table(title="Text to image, percent")
    columns = ("rank1", "rank5", "rank10", "mAP", "mINP")
    for header in ("", *columns, "queries"):
        table.add_column(header, justify="left" if header == "" else "right")
    rows = {"validation": metrics["val"], "test": metrics["test"], "test, oracle": metrics["oracle"]["test"]}
    for name, values in rows.items():
        table.add_row(name, *(f"{values[column]:.1f}" for column in columns), str(values["num_queries"]))
    console.print()
    console.print(table)
    console.print("The oracle ranks by the true attributes: the ceiling that these data allow.")
    console.print(
        f"Training took {metrics['run']['training_seconds']:.0f} s, everything {seconds:.0f} s. "
        f"Look at {output_dir / 'ranked_results.png'} and {output_dir / 'loss_curves.png'}.\n",
        highlight=False,
    )
    data, checkpoint = output_dir / "data", output_dir / "checkpoint"
    console.print("Try next (in the environment that make has set up: . .venv/bin/activate):")
    for command in (
        f'scmm search {checkpoint} {data / "PaperDoll" / "imgs"} "a man in a blue jacket" --save-image found.png',
        f"scmm evaluate {checkpoint} paperdoll {data} --split test --image-to-text",
        f"scmm train recipes/paperdoll.yaml --data-root {data} --output-dir runs/mine",
    ):
        console.print(f"  {command}", highlight=False, soft_wrap=True)
