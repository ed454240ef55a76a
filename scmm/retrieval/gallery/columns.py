"""The columns of a gallery's table: their names and types, and how a source's columns become them."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


TIME = pa.timestamp("us", tz="UTC")

# What a gallery knows of every image; anything else that a source says is a column of the user's.
KNOWN_COLUMNS = {"id": pa.string(), "path": pa.string(), "camera": pa.string(), "time": TIME, "person_id": pa.string()}
# What the gallery itself writes, and what a result says beside the columns.
RESERVED_COLUMNS = frozenset({"embedding", "content_hash", "record_hash", "query", "rank", "score"})

_ALIASES = {"camera_id": "camera", "timestamp": "time"}


class ColumnError(ValueError):
    """A column that a gallery cannot take; the message names it, the record and the value."""


def parse_time(value: str | datetime) -> datetime:
    """
    A time with its zone; without one it is UTC.

    Raises:
        ValueError: if a text is not a time in the form of ISO 8601.

    Example:

    ```python
    >>> from scmm.retrieval.gallery.columns import parse_time
    >>> parse_time("2026-03-01 12:30").isoformat()
    '2026-03-01T12:30:00+00:00'

    ```
    """
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not a time such as 2026-03-01 or 2026-03-01T12:30:00+01:00.") from None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def parse_value(text: str, dtype: pa.DataType, name: str) -> Any:
    """
    A value of a column from text.

    Raises:
        ColumnError: if the text is no value of the column's type.

    Example:

    ```python
    >>> import pyarrow as pa
    >>> from scmm.retrieval.gallery.columns import parse_value
    >>> parse_value("1.60", pa.float64(), "height"), parse_value("007", pa.string(), "camera")
    (1.6, '007')

    ```
    """
    try:
        return parse_time(text) if dtype == TIME else pa.scalar(text).cast(dtype).as_py()
    except ValueError:
        raise ColumnError(f"the column {name} holds {dtype}; {text!r} is none.") from None


def normalize_columns(columns: Mapping[str, Any]) -> pa.Table:
    """
    Brings a source's columns to a gallery's names and types.

    Args:
        columns (`Mapping[str, pyarrow.Array or pyarrow.ChunkedArray]`): the columns as the source has them.

    Returns:
        `pyarrow.Table`: [`KNOWN_COLUMNS`], null where the source says nothing, then the user's columns of text
        (string), truth values (bool), whole numbers (int64), other numbers (float64) and times; columns of any other
        type, or without a single value, are left out.

    Raises:
        ColumnError: if a name is reserved, or a value is not of its column's type.

    Example:

    ```python
    >>> import pyarrow as pa
    >>> from scmm.retrieval.gallery.columns import normalize_columns
    >>> table = normalize_columns({"id": pa.array(["a"]), "camera_id": pa.array([-1]), "height": pa.array([2])})
    >>> table.to_pylist()
    [{'id': 'a', 'path': None, 'camera': None, 'time': None, 'person_id': None, 'height': 2}]

    ```
    """
    renamed = {}
    for name, values in columns.items():
        if name == "camera_id" and pa.types.is_integer(values.type):
            values = pc.if_else(pc.equal(values, -1), None, values)
        known = _ALIASES.get(name, name)
        if known in renamed:
            raise ColumnError(f"there are both {known} and {name}; keep one of them.")
        renamed[known] = values
    length = len(next(iter(renamed.values())))
    table = {}
    for name, dtype in KNOWN_COLUMNS.items():
        values = renamed.pop(name, None)
        if values is None:
            table[name] = pa.nulls(length, dtype)
        else:
            table[name] = _times(name, values) if dtype == TIME else _texts(name, values)
    for name, values in renamed.items():
        dtype = _type_of(values.type)
        if dtype is None:
            continue
        if name in RESERVED_COLUMNS or name.startswith("_") or "." in name or not name:
            raise ColumnError(f"a column must not have the name {name!r}: rename it.")
        table[name] = _times(name, values) if dtype == TIME else values.cast(dtype)
    return pa.table(table)


def _type_of(dtype: pa.DataType) -> pa.DataType | None:
    """The type under which a user's column is stored, or `None` if it is not stored."""
    if pa.types.is_dictionary(dtype):
        dtype = dtype.value_type
    if pa.types.is_boolean(dtype):
        return pa.bool_()
    if pa.types.is_integer(dtype):
        return pa.int64()
    if pa.types.is_floating(dtype) or pa.types.is_decimal(dtype):
        return pa.float64()
    if pa.types.is_string(dtype) or pa.types.is_large_string(dtype):
        return pa.string()
    if pa.types.is_timestamp(dtype) or pa.types.is_date(dtype):
        return TIME
    return None


def _texts(name: str, values: Any) -> Any:
    """Identifiers are text, whatever the source stores."""
    if _type_of(values.type) not in (pa.string(), pa.int64()) and not pa.types.is_null(values.type):
        raise ColumnError(f"{name} must be text or whole numbers, not {values.type}.")
    return values.cast(pa.string())


def _times(name: str, values: Any) -> Any:
    if pa.types.is_null(values.type):
        return values.cast(TIME)
    if pa.types.is_timestamp(values.type) or pa.types.is_date(values.type):
        if pa.types.is_date(values.type) or values.type.tz is None:
            return pc.assume_timezone(values.cast(pa.timestamp("us")), "UTC")
        return values.cast(TIME, safe=False)
    if _type_of(values.type) != pa.string():
        raise ColumnError(f"{name} must be times in the form of ISO 8601, not {values.type}.")
    times = []
    for number, value in enumerate(values.to_pylist()):
        try:
            times.append(None if value is None or not value.strip() else parse_time(value))
        except ValueError as error:
            raise ColumnError(f"record {number} has no usable {name}: {error}") from None
    return pa.array(times, TIME)
