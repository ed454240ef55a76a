"""Commands that exchange checkpoints with the world."""

from pathlib import Path
from typing import Annotated

import typer


app = typer.Typer()


@app.command(epilog="Example:  scmm convert logs/CUHK-PEDES/best.pth runs/irra --tokenizer clip-vit-base-patch16")
def convert(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint file, or folder or Hub id of a Hugging Face CLIP.")
    ],
    output_dir: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder for the model and its processor.")],
    image_size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            metavar="HEIGHT WIDTH", help="Pixels; 384 128 by default, for TBPS-CLIP what its position table tells."
        ),
    ] = None,
    stride: Annotated[
        int | None, typer.Option(min=1, help="Pixels from patch to patch; by default what the position table tells.")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Folder or Hub id of CLIP's; openai/clip-vit-base-patch16 by default, or SOURCE's."),
    ] = None,
) -> None:
    """Convert a checkpoint of CLIP (OpenAI's or Hugging Face's), IRRA, RDE or TBPS-CLIP into an SCMM model."""
    from transformers.utils import logging

    from scmm.hub.checkpoints import convert_checkpoint

    logging.disable_progress_bar()
    _print_report(convert_checkpoint(source, output_dir, image_size=image_size, stride=stride, tokenizer=tokenizer))


@app.command(epilog="Example:  scmm card runs/demo/checkpoint --repo-id me/doll-search")
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


def _print_report(report) -> None:
    from rich.console import Console
    from rich.table import Table

    text, vision = report.config.text_config, report.config.vision_config
    rows, columns = vision.grid_size
    stride = "" if vision.patch_stride is None else f", stride {vision.patch_stride}"
    facts = [
        ("recognized as", report.family),
        ("converted", f"{report.num_converted} tensors"),
        (
            "images",
            f"{vision.image_size[0]} x {vision.image_size[1]} pixels, {rows} x {columns} patches of "
            f"{vision.patch_size}{stride}",
        ),
        ("image tower", _tower(vision)),
        ("text tower", f"{_tower(text)}, {text.max_position_embeddings} tokens, mask token {text.mask_token_id}"),
        ("embeddings", f"{report.config.projection_dim} wide"),
    ]
    for reason, keys in report.left_out.items():
        parts = ", ".join(dict.fromkeys(key.partition(".")[0] for key in keys))
        facts.append(("left out", f"{reason}: {parts} ({len(keys)} tensor{'s' * (len(keys) > 1)})"))
    facts += [("note", note) for note in report.notes]
    facts += [("[yellow]warning[/yellow]", warning) for warning in report.warnings]
    table = Table(title=f"{report.source} → {report.output_dir}", show_header=False)
    for name, value in facts:
        table.add_row(name, value)
    Console().print(table)


def _tower(config) -> str:
    heads = f"{config.num_attention_heads} head{'s' * (config.num_attention_heads > 1)}"
    return f"{config.num_hidden_layers} layers of {config.hidden_size}, {heads}"
