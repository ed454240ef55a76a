"""Commands that train: the demo and recipes."""

import os
from pathlib import Path
from typing import Annotated

import typer

from scmm.cli.results import print_results


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
    recipes: Annotated[
        list[Path],
        typer.Argument(metavar="RECIPE...", help="YAML files of data, model and training; a later one wins."),
    ],
    data_root: Annotated[str | None, typer.Option(help="Instead of the recipe's data_root.")] = None,
    output_dir: Annotated[str | None, typer.Option(help="Instead of the recipe's output_dir.")] = None,
    seed: Annotated[int | None, typer.Option(help="Instead of the recipe's seed.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in output_dir.")] = False,
) -> None:
    """Train a model as a recipe says; keeps the checkpoint that is best on the evaluation split."""
    from scmm.recipes import read_recipe, recipe_name
    from scmm.results import results_table
    from scmm.runs import run_recipe

    parsed = read_recipe(*recipes, data_root=data_root, output_dir=output_dir, seed=seed)
    results = run_recipe(parsed, source=recipe_name(recipes), resume=resume)
    if int(os.environ.get("RANK", 0)) == 0:
        print_results(results_table([results]))
        selected = f"best by {results['selection']['metric']} on {results['selection']['split']}"
        typer.echo(f"The {selected if parsed[2].load_best_model_at_end else 'last'} is in {parsed[2].output_dir}.")
