"""Reading the benchmarks: what comes out of each layout, when the cache is used, and the hold-out."""

import itertools
import json
import logging
import os
import pickle
import shutil
from pathlib import Path

import datasets
import pytest
from PIL import Image as PILImage

from scmm.data.benchmarks import BenchmarkError, load_benchmark, loading, read_records
from scmm.data.paperdoll import export_paperdoll, read_paperdoll
from scmm.data.schema import FEATURES


LAYOUTS = ("cuhk-pedes", "icfg-pedes", "rstpreid")


@pytest.fixture(scope="module")
def root(paperdoll_root, tmp_path_factory) -> Path:
    """PaperDoll and its three exports side by side. Not to be written to."""
    root = tmp_path_factory.mktemp("benchmarks")
    shutil.copytree(paperdoll_root / "PaperDoll", root / "PaperDoll")
    for layout in LAYOUTS:
        export_paperdoll(paperdoll_root, root, layout)
    return root


@pytest.fixture
def copy(root, tmp_path) -> Path:
    """Another root with the RSTPReid of `root`, to be changed."""
    shutil.copytree(root / "RSTPReid", tmp_path / "RSTPReid")
    return tmp_path


def edit(root: Path, change) -> None:
    """Replaces the records of an RSTPReid, its size kept the same where `change` keeps it."""
    path = root / "RSTPReid" / "data_captions.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


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
        assert isinstance(splits, datasets.DatasetDict)
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
            ("icfg-pedes", "a_b_7_c/odd.jpg", -1),
            ("rstpreid", "0000_c14_0031.jpg", 14),
            ("rstpreid", "a_c7_b/odd.jpg", -1),
            ("rstpreid", f"0000_c{10**20}_0031.jpg", -1),  # no camera, and more than a column holds
        ],
    )
    def test_camera_in_the_name(self, tmp_path, name, path, camera):
        folder, file, key = {
            "icfg-pedes": ("ICFG-PEDES", "ICFG-PEDES.json", "file_path"),
            "rstpreid": ("RSTPReid", "data_captions.json", "img_path"),
        }[name]
        image = tmp_path / folder / "imgs" / path
        image.parent.mkdir(parents=True)
        image.touch()
        record = {"id": 0, "captions": ["a man"], "split": "train", key: path}
        (tmp_path / folder / file).write_text(json.dumps([record]))
        assert load_benchmark(name, tmp_path)["train"]["camera_id"][0] == camera

    def test_images_are_not_opened_before_they_are_used(self, copy):
        _, records = read_records("rstpreid", copy)
        (copy / "RSTPReid" / "imgs" / records[0]["img_path"]).write_bytes(b"no image")
        rows = load_benchmark("rstpreid", copy)["train"]
        with pytest.raises(OSError, match="cannot identify image"):
            rows[0]
        rows = rows.cast_column("image", datasets.Image(decode=False))  # by reference: the cache holds no copy
        path = str((copy / "RSTPReid" / "imgs" / records[1]["img_path"]).resolve())
        assert rows[1]["image"] == {"bytes": None, "path": path}

    def test_splits_pickle(self, root):
        again = pickle.loads(pickle.dumps(load_benchmark("rstpreid", root)))
        with pytest.raises(BenchmarkError, match="rstpreid has no split 'dev'"):
            again["dev"]
        assert "dev" not in again and again.get("dev") is None


class TestCache:
    @pytest.fixture
    def load(self, copy, tmp_path):
        """Loads the copy with a cache of its own; returns the splits and whether the rows were written anew."""

        def load(root: Path = copy, **options):
            before = set(cache.rglob("*.arrow"))
            splits = load_benchmark("rstpreid", root, cache_dir=cache, **options)
            return splits, set(cache.rglob("*.arrow")) != before

        cache = tmp_path / "cache"
        return load

    def test_rows_are_mapped_from_it(self, load, tmp_path):
        first, written = load()
        assert written
        second, written = load()
        assert not written
        assert second["train"].to_list() == first["train"].to_list()
        assert second["train"].cache_files == first["train"].cache_files
        assert Path(second["train"].cache_files[0]["filename"]).is_relative_to(tmp_path / "cache" / "rstpreid")

    def test_a_changed_file_is_read_anew_whatever_its_time_and_size(self, load, copy):
        path = copy / "RSTPReid" / "data_captions.json"
        before, _ = load()
        times = path.stat().st_atime_ns, path.stat().st_mtime_ns
        text = path.read_text()
        word = before["train"][0]["captions"][0][:3]
        path.write_text(text.replace(word, "XYZ", 1))
        os.utime(path, ns=times)
        assert path.stat().st_size == len(text.encode())
        after, written = load()
        assert written
        assert after["train"][0]["captions"][0] == "XYZ" + before["train"][0]["captions"][0][3:]
        path.write_text(text)
        assert load()[1] is False  # and the old content is still there

    def test_a_moved_root_serves_no_old_paths(self, load, copy):
        load()
        (copy / "elsewhere").mkdir()
        shutil.move(copy / "RSTPReid", copy / "elsewhere" / "RSTPReid")
        rows = load(copy / "elsewhere")[0]["train"].cast_column("image", datasets.Image(decode=False))
        assert all(Path(image["path"]).is_file() for image in rows["image"])

    def test_a_link_that_points_elsewhere_serves_no_old_paths(self, load, copy, root):
        link = copy / "link"
        link.symlink_to(copy)
        load(link)
        link.unlink()
        link.symlink_to(root)
        rows = load(link)[0]["train"].cast_column("image", datasets.Image(decode=False))
        assert Path(rows[0]["image"]["path"]).is_relative_to(root.resolve())

    def test_options_have_entries_of_their_own(self, load, copy):
        edit(
            copy, lambda records: [{**record, "split": record["split"].replace("val", "train")} for record in records]
        )
        sizes = []
        for options in ({}, {"hold_out_identities": 2}, {"hold_out_identities": 2, "seed": 1}, {"seed": 3}):
            splits, _ = load(**options)
            sizes.append((splits["train"].num_rows, set(splits["val"]["person_id"]) if "val" in splits else None))
        assert sizes[0] == sizes[3] == (36, None)  # a seed without a hold-out changes nothing
        assert sizes[1][0] == sizes[2][0] == 28
        assert sizes[1][1] != sizes[2][1]

    def test_another_reader_reads_anew(self, load, monkeypatch):
        load()
        monkeypatch.setattr(loading, "_reader_hash", lambda: "another")
        assert load()[1] is True

    def test_images_that_vanish_later_are_missed(self, load, copy):
        splits, _ = load()
        (copy / "RSTPReid" / "imgs" / splits["train"][3]["file_name"]).unlink()
        with pytest.raises(BenchmarkError, match="imgs lacks 1 of the 52 images"):
            load()

    def test_a_refused_file_leaves_nothing(self, load, copy, tmp_path):
        edit(copy, lambda records: [*records, 3])
        for _ in range(2):
            with pytest.raises(BenchmarkError, match="record 52"):
                load()
        assert not list((tmp_path / "cache").rglob("*.arrow"))

    def test_no_bars_and_the_user_s_choice_of_them_is_kept(self, load, capsys):
        assert not datasets.are_progress_bars_disabled()
        load()
        assert not datasets.are_progress_bars_disabled()
        datasets.disable_progress_bars()
        try:
            load(seed=1, hold_out_identities=0)
            assert datasets.are_progress_bars_disabled()
        finally:
            datasets.enable_progress_bars()
        assert "Generating" not in capsys.readouterr().err


class TestHoldOut:
    def load(self, root, identities, seed=0):
        return load_benchmark("icfg-pedes", root, hold_out_identities=identities, seed=seed)

    def test_training_identities_move(self, root):
        whole, parted = self.load(root, 0), self.load(root, 3)
        assert "val" not in whole
        assert {split: rows.num_rows for split, rows in parted.items()} == {"train": 24, "val": 12, "test": 16}
        train, val = set(parted["train"]["person_id"]), set(parted["val"]["person_id"])
        assert len(val) == 3 and not train & val
        assert parted["test"].to_list() == whole["test"].to_list()

        def rows(*splits):
            return sorted((row for split in splits for row in split.to_list()), key=lambda row: row["image_id"])

        assert rows(parted["train"], parted["val"]) == rows(whole["train"])

    def test_it_is_a_function_of_the_seed(self, root):
        chosen = {seed: set(self.load(root, 3, seed)["val"]["person_id"]) for seed in range(6)}
        assert (
            chosen[0] == set(self.load(root, 3, 0)["val"]["person_id"]) == {2, 4, 6}
        )  # for good: results depend on it
        assert len({frozenset(people) for people in chosen.values()}) > 3

    def test_a_larger_number_includes_those_of_a_smaller_one(self, root):
        people = [set(self.load(root, count)["val"]["person_id"]) for count in (1, 2, 5, 8)]
        assert all(few < many for few, many in itertools.pairwise(people))

    @pytest.mark.parametrize("count", [9, 100])
    def test_someone_must_remain(self, root, count):
        with pytest.raises(BenchmarkError, match=f"is {count}, but .*ICFG-PEDES.json has 9 training identities"):
            self.load(root, count)

    def test_a_negative_number(self, root):
        with pytest.raises(BenchmarkError, match="must not be negative, got -1"):
            self.load(root, -1)

    def test_a_set_with_a_validation_split_refuses(self, root):
        with pytest.raises(BenchmarkError, match=r"reid_raw\.json has a validation split.*leave it at 0"):
            load_benchmark("cuhk-pedes", root, hold_out_identities=2)

    def test_asking_for_the_missing_split_names_the_ways(self, root):
        with pytest.raises(BenchmarkError) as error:
            load_benchmark("icfg-pedes", root)["val"]
        assert str(error.value) == (
            "icfg-pedes has no split 'val', only test, train. Set hold_out_identities to move that many training "
            "identities into a validation split, or select on another one (eval_split in a recipe)."
        )
        with pytest.raises(BenchmarkError, match=r"has no split 'dev', only test, train, val\.$"):
            load_benchmark("cuhk-pedes", root)["dev"]

    def test_official_figures_are_those_before_the_hold_out(self, root, caplog):
        messages = []
        for count in (0, 3):
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger="scmm"):
                self.load(root, count)
            messages.append(caplog.messages)
        assert messages[0] == messages[1]
        assert "train has 9 identities, 36 images, 36 captions (officially 3,102 " in messages[0][0]
