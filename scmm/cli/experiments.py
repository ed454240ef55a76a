"""The command that runs the paper's ablations."""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand


app = typer.Typer()


class _SpacedSeeds(TyperCommand):
    """Takes `--seeds 0 1 2` for `--seeds 0 --seeds 1 --seeds 2`, which is all that click knows."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        spelled_out: list[str] = []
        in_seeds = False
        for previous, arg in zip(["", *args], args, strict=False):
            in_seeds = arg == "--seeds" or (in_seeds and arg.isdigit())
            if in_seeds and arg.isdigit() and previous != "--seeds":
                spelled_out.append("--seeds")
            spelled_out.append(arg)
        return super().parse_args(ctx, spelled_out)


@app.command(
    cls=_SpacedSeeds,
    epilog="Example:  scmm ablate components --recipe recipes/paperdoll-ablation.yaml --seeds 0 1 2",
)
def ablate(
    study: Annotated[str, typer.Argument(help="components, margin, quality, mask-ratio or decoder.")],
    recipe: Annotated[Path, typer.Option(help="YAML file of the whole method.")],
    seeds: Annotated[list[int], typer.Option(metavar="SEED...", help="Seeds of each arm, such as 0 1 2.")] = [0, 1, 2],  # noqa: B006
    output_dir: Annotated[Path | None, typer.Option(help="Instead of the recipe's output_dir.")] = None,
    data_root: Annotated[str | None, typer.Option(help="Instead of the recipe's data_root.")] = None,
) -> None:
    """Train the arms of one of the paper's ablations with several seeds, into a table and a figure.

    Runs that have finished are not repeated, also not for another study; an interrupted one goes on where it was."""
    from scmm.experiments import run_study

    table = run_study(study, recipe, seeds, output_dir=output_dir, data_root=data_root)
    typer.echo(f"The table is in {table} and {table.with_suffix('.csv')}, the figure in {table.with_suffix('.png')}.")
