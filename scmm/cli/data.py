"""Commands for data sets: whether they can be trained on."""

import json
from pathlib import Path
from typing import Annotated

import typer

from scmm.cli.checkpoints import load_checkpoint


app = typer.Typer(help="Look at a data set.", no_args_is_help=True)

Dataset = Annotated[str, typer.Argument(help="cuhk-pedes, icfg-pedes, rstpreid, paperdoll, json or folder.")]
DataRoot = Annotated[
    Path,
    typer.Argument(help="The folder that contains the data set's own folder; of json the file, of folder itself."),
]
FieldOption = Annotated[
    list[str] | None,
    typer.Option("--field", metavar="NAME=KEY", help="Of json and folder: a record's key, as captions=caption."),
]
ImageRoot = Annotated[Path | None, typer.Option(help="Of json and folder: the folder of the images.")]


@app.command(epilog="Example:  scmm data check cuhk-pedes /data --images")
def check(
    dataset: Dataset,
    data_root: DataRoot,
    images: Annotated[bool, typer.Option("--images", help="Decode every image too.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option(help="Count tokens with this model's processor; without, at least so many is known.")
    ] = None,
    field: FieldOption = None,
    image_root: ImageRoot = None,
    num_workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that decode; by default all cores.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Check annotations and images; exit code 1 if training on them would fail."""
    from scmm.data.check import check_benchmark

    report = check_benchmark(
        dataset,
        data_root,
        fields=parse_fields(field),
        image_root=image_root,
        processor=load_checkpoint(checkpoint)[1] if checkpoint is not None else None,
        decode_images=images,
        num_workers=num_workers,
        progress=not as_json,
    )
    if as_json:
        typer.echo(json.dumps(report.to_dict(), indent=2))
    else:
        from scmm.data.check_report import print_report

        print_report(report)
    if not report.can_train:
        raise typer.Exit(1)


def parse_fields(fields: list[str] | None) -> dict[str, str] | None:
    """`name=key` options as a mapping."""
    for field in fields or ():
        if "=" not in field:
            raise ValueError(f"--field {field} must be NAME=KEY, as captions=caption.")
    return dict(field.split("=", 1) for field in fields) if fields else None
