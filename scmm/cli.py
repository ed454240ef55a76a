"""The command line `scmm`. Heavy imports wait until a command runs, so that help is quick."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer(
    name="scmm",
    help="Find the images of a person from a sentence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

Checkpoint = Annotated[str, typer.Argument(help="Folder or Hub id of an SCMM model with its processor.")]


@app.command(
    epilog="Example:  scmm demo --output-dir runs/second --seed 1",
)
def demo(
    output_dir: Annotated[Path, typer.Option(help="A new folder for data, checkpoint, metrics and pictures.")] = Path(
        "runs/demo"
    ),
    seed: Annotated[int, typer.Option(help="Seed of data and training.")] = 0,
) -> None:
    """Draw pedestrians, train on them, evaluate and search: the main job from start to end, in minutes."""
    from scmm.demo import run_demo

    run_demo(output_dir, seed)


@app.command(epilog="Example:  scmm train recipes/paperdoll.yaml --data-root runs/demo/data --output-dir runs/mine")
def train(
    recipe: Annotated[Path, typer.Argument(help="YAML file of data, model and training arguments.")],
    data_root: Annotated[str | None, typer.Option(help="Instead of the recipe's data_root.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="Instead of the recipe's output_dir.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output_dir.")] = False,
) -> None:
    """Train a model as a recipe says; keeps the checkpoint that is best on the evaluation split."""
    from transformers.trainer_utils import get_last_checkpoint

    from scmm.recipes import build_trainer, read_recipe

    parsed = read_recipe(recipe, data_root=data_root, output_dir=output_dir, seed=seed)
    data, _, args = parsed
    target = Path(str(args.output_dir))
    checkpoint = get_last_checkpoint(str(target)) if target.is_dir() else None
    if resume and checkpoint is None:
        raise ValueError(f"{target} has no checkpoint to resume from.")
    # Of several processes the first one looks: it may have begun to write when the others get here.
    if not resume and int(os.environ.get("RANK", 0)) == 0 and target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"{target} already holds a run: add --resume, or choose another --output-dir.")
    trainer, splits = build_trainer(parsed)
    result = trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", {**result.metrics, "selection_split": data.eval_split})
    for split in (data.eval_split, *({"test"} & set(splits) - {data.eval_split})):
        metrics = trainer.evaluate(splits[split], metric_key_prefix=split)  # ty: ignore[invalid-argument-type]
        trainer.log_metrics(split, metrics)
        trainer.save_metrics(split, metrics)
    if trainer.is_world_process_zero():
        typer.echo(f"The best checkpoint by {args.metric_for_best_model} on {data.eval_split} is in {target}.")


@app.command(epilog="Example:  scmm evaluate runs/demo/checkpoint paperdoll runs/demo/data --split test")
def evaluate(
    checkpoint: Checkpoint,
    dataset: Annotated[str, typer.Argument(help="cuhk-pedes, icfg-pedes, rstpreid or paperdoll.")],
    data_root: Annotated[Path, typer.Argument(help="The folder that contains the data set's own folder.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    image_to_text: Annotated[bool, typer.Option("--image-to-text", help="The other direction too.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Evaluate a checkpoint by the field's protocol: every caption a query, every image of the split the gallery."""
    from scmm.data.benchmarks import load_benchmark
    from scmm.retrieval.encode import encode_dataset
    from scmm.retrieval.metrics import retrieval_metrics

    splits = load_benchmark(dataset, data_root)
    if split not in splits:
        raise ValueError(
            f"{dataset} in {data_root} has no split {split!r}, only {', '.join(sorted(map(str, splits)))}."
        )
    model, processor = _load(checkpoint)
    captions = [caption for captions in splits[split]["captions"] for caption in captions]
    truncated = processor.count_truncated(captions)
    encoded = encode_dataset(model, processor, splits[split], batch_size=batch_size, progress=not as_json)
    text = (encoded.text_embeds, encoded.text_person_ids)
    image = (encoded.image_embeds, encoded.image_person_ids)
    results = {"text to image": retrieval_metrics(text[0], image[0], text[1], image[1])}
    if image_to_text:
        results["image to text"] = retrieval_metrics(image[0], text[0], image[1], text[1])
    if as_json:
        report = {"dataset": dataset, "split": split, "truncated_captions": truncated}
        typer.echo(json.dumps({**report, **{name.replace(" ", "_"): row for name, row in results.items()}}, indent=2))
        return
    _print_metrics(f"{dataset}, {split}: {checkpoint}", results)
    if truncated:
        typer.echo(f"{truncated} of {len(captions)} captions were longer than the model takes and were cut.")


@app.command(
    epilog='Example:  scmm search runs/demo/checkpoint runs/demo/data/PaperDoll/imgs "a man in a red coat" --top-k 5'
)
def search(
    checkpoint: Checkpoint,
    images: Annotated[Path, typer.Argument(help="A folder of person crops, searched with its sub-folders.")],
    queries: Annotated[list[str], typer.Argument(metavar="SENTENCE...", help="One or more sentences.")],
    top_k: Annotated[int, typer.Option(min=1, help="Images for each sentence.")] = 10,
    batch_size: Annotated[int, typer.Option(min=1, help="Images embedded at once.")] = 64,
    picture: Annotated[Path | None, typer.Option(help="Draw the results into this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Rank the images of a folder by a sentence. Embeds them on the fly; unreadable ones are named and skipped."""
    from scmm.retrieval.search import find_images, search_folder

    find_images(images)  # a wrong folder should not cost the loading of a model
    model, processor = _load(checkpoint)
    truncated = processor.count_truncated(queries)
    if truncated:
        typer.echo(f"{truncated} of {len(queries)} sentences are longer than the model takes and are cut.", err=True)
    found = search_folder(model, processor, images, queries, top_k=top_k, batch_size=batch_size, progress=not as_json)
    for _, reason in found.skipped:
        typer.echo(f"skipped {reason}", err=True)
    if found.skipped:
        typer.echo(f"Skipped {len(found.skipped)} of {found.num_images + len(found.skipped)} images.", err=True)
    if picture is not None:
        from scmm.analysis.ranked_results import ranked_results_figure

        rows = [
            (query, [(str(path), score, None) for path, score in hits])
            for query, hits in zip(queries, found.ranked, strict=True)
        ]
        ranked_results_figure(rows, picture)
    if as_json:
        report = {
            "results": [
                {"query": query, "images": [{"path": str(path), "score": score} for path, score in hits]}
                for query, hits in zip(queries, found.ranked, strict=True)
            ],
            "skipped": [{"path": str(path), "reason": reason} for path, reason in found.skipped],
        }
        typer.echo(json.dumps(report, indent=2))
        return
    for query, hits in zip(queries, found.ranked, strict=True):
        typer.echo(f"\n{query}")
        for rank, (path, score) in enumerate(hits, start=1):
            typer.echo(f"{rank:4}  {score:.3f}  {path}")


def _load(checkpoint: str):
    """The dual encoder and its processor, on the GPU where there is one."""
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging

    from scmm.modeling_scmm import SCMMModel
    from scmm.processing import SCMMProcessor

    logging.disable_progress_bar()  # loading takes a blink; the command's own bars are what matters
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if config.model_type != "scmm":
            raise ValueError(f"it is a {config.model_type!r} checkpoint, not an SCMM one.")
        model = SCMMModel.from_pretrained(checkpoint)
        processor = SCMMProcessor.from_pretrained(checkpoint)
        # Without its files a tokenizer is not missed but made up, with an empty vocabulary.
        if len(processor.tokenizer) != config.text_config.vocab_size:
            raise ValueError(
                f"its tokenizer has {len(processor.tokenizer)} tokens, its model {config.text_config.vocab_size}."
            )
    except Exception as error:  # broken files make loaders raise whatever they stumble over, seldom with a name
        what = "cannot be loaded" if Path(checkpoint).is_dir() else "is not a folder, and not found on the Hub"
        raise ValueError(f"{checkpoint} {what}: {error}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor


def _print_metrics(title: str, results: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    columns = [name for name in next(iter(results.values())) if not name.startswith("num_")]
    for header in ("percent", *columns, "queries", "without match"):
        table.add_column(header, justify="left" if header == "percent" else "right")
    for name, row in results.items():
        counts = (str(row["num_queries"]), str(row["num_queries_without_match"]))
        table.add_row(name, *(f"{row[column]:.2f}" for column in columns), *counts)
    Console().print(table)


def main() -> None:
    """Runs the command line; a user's mistake is one line and exit code 2."""
    try:
        app()
    except Exception as error:
        if not _is_users_mistake(error):
            raise
        message = str(error)
        if "Original Traceback" in message:  # what a data loader's worker sends; the error itself is the last line
            message = message.strip().splitlines()[-1].partition(": ")[2]
        typer.echo(f"scmm: error: {' '.join(message.split())}", err=True)
        sys.exit(2)


def _is_users_mistake(error: Exception) -> bool:
    """Files, values and checkpoints that a user gave; anything else is ours and keeps its traceback."""
    if isinstance(error, OSError | ValueError):
        return True
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return isinstance(error, StrictDataclassError | SafetensorError)


if __name__ == "__main__":
    main()
