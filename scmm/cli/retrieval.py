"""Commands that retrieve: evaluation on a benchmark and search in a folder."""

import json
from pathlib import Path
from typing import Annotated

import typer

from scmm.cli.checkpoints import Backend, BackendOption, Checkpoint, load_checkpoint


app = typer.Typer()


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
    model, processor = load_checkpoint(checkpoint)
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
    backend: BackendOption = Backend.torch,
    picture: Annotated[Path | None, typer.Option(help="Draw the results into this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """Rank the images of a folder by a sentence. Embeds them on the fly; unreadable ones are named and skipped."""
    from scmm.retrieval.search import find_images, search_folder

    find_images(images)  # a wrong folder should not cost the loading of a model
    model, processor = load_checkpoint(checkpoint, backend)
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
