"""What a broken or incomplete copy of a benchmark is told: each trap is planted in an export of PaperDoll."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from scmm.data.benchmarks import BenchmarkError, load_benchmark, read_records
from scmm.data.benchmarks.layouts import LAYOUTS, Counts
from scmm.data.benchmarks.rules import check_records, to_tables, warnings_of
from scmm.data.benchmarks.sources import find_source
from scmm.data.paperdoll import export_paperdoll


RECORD = {"id": 7, "img_path": "0007_c14_0031.jpg", "captions": ["a man"], "split": "train"}


@pytest.fixture(scope="module")
def exports(paperdoll_root, tmp_path_factory) -> Path:
    """PaperDoll in the three layouts. Not to be written to."""
    root = tmp_path_factory.mktemp("exports")
    for layout in ("cuhk-pedes", "icfg-pedes", "rstpreid"):
        export_paperdoll(paperdoll_root, root, layout)
    return root


@pytest.fixture
def plant(exports, tmp_path):
    """Copies an export, changes its records, and returns the new root."""

    def plant(name: str, change=None) -> Path:
        folder = LAYOUTS[name].folder
        shutil.copytree(exports / folder, tmp_path / folder)
        if change is not None:
            path, records = read_records(name, tmp_path)
            changed = change(records)
            path.write_text(json.dumps(records if changed is None else changed))
        return tmp_path

    return plant


@pytest.fixture
def broken(tmp_path):
    """Writes the annotations of an RSTPReid with one empty image and returns its root."""

    def write(annotations: object) -> Path:
        (tmp_path / "RSTPReid" / "imgs").mkdir(parents=True, exist_ok=True)
        (tmp_path / "RSTPReid" / "imgs" / RECORD["img_path"]).touch()
        text = annotations if isinstance(annotations, bytes) else json.dumps(annotations).encode()
        (tmp_path / "RSTPReid" / "data_captions.json").write_bytes(text)
        return tmp_path

    return write


class TestFiles:
    def test_unknown_name(self, tmp_path):
        with pytest.raises(BenchmarkError, match=r"no benchmark 'cuhk'.*'cuhk-pedes', 'folder', 'icfg-pedes', 'json'"):
            load_benchmark("cuhk", tmp_path)

    def test_missing_folder(self, tmp_path):
        with pytest.raises(
            BenchmarkError, match=r"CUHK-PEDES is not a folder: the root must contain CUHK-PEDES/ with"
        ):
            load_benchmark("cuhk-pedes", tmp_path)

    def test_the_benchmark_s_own_folder_as_root(self, exports):
        with pytest.raises(
            BenchmarkError, match=r"/RSTPReid is the benchmark's own folder; the root is the folder that"
        ):
            load_benchmark("rstpreid", exports / "RSTPReid")

    def test_caption_all_instead_of_reid_raw(self, plant):
        root = plant("cuhk-pedes")
        folder = root / "CUHK-PEDES"
        (folder / "reid_raw.json").rename(folder / "caption_all.json")
        with pytest.raises(
            BenchmarkError, match=r"has caption_all\.json, which does not say.*get reid_raw\.json, where"
        ):
            load_benchmark("cuhk-pedes", root)

    def test_caption_all_under_the_other_name(self, plant):
        def without_splits(records):
            for record in records:
                del record["split"]

        root = plant("cuhk-pedes", without_splits)
        with pytest.raises(BenchmarkError, match=r"record 0 has no 'split'\. The splits are in the original reid_raw"):
            load_benchmark("cuhk-pedes", root)

    @pytest.mark.parametrize("name", ["ICFG-PEDES.json", "ICFG_PEDES.json"])
    def test_both_names_of_the_icfg_file(self, plant, name):
        root = plant("icfg-pedes")
        (root / "ICFG-PEDES" / "ICFG-PEDES.json").rename(root / "ICFG-PEDES" / name)
        assert load_benchmark("icfg-pedes", root)["test"].num_rows == 16

    def test_missing_annotations(self, plant):
        root = plant("icfg-pedes")
        (root / "ICFG-PEDES" / "ICFG-PEDES.json").unlink()
        with pytest.raises(BenchmarkError, match=r"has no ICFG-PEDES\.json or ICFG_PEDES\.json, which holds captions"):
            load_benchmark("icfg-pedes", root)

    def test_broken_json_tells_line_and_column(self, broken):
        root = broken(b'[\n{"id": 0,\n "split" "train"}]')
        with pytest.raises(BenchmarkError, match=r"data_captions\.json is broken at line 3, column 10: Expecting ':'"):
            load_benchmark("rstpreid", root)

    @pytest.mark.parametrize("text", [b"[" * 100_000, b"[" + b"9" * 5000 + b"]"])
    def test_json_that_python_cannot_hold(self, broken, text):
        with pytest.raises(BenchmarkError, match=r"data_captions\.json is broken: "):
            load_benchmark("rstpreid", broken(text))

    @pytest.mark.parametrize(
        "content, byte, guess",
        [
            (b'["\xff"]', 2, r"save it as UTF-8\.$"),
            ('["José"]'.encode("latin-1"), 5, r"save it as UTF-8\.$"),
            ('["黑色"]'.encode("gbk"), 2, r"save it as UTF-8\.$"),
            ('["a"]'.encode("utf-16"), 0, r"It looks like UTF-16\.$"),
        ],
    )
    def test_wrong_encoding(self, broken, content, byte, guess):
        with pytest.raises(BenchmarkError, match=rf"data_captions\.json is not UTF-8 \(byte {byte}\): .*{guess}"):
            load_benchmark("rstpreid", broken(content))

    def test_a_byte_order_mark_is_no_harm(self, broken):
        root = broken(b"\xef\xbb\xbf" + json.dumps([RECORD]).encode())
        assert load_benchmark("rstpreid", root)["train"].num_rows == 1

    @pytest.mark.parametrize("annotations, kind", [({"train": []}, "dict"), ("x", "str"), (None, "NoneType")])
    def test_not_a_list(self, broken, annotations, kind):
        with pytest.raises(BenchmarkError, match=f"holds a {kind}; expected a list"):
            load_benchmark("rstpreid", broken(annotations))

    def test_no_records(self, broken):
        with pytest.raises(BenchmarkError, match=r"data_captions\.json holds no records"):
            load_benchmark("rstpreid", broken([]))

    def test_options_of_generic_sets(self, exports):
        for options in ({"fields": {"image": "img"}}, {"image_root": exports}):
            with pytest.raises(
                BenchmarkError, match="rstpreid has a layout of its own: fields and image_root are for"
            ):
                load_benchmark("rstpreid", exports, **options)


class TestRecords:
    @pytest.mark.parametrize("field", RECORD)
    def test_a_missing_field_is_named_with_its_record(self, broken, field):
        incomplete = {key: value for key, value in RECORD.items() if key != field}
        with pytest.raises(BenchmarkError, match=rf"data_captions\.json: record 2 has no '{field}'\.$"):
            load_benchmark("rstpreid", broken([RECORD, RECORD, incomplete]))

    @pytest.mark.parametrize(
        "change, message",
        [
            ({"captions": "a man"}, "captions are no list of texts: 'a man'"),  # and not five captions of a letter
            ({"captions": ["a man", 3]}, r"captions are no list of texts: \['a man', 3\]"),
            ({"captions": ["\ud800"]}, r"captions are no list of texts: \['\\ud800'\]"),
            ({"split": "dev"}, "split is 'dev', not one of"),
            ({"split": "validation"}, "split is 'validation', not one of"),
            ({"split": ["train"]}, r"split is \['train'\], not one of"),
            ({"id": "x"}, "its id is no integer of 64 bits: 'x'"),
            ({"id": 7.5}, "its id is no integer of 64 bits: 7.5"),  # rounding would make two people one
            ({"id": None}, "its id is no integer of 64 bits: None"),
            ({"id": True}, "its id is no integer of 64 bits: True"),
            ({"id": 2**63}, "its id is no integer of 64 bits: 9223372036854775808"),
            ({"img_path": None}, "img_path is no text: None"),
            ({"img_path": "x" * 300 + "\ud800"}, r"img_path is no text: 'x{196}\.\.\."),
        ],
    )
    def test_a_wrong_value_is_named_with_its_record(self, broken, change, message):
        with pytest.raises(BenchmarkError, match=f"record 1 is not a record of rstpreid: .*{message}"):
            load_benchmark("rstpreid", broken([RECORD, {**RECORD, **change}]))

    @pytest.mark.parametrize("record", [[1], "x", 3, None])
    def test_a_record_that_is_none(self, broken, record):
        with pytest.raises(BenchmarkError, match="record 1 is not a record of rstpreid: expected keys and values"):
            load_benchmark("rstpreid", broken([RECORD, record]))

    @pytest.mark.parametrize("written, person_id", [(0, 0), ("0012", 12), (2**63 - 1, 2**63 - 1), (-1, -1)])
    def test_person_ids_as_written(self, broken, written, person_id):
        rows = load_benchmark("rstpreid", broken([{**RECORD, "id": written}]))["train"]
        assert rows["person_id"][0] == person_id

    def test_ids_with_gaps_stay_as_they_are(self, plant):
        def spread(records):
            for record in records:
                record["id"] = 1000 - 7 * record["id"]

        rows = load_benchmark("rstpreid", plant("rstpreid", spread))["train"]
        assert sorted(set(rows["person_id"])) == [965, 972, 979, 986, 993, 1000]

    def test_processed_tokens_are_not_needed(self, plant, exports):
        def without_tokens(records):
            for record in records:
                del record["processed_tokens"]

        splits = load_benchmark("cuhk-pedes", plant("cuhk-pedes", without_tokens))
        assert list(splits["train"]["captions"]) == list(load_benchmark("cuhk-pedes", exports)["train"]["captions"])

    def test_more_than_two_captions(self, plant):
        def more(records):
            records[0]["captions"] = ["one", "two", "three", "four"]

        rows = load_benchmark("cuhk-pedes", plant("cuhk-pedes", more))["train"]
        assert rows[0]["captions"] == ["one", "two", "three", "four"]
        assert list(map(len, rows["captions"])) == [4, *[2] * 23]

    def test_a_training_record_without_captions(self, plant):
        def silence(records):
            records[5]["captions"] = []
            return records

        root = plant("rstpreid", silence)
        with pytest.raises(
            BenchmarkError, match=r"record 5 has no caption \(0001_c\d+_0005\.jpg\): write one, or remove"
        ):
            load_benchmark("rstpreid", root)

    def test_a_gallery_image_needs_no_caption(self, plant):
        def silence(records):
            assert records[-1]["split"] == "test"
            records[-1]["captions"] = []

        assert list(load_benchmark("rstpreid", plant("rstpreid", silence))["test"]["captions"])[-1] == []

    def test_odd_captions_come_unchanged(self, plant):
        odd = ["A man.He walks", "", "  ", "黑色 🧥", "</br> x=1;", "a\u2028b", "A man.He walks"]

        def change(records):
            records[0]["captions"] = odd

        assert load_benchmark("rstpreid", plant("rstpreid", change))["train"][0]["captions"] == odd

    @pytest.mark.parametrize("change", [{"id": 3}, {"split": "test"}])
    def test_an_image_of_two_persons_or_splits(self, plant, change):
        root = plant("rstpreid", lambda records: [*records, {**records[2], **change}])
        with pytest.raises(
            BenchmarkError, match=r"record 52 repeats the image '0000_c.*' of record 2 with another split"
        ):
            load_benchmark("rstpreid", root)

    def test_duplicate_records_are_counted(self, plant, caplog):
        root = plant("rstpreid", lambda records: [*records, records[0], {**records[1], "captions": ["other"]}])
        assert load_benchmark("rstpreid", root)["train"].num_rows == 26
        assert "2 record(s) repeat an image of an earlier record, such as '0000_c" in caplog.text

    def test_other_figures_than_the_official_ones(self, exports, paperdoll_root, caplog):
        load_benchmark("cuhk-pedes", exports)
        assert (
            "CUHK-PEDES/reid_raw.json differs from the official release: train has 6 identities, 24 images, 48 "
            "captions (officially 11,003 identities, 34,054 images, 68,126 captions); val has"
        ) in caplog.text
        caplog.clear()
        load_benchmark("paperdoll", paperdoll_root)
        assert not caplog.messages

    @pytest.mark.parametrize(
        "test_counts, message",
        [
            (Counts(4, 16, 32), None),
            (
                Counts(4, 16, 31),
                "test has 4 identities, 16 images, 32 captions (officially 4 identities, 16 images, 31 ",
            ),
        ],
    )
    def test_only_what_differs_is_told(self, exports, test_counts, message):
        official = {"train": Counts(6, 24, 48), "val": Counts(3, 12, 24), "test": test_counts}
        source = find_source("cuhk-pedes", exports)
        source = dataclasses.replace(source, layout=dataclasses.replace(source.layout, official=official))
        warnings = warnings_of(source, to_tables(check_records(source, read_records("cuhk-pedes", exports)[1])))
        assert [message in warning and "train" not in warning for warning in warnings] == [True] * (
            message is not None
        )

    def test_the_official_figures(self):
        totals = {
            name: [sum(figures) for figures in zip(*layout.official.values(), strict=True)]
            for name, layout in LAYOUTS.items()
            if layout.official
        }
        assert totals == {
            "cuhk-pedes": [13_003, 40_206, 80_440],
            "icfg-pedes": [4_102, 54_522, 54_522],
            "rstpreid": [4_101, 20_505, 41_010],
        }


class TestImages:
    def test_missing_images_folder(self, plant):
        root = plant("rstpreid")
        shutil.rmtree(root / "RSTPReid" / "imgs")
        with pytest.raises(BenchmarkError, match=r"imgs is not a folder: the images of rstpreid"):
            load_benchmark("rstpreid", root)

    def test_missing_sub_folders_are_counted(self, plant):
        root = plant("cuhk-pedes")
        images = root / "CUHK-PEDES" / "imgs"
        shutil.rmtree(images / "Market")
        for path in sorted((images / "cam_a").iterdir())[:3]:
            path.unlink()
        with pytest.raises(BenchmarkError) as error:
            load_benchmark("cuhk-pedes", root)
        assert str(error.value).startswith(
            f"{images} lacks 10 of the 52 images that reid_raw.json names (imgs/Market lacks all 7, imgs/cam_a lacks "
            f"3 of 8), for example '"
        )
        assert "unpack the archive again" in str(error.value)

    def test_the_folders_of_persons_are_summed_up(self, plant):
        root = plant("icfg-pedes")
        shutil.rmtree(root / "ICFG-PEDES" / "imgs" / "train" / "0000")
        shutil.rmtree(root / "ICFG-PEDES" / "imgs" / "train" / "0002")
        with pytest.raises(BenchmarkError, match=r"imgs lacks 8 of the 52 images .*\(imgs/train lacks 8 of \d+\)"):
            load_benchmark("icfg-pedes", root)

    def test_a_flat_folder(self, plant):
        root = plant("rstpreid")
        for path in sorted((root / "RSTPReid" / "imgs").iterdir())[:2]:
            path.unlink()
        with pytest.raises(
            BenchmarkError, match=r"imgs lacks 2 of the 52 images .*\(imgs lacks 2 of 52\), .*'0000_c\d"
        ):
            load_benchmark("rstpreid", root)

    def test_a_folder_in_the_place_of_an_image(self, broken):
        root = broken([RECORD])
        (root / "RSTPReid" / "imgs" / RECORD["img_path"]).unlink()
        (root / "RSTPReid" / "imgs" / RECORD["img_path"]).mkdir()
        with pytest.raises(BenchmarkError, match="lacks all 1"):
            load_benchmark("rstpreid", root)

    @pytest.mark.parametrize("path", ["../secret.jpg", "a/../../secret.jpg", "../imgs-2/a.jpg", "a\0/../../b.jpg"])
    def test_no_path_leaves_the_root(self, broken, path):
        with pytest.raises(BenchmarkError, match=r"record 1 has the path '.*', which leaves .*imgs\.$"):
            load_benchmark("rstpreid", broken([RECORD, {**RECORD, "img_path": path}]))

    def test_no_path_is_absolute(self, broken):
        root = broken([RECORD])
        for path in ("/etc/passwd", str(root / "RSTPReid" / "imgs" / RECORD["img_path"])):
            broken([RECORD, {**RECORD, "img_path": path}])
            with pytest.raises(
                BenchmarkError, match=rf"record 1 has the absolute path '{path}': write it relative to"
            ):
                load_benchmark("rstpreid", root)

    @pytest.mark.parametrize("path", ["", ".", "a/.."])
    def test_a_path_that_names_nothing(self, broken, path):
        with pytest.raises(BenchmarkError, match=r"record 1 has the path .*, which names no file"):
            load_benchmark("rstpreid", broken([RECORD, {**RECORD, "img_path": path}]))

    def test_paths_are_read_without_dots(self, broken):
        rows = load_benchmark("rstpreid", broken([{**RECORD, "img_path": f"a/.././{RECORD['img_path']}"}]))["train"]
        assert rows.num_rows == 1

    def test_a_linked_image_that_lies_outside(self, plant):
        root = plant("rstpreid")
        image = min((root / "RSTPReid" / "imgs").iterdir())
        image.rename(root / "outside.jpg")
        image.symlink_to(root / "outside.jpg")
        with pytest.raises(
            BenchmarkError, match=rf"1 image\(s\), such as '{image.name}', are links that lead out of the"
        ):
            load_benchmark("rstpreid", root)

    def test_a_linked_folder_that_lies_outside(self, plant):
        root = plant("cuhk-pedes")
        images = root / "CUHK-PEDES" / "imgs"
        shutil.move(images / "Market", root / "Market")
        (images / "Market").symlink_to(root / "Market")
        with pytest.raises(BenchmarkError, match=r"imgs: 7 image\(s\), such as 'Market/.*lead out of the folder"):
            load_benchmark("cuhk-pedes", root)

    def test_links_inside_and_a_linked_image_folder_are_fine(self, plant):
        root = plant("cuhk-pedes")
        folder = root / "CUHK-PEDES"
        (folder / "imgs").rename(root / "on another disk")
        (folder / "imgs").symlink_to(root / "on another disk")
        (folder / "imgs" / "Market").rename(folder / "imgs" / "Market-1501")
        (folder / "imgs" / "Market").symlink_to("Market-1501")
        assert load_benchmark("cuhk-pedes", root)["train"][0]["image"].size == (16, 32)

    def test_a_link_to_nothing_is_missing(self, plant):
        root = plant("rstpreid")
        image = min((root / "RSTPReid" / "imgs").iterdir())
        image.unlink()
        image.symlink_to("nothing.jpg")
        with pytest.raises(BenchmarkError, match=r"imgs lacks 1 of the 52 images"):
            load_benchmark("rstpreid", root)
