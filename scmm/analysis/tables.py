"""Tables as files: Markdown to read, CSV to reckon with."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .png import write_png as write_whole


def write_csv(path: str | os.PathLike, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """
    Writes a CSV file that is whole or absent; `None` becomes an empty cell. The folder is made where it is missing.

    Args:
        path (`str` or `os.PathLike`): the file, which is replaced once the new one is complete.
        header (sequence of `str`): the columns' names.
        rows (iterable of sequences): the values.

    Returns:
        `Path`: the file.

    Example:

    ```python
    >>> import pathlib, tempfile
    >>> from scmm.analysis.tables import write_csv
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_csv(pathlib.Path(folder, "x.csv"), ["arm", "rank1"], [["a, b", 61.5]]).read_text().splitlines()
    ['arm,rank1', '"a, b",61.5']

    ```
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return write_text(path, text.getvalue())


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """
    A Markdown table, the first column to the left and the others to the right.

    Args:
        header (sequence of `str`): the columns' names.
        rows (iterable of sequences of `str`): the cells.

    Returns:
        `str`

    Example:

    ```python
    >>> from scmm.analysis.tables import markdown_table
    >>> print(markdown_table(["arm", "rank-1"], [["baseline", "61.5"]]))
    | arm | rank-1 |
    |:---|---:|
    | baseline | 61.5 |

    ```
    """
    first, *others = ("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in (header, *rows))
    rule = "|:---|" + "---:|" * (len(header) - 1)
    return "\n".join([first, rule, *others])


def write_text(path: str | os.PathLike, text: str) -> Path:
    """Writes a UTF-8 text file that is whole or absent. The folder is made where it is missing."""
    return write_whole(path, lambda file: file.write(text.encode()))
