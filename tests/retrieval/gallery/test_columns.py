"""Names and types of columns, and conditions on them."""

from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from scmm.retrieval.gallery import ColumnError, Filter, Range
from scmm.retrieval.gallery.columns import KNOWN_COLUMNS, normalize_columns, parse_time, parse_value


NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def normalized(**columns) -> dict[str, list]:
    return normalize_columns({name: pa.array(values) for name, values in columns.items()}).to_pydict()


class TestNormalize:
    def test_known_columns_are_always_there(self):
        assert normalized(id=["a"]) == {name: ["a" if name == "id" else None] for name in KNOWN_COLUMNS}

    def test_identifiers_are_text(self):
        table = normalized(id=[7], person_id=[12], camera_id=[-1])
        assert (table["id"], table["person_id"], table["camera"]) == (["7"], ["12"], [None])
        assert normalized(id=["a"], camera=["-1"])["camera"] == ["-1"]

    @pytest.mark.parametrize(
        "value",
        [
            "2026-03-01T12:00:00",
            "2026-03-01 13:00+01:00",
            "2026-03-01T12:00:00Z",
            NOON,
            NOON.replace(tzinfo=None),
            NOON.astimezone(timezone(timedelta(hours=5))),
        ],
    )
    def test_times_are_utc(self, value):
        assert normalized(id=["a"], time=[value])["time"] == [NOON]
        assert normalized(id=["a"], timestamp=[value])["time"] == [NOON]

    def test_missing_times(self):
        assert normalized(id=["a", "b", "c"], time=["", None, "2026-03-01T12:00"])["time"] == [None, None, NOON]
        assert normalized(id=["a"], time=[None])["time"] == [None]

    def test_users_columns(self):
        table = normalize_columns(
            {
                "id": pa.array(["a", "b"]),
                "gate": pa.array(["north", None]).dictionary_encode(),
                "height": pa.array([1.5, 2], pa.float32()),
                "count": pa.array([1, 2], pa.uint8()),
                "hat": pa.array([True, False]),
                "day": pa.array([date(2026, 3, 1), None]),
                "captions": pa.array([["x"], []]),
                "box": pa.array([{"x": 1}, {"x": 2}]),
                "nothing": pa.nulls(2),
            }
        )
        types = {entry.name: entry.type for entry in table.schema if entry.name not in KNOWN_COLUMNS}
        assert types == {
            "gate": pa.string(),
            "height": pa.float64(),
            "count": pa.int64(),
            "hat": pa.bool_(),
            "day": pa.timestamp("us", tz="UTC"),
        }
        assert table["gate"].to_pylist() == ["north", None]

    @pytest.mark.parametrize(
        "columns, message",
        [
            ({"time": ["yesterday"]}, "record 0 has no usable time: 'yesterday' is not a time such as 2026-03-01"),
            ({"time": [1.5]}, "time must be times in the form of ISO 8601, not double"),
            ({"camera": [1.5]}, "camera must be text or whole numbers, not double"),
            ({"camera": ["1"], "camera_id": [1]}, "both camera and camera_id"),
            ({"embedding": [1]}, "must not have the name 'embedding'"),
            ({"score": ["x"]}, "must not have the name 'score'"),
            ({"a.b": [1]}, "must not have the name 'a.b'"),
            ({"_rowid": [1]}, "must not have the name '_rowid'"),
        ],
    )
    def test_mistakes(self, columns, message):
        with pytest.raises(ColumnError, match=message.replace("(", r"\(")):
            normalized(id=["a"], **columns)


class TestParse:
    def test_times(self):
        assert parse_time("2026-03-01T12:00+00:00") == parse_time(NOON) == NOON
        with pytest.raises(ValueError, match="'noon' is not a time"):
            parse_time("noon")

    @pytest.mark.parametrize(
        "text, dtype, value",
        [("1.5", pa.float64(), 1.5), ("3", pa.int64(), 3), ("true", pa.bool_(), True), ("3", pa.string(), "3"),
         ("2026-03-01T12:00", pa.timestamp("us", tz="UTC"), NOON)],
    )  # fmt: skip
    def test_values(self, text, dtype, value):
        assert parse_value(text, dtype, "x") == value

    @pytest.mark.parametrize("text, dtype", [("tall", pa.float64()), ("1.5", pa.int64()), ("maybe", pa.bool_())])
    def test_no_such_value(self, text, dtype):
        with pytest.raises(ColumnError, match=f"the column height holds .*; '{text}' is none"):
            parse_value(text, dtype, "height")


class TestFilter:
    TABLE = pa.table(
        {
            "id": ["a", "b", "c", "d"],
            "person_id": ["7", "7", "8", None],
            "camera": ["1", "2", "1", None],
            "time": pa.array([NOON, NOON + timedelta(hours=1), None, NOON + timedelta(days=1)], KNOWN_COLUMNS["time"]),
            "gate": ["north", "east", None, "it's; DROP TABLE images"],
            "height": [1.5, 1.7, 1.9, None],
            "hat": [True, False, None, True],
        }
    )

    def ids(self, **conditions) -> str:
        mask = Filter(**conditions).mask(lambda name: self.TABLE[name])
        assert mask.dtype == np.bool_
        return "".join(np.array(self.TABLE["id"].to_pylist())[mask])

    def test_conditions(self):
        assert self.ids(ids=["d", "a", "x"]) == "ad"
        assert self.ids(person_ids=[7]) == "ab"
        assert self.ids(cameras=["1"]) == "ac"
        assert self.ids(cameras=[]) == ""
        assert self.ids(cameras=[1], person_ids=["8"]) == "c"
        assert self.ids(after=NOON) == "abd"
        assert self.ids(before="2026-03-01T13:00") == "a"
        assert self.ids(after="2026-03-01T12:30", before="2026-03-02") == "b"
        assert self.ids(columns={"gate": "north"}) == "a"
        assert self.ids(columns={"gate": ["north", "it's; DROP TABLE images"]}) == "ad"
        assert self.ids(columns={"height": Range(1.6, 1.9)}) == "bc"
        assert self.ids(columns={"height": Range(low=1.8)}) == "c"
        assert self.ids(columns={"height": Range(high=1.7), "hat": False}) == "b"
        assert self.ids(columns={"time": Range(low="2026-03-02")}) == "d"

    def test_empty(self):
        assert Filter().is_empty and not Filter(cameras=[]).is_empty and not Filter(columns={"x": 1}).is_empty
        with pytest.raises(ValueError, match="no condition"):
            self.ids()

    @pytest.mark.parametrize(
        "conditions, message",
        [
            ({"columns": {"height": "tall"}}, "column height holds double; 'tall' is none"),
            ({"columns": {"gate": 3}}, "column gate holds string; 3 is none"),
            ({"columns": {"height": Range("x")}}, "column height holds double; 'x' is none"),
            ({"columns": {"hat": 1}}, "column hat holds bool; 1 is none"),
            ({"columns": {"height": True}}, "column height holds double; True is none"),
            ({"before": "soon"}, "'soon' is not a time"),
            ({"cameras": "12"}, "camera must be given as a list, got the text '12'"),
        ],
    )
    def test_mistakes(self, conditions, message):
        with pytest.raises(ValueError, match=message):
            self.ids(**conditions)
