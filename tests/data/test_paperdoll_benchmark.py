"""The benchmark on disk."""

import json
from pathlib import Path

import pytest
from PIL import Image

from scmm.data.paperdoll import benchmark, paperdoll_records, read_paperdoll, render_paperdoll


SMALL = {"train_identities": 9, "val_identities": 1, "test_identities": 2, "image_size": (64, 32), "progress": False}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("paperdoll")
    assert render_paperdoll(root, num_workers=1, **SMALL) == root / "PaperDoll"
    return root


def test_records_and_files_agree(root):
    records = json.loads((root / "PaperDoll" / "paperdoll.json").read_text())
    assert records == read_paperdoll(root)
    assert len(records) == 12 * 4
    assert list(records[0]) == ["id", "file_path", "captions", "split", "camera", "attributes", "caption_attributes"]
    assert {r["file_path"] for r in records} == {
        path.removeprefix("imgs/") for path in files(root / "PaperDoll") if path.startswith("imgs/")
    }
    for record in records:
        assert len(record["captions"]) == len(record["caption_attributes"]) == 2
        with Image.open(root / "PaperDoll" / "imgs" / record["file_path"]) as image:
            assert image.size == (32, 64) and image.mode == "RGB" and image.format == "JPEG"
    assert not [name for name in files(root / "PaperDoll") if name.endswith(".tmp")]


def test_splits_have_their_own_people(root):
    people = {
        split: {r["id"] for r in read_paperdoll(root) if r["split"] == split} for split in ("train", "val", "test")
    }
    assert people == {"train": set(range(9)), "val": {9}, "test": {10, 11}}
    # a folder does not tell the split
    folders = {
        split: {r["file_path"].split("/")[0] for r in read_paperdoll(root) if r["split"] == split} for split in people
    }
    assert folders["train"] & folders["test"]


def test_the_same_bytes_in_two_processes(root, tmp_path):
    render_paperdoll(tmp_path, num_workers=2, **SMALL)
    assert files(tmp_path / "PaperDoll") == files(root / "PaperDoll")


def test_other_splits_do_not_change_the_training_images(root, tmp_path):
    render_paperdoll(tmp_path, num_workers=1, **(SMALL | {"test_identities": 4, "val_identities": 0}))
    before, after = files(root / "PaperDoll"), files(tmp_path / "PaperDoll")
    train = [f"imgs/{r['file_path']}" for r in read_paperdoll(root) if r["split"] == "train"]
    assert len(train) == 36 and all(before[name] == after[name] for name in train)


def test_another_seed_is_another_benchmark(root):
    other = paperdoll_records(seed=1, train_identities=9, val_identities=1, test_identities=2)
    assert [r["captions"] for r in other] != [r["captions"] for r in read_paperdoll(root)]


def test_an_existing_render_is_left_alone(root):
    before = files(root / "PaperDoll")
    with pytest.raises(FileExistsError, match="PaperDoll"):
        render_paperdoll(root, **SMALL)
    assert files(root / "PaperDoll") == before


def test_a_killed_render_is_recognizable(tmp_path, monkeypatch):
    real, calls = benchmark._render_people, []

    def killed(job):
        if calls:
            raise KeyboardInterrupt
        calls.append(job)
        return real(job)

    monkeypatch.setattr(benchmark, "_render_people", killed)
    with pytest.raises(KeyboardInterrupt):
        render_paperdoll(tmp_path, num_workers=1, **SMALL)
    assert any((tmp_path / "PaperDoll" / "imgs").rglob("*.jpg"))
    with pytest.raises(FileNotFoundError, match="interrupted"):
        read_paperdoll(tmp_path)
    with pytest.raises(FileExistsError):
        render_paperdoll(tmp_path, **SMALL)


def test_too_large_images_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="384x128"):
        render_paperdoll(tmp_path, **(SMALL | {"image_size": (400, 128)}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bad", [{"train_identities": -1}, {"images_per_identity": 0}, {"captions_per_image": 0}])
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        paperdoll_records(**bad)
