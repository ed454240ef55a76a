"""The command that compares runs."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from scmm.results import find_runs, read_results, results_table, table_cells


app = typer.Typer()


@app.command(epilog="Example:  scmm results runs/mine runs/other --markdown")
def results(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of runs, or folders of those.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown table.")] = False,
) -> None:
    """Compare finished runs: the best and the last model of each, mean and standard deviation over seeds."""
    runs = dict.fromkeys(run for folder in folders for run in find_runs(folder))
    rows = results_table([read_results(run) for run in runs])
    if as_json:
        typer.echo(json.dumps(rows, indent=2))
    elif as_markdown:
        typer.echo(markdown_table(rows))
    else:
        print_results(rows)


def markdown_table(rows: list[dict[str, Any]]) -> str:
    """The rows of [`~scmm.results.results_table`] in Markdown."""
    header, cells = table_cells(rows)
    rule = ["---:" if _is_figure(name) else "---" for name in header]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in (header, rule, *cells))


def print_results(rows: list[dict[str, Any]]) -> None:
    """The rows of [`~scmm.results.results_table`] on the terminal."""
    from rich.console import Console
    from rich.table import Table

    header, cells = table_cells(rows)
    table = Table(title="Text to image, percent")
    for name in header:
        table.add_column(name, justify="right" if _is_figure(name) else "left")
    for line in cells:
        table.add_row(*line)
    Console().print(table)


def _is_figure(column: str) -> bool:
    return column in ("seeds", "epoch") or column.startswith(("val ", "test "))
