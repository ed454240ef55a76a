"""Reading the benchmarks: what comes out of each layout, and what a broken copy is told."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image as PILImage

from scmm.data.benchmarks import BenchmarkError, load_benchmark, read_records
from scmm.data.paperdoll import export_paperdoll, read_paperdoll
from scmm.data.schema import FEATURES


LAYOUTS = ("cuhk-pedes", "icfg-pedes", "rstpreid")
RECORD = {"id": 7, "img_path": "0007_c14_0031.jpg", "captions": ["a man"], "split": "train"}


@pytest.fixture(scope="module")
def root(paperdoll_root, tmp_path_factory) -> Path:
    """PaperDoll and its three exports side by side."""
    root = tmp_path_factory.mktemp("benchmarks")
    shutil.copytree(paperdoll_root / "PaperDoll", root / "PaperDoll")
    for layout in LAYOUTS:
        export_paperdoll(paperdoll_root, root, layout)
    return root


@pytest.fixture
def broken(tmp_path):
    """Writes the annotations of an RSTPReid without images and returns its root."""

    def write(annotations: object) -> Path:
        (tmp_path / "RSTPReid" / "imgs").mkdir(parents=True, exist_ok=True)
        text = annotations if isinstance(annotations, bytes) else json.dumps(annotations).encode()
        (tmp_path / "RSTPReid" / "data_captions.json").write_bytes(text)
        return tmp_path

    return write


class TestLayouts:
    @pytest.mark.parametrize(
        "name, sizes",
        [
            ("paperdoll", {"train": 24, "val": 12, "test": 16}),
            ("cuhk-pedes", {"train": 24, "val": 12, "test": 16}),
            ("icfg-pedes", {"train": 36, "test": 16}),
            ("rstpreid", {"train": 24, "val": 12, "test": 16}),
        ],
    )
    def test_splits_and_columns(self, root, name, sizes):
        splits = load_benchmark(name, root)
        assert {split: rows.num_rows for split, rows in splits.items()} == sizes
        assert all(rows.features == FEATURES for rows in splits.values())

    @pytest.mark.parametrize("name", ["paperdoll", *LAYOUTS])
    def test_every_record_is_a_row(self, root, name):
        annotations, records = read_records(name, root)
        path_key = "img_path" if name == "rstpreid" else "file_path"
        rows = {row["image_id"]: (split, row) for split, rows in load_benchmark(name, root).items() for row in rows}
        assert sorted(rows) == list(range(len(records)))
        for number, record in enumerate(records):
            split, row = rows[number]
            assert (split, row["person_id"], row["captions"]) == (record["split"], record["id"], record["captions"])
            assert row["file_name"] == record[path_key]
            with PILImage.open(annotations.parent / "imgs" / record[path_key]) as image:
                assert row["image"].size == (16, 32)
                assert row["image"].convert("RGB").tobytes() == image.convert("RGB").tobytes()

    def test_person_ids_stay_those_of_the_file(self, root):
        assert set(load_benchmark("cuhk-pedes", root)["train"]["person_id"]) == {1, 2, 3, 4, 5, 6}
        assert set(load_benchmark("cuhk-pedes", root)["test"]["person_id"]) == {10, 11, 12, 13}
        assert set(load_benchmark("rstpreid", root)["test"]["person_id"]) == {9, 10, 11, 12}

    def test_camera_ids(self, root):
        cameras = [record["camera"] for record in read_paperdoll(root)]
        assert len(set(cameras)) > 2

        def found(name: str) -> list[int]:
            rows = [row for rows in load_benchmark(name, root).values() for row in rows.remove_columns("image")]
            return [row["camera_id"] for row in sorted(rows, key=lambda row: row["image_id"])]

        assert found("paperdoll") == cameras
        assert found("rstpreid") == found("icfg-pedes") == [camera + 1 for camera in cameras]  # as in the names
        assert set(found("cuhk-pedes")) == {-1}

    @pytest.mark.parametrize(
        "name, path, camera",
        [
            ("icfg-pedes", "test/0627/0627_010_05_0303afternoon_1591_0.jpg", 5),
            ("icfg-pedes", "odd.jpg", -1),
            ("rstpreid", "0000_c14_0031.jpg", 14),
            ("rstpreid", "a_c7_b/odd.jpg", -1),
        ],
    )
    def test_camera_in_the_name(self, tmp_path, name, path, camera):
        folder, file, key = {
            "icfg-pedes": ("ICFG-PEDES", "ICFG-PEDES.json", "file_path"),
            "rstpreid": ("RSTPReid", "data_captions.json", "img_path"),
        }[name]
        (tmp_path / folder / "imgs").mkdir(parents=True)
        record = {"id": 0, "captions": ["a man"], "split": "train", key: path}
        (tmp_path / folder / file).write_text(json.dumps([record]))
        assert load_benchmark(name, tmp_path)["train"]["camera_id"][0] == camera

    def test_images_are_not_touched_before_they_are_used(self, broken):
        rows = load_benchmark("rstpreid", broken([RECORD]))["train"]
        assert rows.num_rows == 1
        with pytest.raises(FileNotFoundError, match=r"0007_c14_0031\.jpg"):
            rows[0]

    @pytest.mark.parametrize("written, person_id", [(0, 0), ("0012", 12), (2**62, 2**62), (-1, -1)])
    def test_person_ids_as_written(self, broken, written, person_id):
        rows = load_benchmark("rstpreid", broken([{**RECORD, "id": written}]))["train"]
        assert rows["person_id"][0] == person_id

    def test_both_names_of_the_icfg_file(self, root, tmp_path):
        shutil.copytree(root / "ICFG-PEDES", tmp_path / "ICFG-PEDES")
        (tmp_path / "ICFG-PEDES" / "ICFG-PEDES.json").rename(tmp_path / "ICFG-PEDES" / "ICFG_PEDES.json")
        assert load_benchmark("icfg-pedes", tmp_path)["test"].num_rows == 16

    def test_captions_come_unchanged(self, broken):
        captions = ["A man.He walks", "", "  ", "黑色 🧥", "</br> x=1;"]
        rows = load_benchmark("rstpreid", broken([{**RECORD, "captions": captions}, {**RECORD, "captions": []}]))
        assert list(rows["train"]["captions"]) == [captions, []]


class TestErrors:
    def test_unknown_name(self, root):
        with pytest.raises(BenchmarkError, match=r"no benchmark 'cuhk'.*'cuhk-pedes', 'icfg-pedes', 'paperdoll'"):
            load_benchmark("cuhk", root)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(BenchmarkError, match=r"CUHK-PEDES is not a folder.*imgs/"):
            load_benchmark("cuhk-pedes", tmp_path)

    def test_missing_annotations(self, tmp_path):
        (tmp_path / "ICFG-PEDES" / "imgs").mkdir(parents=True)
        with pytest.raises(BenchmarkError, match=r"has no ICFG-PEDES\.json or ICFG_PEDES\.json"):
            load_benchmark("icfg-pedes", tmp_path)

    def test_missing_images_folder(self, broken):
        root = broken([RECORD])
        (root / "RSTPReid" / "imgs").rmdir()
        with pytest.raises(BenchmarkError, match=r"imgs is not a folder: the images of rstpreid"):
            load_benchmark("rstpreid", root)

    def test_broken_json_tells_line_and_column(self, broken):
        root = broken(b'[\n{"id": 0,\n "split" "train"}]')
        with pytest.raises(BenchmarkError, match=r"data_captions\.json is broken at line 3, column 10: Expecting ':'"):
            load_benchmark("rstpreid", root)

    def test_not_utf8(self, broken):
        with pytest.raises(BenchmarkError, match=r"data_captions\.json is not UTF-8 \(byte 2\)"):
            load_benchmark("rstpreid", broken(b'["\xff"]'))

    @pytest.mark.parametrize("annotations, kind", [({"train": []}, "dict"), ("x", "str"), (None, "NoneType")])
    def test_not_a_list(self, broken, annotations, kind):
        with pytest.raises(BenchmarkError, match=f"holds a {kind}; expected a list"):
            load_benchmark("rstpreid", broken(annotations))

    @pytest.mark.parametrize("field", RECORD)
    def test_a_missing_field_is_named_with_its_record(self, broken, field):
        incomplete = {key: value for key, value in RECORD.items() if key != field}
        with pytest.raises(BenchmarkError, match=rf"data_captions\.json: record 2 has no '{field}'"):
            load_benchmark("rstpreid", broken([RECORD, RECORD, incomplete]))

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"captions": "a man"}, "captions are no list of texts: 'a man'"),  # and not five captions of a letter
            ({"captions": ["a man", 3]}, r"captions are no list of texts: \['a man', 3\]"),
            ({"captions": ["\ud800"]}, r"captions are no list of texts: \['\\ud800'\]"),
            ({"split": "dev"}, "split is 'dev', not one of"),
            ({"split": ["train"]}, r"split is \['train'\], not one of"),
            ({"id": "x"}, "'x'"),
            ({"id": 7.5}, "'7.5'"),  # rounding would make two people one
            ({"id": None}, "'None'"),
            ({"img_path": None}, "img_path is no text: None"),
        ],
    )
    def test_a_wrong_value_is_named_with_its_record(self, broken, change, message):
        with pytest.raises(BenchmarkError, match=f"record 1 is not a record of rstpreid: .*{message}"):
            load_benchmark("rstpreid", broken([RECORD, {**RECORD, **change}]))

    @pytest.mark.parametrize("record", [[1], "x", 3, None])
    def test_a_record_that_is_none(self, broken, record):
        with pytest.raises(BenchmarkError, match="record 1 is not a record of rstpreid"):
            load_benchmark("rstpreid", broken([RECORD, record]))

    @pytest.mark.parametrize("path", ["../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "../imgs-2/a.jpg"])
    def test_no_path_leaves_the_root(self, broken, path):
        with pytest.raises(BenchmarkError, match=rf"record 1 has the path '{path}', which leaves .*imgs"):
            load_benchmark("rstpreid", broken([RECORD, {**RECORD, "img_path": path}]))
