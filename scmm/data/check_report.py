"""The report of a check, for the terminal."""

import unicodedata
from collections.abc import Iterable

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from scmm.data.benchmarks.layouts import Counts
from scmm.data.check import CheckReport


SHOWN = 10  # of many problems, characters or folders


def print_report(report: CheckReport, console: Console | None = None) -> None:
    """
    Prints a report: counts, findings, the captions' quality, then warnings and problems.

    Args:
        report (`CheckReport`): of [`~scmm.data.check.check_benchmark`].
        console (`rich.console.Console`, *optional*): where to; by default stdout.

    Example:

    ```python
    >>> from scmm.data.check import CheckReport
    >>> from scmm.data.check_report import print_report
    >>> print_report(CheckReport("json", "data.json", "images", problems=["data.json holds no records."]))
    json: data.json
    problem: data.json holds no records.
    Training on this data set would fail: 1 problem.

    ```
    """
    console = console or Console(highlight=False)
    console.print(Text(f"{report.name}: {report.annotations}"), soft_wrap=True)
    if report.counts:
        console.print(_counts(report))
        console.print(_findings(report))
    if report.caption_quality:
        console.print(_quality(report.caption_quality))
    for kind, style, messages in (("warning", "yellow", report.warnings), ("problem", "red", report.problems)):
        for message in messages[:SHOWN]:
            console.print(Text.assemble((f"{kind}: ", style), message), soft_wrap=True)
        if len(messages) > SHOWN:
            console.print(f"and {len(messages) - SHOWN:,} more {kind}s, which --json lists")
    if report.can_train:
        console.print("Training on this data set can start.", style="green")
    else:
        problems = "1 problem" if len(report.problems) == 1 else f"{len(report.problems):,} problems"
        console.print(f"Training on this data set would fail: {problems}.", style="red")


def _counts(report: CheckReport) -> Table:
    kinds = Counts._fields
    table = Table("split", *(Column(kind, justify="right") for kind in kinds))
    for split in {**report.counts, **report.official}:
        cells = []
        for kind in kinds:
            found, official = report.counts.get(split, {}).get(kind, 0), report.official.get(split, {}).get(kind)
            cell = f"{found:,}" if official is None else f"{found:,} of {official:,}"
            cells.append(Text(cell, "" if official in (None, found) else "yellow"))
        table.add_row(split, *cells)
    return table


def _findings(report: CheckReport) -> Table:
    table = Table("finding", Column("number", justify="right"), "where")

    def add(finding: str, number: int | str, where: Iterable[str] = ()) -> None:
        where = list(where)
        more = f", and {len(where) - SHOWN:,} more" if len(where) > SHOWN else ""
        number = f"{number:,}" if isinstance(number, int) else number
        table.add_row(finding, number, Text(", ".join(where[:SHOWN]) + more))

    missing = report.missing_images
    folders = [f"{folder} {found['missing']:,} of {found['named']:,}" for folder, found in missing.items()]
    add("missing images", sum(found["missing"] for found in missing.values()), folders)
    unreadable = report.unreadable_images
    if unreadable is None:
        add("unreadable images", "?", ["not looked for without --images"])
    else:
        add("unreadable images", len(unreadable), unreadable)
    singles = report.single_image_identities
    add("identities with one image", sum(singles.values()), [f"{split} {n:,}" for split, n in singles.items() if n])
    add("empty captions", report.empty_captions)
    repeated = [f"{uses:,} x {_short(text)!r}" for text, uses in report.repeated_captions.items()]
    add("captions shared by identities", sum(report.repeated_captions.values()), repeated[:3])
    characters = [f"{_name(character)} {uses:,}" for character, uses in report.unexpected_characters.items()]
    add("captions with odd characters", report.unexpected_captions, characters)
    least = "" if report.long_captions_exact or not report.long_captions else "at least "
    note = [] if report.long_captions_exact else ["by words and punctuation; --checkpoint counts tokens"]
    add(f"captions beyond {report.max_length} tokens", f"{least}{report.long_captions:,}", note)
    return table


def _quality(bins: list[int]) -> Table:
    table = Table(title="training captions by quality", title_justify="left", show_header=False, box=None)
    for number, captions in enumerate(bins):
        bar = "█" * round(40 * captions / max(bins)) or ("▏" if captions else "")
        table.add_row(f"{number / len(bins):.1f} to {(number + 1) / len(bins):.1f}", f"{captions:,}", bar)
    table.columns[1].justify = "right"
    return table


def _name(character: str) -> str:
    """The character, or its number where a terminal would not show it."""
    shown = character.isprintable() and not unicodedata.combining(character)
    return character if shown else f"U+{ord(character):04X}"


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."
