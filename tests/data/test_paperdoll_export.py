"""PaperDoll in the layouts of the public benchmarks."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from scmm.data.paperdoll import export_paperdoll, read_paperdoll, render_paperdoll


PEOPLE = {"train_identities": 8, "val_identities": 3, "test_identities": 6, "images_per_identity": 3}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("source")
    render_paperdoll(root, image_size=(32, 16), num_workers=1, progress=False, **PEOPLE)
    return root


def load(folder: Path, annotations: str, path_key: str) -> list[dict]:
    """Read the records and check what all layouts share: every file exists, stays inside, and is used once."""
    assert sorted(path.name for path in folder.iterdir()) == sorted([annotations, "imgs"])
    records = json.loads((folder / annotations).read_text())
    images = (folder / "imgs").resolve()
    paths = [(images / record[path_key]).resolve() for record in records]
    assert all(path.is_file() and images in path.parents for path in paths)
    assert len(set(paths)) == len(paths) == sum(path.is_file() for path in images.rglob("*"))
    for path in paths:
        with Image.open(path) as image:
            assert image.format == {".png": "PNG", ".jpg": "JPEG"}[path.suffix]
            assert image.size == (16, 32)
    return records


def ids(records: list[dict], split: str) -> list[int]:
    return sorted({record["id"] for record in records if record["split"] == split})


def test_cuhk_pedes(root, tmp_path):
    folder = export_paperdoll(root, tmp_path, "cuhk-pedes")
    assert folder == tmp_path / "CUHK-PEDES"
    records = load(folder, "reid_raw.json", "file_path")
    assert all(list(r) == ["split", "captions", "file_path", "processed_tokens", "id"] for r in records)
    assert ids(records, "train") == list(range(1, 9))
    assert ids(records, "val") == [9, 10, 11]
    assert ids(records, "test") == list(range(12, 18))
    assert {r["file_path"].split("/")[0] for r in records} == {
        "cam_a", "cam_b", "CUHK01", "CUHK03", "Market", "test_query", "train_query",
    }  # fmt: skip
    assert {Path(r["file_path"]).suffix for r in records} == {".png", ".jpg"}
    for record in records:
        assert len(record["captions"]) == len(record["processed_tokens"]) == 2
        for caption, words in zip(record["captions"], record["processed_tokens"], strict=True):
            assert words and "".join(words) == re.sub(r"[^a-z0-9]", "", caption.lower())
        if record["file_path"].startswith("train_query"):
            assert re.fullmatch(r"train_query/p\d+_s\d+\.jpg", record["file_path"])
        if record["file_path"].startswith("CUHK01"):
            assert re.fullmatch(r"CUHK01/\d{7}\.png", record["file_path"])
    assert {r["split"] for r in records if r["file_path"].startswith("train_query")} == {"train", "val", "test"}


def test_icfg_pedes(root, tmp_path):
    records = load(export_paperdoll(root, tmp_path, "icfg-pedes"), "ICFG-PEDES.json", "file_path")
    assert (tmp_path / "ICFG-PEDES").is_dir()
    assert all(list(r) == ["split", "captions", "file_path", "processed_tokens", "id"] for r in records)
    assert {r["split"] for r in records} == {"train", "test"}
    assert ids(records, "train") == list(range(11))
    assert ids(records, "test") == list(range(11, 17))
    cameras = [record["camera"] for record in read_paperdoll(root)]
    for record, camera in zip(records, cameras, strict=True):
        assert len(record["captions"]) == len(record["processed_tokens"]) == 1
        match = re.fullmatch(
            r"(train|test)/(\d{4})/(\d{4})_(\d{3})_(\d{2})_(\w+)_(\d+)_(\d+)\.jpg", record["file_path"]
        )
        assert match and match[2] == match[3] == f"{record['id']:04d}"
        assert int(Path(record["file_path"]).name.split("_")[2]) == camera + 1
    for split in ("train", "test"):
        sources = {r["file_path"].split("/")[0] for r in records if r["split"] == split}
        assert sources == {"train", "test"}


def test_rstpreid(root, tmp_path):
    records = load(export_paperdoll(root, tmp_path, "rstpreid"), "data_captions.json", "img_path")
    assert (tmp_path / "RSTPReid").is_dir()
    assert all(list(r) == ["id", "img_path", "captions", "split"] for r in records)
    assert ids(records, "train") == list(range(8)) and ids(records, "test") == list(range(11, 17))
    for record in records:
        assert len(record["captions"]) == 2
        assert re.fullmatch(r"\d{4}_c\d+_\d{4}\.jpg", record["img_path"])
        assert record["img_path"].startswith(f"{record['id']:04d}_")


@pytest.mark.parametrize(
    ("layout", "path_key"), [("cuhk-pedes", "file_path"), ("icfg-pedes", "file_path"), ("rstpreid", "img_path")]
)
def test_pictures_and_captions_are_the_source_s(root, tmp_path, layout, path_key):
    folder = export_paperdoll(root, tmp_path, layout)
    records = json.loads(next(folder.glob("*.json")).read_text())
    for record, source in zip(records, read_paperdoll(root), strict=True):
        assert record["captions"] == source["captions"][: len(record["captions"])]
        with (
            Image.open(folder / "imgs" / record[path_key]) as image,
            Image.open(root / "PaperDoll" / "imgs" / source["file_path"]) as original,
        ):
            assert np.array_equal(np.asarray(image), np.asarray(original))


def test_all_layouts_share_a_root(root):
    for layout in ("cuhk-pedes", "icfg-pedes", "rstpreid"):
        export_paperdoll(root, root, layout)
    assert {path.name for path in root.iterdir()} == {"CUHK-PEDES", "ICFG-PEDES", "PaperDoll", "RSTPReid"}
    with pytest.raises(FileExistsError, match="RSTPReid"):
        export_paperdoll(root, root, "rstpreid")


def test_mistakes_are_named(root, tmp_path):
    with pytest.raises(ValueError, match=r"'cuhk'.*'cuhk-pedes'"):
        export_paperdoll(root, tmp_path, "cuhk")
    with pytest.raises(FileNotFoundError, match=r"paperdoll\.json"):
        export_paperdoll(tmp_path / "nowhere", tmp_path, "rstpreid")
    render_paperdoll(
        tmp_path, image_size=(32, 16), train_identities=1, val_identities=0, test_identities=0,
        captions_per_image=1, num_workers=1, progress=False,
    )  # fmt: skip
    with pytest.raises(ValueError, match="captions_per_image=2"):
        export_paperdoll(tmp_path, tmp_path, "rstpreid")
    assert not (tmp_path / "RSTPReid").exists()
    assert export_paperdoll(tmp_path, tmp_path, "icfg-pedes").is_dir()
