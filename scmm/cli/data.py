"""Commands for data sets: whether they can be trained on, what is in them, and copies that others can read."""

import json
from pathlib import Path
from typing import Annotated

import typer

from scmm.cli.checkpoints import load_checkpoint


app = typer.Typer(help="Look at a data set and export it.", no_args_is_help=True)

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


SAMPLES = 18


@app.command(epilog="Example:  scmm data check cuhk-pedes /data --images")
def check(
    dataset: Dataset,
    data_root: DataRoot,
    images: Annotated[bool, typer.Option("--images", help="Decode every image too.")] = False,
    checkpoint: Annotated[
        str | None,
        typer.Option(help="Count tokens with this model's processor; by default a lower bound for CLIP is given."),
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


@app.command(epilog="Example:  scmm data stats paperdoll runs/demo/data --output-dir runs/demo/stats")
def stats(
    dataset: Dataset,
    data_root: DataRoot,
    field: FieldOption = None,
    image_root: ImageRoot = None,
    output_dir: Annotated[Path | None, typer.Option(help="Draw statistics.png and samples.png there.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show how long and how telling captions are, and how many images people have; with pictures if asked for."""
    from scmm.data.benchmarks import load_benchmark
    from scmm.data.stats import dataset_stats, sample_rows

    splits = load_benchmark(dataset, data_root, fields=parse_fields(field), image_root=image_root)
    counted = dataset_stats(splits)
    report = {"dataset": dataset, "splits": {split: one.summary() for split, one in counted.items()}, "pictures": []}
    if output_dir is not None:
        from scmm.analysis.dataset_statistics import dataset_statistics_figure
        from scmm.analysis.sample_sheet import sample_sheet_figure

        rows = sample_rows(splits["train"] if "train" in splits else next(iter(splits.values())), SAMPLES)
        drawn = (
            dataset_statistics_figure(counted, output_dir / "statistics.png"),
            sample_sheet_figure(rows, output_dir / "samples.png"),
        )
        report["pictures"] = list(map(str, drawn))
    if as_json:
        typer.echo(json.dumps(report, indent=2))
        return
    _print_stats(dataset, report["splits"])
    for picture in report["pictures"]:
        typer.echo(picture)


@app.command(epilog="Example:  scmm data export paperdoll runs/demo/data runs/demo/parquet")
def export(
    dataset: Dataset,
    data_root: DataRoot,
    output: Annotated[Path | None, typer.Argument(help="A new folder for the Parquet files.")] = None,
    push_to_hub: Annotated[str | None, typer.Option(metavar="REPO_ID", help="Push to this Hub repository.")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everybody read the repository.")] = False,
    i_have_permission: Annotated[
        bool, typer.Option("--i-have-permission", help="The owners of the data set let you pass it on.")
    ] = False,
    field: FieldOption = None,
    image_root: ImageRoot = None,
) -> None:
    """Copy a data set to Parquet with the images in it, for datasets.load_dataset, and to the Hub (private)."""
    from scmm.data.benchmarks import load_benchmark
    from scmm.data.export import check_free, check_push, export_parquet, push_splits

    # All that can be refused is refused before the work begins.
    if output is None and push_to_hub is None:
        raise ValueError("give a folder to export to, or --push-to-hub.")
    if output is not None:
        check_free(output)
    if push_to_hub is not None:
        check_push(dataset, push_to_hub, public=public, has_permission=i_have_permission)
    splits = load_benchmark(dataset, data_root, fields=parse_fields(field), image_root=image_root)
    if output is not None:
        files = export_parquet(splits, output, progress=True)
        megabytes = sum(file.stat().st_size for file in files) / 1e6
        typer.echo(f"{len(files)} files, {megabytes:.1f} MB, in {output}: datasets.load_dataset({str(output)!r})")
    if push_to_hub is not None:
        typer.echo(push_splits(splits, push_to_hub, public=public))


def parse_fields(fields: list[str] | None) -> dict[str, str] | None:
    """`name=key` options as a mapping."""
    for field in fields or ():
        if "=" not in field:
            raise ValueError(f"--field {field} must be NAME=KEY, as captions=caption.")
    return dict(field.split("=", 1) for field in fields) if fields else None


def _print_stats(dataset: str, splits: dict[str, dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    counts = Table(title=f"{dataset}: counts")
    for header in ("split", "images", "people", "people of one image", "captions"):
        counts.add_column(header, justify="left" if header == "split" else "right")
    for split, row in splits.items():
        names = ("images", "identities", "identities_with_one_image", "captions")
        counts.add_row(split, *(f"{row[name]:,}" for name in names))

    spreads = Table(title=f"{dataset}: spread")
    for header in ("", "split", "mean", "min", "5 %", "median", "95 %", "max"):
        spreads.add_column(header, justify="left" if header in ("", "split") else "right")
    labels = {
        "words": "words of a caption",
        "quality": "quality of a caption",
        "captions_per_image": "captions of an image",
        "images_per_identity": "images of a person",
    }
    for name, label in labels.items():
        for number, (split, row) in enumerate(splits.items()):
            decimals = 2 if name == "quality" else 1
            figures = [f"{value:.{decimals}f}" for value in row[name].values()]
            spreads.add_row("" if number else label, split, *figures, end_section=number == len(splits) - 1)
    for table in (counts, spreads):
        Console().print(table)
