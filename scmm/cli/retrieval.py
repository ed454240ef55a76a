"""`scmm evaluate`: a checkpoint on a benchmark."""

import json
from pathlib import Path
from typing import Annotated

import typer

from scmm.cli.checkpoints import Checkpoint, load_checkpoint


app = typer.Typer()


@app.command(epilog="Example:  scmm evaluate runs/demo/checkpoint paperdoll runs/demo/data --split test")
def evaluate(
    checkpoint: Checkpoint,
    dataset: Annotated[
        str, typer.Argument(help="cuhk-pedes, icfg-pedes, rstpreid or paperdoll; several with commas between them.")
    ],
    data_root: Annotated[Path, typer.Argument(help="The folder that contains the data set's own folder.")],
    split: Annotated[str, typer.Option(help="Which split.")] = "test",
    image_to_text: Annotated[bool, typer.Option("--image-to-text", help="The other direction too.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 64,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, a list, instead of a table.")] = False,
) -> None:
    """Evaluate a checkpoint by the field's protocol: every caption a query, every image of the split the gallery."""
    from scmm.data.benchmarks import load_benchmark
    from scmm.data.footage import shared_footage
    from scmm.retrieval.encode import encode_dataset
    from scmm.retrieval.metrics import retrieval_metrics

    rows = {}
    for name in dict.fromkeys(map(str.strip, dataset.split(","))):
        rows[name] = load_benchmark(name, data_root)[split]
    trained_on = _training_dataset(checkpoint)
    for name in rows:
        if trained_on is not None and (footage := shared_footage(trained_on, name)):
            typer.echo(
                f"warning: {checkpoint} was trained on {trained_on}, which like {name} is cut from {footage}: it may "
                f"have seen people of this split, and the figures may flatter it.",
                err=True,
            )
    model, processor = load_checkpoint(checkpoint)
    reports, notes = [], []
    for name, gallery in rows.items():
        captions = [caption for captions in gallery["captions"] for caption in captions]
        truncated = processor.count_truncated(captions)
        encoded = encode_dataset(model, processor, gallery, batch_size=batch_size, progress=not as_json)
        text = (encoded.text_embeds, encoded.text_person_ids)
        image = (encoded.image_embeds, encoded.image_person_ids)
        report = {"dataset": name, "split": split, "truncated_captions": truncated}
        report["text_to_image"] = retrieval_metrics(text[0], image[0], text[1], image[1])
        if image_to_text:
            report["image_to_text"] = retrieval_metrics(image[0], text[0], image[1], text[1])
        reports.append(report)
        if truncated:
            notes.append(f"{name}: {truncated} of {len(captions)} captions were longer than the model takes, and cut.")
    if as_json:
        typer.echo(json.dumps(reports, indent=2))
        return
    title = f"{checkpoint}, {split} split" + (f", trained on {trained_on}" if trained_on else "")
    _print_metrics(title, reports)
    for note in notes:
        typer.echo(note)


def _training_dataset(checkpoint: str) -> str | None:
    """What a checkpoint was trained on, where the results of its run lie beside it."""
    path = Path(checkpoint) / "results.json"
    if not path.is_file():
        return None
    try:
        dataset = json.loads(path.read_text(encoding="utf-8"))["data"]["dataset"]
    except (KeyError, TypeError, ValueError):
        dataset = None
    if not isinstance(dataset, str):
        typer.echo(f"warning: {path} does not say on which data set the checkpoint was trained.", err=True)
        return None
    return dataset


def _print_metrics(title: str, reports: list[dict]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    columns = [name for name in reports[0]["text_to_image"] if not name.startswith("num_")]
    for header in ("data set", "percent", *columns, "queries", "without match"):
        table.add_column(header, justify="left" if header in ("data set", "percent") else "right")
    for report in reports:
        for direction in ("text_to_image", "image_to_text"):
            if row := report.get(direction):
                counts = (str(row["num_queries"]), str(row["num_queries_without_match"]))
                figures = (f"{row[column]:.2f}" for column in columns)
                table.add_row(report["dataset"], direction.replace("_", " "), *figures, *counts)
    Console().print(table)
