"""Commands that train: the demo and recipes."""

import os
from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer()


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
