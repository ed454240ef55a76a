"""What a gallery can be built from."""

import json
import os
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict, Features, Value
from datasets import Image as ImageFeature

from scmm.retrieval.gallery import SourceError
from scmm.retrieval.gallery.sources import read_source


@pytest.fixture
def crops(images, tmp_path) -> Path:
    """A folder with three images, one of them in a sub-folder."""
    folder = tmp_path / "crops"
    (folder / "deep").mkdir(parents=True)
    for name, path in zip(("a.jpg", "b.jpg", "deep/c.jpg"), sorted(images.rglob("*.jpg")), strict=False):
        shutil.copy(path, folder / name)
    return folder


def column(source, name):
    return source.table[name].to_pylist()


class TestFolders:
    def test_images_below_it(self, crops, monkeypatch):
        source = read_source(crops)
        assert (
            column(source, "path")
            == column(source, "id")
            == [f"{crops}/{name}" for name in ("a.jpg", "b.jpg", "deep/c.jpg")]
        )
        monkeypatch.chdir(crops.parent)
        assert column(read_source("crops"), "id") == column(source, "id")
        assert column(read_source("crops/deep/.."), "id") == column(source, "id")

    def test_a_name_that_is_no_text(self, crops):
        shutil.copy(crops / "a.jpg", os.fsencode(crops) + b"/\xff.jpg")
        source = read_source(crops)
        assert len(source) == 3
        assert source.skipped == [
            (f"{crops}/\\udcff.jpg", f"{crops}/\\udcff.jpg: its name is not UTF-8; rename the file")
        ]

    def test_mistakes(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path}/none does not exist"):
            read_source(tmp_path / "none")
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no images"):
            read_source(tmp_path)


class TestMetadata:
    CSV = (
        "file_name,camera_id,timestamp,person_id,gate,height\n"
        "a.jpg,007,2026-03-01T12:00,0012,north,1.5\n"
        "deep/c.jpg,8,,,,\n"
    )

    def check(self, source, crops):
        assert column(source, "path") == column(source, "id") == [f"{crops}/a.jpg", f"{crops}/deep/c.jpg"]
        assert column(source, "camera") == ["007", "8"]
        assert column(source, "time") == [datetime(2026, 3, 1, 12, tzinfo=UTC), None]
        assert column(source, "person_id") == ["0012", None]
        assert column(source, "gate") == ["north", None]
        assert column(source, "height") == [1.5, None]

    def test_csv(self, crops):
        (crops / "metadata.csv").write_text(self.CSV)
        self.check(read_source(crops), crops)
        self.check(read_source(crops / "metadata.csv"), crops)

    def test_json_lines(self, crops):
        records = [
            {
                "file_name": "a.jpg",
                "camera": "007",
                "time": "2026-03-01T12:00",
                "person_id": "0012",
                "gate": "north",
                "height": 1.5,
            },
            {"file_name": "deep/c.jpg", "camera": "8", "boxes": [1, 2]},
        ]
        (crops / "metadata.jsonl").write_text("\n".join(map(json.dumps, records)))
        self.check(read_source(crops), crops)

    def test_parquet_of_paths(self, crops):
        table = pa.table(
            {
                "file_name": ["a.jpg", "deep/c.jpg"],
                "camera": ["007", "8"],
                "time": pa.array([datetime(2026, 3, 1, 12), None], pa.timestamp("ns")),
                "person_id": ["0012", None],
                "gate": ["north", None],
                "height": [1.5, None],
            }
        )
        pq.write_table(table, crops / "metadata.parquet")
        self.check(read_source(crops), crops)
        (crops / "metadata.csv").write_text(self.CSV)
        with pytest.raises(SourceError, match=r"has metadata\.csv and metadata\.parquet: give the one to use"):
            read_source(crops)

    def test_an_id_of_the_users(self, crops):
        (crops / "metadata.csv").write_text("id,file_name\n01,a.jpg\n1,b.jpg\n")
        assert column(read_source(crops), "id") == ["01", "1"]

    def test_an_absolute_path(self, crops, tmp_path):
        (tmp_path / "list.csv").write_text(f"path\n{crops}/a.jpg\ncrops/b.jpg\n")
        assert column(read_source(tmp_path / "list.csv"), "path") == [f"{crops}/a.jpg", f"{crops}/b.jpg"]

    @pytest.mark.parametrize(
        "name, text, message",
        [
            (
                "metadata.csv",
                "file_name\na.jpg\n../x.jpg\n",
                r"record 1 has the file_name '\.\./x\.jpg', which leaves",
            ),
            ("metadata.csv", "file_name\n/etc/passwd\n", "record 0 has the file_name '/etc/passwd', which leaves"),
            ("metadata.csv", "path\n../x.jpg\n", r"record 0 has the path '\.\./x\.jpg', which leaves"),
            ("metadata.csv", "file_name,x\na.jpg,1\n,2\n", "record 1 has no file_name, but None"),
            ("metadata.csv", "name\na.jpg\n", "has no column file_name"),
            ("metadata.csv", "file_name\na.jpg\na.jpg\n", "records 0 and 1 have the same id '.*a.jpg'"),
            ("metadata.csv", "file_name,time\na.jpg,noon\n", "metadata.csv: record 0 has no usable time: 'noon'"),
            ("metadata.csv", "file_name,x\na.jpg\n", "metadata.csv cannot be read: "),
            ("metadata.csv", "", "metadata.csv cannot be read: "),
            ("metadata.jsonl", '{"file_name": "a.jpg"', "metadata.jsonl cannot be read: "),
            ("metadata.jsonl", '{"file_name": 1}', "record 0 has no file_name, but 1"),
            ("metadata.parquet", "no parquet", "metadata.parquet cannot be read: "),
            ("images.txt", "a.jpg", r"images\.txt is neither a folder nor a \.csv"),
        ],
    )
    def test_mistakes(self, crops, name, text, message):
        (crops / name).write_text(text)
        with pytest.raises(SourceError, match=message):
            read_source(crops / name)


class TestDatasets:
    @pytest.fixture
    def dataset(self, crops) -> Dataset:
        features = Features({"image": ImageFeature(), "camera_id": Value("int64"), "captions": [Value("string")]})
        rows = {"image": [f"{crops}/a.jpg", f"{crops}/b.jpg"], "camera_id": [3, -1], "captions": [["x"], []]}
        return Dataset.from_dict(rows, features=features)

    @pytest.fixture
    def embedded(self, crops) -> Dataset:
        """The images themselves within the data, as a data set from the Hub has them."""
        rows = {
            "image": [{"bytes": (crops / name).read_bytes(), "path": name} for name in ("a.jpg", "b.jpg")],
            "person_id": [4, 5],
        }
        return Dataset.from_dict(rows, features=Features({"image": ImageFeature(), "person_id": Value("int64")}))

    def test_images_in_files(self, dataset, crops):
        source = read_source(dataset)
        assert column(source, "path") == column(source, "id") == [f"{crops}/a.jpg", f"{crops}/b.jpg"]
        assert column(source, "camera") == ["3", None] and "captions" not in source.table.column_names
        assert source.embedded(0) is None
        assert column(read_source(dataset.select([1])), "path") == [f"{crops}/b.jpg"]

    def test_images_within(self, embedded, crops):
        for source in (read_source(embedded), read_source(embedded.select_columns(["image"]))):
            assert column(source, "path") == [None, None] and column(source, "id") == ["a.jpg", "b.jpg"]
            assert source.embedded(1) == (crops / "b.jpg").read_bytes()
        assert column(read_source(embedded), "person_id") == ["4", "5"]

    def test_a_benchmark(self, paperdoll, images):
        source = read_source(paperdoll["test"])
        assert len(source) == 16 and len(set(column(source, "person_id"))) == 4
        assert all(Path(path).is_relative_to(images) and Path(path).is_file() for path in column(source, "path"))
        assert column(source, "camera")[0] is not None

    def test_saved(self, dataset, tmp_path):
        dataset.save_to_disk(tmp_path / "saved")
        source = read_source(tmp_path / "saved")
        assert column(source, "id") == ["a.jpg", "b.jpg"] and column(source, "camera") == ["3", None]
        assert source.embedded(0) is not None  # saving takes the images in

    def test_splits(self, dataset, tmp_path):
        splits = DatasetDict({"train": dataset, "test": dataset.select([0])})
        with pytest.raises(SourceError, match="has the splits train, test: choose one"):
            read_source(splits)
        splits.save_to_disk(tmp_path / "saved")
        with pytest.raises(
            SourceError, match=f"has the splits train, test: choose one, such as {tmp_path}/saved/train"
        ):
            read_source(tmp_path / "saved")
        assert len(read_source(tmp_path / "saved" / "test")) == 1

    @pytest.mark.parametrize("rows_in_group", [1, 10])
    def test_parquet(self, embedded, crops, tmp_path, rows_in_group):
        path = tmp_path / "images.parquet"
        pq.write_table(embedded.with_format("arrow")[:], path, row_group_size=rows_in_group)
        source = read_source(path)
        assert column(source, "path") == [None, None] and column(source, "id") == ["a.jpg", "b.jpg"]
        assert [source.embedded(row) for row in (1, 0)] == [(crops / name).read_bytes() for name in ("b.jpg", "a.jpg")]

    def test_no_images(self):
        with pytest.raises(SourceError, match="has no column of images, only x"):
            read_source(Dataset.from_dict({"x": [1]}))

    def test_no_names(self, embedded):
        nameless = Dataset.from_dict(
            {"image": [{"bytes": b"x", "path": None}]}, features=Features({"image": ImageFeature()})
        )
        with pytest.raises(SourceError, match="record 0 has neither an id nor a file name; give the data a column id"):
            read_source(nameless)
        assert column(read_source(nameless.add_column("id", ["x"])), "id") == ["x"]
