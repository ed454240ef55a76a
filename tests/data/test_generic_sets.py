"""Sets of the user's own: a list of records with a field mapping, and a folder with metadata."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from scmm.data.benchmarks import BenchmarkError, load_benchmark, read_records
from scmm.data.paperdoll import export_paperdoll, read_paperdoll


@pytest.fixture
def images(paperdoll_root, tmp_path) -> Path:
    """PaperDoll's images in a folder of their own."""
    shutil.copytree(paperdoll_root / "PaperDoll" / "imgs", tmp_path / "set")
    return tmp_path / "set"


@pytest.fixture
def records(paperdoll_root) -> list[dict]:
    return read_paperdoll(paperdoll_root)


@pytest.fixture
def write(images):
    """Writes a set's annotations beside its images and returns the file."""

    def write(records: list[dict], name: str = "data.json") -> Path:
        path = images / name
        if path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, records[0])
                writer.writeheader()
                writer.writerows(records)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
        else:
            path.write_text(json.dumps(records))
        return path

    return write


class TestJson:
    def test_the_cuhk_record_is_the_default(self, paperdoll_root, tmp_path):
        folder = export_paperdoll(paperdoll_root, tmp_path, "cuhk-pedes")
        as_benchmark = load_benchmark("cuhk-pedes", tmp_path)
        as_json = load_benchmark("json", folder / "reid_raw.json", image_root=folder / "imgs")
        assert {split: rows.to_list() for split, rows in as_json.items()} == {
            split: rows.to_list() for split, rows in as_benchmark.items()
        }

    def test_ultra_fine_captions(self, write, records):
        """The record of UFine6926, with images beside the file and captions beyond CLIP's length."""
        long = "a man in a coat, " * 30
        of_set = [
            {
                "split": record["split"],
                "id": record["id"] + 1,
                "file_path": record["file_path"],
                "captions": [long] * 2,
            }
            for record in records
        ]
        rows = load_benchmark("json", write(of_set))["train"]
        assert (rows[0]["captions"], rows[0]["person_id"]) == ([long, long], 1)
        assert rows[0]["image"].size == (16, 32)

    def test_one_caption_as_text_and_no_split(self, write, records):
        """The record of MALS."""
        of_set = [
            {"image": record["file_path"], "caption": record["captions"][0], "image_id": f"g_{record['id']}"}
            for record in records
        ]
        fields = {"image": "image", "captions": "caption", "person_id": "image_id"}
        splits = load_benchmark("json", write(of_set), fields=fields)
        assert list(splits) == ["train"]
        assert list(splits["train"]["captions"]) == [record["captions"][:1] for record in records]
        assert list(splits["train"]["person_id"]) == [record["id"] for record in records]
        assert set(splits["train"]["camera_id"]) == {-1}

    def test_named_persons_are_numbered_as_they_appear(self, write, records):
        names = {0: "zoe", 1: "adam", 2: "7", 3: "007"}
        of_set = [{**record, "id": names.get(record["id"], record["id"] + 100)} for record in records]
        splits = load_benchmark("json", write(of_set))
        assert [rows["person_id"][0] for rows in splits.values()] == [0, 6, 9]
        numbers = {
            number: person for rows in splits.values() for number, person in zip(*id_columns(rows), strict=True)
        }
        assert [numbers[number] for number in sorted(numbers)] == [record["id"] for record in records]

    def test_integers_stay_as_they_are(self, write, records):
        of_set = [{**record, "id": str(50 - record["id"]).zfill(4)} for record in records]
        assert load_benchmark("json", write(of_set))["train"]["person_id"][0] == 50

    def test_camera_ids(self, write, records):
        splits = load_benchmark("json", write(records), fields={"camera_id": "camera"})
        found = [row["camera_id"] for rows in splits.values() for row in rows.remove_columns("image")]
        assert found == [record["camera"] for record in records]

    def test_the_hub_s_name_of_the_validation_split(self, write, records):
        of_set = [{**record, "split": record["split"].replace("val", "validation")} for record in records]
        assert load_benchmark("json", write(of_set))["val"].num_rows == 12

    def test_lines(self, write, records):
        records[0]["captions"] = ["two\u2028lines\x85 of a text"]
        splits = load_benchmark("json", write(records, "data.jsonl"))
        assert splits["train"].num_rows == 24
        assert splits["train"][0]["captions"] == ["two\u2028lines\x85 of a text"]

    def test_hold_out(self, write, records):
        of_set = [{**record, "split": "train"} for record in records]
        splits = load_benchmark("json", write(of_set), hold_out_identities=4)
        assert {split: rows.num_rows for split, rows in splits.items()} == {"train": 36, "val": 16}

    def test_a_missing_key_shows_those_there_are(self, write):
        path = write([{"image": "a.jpg", "caption": "a man", "image_id": 3}])
        with pytest.raises(BenchmarkError) as error:
            load_benchmark("json", path)
        assert str(error.value) == (
            f"{path}: record 0 has no 'file_path'. Its keys are ['image', 'caption', 'image_id']: say with fields "
            f"which of them hold what."
        )

    def test_splits_of_some_records_only(self, write, records):
        del records[4]["split"]
        with pytest.raises(BenchmarkError, match="record 4 has no 'split'"):
            load_benchmark("json", write(records))

    def test_a_mistyped_key_of_the_split_does_not_make_all_training(self, write, records):
        with pytest.raises(BenchmarkError, match=r"record 0 has no 'Split'\. Its keys are "):
            load_benchmark("json", write(records), fields={"split": "Split"})

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"id": 1.5}, "its id is no integer of 64 bits: 1.5"),
            ({"id": None}, "its id is no integer of 64 bits: None"),
            ({"id": " "}, "its id is empty"),
            ({"captions": {"a": 1}}, "its captions are no list of texts"),
            ({"captions": " "}, r"has no caption \("),
            ({"camera": "front"}, "its camera is no integer of 64 bits: 'front'"),
        ],
    )
    def test_a_wrong_value(self, write, records, change, message):
        records[0]["id"] = "zoe" if change.get("id") == " " else 0
        path = write([records[0], {**records[1], **change}])
        with pytest.raises(BenchmarkError, match=f"record 1 (is not a record of json: )?{message}"):
            load_benchmark("json", path, fields={"camera_id": "camera"})

    @pytest.mark.parametrize(
        "fields, message",
        [
            (
                {"caption": "caption"},
                "unknown name 'caption'; choose from image, captions, person_id, split, camera_id",
            ),
            ({"captions": ["a", "b"]}, r"fields\['captions'\] must be the name of a record's key, got \['a', 'b'\]"),
            ({"image": None}, r"fields\['image'\] must be the name"),
        ],
    )
    def test_a_wrong_mapping(self, write, records, fields, message):
        with pytest.raises(BenchmarkError, match=message):
            load_benchmark("json", write(records), fields=fields)

    def test_the_root_is_the_file(self, images):
        with pytest.raises(BenchmarkError, match="set is not a file: for a json data set the root is the path of the"):
            load_benchmark("json", images)

    def test_a_wrong_image_root(self, write, records, tmp_path):
        with pytest.raises(BenchmarkError, match="nowhere is not a folder: image_root must contain the images"):
            load_benchmark("json", write(records), image_root=tmp_path / "nowhere")

    def test_many_missing_folders_are_cut_short(self, write, records):
        of_set = [{**record, "file_path": f"{number:02}/a.jpg"} for number, record in enumerate(records)]
        with pytest.raises(
            BenchmarkError, match=r"set lacks 52 of the 52 images .*all 1, 42 more folders lack some\)"
        ):
            load_benchmark("json", write(of_set))


class TestFolder:
    @pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
    def test_metadata(self, write, records, name):
        of_set = [
            {
                "file_name": record["file_path"],
                "captions": record["captions"][0],
                "person_id": record["id"],
                "split": record["split"],
                "camera_id": record["camera"],
            }
            for record in records
        ]
        path = write(of_set, name)
        splits = load_benchmark("folder", path.parent)
        rows = [row for rows in splits.values() for row in rows]
        assert [len(rows) for rows in splits.values()] == [24, 12, 16]
        for row, record in zip(rows, records, strict=True):
            assert row["captions"] == record["captions"][:1]
            assert (row["person_id"], row["camera_id"]) == (record["id"], record["camera"])
            assert row["image"].size == (16, 32)
        annotations, read = read_records("folder", path.parent)
        assert annotations == path and len(read) == 52

    def test_only_what_is_needed(self, write, records):
        of_set = [{"file_name": record["file_path"], "text": "a man, red", "name": "x"} for record in records[:3]]
        path = write(of_set, "metadata.csv")
        rows = load_benchmark("folder", path.parent, fields={"captions": "text", "person_id": "name"})["train"]
        assert list(rows["captions"]) == [["a man, red"]] * 3
        assert set(rows["person_id"]) == {0} and set(rows["camera_id"]) == {-1}

    def test_empty_cells(self, write, records):
        of_set = [
            {"file_name": record["file_path"], "captions": "", "person_id": 1, "split": split, "camera_id": ""}
            for record, split in zip(records, ("test", "train"), strict=False)
        ]
        path = write(of_set, "metadata.csv")
        with pytest.raises(BenchmarkError, match=r"metadata\.csv: record 1 has no caption"):
            load_benchmark("folder", path.parent)
        rows = load_benchmark("folder", write(of_set[:1], "metadata.csv").parent)["test"]
        assert list(rows["captions"]) == [[]] and list(rows["camera_id"]) == [-1]

    @pytest.mark.parametrize("row", ["a.jpg,a man", "a.jpg,a man,1,2"])
    def test_a_row_of_another_width(self, images, row):
        (images / "metadata.csv").write_text(f"file_name,captions,person_id\na.jpg,a man,1\n{row}\n")
        with pytest.raises(BenchmarkError, match=r"metadata\.csv is broken at line 3: expected 3 columns"):
            load_benchmark("folder", images)

    def test_an_open_quote(self, images):
        (images / "metadata.csv").write_text('file_name,captions,person_id\na.jpg,"a man,1\n')
        with pytest.raises(BenchmarkError, match=r"metadata\.csv is broken at line \d: unexpected end of data"):
            load_benchmark("folder", images)

    def test_a_broken_line(self, images):
        (images / "metadata.jsonl").write_text('{"file_name": "a.jpg"}\n\n{"file_name" "a.jpg"}\n')
        with pytest.raises(BenchmarkError, match=r"metadata\.jsonl is broken at line 3, column 14: Expecting ':'"):
            load_benchmark("folder", images)

    def test_no_metadata_or_two(self, images):
        with pytest.raises(BenchmarkError, match=r"set has neither metadata\.jsonl nor metadata\.csv"):
            load_benchmark("folder", images)
        for name in ("metadata.jsonl", "metadata.csv"):
            (images / name).touch()
        with pytest.raises(BenchmarkError, match=r"set has both metadata\.jsonl and metadata\.csv: .* one such file"):
            load_benchmark("folder", images)


def id_columns(rows) -> tuple[list[int], list[int]]:
    return list(rows["image_id"]), list(rows["person_id"])
