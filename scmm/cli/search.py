"""`scmm search`: sentences and images against a gallery, or sentences against a folder of images."""

import json
import re
import tempfile
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scmm.cli.checkpoints import Backend, load_checkpoint


if TYPE_CHECKING:
    from scmm.retrieval.gallery import Filter, Gallery


app = typer.Typer()

_IN_GALLERY = "In a gallery"


@dataclass
class _Result:
    """What both kinds of search have to say of an image."""

    query: str
    rank: int
    score: float
    path: str | None
    known: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        record = {"query": self.query, "rank": self.rank, "score": self.score, "path": self.path, **self.known}
        return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.items()}


def _gallery_option(*names: str, **options: Any) -> Any:
    return typer.Option(*names, rich_help_panel=_IN_GALLERY, **options)


@app.command(epilog='Example:  scmm search runs/gallery "a man in a red coat" --camera 4 --top-k 5')
def search(
    target: Annotated[
        str,
        typer.Argument(metavar="GALLERY | CHECKPOINT FOLDER", help="A gallery, or a model and a folder."),
    ],
    queries: Annotated[
        list[str] | None, typer.Argument(metavar="SENTENCE...", help="One or more sentences.", show_default=False)
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="Images for each sentence.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print a list of results instead of a table.")] = False,
    save_image: Annotated[Path | None, typer.Option(help="Draw the results into this PNG file.")] = None,
    open_image: Annotated[bool, typer.Option("--open", help="Draw the results and show the picture.")] = False,
    backend: Annotated[
        Backend, typer.Option(help="In a folder: onnx and onnx-int8 need what scmm export onnx writes.")
    ] = Backend.torch,
    camera: Annotated[list[str] | None, _gallery_option(help="Of this camera; may be repeated.")] = None,
    after: Annotated[str | None, _gallery_option(help="Taken then or later, such as 2026-01-31T08:00.")] = None,
    before: Annotated[str | None, _gallery_option(help="Taken before this time.")] = None,
    where: Annotated[
        list[str] | None,
        _gallery_option(help="A condition on another column: gate=north, height>=1.6, height<=1.8; may be repeated."),
    ] = None,
    group_by: Annotated[
        str | None,
        _gallery_option(
            help="person: show the best image of each; near-duplicates: leave out further frames of one track; or a "
            "column, for the best image of each of its values."
        ),
    ] = None,
    min_score: Annotated[float | None, _gallery_option(help="The least score.")] = None,
    image: Annotated[Path | None, _gallery_option(help="Search with this image, beside a sentence or alone.")] = None,
    like: Annotated[str | None, _gallery_option(help="Search with the gallery's image of this id.")] = None,
    without: Annotated[
        list[str] | None,
        _gallery_option(help='What should not be there: "a person with a backpack"; may be repeated.'),
    ] = None,
    approximate: Annotated[
        bool, _gallery_option("--approximate", help="Faster, may miss some: `scmm index recall` measures how many.")
    ] = False,
    model: Annotated[str | None, _gallery_option(help="The gallery's model, if it is no longer where it was.")] = None,
) -> None:
    """
    Rank the images of a gallery by sentences. It knows its model.

    Without a gallery, scmm search CHECKPOINT FOLDER SENTENCE... embeds the images of a folder on the fly; unreadable
    ones are named and skipped.
    """
    from scmm.retrieval.gallery import is_gallery

    sentences = list(queries or [])
    if is_gallery(target):
        if backend != Backend.torch:
            raise ValueError(f"--backend {backend} is for a folder; {target} is a gallery, whose images are embedded.")
        gallery = _open(target, model)
        _warn_of_long(gallery.processor, [*sentences, *(without or [])])
        conditions = _filter(gallery, camera, after, before, where or [])
        _say_unknown(gallery, camera or [], group_by)
        asked = _queries(sentences, image, like, without or [])
        if approximate:
            _say_recall(gallery)
        options: dict[str, Any] = {"top_k": top_k, "where": conditions, "group_by": group_by, "min_score": min_score}
        found = gallery.search_batch([query for _, query in asked], approximate=approximate, **options)
        results = [
            [
                _Result(name, rank, hit.score, hit.path, {**_known(hit), **hit.columns})
                for rank, hit in enumerate(hits, start=1)
            ]
            for (name, _), hits in zip(asked, found, strict=True)
        ]
    else:
        given = (camera, after, before, where, group_by, min_score, image, like, without, model)
        if any(value is not None for value in given) or approximate:
            raise ValueError(f"{target} is not a gallery, and conditions need one: `scmm index build` makes it.")
        if len(sentences) < 2:
            raise ValueError(
                f"{target} is not a gallery. Search in a gallery with a sentence, or in a folder: scmm search "
                "CHECKPOINT FOLDER SENTENCE."
            )
        results = _search_folder(target, sentences[0], sentences[1:], top_k, backend, progress=not as_json)
    if save_image is not None and save_image.suffix.lower() != ".png":
        raise ValueError(f"--save-image {save_image}: it is a PNG file that is written; let its name end in .png.")
    if save_image is not None or open_image:
        picture = save_image or Path(tempfile.mkdtemp(prefix="scmm-")) / "results.png"
        _draw(results, picture)
        if open_image:
            typer.launch(str(picture))
    if as_json:
        typer.echo(json.dumps([result.to_dict() for ranked in results for result in ranked], indent=2))
    else:
        _print(results)


def _open(path: str, model: str | None) -> "Gallery":
    from scmm.retrieval.gallery import Gallery

    identity = Gallery.open(path).identity
    encoder, processor = load_checkpoint(
        model or identity.name, None if model else identity.revision, identity.backend
    )
    return Gallery.open(path, model=encoder, processor=processor)


def _filter(
    gallery: "Gallery", cameras: list[str] | None, after: str | None, before: str | None, conditions: list[str]
) -> "Filter":
    """Conditions with values of the types that the gallery's columns have."""
    from scmm.retrieval.gallery import Filter, Range

    columns: dict[str, Any] = {}
    for condition in conditions:
        parsed = re.fullmatch(r"([^<>=]+)(=|>=|<=)(.*)", condition)
        if parsed is None:
            raise ValueError(f"--where {condition!r} is not of the form column=value, column>=value or column<=value.")
        name, operator, text = parsed.groups()
        value = gallery.parse_value(name, text)
        if operator == "=":
            columns.setdefault(name, []).append(value)
        else:
            limits = columns.get(name, Range())
            low, high = (value, limits.high) if operator == ">=" else (limits.low, value)
            columns[name] = Range(low, high)
    return Filter(cameras=cameras or None, after=after, before=before, columns=columns)


def _say_unknown(gallery: "Gallery", cameras: list[str], group_by: str | None) -> None:
    """What can find or group nothing, because the gallery knows nothing of it."""
    if not cameras and group_by != "person":
        return
    figures = gallery.stats()
    if unknown := sorted(set(cameras) - set(figures["cameras"])):
        known = ", ".join(figures["cameras"]) or "none: no image has one"
        typer.echo(f"The gallery has no camera {', '.join(unknown)}; its cameras: {known}.", err=True)
    if group_by == "person" and not figures["persons"]:
        typer.echo("The gallery does not know who is in its images: each stands for itself.", err=True)


def _queries(sentences: list[str], image: Path | None, like: str | None, without: list[str]) -> list[tuple[str, Any]]:
    """Each query with the name under which its results are shown."""
    from scmm.retrieval.gallery import Query

    if not sentences and image is None and like is None:
        raise ValueError("There is nothing to search for: give a sentence, --image or --like.")
    beside = [str(image)] if image is not None else [like] if like is not None else []
    return [
        (
            " + ".join([*([] if text is None else [text]), *beside]) + "".join(f" - {other}" for other in without),
            Query(text, image=image, like=like, without=without),
        )
        for text in sentences or [None]
    ]


def _search_folder(
    checkpoint: str, folder: str, sentences: list[str], top_k: int, backend: Backend, progress: bool
) -> list[list[_Result]]:
    from scmm.retrieval.search import find_images, search_folder

    find_images(folder)  # a wrong folder should not cost the loading of a model
    model, processor = load_checkpoint(checkpoint, backend=backend)
    _warn_of_long(processor, sentences)
    found = search_folder(model, processor, folder, sentences, top_k=top_k, progress=progress)
    for _, reason in found.skipped:
        typer.echo(f"skipped {reason}", err=True)
    if found.skipped:
        typer.echo(f"Skipped {len(found.skipped)} of {found.num_images + len(found.skipped)} images.", err=True)
    return [
        [_Result(sentence, rank, score, str(path), {}) for rank, (path, score) in enumerate(hits, start=1)]
        for sentence, hits in zip(sentences, found.ranked, strict=True)
    ]


def _warn_of_long(processor: Any, sentences: list[str]) -> None:
    truncated = processor.count_truncated(sentences)
    if truncated:
        typer.echo(f"{truncated} of {len(sentences)} sentences are longer than the model takes and are cut.", err=True)


def _say_recall(gallery: "Gallery") -> None:
    codes = gallery.stats()["approximate"]
    measured = codes and codes["recall"]
    if measured:
        text = f"recall@{measured['top_k']} {measured['recall']:.4f}, measured on {measured['queries']} queries"
    else:
        text = "its recall has not been measured, `scmm index recall` does"
    typer.echo(f"Approximate search: {text}.", err=True)


def _known(hit: Any) -> dict[str, Any]:
    return {"id": hit.id, "person_id": hit.person_id, "camera": hit.camera, "time": hit.time}


def _draw(results: list[list[_Result]], picture: Path) -> None:
    """A picture of the results; an image that is not there any more, or never was a file, is left out and named."""
    from scmm.analysis.ranked_results import ranked_results_figure
    from scmm.processing import load_image

    rows = []
    for ranked in results:
        hits = []
        for result in ranked:
            try:
                if result.path is None:
                    raise ValueError(f"{result.known['id']} is not a file of its own")
                hits.append((load_image(result.path), result.score, None))
            except (ValueError, OSError) as error:
                typer.echo(f"not drawn: {error}", err=True)
        if ranked:
            rows.append((ranked[0].query, hits))
    if not rows:
        raise ValueError("There are no results to draw.")
    ranked_results_figure(rows, picture)
    typer.echo(f"The picture is {picture}.", err=True)


def _print(results: list[list[_Result]]) -> None:
    """A table for each query. What no result has gets no column, and the id is shown where it is not the path."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    if not console.is_terminal:  # a file or another program wants whole lines
        console = Console(width=10_000)
    for ranked in results:
        if not ranked:
            console.print("Nothing found.")
            continue
        table = Table(title=Text(ranked[0].query), title_justify="left")
        table.add_column("rank", justify="right")
        table.add_column("score", justify="right")
        shown = [
            name
            for name in ranked[0].known
            if any(result.known[name] is not None for result in ranked)
            and not (name == "id" and all(result.known["id"] == result.path for result in ranked))
        ]
        for name in (*shown, "path"):
            table.add_column(Text(name), overflow="fold")
        for result in ranked:
            cells = [*(result.known[name] for name in shown), result.path]
            texts = [Text("" if cell is None else str(cell)) for cell in cells]
            table.add_row(str(result.rank), f"{result.score:.3f}", *texts)
        console.print(table)
