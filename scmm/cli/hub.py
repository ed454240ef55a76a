"""Commands that exchange checkpoints with the world."""

from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer()


@app.command(
    epilog="Example:  scmm card runs/demo/checkpoint --repo-id me/doll-search && hf upload me/doll-search "
    "runs/demo/checkpoint"
)
def card(
    checkpoint: Annotated[Path, typer.Argument(help="Folder of an SCMM model; its results.json tells of the run.")],
    repo_id: Annotated[
        str | None, typer.Option(help="Id on the Hub, which the card's examples load. [default: the folder]")
    ] = None,
    dataset_id: Annotated[
        str | None, typer.Option(help="Id on the Hub of the data set that the metrics belong to.")
    ] = None,
) -> None:
    """Write the model card of a checkpoint (README.md), and its metrics in the Hub's format (.eval_results)."""
    from scmm.hub.model_card import write_model_card

    path = write_model_card(checkpoint, repo_id=repo_id, dataset_id=dataset_id)
    typer.echo(f"Wrote {path}.")
