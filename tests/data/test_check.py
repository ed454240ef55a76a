"""Checking a data set: what the loader would refuse is a problem, what it bears is a finding or a warning."""

import io
import itertools
import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from scmm.caption_quality import CaptionQuality
from scmm.data.benchmarks import BenchmarkError, load_benchmark, read_records
from scmm.data.check import UNEXPECTED, CheckReport, check_benchmark, least_tokens
from scmm.data.check_report import print_report
from scmm.data.paperdoll import export_paperdoll


@pytest.fixture(scope="module")
def exports(paperdoll_root, tmp_path_factory) -> Path:
    """PaperDoll in the three layouts. Not to be written to."""
    root = tmp_path_factory.mktemp("exports")
    for layout in ("cuhk-pedes", "icfg-pedes", "rstpreid"):
        export_paperdoll(paperdoll_root, root, layout)
    return root


@pytest.fixture
def plant(exports, tmp_path):
    """Copies the CUHK-PEDES export, changes its records, and returns the new root."""

    def plant(change) -> Path:
        shutil.copytree(exports / "CUHK-PEDES", tmp_path / "CUHK-PEDES")
        path, records = read_records("cuhk-pedes", tmp_path)
        change(records)
        path.write_text(json.dumps(records))
        return tmp_path

    return plant


def all_traps(records: list[dict]) -> None:
    """Breaks nine records in as many ways."""
    records[0]["captions"] = []
    records[1]["file_path"] = "../../secret.jpg"
    records[2]["file_path"] = "/etc/passwd"
    del records[3]["split"]
    records[4]["id"] = "x"
    records[5]["captions"] = "a man"
    records.append({**records[6], "id": 99})
    records.append({**records[6], "split": "test"})
    records.append(3)


class TestProblems:
    def test_all_are_collected_and_the_first_is_the_loader_s(self, plant):
        root = plant(all_traps)
        report = check_benchmark("cuhk-pedes", root)
        numbers = [int(re.search(r"reid_raw\.json: record (\d+) ", problem)[1]) for problem in report.problems]
        assert numbers == [0, 1, 2, 3, 4, 5, 52, 53, 54] and not report.can_train
        assert report.counts["train"]["images"] == 24 - 6
        with pytest.raises(BenchmarkError) as error:
            load_benchmark("cuhk-pedes", root)
        assert str(error.value) == report.problems[0]

    def test_every_problem_by_itself_is_one_that_the_loader_refuses(self, plant):
        root = plant(all_traps)
        path, records = read_records("cuhk-pedes", root)
        problems = check_benchmark("cuhk-pedes", root).problems
        whole = [record for number, record in enumerate(records) if number in range(6, 52)]
        for number, problem in zip([0, 1, 2, 3, 4, 5, 52, 53, 54], problems, strict=True):
            path.write_text(json.dumps([*whole, records[number]]))
            with pytest.raises(BenchmarkError) as error:
                load_benchmark("cuhk-pedes", root)
            expected = re.sub(r"of record \d+", "of record 0", problem.replace(f"record {number} ", "record 46 "))
            assert str(error.value) == expected

    def test_a_good_copy(self, exports):
        for name in ("cuhk-pedes", "icfg-pedes", "rstpreid"):
            report = check_benchmark(name, exports, decode_images=True)
            assert report.can_train and report.unreadable_images == {} and report.missing_images == {}
            splits = load_benchmark(name, exports)
            assert {split: found["images"] for split, found in report.counts.items()} == {
                split: rows.num_rows for split, rows in splits.items()
            }
            assert report.repeated_captions == {} and report.unexpected_captions == report.empty_captions == 0

    def test_missing_images(self, plant):
        root = plant(lambda records: None)
        images = root / "CUHK-PEDES" / "imgs"
        shutil.rmtree(images / "Market")
        min((images / "cam_b").iterdir()).unlink()
        linked = min((images / "CUHK01").iterdir())
        linked.rename(root / "outside.png")
        linked.symlink_to(root / "outside.png")
        report = check_benchmark("cuhk-pedes", root, decode_images=True)
        assert report.missing_images == {
            "imgs/Market": {"missing": 7, "named": 7},
            "imgs/cam_b": {"missing": 1, "named": 7},
        }
        assert len(report.problems) == 2 and report.unreadable_images == {}  # what is not there is not decoded
        with pytest.raises(BenchmarkError) as error:
            load_benchmark("cuhk-pedes", root)
        assert str(error.value) == " ".join(report.problems)

    @pytest.mark.parametrize("num_workers", [1, 2])
    def test_unreadable_images(self, plant, num_workers):
        root = plant(lambda records: None)
        _, records = read_records("cuhk-pedes", root)
        names = [record["file_path"] for record in records]
        for number, content in ((3, b"no image"), (40, b"")):
            (root / "CUHK-PEDES" / "imgs" / names[number]).write_bytes(content)
        whole = root / "CUHK-PEDES" / "imgs" / names[5]
        whole.write_bytes(whole.read_bytes()[:-200])
        assert check_benchmark("cuhk-pedes", root).can_train  # without a look into the images
        report = check_benchmark("cuhk-pedes", root, decode_images=True, num_workers=num_workers)
        assert list(report.unreadable_images) == [names[3], names[5], names[40]]
        assert "not an image of a known format" in report.unreadable_images[names[3]]
        assert report.unreadable_images[names[40]] == "the image cannot be read: the file is empty"
        assert (
            len(report.problems) == 1
            and f"imgs: 3 image(s) are unreadable, such as '{names[3]}'" in report.problems[0]
        )

    @pytest.mark.parametrize("content", [b"[", b'["\xff"]', b"{}", b"[]"])
    def test_a_file_that_cannot_be_read(self, plant, content):
        root = plant(lambda records: None)
        (root / "CUHK-PEDES" / "reid_raw.json").write_bytes(content)
        report = check_benchmark("cuhk-pedes", root)
        with pytest.raises(BenchmarkError) as error:
            load_benchmark("cuhk-pedes", root)
        assert report.problems == [str(error.value)]

    def test_no_training_records(self, plant):
        def only_test(records):
            for record in records:
                record["split"] = "test"

        report = check_benchmark("cuhk-pedes", plant(only_test))
        assert len(report.problems) == 1 and "has no usable training record" in report.problems[0]

    def test_captions_that_tell_nothing(self, plant):
        def silence(records):
            for record in records:
                record["captions"] = [" "]

        report = check_benchmark("cuhk-pedes", plant(silence))
        assert len(report.problems) == 1 and "leave nothing to measure 'information' by" in report.problems[0]
        assert report.empty_captions == 52

    def test_a_wrong_name_is_not_a_finding(self, exports, tmp_path):
        with pytest.raises(BenchmarkError, match="no benchmark 'market'"):
            check_benchmark("market", exports)
        with pytest.raises(BenchmarkError, match="is not a folder"):
            check_benchmark("cuhk-pedes", tmp_path)


class TestFindings:
    def test_captions(self, plant):
        def change(records):
            records[0]["captions"] = ["The same. ", "", "\t"]
            records[1]["captions"] = ["The same."]  # of the same person
            records[9]["captions"] = ["The same.", "黑色, 黑", "caf\u00e9 \u2013 \u201cx\u201d \u20ac"]
            records[20]["captions"] = ["once", "once", "\u200b"]

        report = check_benchmark("cuhk-pedes", plant(change))
        assert report.can_train
        assert report.empty_captions == 2
        assert report.repeated_captions == {"The same.": 3}
        assert report.unexpected_captions == 2
        assert report.unexpected_characters == {"黑": 2, "色": 1, "\u200b": 1}

    def test_identities_with_one_image(self, plant):
        def change(records):
            del records[1:4], records[-3:]

        report = check_benchmark("cuhk-pedes", plant(change))
        assert report.single_image_identities == {"train": 1, "val": 0, "test": 1}

    def test_ids_in_several_splits(self, plant):
        def change(records):
            for record in records:
                if record["id"] in (12, 13):
                    record["id"] -= 11

        report = check_benchmark("cuhk-pedes", plant(change))
        assert report.can_train
        assert "2 person id(s) occur in more than one split" in report.warnings[-1]

    def test_the_loader_s_warnings_and_shared_footage(self, exports, caplog):
        for name, other in (("icfg-pedes", "rstpreid"), ("rstpreid", "icfg-pedes"), ("cuhk-pedes", None)):
            caplog.clear()
            load_benchmark(name, exports)
            warnings = check_benchmark(name, exports).warnings
            assert warnings[:1] == caplog.messages
            assert len(warnings) == 1 + (other is not None)
            assert other is None or warnings[1].startswith(f"{name} and {other} are both cut from MSMT17")

    def test_quality_of_training_captions(self, exports):
        captions = [text for texts in load_benchmark("cuhk-pedes", exports)["train"]["captions"] for text in texts]
        qualities = CaptionQuality().fit(captions)(captions)
        bins = check_benchmark("cuhk-pedes", exports).caption_quality
        edges = [number / 10 for number in range(10)] + [1.1]
        assert bins == [sum(low <= q < high for q in qualities) for low, high in itertools.pairwise(edges)]
        assert sum(bins) == 48 and max(bins) < 48

    def test_long_captions(self, plant, processor):
        def change(records):
            records[0]["captions"] = ["coat " * 75, "coat " * 76]

        root = plant(change)
        report = check_benchmark("cuhk-pedes", root)
        assert (report.long_captions, report.max_length, report.long_captions_exact) == (1, 77, False)
        report = check_benchmark("cuhk-pedes", root, processor=processor)
        captions = [
            text
            for rows in load_benchmark("cuhk-pedes", root).values()
            for texts in rows["captions"]
            for text in texts
        ]
        assert report.long_captions == processor.count_truncated(captions) >= 2
        assert (report.max_length, report.long_captions_exact) == (40, True)

    @given(st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Z", "M")), max_size=60))
    def test_least_tokens_are_never_too_many(self, processor, text):
        ids = processor.tokenizer(text, truncation=False, verbose=False)["input_ids"]
        assert least_tokens(text) <= len(ids)

    @pytest.mark.parametrize(
        "text", ["He's 25.", "A MAN, in_red; it's 3x!?", "cafe\u0301", "<|endoftext|>", "don't  we'll"]
    )
    def test_least_tokens_are_exact_where_every_piece_is_a_token(self, processor, text):
        pieces = processor.tokenizer.backend_tokenizer
        cut = pieces.pre_tokenizer.pre_tokenize_str(pieces.normalizer.normalize_str(text))
        assert least_tokens(text) == (3 if text.startswith("<|") else len(cut) + 2)

    def test_the_expected_script(self):
        assert not UNEXPECTED.search("A naïve résumé \u2014 \u201cquotes\u201d \u2018x\u2019 \u2026 50 €, Łódź ẞ\n\t~")
        assert UNEXPECTED.findall("aя黑😀\x00\ufffd\uff0c\u200b") == list("я黑😀\x00\ufffd\uff0c\u200b")


class TestReport:
    def text(self, report: CheckReport) -> str:
        written = io.StringIO()
        print_report(report, Console(file=written, width=120, highlight=False))
        return written.getvalue()

    def test_it_shows_what_was_found(self, plant):
        def change(records):
            records[0]["captions"] = ["The same [bold]one[/].", ""]
            records[9]["captions"] = ["The same [bold]one[/].", "黑\u200b" + "x " * 80]
            del records[10]["id"]

        root = plant(change)
        shutil.rmtree(root / "CUHK-PEDES" / "imgs" / "Market")
        text = self.text(check_benchmark("cuhk-pedes", root))
        assert re.search(r"train +│ 6 of 11,003 │ 23 of 34,054 │ 46 of 68,126", text)
        assert re.search(r"missing images +│ +7 │ imgs/Market 7 of 7 ", text)
        assert re.search(r"unreadable images +│ +\? │ not looked for without --images", text)
        assert re.search(r"captions shared by identities │ +2 │ 2 x 'The same \[bold\]one\[/\]\.'", text)
        assert re.search(r"captions with odd characters +│ +1 │ 黑 1, U\+200B 1", text)
        assert re.search(r"captions beyond 77 tokens +│ at least 1 │ by words and punctuation", text)
        assert re.search(r" 0\.9 to 1\.0 +\d+ +█", text)
        assert "problem: " in text and "record 10 has no 'id'" in text
        assert text.rstrip().endswith("Training on this data set would fail: 2 problems.")

    def test_many_problems_are_cut_short(self):
        report = CheckReport("json", "data.json", "images", problems=[f"record {number}" for number in range(1234)])
        text = self.text(report)
        assert text.count("problem: ") == 10 and "and 1,224 more problems, which --json lists" in text

    def test_a_good_copy(self, exports):
        text = self.text(check_benchmark("icfg-pedes", exports, decode_images=True))
        assert re.search(r"unreadable images +│ +0 │ ", text)
        assert re.search(r"val|problem", text) is None
        assert text.rstrip().endswith("Training on this data set can start.")
