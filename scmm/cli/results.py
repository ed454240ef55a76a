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
        from scmm.analysis.tables import markdown_table

        typer.echo(markdown_table(*table_cells(rows)))
    else:
        print_results(rows)


def print_results(rows: list[dict[str, Any]]) -> None:
    """The rows of [`~scmm.results.results_table`] on the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    header, cells = table_cells(rows)
    titles = [name.replace("rank-", "R").replace(" ", "\n") for name in header]
    cells = [[cell.replace("±", " ±") for cell in line] for line in cells]
    columns = list(zip(titles, *cells, strict=True))
    console = Console()
    widths = [max(len(line) for cell in column for line in cell.split("\n")) for column in columns]
    if sum(widths) + 2 * len(widths) > console.width:  # figures go on two lines, and the first column gets the rest
        widths = [max(len(word) for cell in column for word in cell.split()) for column in columns]
        widths[0] = max(8, console.width - sum(widths[1:]) - 2 * len(widths))
    table = Table(title="Text to image, percent", box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    for name, title, width in zip(header, titles, widths, strict=True):
        justify = "right" if _is_figure(name) else "left"
        table.add_column(title, justify=justify, width=width, overflow="fold")
    for line in cells:
        table.add_row(*line)
    console.print(table)


def _is_figure(column: str) -> bool:
    return column in ("seeds", "epoch") or column.startswith(("val ", "test "))
