"""Which images of a gallery to search in or to remove: conditions of typed values, never text that is parsed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from scmm.retrieval.gallery.columns import TIME, parse_time


_MAX_DAYS = 100_000  # a calendar of the computer ends somewhere


@dataclass(frozen=True)
class Range:
    """
    A range of a column's values, both ends included; an end that is `None` is open.

    Args:
        low (*optional*): the least value.
        high (*optional*): the greatest value.
    """

    low: Any = None
    high: Any = None


_MAX_DAYS = 100_000  # a calendar of the computer ends somewhere


@dataclass(frozen=True)
class Filter:
    """
    Conditions that an image has to meet, all of them. One that is `None` does not matter.

    Args:
        ids (`Sequence[str]`, *optional*): one of these ids.
        person_ids (`Sequence[str | int]`, *optional*): one of these persons.
        cameras (`Sequence[str | int]`, *optional*): one of these cameras.
        after (`datetime` or `str`, *optional*): taken then or later; without a zone it is UTC. An image without a
            time meets no condition on time.
        before (`datetime` or `str`, *optional*): taken earlier than this.
        columns (`Mapping[str, Any]`, *optional*): for some of the user's columns a value, a list of values of which
            one has to match, or a [`Range`].

    Example:

    ```python
    >>> from scmm.retrieval.gallery.filters import Filter, Range
    >>> Filter(cameras=["4"], after="2026-03-01", columns={"gate": ["north", "east"], "height": Range(low=1.6)})
    Filter(ids=None, person_ids=None, cameras=['4'], after='2026-03-01', before=None,
           columns={'gate': ['north', 'east'], 'height': Range(low=1.6, high=None)})

    ```
    """

    ids: Sequence[str] | None = None
    person_ids: Sequence[str | int] | None = None
    cameras: Sequence[str | int] | None = None
    after: datetime | str | None = None
    before: datetime | str | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """Whether every image meets it."""
        return self == Filter()

    def listed(self) -> list[tuple[str, list[str]]]:
        """The columns of identifiers of which a list was given, each with the list, as text."""
        listed = []
        for name, values in (("id", self.ids), ("person_id", self.person_ids), ("camera", self.cameras)):
            if isinstance(values, str):
                raise ValueError(f"{name} must be given as a list, got the text {values!r}.")
            if values is not None:
                listed.append((name, [str(value) for value in values]))
        return listed

    def mask(self, column: Callable[[str], pa.ChunkedArray]) -> np.ndarray:
        """
        Which rows meet the conditions.

        Args:
            column (`Callable`): gives a column by its name; raises `ValueError` if there is none.

        Returns:
            `np.ndarray` of dtype bool: an entry for each row.

        Raises:
            ValueError: if there is no such column, or a value is not of the column's type.
        """
        masks = [_is_in(column(name), values, name) for name, values in self.listed()]
        if self.after is not None:
            masks.append(pc.greater_equal(column("time"), pa.scalar(parse_time(self.after), TIME)))
        if self.before is not None:
            masks.append(pc.less(column("time"), pa.scalar(parse_time(self.before), TIME)))
        for name, condition in self.columns.items():
            values = column(name)
            if isinstance(condition, Range):
                if condition.low is not None:
                    masks.append(pc.greater_equal(values, typed_value(condition.low, values.type, name)))
                if condition.high is not None:
                    masks.append(pc.less_equal(values, typed_value(condition.high, values.type, name)))
            else:
                accepted = condition if isinstance(condition, list | tuple | set | frozenset) else [condition]
                masks.append(_is_in(values, list(accepted), name))
        if not masks:
            raise ValueError("The filter has no condition.")
        arrays = [np.asarray(pc.fill_null(mask, False)) for mask in masks]
        return np.logical_and.reduce(arrays)


def expired_before(days: float) -> datetime:
    """
    The time before which images are older than so many days.

    Raises:
        ValueError: if the number is not above 0, or larger than any image is old.
    """
    if not 0 < days <= _MAX_DAYS:
        raise ValueError(f"A number of days must be above 0 and at most {_MAX_DAYS:,}, got {days:g}.")
    return datetime.now(UTC) - timedelta(days=days)


def is_expired(time: datetime | None, retention_days: float | None) -> bool:
    """Whether an image of this time is older than the retention; without a time it never is."""
    return time is not None and retention_days is not None and time < expired_before(retention_days)


def _is_in(values: pa.ChunkedArray, accepted: list, name: str) -> pa.ChunkedArray:
    scalars = [typed_value(value, values.type, name) for value in accepted]
    return pc.is_in(values, pa.array([scalar.as_py() for scalar in scalars], values.type))


def typed_value(value: Any, dtype: pa.DataType, name: str) -> pa.Scalar:
    """
    A value in its column's type; text is read as a time in a column of times.

    Raises:
        ValueError: if it is no such value.
    """
    try:
        if dtype == TIME:
            return pa.scalar(parse_time(value), TIME)
        if isinstance(value, bool) != pa.types.is_boolean(dtype):
            raise TypeError
        return pa.scalar(value, dtype)
    except (pa.ArrowException, TypeError, AttributeError):
        raise ValueError(f"The column {name} holds {dtype}; {value!r} is none.") from None
