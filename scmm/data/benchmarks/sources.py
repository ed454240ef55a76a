"""From a benchmark's name and root to its annotation file, and from that file to records."""

import csv
import dataclasses
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scmm.data.benchmarks.layouts import GENERIC, LAYOUTS, Fields, Layout


METADATA = ("metadata.jsonl", "metadata.csv")


class BenchmarkError(ValueError):
    """A benchmark's folder or annotations are not as they should be; the message says what to do."""


@dataclass(frozen=True)
class Source:
    """Where a data set lies: its annotation file, its image folder (links resolved), and how its records are read."""

    name: str
    annotations: Path
    images: Path
    fields: Fields
    layout: Layout | None = None  # None: a set of the user's own


def read_records(name: str, root: str | os.PathLike) -> tuple[Path, list[dict]]:
    """
    Reads a benchmark's annotations as they are.

    Args:
        name (`str`): as for [`load_benchmark`].
        root (`str` or `os.PathLike`): as for [`load_benchmark`].

    Returns:
        `tuple[Path, list[dict]]`: the annotation file and its records.

    Raises:
        BenchmarkError: if the name is unknown, a folder or file is missing, or the file is not a list of records.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.data.benchmarks import read_records
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=1, val_identities=0, test_identities=0, progress=False)
    ...     path, records = read_records("paperdoll", root)
    >>> path.name, len(records)
    ('paperdoll.json', 4)

    ```
    """
    source = find_source(name, root)
    return source.annotations, parse_annotations(source.annotations, source.annotations.read_bytes())


def find_source(
    name: str,
    root: str | os.PathLike,
    *,
    fields: dict[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
) -> Source:
    """
    Finds the files of a data set without reading them.

    Args:
        name, root, fields, image_root: as for [`load_benchmark`].

    Returns:
        `Source`

    Raises:
        BenchmarkError: if the name or a field is unknown, or a folder or file is missing.
    """
    root = Path(root)
    if name in LAYOUTS:
        if fields or image_root:
            raise BenchmarkError(
                f"{name} has a layout of its own: fields and image_root are for {' and '.join(GENERIC)}."
            )
        return _benchmark_source(name, root)
    if name not in GENERIC:
        raise BenchmarkError(f"There is no benchmark {name!r}; choose one of {sorted([*LAYOUTS, *GENERIC])}.")
    if name == "json":
        if not root.is_file():
            raise BenchmarkError(f"{root} is not a file: for a json data set the root is the path of the JSON file.")
        annotations = root
    else:
        found = [root / file for file in METADATA if (root / file).is_file()]
        if len(found) != 1:
            has = "both {} and {}" if found else "neither {} nor {}"
            raise BenchmarkError(
                f"{root} has {has.format(*METADATA)}: a folder data set is described by one such file beside its "
                f"images, with their names in the column file_name."
            )
        annotations = found[0]
    images = Path(image_root or annotations.parent)
    if not images.is_dir():
        raise BenchmarkError(f"{images} is not a folder: image_root must contain the images.")
    return Source(name, annotations, images.resolve(), _mapped(name, fields or {}))


def parse_annotations(path: Path, content: bytes) -> list[Any]:
    """
    Reads the records of an annotation file: a JSON list, or one record a line in `.jsonl` and `.csv` files.

    Args:
        path (`Path`): the file, for its suffix and for messages.
        content (`bytes`): what it holds.

    Returns:
        `list`: the records, unchecked.

    Raises:
        BenchmarkError: if the file is not UTF-8, broken, empty, or not a list.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        guess = " It looks like UTF-16." if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise BenchmarkError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.{guess}") from None
    if path.suffix == ".csv":
        records = _parse_csv(path, text)
    elif path.suffix == ".jsonl":
        lines = enumerate(text.split("\n"), start=1)  # not splitlines(), which cuts at characters inside captions too
        records = [_parse_json(path, line, number) for number, line in lines if line.strip()]
    else:
        records = _parse_json(path, text, 1)
    if not isinstance(records, list):
        raise BenchmarkError(f"{path} holds a {type(records).__name__}; expected a list with one record per image.")
    if not records:
        raise BenchmarkError(f"{path} holds no records.")
    return records


def _benchmark_source(name: str, root: Path) -> Source:
    layout = LAYOUTS[name]
    folder = root / layout.folder
    if not folder.is_dir():
        advice = f"the root must contain {layout.folder}/ with imgs/ in it."
        if any((root / file).is_file() for file in layout.annotations):
            advice = (
                f"{root} is the benchmark's own folder; the root is the folder that contains it, as {layout.folder}/."
            )
        raise BenchmarkError(f"{folder} is not a folder: {advice}")
    path = next((folder / file for file in layout.annotations if (folder / file).is_file()), None)
    if path is None:
        names = " or ".join(layout.annotations)
        if name == "cuhk-pedes" and (folder / "caption_all.json").is_file():
            raise BenchmarkError(
                f"{folder} has caption_all.json, which does not say which record belongs to which split: get "
                f"{names}, where each record has its split, and put it beside imgs/."
            )
        raise BenchmarkError(f"{folder} has no {names}, which holds captions and splits.")
    images = folder / "imgs"
    if not images.is_dir():
        raise BenchmarkError(f"{images} is not a folder: the images of {name} belong there.")
    return Source(name, path, images.resolve(), layout.fields, layout)


def _mapped(name: str, fields: dict[str, str]) -> Fields:
    known = [field.name for field in dataclasses.fields(Fields)]
    for field, key in fields.items():
        if field not in known:
            raise BenchmarkError(f"fields has the unknown name {field!r}; choose from {', '.join(known)}.")
        if not isinstance(key, str):
            raise BenchmarkError(f"fields[{field!r}] must be the name of a record's key, got {key!r}.")
    return dataclasses.replace(GENERIC[name], **fields)


def _parse_json(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = first_line + error.lineno - 1
        raise BenchmarkError(f"{path} is broken at line {line}, column {error.colno}: {error.msg}.") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists thousands deep
        raise BenchmarkError(f"{path} is broken: {error}.") from None


def _parse_csv(path: Path, text: str) -> list[dict]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    records = []
    try:
        for record in reader:
            if None in record or None in record.values():
                columns = len(reader.fieldnames or ())
                raise BenchmarkError(f"{path} is broken at line {reader.line_num}: expected {columns} columns.")
            records.append(record)
    except csv.Error as error:
        raise BenchmarkError(f"{path} is broken at line {reader.line_num}: {error}.") from None
    return records
