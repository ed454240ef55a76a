"""The rules of a record, for loading, which stops at the first breach, and for checking, which collects them all."""

import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pyarrow as pa

from scmm.data.benchmarks.layouts import GENERIC, SPLITS, Counts
from scmm.data.benchmarks.paths import image_path
from scmm.data.benchmarks.sources import BenchmarkError, Source
from scmm.data.schema import FEATURES


class Row(NamedTuple):
    """A record that keeps the rules. `person_id` is as in the file, `number` its position there."""

    split: str
    file_name: str
    path: str
    captions: list[str]
    person_id: int
    camera_id: int
    number: int


def refuse(message: str) -> None:
    """The report of the loader: the first breach ends it."""
    raise BenchmarkError(message)


def check_records(source: Source, records: list[Any], report: Callable[[str], None] = refuse) -> list[Row]:
    """
    Turns records into rows, under the rules that training needs.

    A record has its fields, with values of the right kind; its split is known; a training record has a caption; its
    image lies in the image folder; and no image is in two splits or shows two persons. Captions come as they are. A
    set of the user's own may leave out all splits, so that everything is for training, and may name its persons: if
    any id is not an integer, all are numbered from 0 in the order of their first record.

    Args:
        source (`Source`): where the records come from.
        records (`list`): as from [`parse_annotations`].
        report (`Callable[[str], None]`, *optional*): takes the message of each breach; by default it is raised.

    Returns:
        `list[Row]`: the records that keep the rules.

    Raises:
        BenchmarkError: at the first breach, if `report` is not given.
    """
    key, generic = source.fields.split, source.layout is None
    without_splits = (
        generic
        and key == GENERIC[source.name].split  # who says that another key holds the split is not let down silently
        and not any(isinstance(record, dict) and key in record for record in records)
    )
    numbering = _Numbering(records, source.fields.person_id) if generic else None
    rows: list[Row] = []
    first_of_image: dict[str, Row] = {}
    for number, record in enumerate(records):
        try:
            row = _row(source, number, record, without_splits, numbering)
            first = first_of_image.setdefault(row.path, row)
            if (first.split, first.person_id) != (row.split, row.person_id):
                raise BenchmarkError(
                    f"repeats the image {row.file_name!r} of record {first.number} with another split or person: "
                    f"{row.split!r} and id {row.person_id}, there {first.split!r} and {first.person_id}. Remove one."
                )
        except BenchmarkError as error:
            report(f"{source.annotations}: record {number} {error}")
        else:
            rows.append(row)
    return rows


def to_tables(rows: Iterable[Row]) -> dict[str, pa.Table]:
    """The rows of each split that has any, as tables of [`~scmm.data.schema.FEATURES`] with images by path."""
    of_split: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row in rows:
        of_split[row.split].append(row)
    tables = {}
    for split, chosen in of_split.items():
        if chosen:
            columns = {
                "image": [{"bytes": None, "path": row.path} for row in chosen],
                "captions": [row.captions for row in chosen],
                "person_id": [row.person_id for row in chosen],
                "image_id": [row.number for row in chosen],
                "camera_id": [row.camera_id for row in chosen],
                "file_name": [row.file_name for row in chosen],
            }
            tables[split] = pa.table(columns, schema=FEATURES.arrow_schema)
    return tables


def count(table: pa.Table) -> Counts:
    """How much a split holds."""
    captions = sum(len(chunk.flatten()) for chunk in table["captions"].chunks)
    return Counts(len(table["person_id"].unique()), table.num_rows, captions)


def warnings_of(source: Source, tables: dict[str, pa.Table]) -> list[str]:
    """What does not keep a data set from training, but may not be what the user thinks it is."""
    warnings = []
    official = source.layout.official if source.layout is not None else {}
    found = {split: count(tables[split]) if split in tables else Counts(0, 0, 0) for split in (*official, *tables)}
    differences = [
        f"{split} has {_listed(found[split])} (officially {_listed(official[split])})"
        for split in official
        if found[split] != official[split]
    ]
    if differences:
        warnings.append(f"{source.annotations} differs from the official release: {'; '.join(differences)}.")
    names = pa.chunked_array([chunk for table in tables.values() for chunk in table["file_name"].chunks], pa.string())
    repeated = len(names) - len(names.unique())
    if repeated:
        example = next(entry["values"] for entry in names.value_counts().to_pylist() if entry["counts"] > 1)
        warnings.append(
            f"{source.annotations}: {repeated:,} record(s) repeat an image of an earlier record, such as {example!r}; "
            f"each counts as an image of its own."
        )
    return warnings


def _listed(counts: Counts) -> str:
    return ", ".join(f"{number:,} {kind}" for kind, number in counts._asdict().items())


def _row(source: Source, number: int, record: Any, without_splits: bool, numbering: "_Numbering | None") -> Row:
    """One record as a row; the message of an error goes on after "record N"."""
    if not isinstance(record, dict):
        raise BenchmarkError(f"is not a record of {source.name}: expected keys and values, got {_short(record)}.")
    fields = source.fields
    needed = (fields.image, fields.captions, fields.person_id, *(() if without_splits else (fields.split,)))
    for key in needed:
        if key not in record:
            advice = ""
            if key == fields.split and source.name == "cuhk-pedes":
                advice = " The splits are in the original reid_raw.json; caption_all.json has none."
            elif source.layout is None:
                advice = f" Its keys are {_short(list(record))}: say with fields which of them hold what."
            raise BenchmarkError(f"has no {key!r}.{advice}")
    try:
        split = "train" if without_splits else _split(record[fields.split], source)
        captions = _captions(record[fields.captions], source)
        file_name = record[fields.image]
        if not _is_text(file_name):
            raise BenchmarkError(f"its {fields.image} is no text: {_short(file_name)}")
        person_id = record[fields.person_id]
        person_id = _integer(fields.person_id, person_id) if numbering is None else numbering(person_id)
        camera_id = _camera(source, file_name, record)
    except BenchmarkError as error:
        raise BenchmarkError(f"is not a record of {source.name}: {error}.") from None
    if split == "train" and not captions:
        raise BenchmarkError(f"has no caption ({file_name}): write one, or remove the record.")
    return Row(split, file_name, image_path(source.images, file_name), captions, person_id, camera_id, number)


def _split(value: Any, source: Source) -> str:
    if source.layout is None and value == "validation":  # as data sets on the Hub call it
        return "val"
    if value not in SPLITS:
        raise BenchmarkError(f"its split is {_short(value)}, not one of {SPLITS}")
    return value


def _captions(value: Any, source: Source) -> list[str]:
    if source.layout is None and _is_text(value):
        return [value] if value.strip() else []
    if not isinstance(value, list) or not all(map(_is_text, value)):
        raise BenchmarkError(f"its captions are no list of texts: {_short(value)}")
    return value


def _camera(source: Source, file_name: str, record: dict) -> int:
    """-1 where it is unknown."""
    if source.fields.camera_id is not None:
        value = record.get(source.fields.camera_id)
        return -1 if value in (None, "") else _integer(source.fields.camera_id, value)
    if source.layout is not None and source.layout.camera_in_name is not None:
        match = source.layout.camera_in_name.match(file_name.rpartition("/")[2])
        return int(match[1]) if match else -1
    return -1


def _integer(key: str, value: Any) -> int:
    """7 and "7", but not 7.5, which would make two people one, and nothing that Arrow cannot hold."""
    if (isinstance(value, int) and not isinstance(value, bool)) or (
        isinstance(value, str) and _INTEGER.fullmatch(value)
    ):
        number = int(value)
        if -(2**63) <= number < 2**63:
            return number
    raise BenchmarkError(f"its {key} is no integer of 64 bits: {_short(value)}")


_INTEGER = re.compile(r"-?[0-9]{1,19}")


class _Numbering:
    """The ids of persons in a set of the user's own: as they are if all are integers, else by first appearance."""

    def __init__(self, records: list[Any], key: str):
        self.key = key
        self.number_of: dict[str, int] | None = None
        for record in records:
            value = record.get(key) if isinstance(record, dict) else None
            if isinstance(value, str) and not _INTEGER.fullmatch(value):
                self.number_of = {}
                break

    def __call__(self, value: Any) -> int:
        if self.number_of is None:
            return _integer(self.key, value)
        if not isinstance(value, str):
            value = str(_integer(self.key, value))
        if not value.strip():
            raise BenchmarkError(f"its {self.key} is empty")
        return self.number_of.setdefault(value, len(self.number_of))


def _is_text(value: Any) -> bool:
    """Whether a value can be stored as text: JSON can write halves of characters, which Arrow refuses."""
    return isinstance(value, str) and (value.isascii() or not _SURROGATE.search(value))


_SURROGATE = re.compile(r"[\ud800-\udfff]")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 200 else f"{text[:197]}..."
