"""Commands about a gallery: `scmm index build`, `add`, `remove`, `stats`, `compact`, `recall`, `export`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scmm.cli.checkpoints import Backend, load_checkpoint


if TYPE_CHECKING:
    from datasets import Dataset

    from scmm.retrieval.gallery import AddReport


app = typer.Typer(name="index", help="Keep a gallery: an index of images to search in.", no_args_is_help=True)

SourcePath = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A folder of images; one with a metadata.csv or .jsonl, whose columns file_name, camera, time and "
        "person_id say what is known of each image (others are kept too); such a file itself; a "
        "Parquet file; the folder of a saved data set; the embeddings that `scmm index embed` made; or, with "
        "--benchmark, the folder that contains the benchmark's.",
    ),
]
Benchmark = Annotated[
    str | None, typer.Option(help="SOURCE holds this benchmark: cuhk-pedes, icfg-pedes, rstpreid or paperdoll.")
]
Split = Annotated[str, typer.Option(help="Which split of the benchmark.")]
GalleryPath = Annotated[
    str, typer.Argument(metavar="GALLERY", help="The gallery's folder, or qdrant://HOST:PORT/COLLECTION.")
]
Days = Annotated[
    float | None, typer.Option(help="Erase images that are older than so many days, now and from then on.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(epilog="Example:  scmm index build path/to/crops --model runs/demo/checkpoint --gallery runs/gallery")
def build(
    source: SourcePath,
    model: Annotated[str, typer.Option(help="Folder or Hub id of an SCMM model with its processor.")],
    gallery: Annotated[
        str,
        typer.Option(help="Its folder, or a qdrant:// address. One that exists is brought up to date."),
    ],
    benchmark: Benchmark = None,
    split: Split = "test",
    retention_days: Days = None,
    backend: Annotated[
        Backend | None,
        typer.Option(
            help="What computes the embeddings of a new gallery, by default torch: onnx and onnx-int8 need what scmm "
            "export onnx writes."
        ),
    ] = None,
) -> None:
    """Make a gallery of images, or bring it up to date: what it holds already is not embedded again."""
    from scmm.retrieval.gallery import Gallery, is_gallery
    from scmm.retrieval.gallery.sources import read_source

    # A wrong one should neither cost the loading of a model nor leave an empty gallery behind.
    images = read_source(_source(source, benchmark, split))
    if backend is None:
        backend = Backend(Gallery.open(gallery).identity.backend) if is_gallery(gallery) else Backend.torch
    encoder, processor = load_checkpoint(model, backend=backend)
    if is_gallery(gallery):
        target = Gallery.open(gallery, model=encoder, processor=processor)
        if retention_days is not None:
            target.set_retention(retention_days)
    else:
        target = Gallery.create(gallery, encoder, processor, retention_days=retention_days)
    _print_added(target.add(images, progress=True), gallery)


@app.command(epilog="Example:  scmm index add runs/gallery path/to/more/crops")
def add(gallery: GalleryPath, source: SourcePath, benchmark: Benchmark = None, split: Split = "test") -> None:
    """Add images to a gallery, with the model that it was built with."""
    from scmm.retrieval.gallery import Gallery

    target = Gallery.open(gallery)
    _print_added(target.add(_source(source, benchmark, split), progress=True), gallery)


@app.command(
    epilog="Example:  torchrun --nproc-per-node 4 -m scmm.cli index embed path/to/crops --model CKPT --output shards"
)
def embed(
    source: SourcePath,
    model: Annotated[str, typer.Option(help="Folder or Hub id of an SCMM model with its processor.")],
    output: Annotated[Path, typer.Option(help="The folder of the shards' files, which all machines share.")],
    shard: Annotated[
        str | None,
        typer.Option(help="i/n, from 0/n to n-1/n. By default what torchrun or SLURM says, or else everything."),
    ] = None,
    ray_workers: Annotated[
        int | None,
        typer.Option(min=1, help="Let so many workers of a Ray cluster (RAY_ADDRESS, or this machine) do it."),
    ] = None,
    part_size: Annotated[int, typer.Option(min=1, help="Images in a file; a kill loses at most so many.")] = 1024,
    backend: Annotated[
        Backend,
        typer.Option(help="What computes the embeddings: onnx and onnx-int8 need what scmm export onnx writes."),
    ] = Backend.torch,
    benchmark: Benchmark = None,
    split: Split = "test",
) -> None:
    """Embed images on several machines, into files that `scmm index build` takes as its source. It can be resumed."""
    from scmm.retrieval.gallery.embedding import embed_shard, embed_shard_with_ray, use_local_gpu
    from scmm.retrieval.gallery.shards import Shard

    chosen = Shard.from_environment() if shard is None else Shard.parse(shard)
    images = _source(source, benchmark, split)
    if ray_workers is None:
        use_local_gpu()
        encoder, processor = load_checkpoint(model, backend=backend)
        report = embed_shard(images, encoder, processor, output, shard=chosen, part_size=part_size, progress=True)
    else:
        report = embed_shard_with_ray(
            images,
            model,
            output,
            workers=ray_workers,
            shard=chosen,
            part_size=part_size,
            backend=backend.value,
            progress=True,
        )
    for _, reason in report.skipped:
        typer.echo(f"skipped {reason}", err=True)
    typer.echo(
        f"{output}, shard {chosen}: {report.embedded} images embedded, {report.present} were there, "
        f"{len(report.skipped)} skipped."
    )


@app.command(epilog="Example:  scmm index remove runs/gallery --camera 4 --before 2026-01-01 --erase")
def remove(
    gallery: GalleryPath,
    id: Annotated[list[str] | None, typer.Option(help="The image with this id; may be repeated.")] = None,
    person: Annotated[list[str] | None, typer.Option(help="Images of this person; may be repeated.")] = None,
    camera: Annotated[list[str] | None, typer.Option(help="Images of this camera; may be repeated.")] = None,
    before: Annotated[str | None, typer.Option(help="Images taken before this time, such as 2026-01-31.")] = None,
    older_than_days: Annotated[float | None, typer.Option(help="Images taken more than so many days ago.")] = None,
    erase: Annotated[
        bool, typer.Option("--erase", help="Leave no trace on the disk of these and of formerly removed images.")
    ] = False,
) -> None:
    """Remove the images that meet every given condition from the gallery. Their files are not touched."""
    from scmm.retrieval.gallery import Filter, Gallery
    from scmm.retrieval.gallery.filters import expired_before

    if before is not None and older_than_days is not None:
        raise ValueError("--before and --older-than-days exclude each other.")
    limit = before if older_than_days is None else expired_before(older_than_days)
    where = Filter(ids=id or None, person_ids=person or None, cameras=camera or None, before=limit)
    if where.is_empty:
        raise ValueError("Say which images: --id, --person, --camera, --before or --older-than-days.")
    removed = Gallery.open(gallery).remove(where, erase=erase)
    typer.echo(f"{'Erased' if erase else 'Removed'} {removed} images from {gallery}.")


@app.command(epilog="Example:  scmm index stats runs/gallery")
def stats(gallery: GalleryPath, as_json: AsJson = False) -> None:
    """Say what a gallery holds."""
    from scmm.retrieval.gallery import Gallery

    figures = Gallery.open(gallery).stats()
    if as_json:
        typer.echo(json.dumps(figures, indent=2, default=str))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in _described(figures).items():
        table.add_row(name, value)
    Console().print(table, highlight=False, markup=False)


@app.command(epilog="Example:  scmm index compact runs/gallery")
def compact(
    gallery: GalleryPath,
    retention_days: Days = None,
    erase: Annotated[bool, typer.Option("--erase", help="Leave no trace of removed images on the disk.")] = False,
) -> None:
    """Join the gallery's small files, drop old versions of them, and erase what is older than the retention."""
    from scmm.retrieval.gallery import Gallery

    target = Gallery.open(gallery)
    if retention_days is not None:
        target.set_retention(retention_days)
    before = target.stats()["bytes"]
    expired = target.compact(erase=erase)
    after = target.stats()["bytes"]
    typer.echo(f"{gallery} takes {_size(after)} of the disk, before {_size(before)}.")
    if expired:
        typer.echo(f"Erased {expired} images that were older than the retention of {target.retention_days:g} days.")


@app.command(epilog="Example:  scmm index recall runs/gallery sentences.txt")
def recall(
    gallery: GalleryPath,
    queries: Annotated[Path, typer.Argument(help="A text file with a sentence in each line, such as you search for.")],
    top_k: Annotated[int, typer.Option(min=1, help="Images of each sentence that are compared.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Measure what approximate search finds of what exact search finds, on your own sentences."""
    from dataclasses import asdict

    from scmm.retrieval.gallery import Gallery

    target = Gallery.open(gallery)
    sentences = [line.strip() for line in queries.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not sentences:
        raise ValueError(f"{queries} holds no sentences.")
    report = target.recall(sentences, top_k=top_k)
    if as_json:
        typer.echo(json.dumps(asdict(report), indent=2))
        return
    typer.echo(f"recall@{report.top_k}: {report.recall:.4f} on {report.queries} sentences")
    typer.echo(f"exact search: {1e3 * report.exact_seconds:.2f} ms a query")
    typer.echo(
        f"approximate search: {1e3 * report.approximate_seconds:.2f} ms a query, "
        f"{report.exact_seconds / report.approximate_seconds:.1f} times as fast"
    )


@app.command(epilog="Example:  scmm index export runs/gallery gallery.parquet")
def export(gallery: GalleryPath, file: Annotated[Path, typer.Argument(help="The Parquet file to write.")]) -> None:
    """Write everything that a gallery holds, embeddings included, into a Parquet file."""
    from scmm.retrieval.gallery import Gallery

    typer.echo(f"{file} holds {Gallery.open(gallery).export(file)} images.")


def _source(path: Path, benchmark: str | None, split: str) -> "Path | Dataset":
    if benchmark is not None:
        from scmm.data.benchmarks import load_benchmark

        splits = load_benchmark(benchmark, path)
        if split not in splits:
            raise ValueError(
                f"{benchmark} in {path} has no split {split!r}, only {', '.join(sorted(map(str, splits)))}."
            )
        return splits[split]
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist.")
    return path


def _print_added(report: "AddReport", gallery: str) -> None:
    for _, reason in report.skipped:
        typer.echo(f"skipped {reason}", err=True)
    typer.echo(
        f"{gallery}: {report.added} images added, {report.updated} updated, {report.unchanged} unchanged, "
        f"{len(report.skipped)} skipped."
    )


def _described(figures: dict) -> dict[str, str]:
    """The rows of the table of `stats`."""
    model, codes = figures["model"], figures["approximate"]
    revision = f" at {model['revision']}" if model["revision"] else ""
    rows = {
        "images": f"{figures['images']:,}",
        "persons": f"{figures['persons']:,}",
        "cameras": ", ".join(figures["cameras"]),
        "time": f"{figures['oldest']} to {figures['newest']}" if figures["oldest"] else "",
        "without a time": f"{figures['without_time']:,}",
        "other columns": ", ".join(figures["columns"]),
        "embedding": f"{figures['dim']} numbers",
        "model": f"{model['name']}{revision}",
        "computed by": "" if model.get("backend", "torch") == "torch" else model["backend"],
        "weights": model["weights_hash"],
        "processor": model["processor_hash"],
        "retention": f"{figures['retention_days']:g} days" if figures["retention_days"] else "without end",
        "on the disk": f"{_size(figures['bytes'])} in {figures['files']} files, version {figures['version']}"
        if figures["files"]
        else "",
        "approximate search": "not prepared",
    }
    if figures["expired"]:
        rows["older than the retention"] = f"{figures['expired']:,}"
    if codes:
        measured = codes["recall"]
        found = f"recall@{measured['top_k']} {measured['recall']:.4f}" if measured else "recall not measured"
        rows["approximate search"] = f"{_size(codes['bytes'])}, {found}"
    return {name: value for name, value in rows.items() if value}


def _size(count: int) -> str:
    value = float(count)
    for unit in ("bytes", "kB", "MB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.2f} GB"
