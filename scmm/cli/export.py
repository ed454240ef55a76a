"""Commands that write a checkpoint for other runtimes."""

from pathlib import Path
from typing import Annotated

import typer

from scmm.cli.checkpoints import Checkpoint, load_checkpoint


app = typer.Typer()
export = typer.Typer(no_args_is_help=True, help="Write a checkpoint for other runtimes.")
app.add_typer(export, name="export")


@export.callback()
def _group() -> None:
    """Keeps `onnx` a command of its own: typer merges the only command of a group with the group."""


@export.command(epilog="Example:  scmm export onnx runs/demo/checkpoint runs/demo/onnx")
def onnx(
    checkpoint: Checkpoint,
    output_dir: Annotated[Path, typer.Argument(help="Gets the folder onnx, the configuration and the processor.")],
) -> None:
    """Write both towers as ONNX files, in float32 and in int8, checked against PyTorch on random input.

    Search with them: scmm search OUTPUT_DIR ... --backend onnx (or onnx-int8)."""
    from rich.console import Console
    from rich.table import Table

    from scmm.hub.onnx import export_onnx

    model, processor = load_checkpoint(checkpoint)
    exported = export_onnx(model.cpu(), output_dir)
    model.config.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    table = Table(title=f"{output_dir / 'onnx'}, compared with PyTorch")
    for header in ("file", "MB", "largest difference", "lowest cosine"):
        table.add_column(header, justify="left" if header == "file" else "right")
    for tower in exported:
        megabytes = f"{tower.path.stat().st_size / 1e6:.1f}"
        table.add_row(tower.path.name, megabytes, f"{tower.largest_difference:.1e}", f"{tower.lowest_cosine:.6f}")
    Console().print(table)
