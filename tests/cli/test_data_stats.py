"""`scmm data stats`: tables, JSON and pictures."""

import json

from PIL import Image

from scmm.data.paperdoll import export_paperdoll
from scmm.data.stats import dataset_stats


def test_json(scmm, paperdoll, paperdoll_root):
    code, out, _ = scmm("data", "stats", "paperdoll", paperdoll_root, "--json")
    report = json.loads(out)
    assert code == 0 and report["dataset"] == "paperdoll" and report["pictures"] == []
    assert report["splits"] == {split: one.summary() for split, one in dataset_stats(paperdoll).items()}


def test_tables(scmm, paperdoll, paperdoll_root, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = scmm("data", "stats", "paperdoll", paperdoll_root)
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if line.startswith("│")]
    assert code == 0
    assert rows[:3] == [
        ["train", "24", "6", "0", "48"],
        ["val", "12", "3", "0", "24"],
        ["test", "16", "4", "0", "32"],
    ]
    quality = dataset_stats(paperdoll)["train"].summary()["quality"]
    assert rows[6] == ["quality of a caption", "train", *(f"{value:.2f}" for value in quality.values())]
    assert [row[0] for row in rows[3:] if row[0]] == [
        "words of a caption",
        "quality of a caption",
        "captions of an image",
        "images of a person",
    ]


def test_pictures(scmm, paperdoll_root, tmp_path):
    export_paperdoll(paperdoll_root, tmp_path, "icfg-pedes")
    code, out, _ = scmm("data", "stats", "icfg-pedes", tmp_path, "--output-dir", tmp_path / "a" / "b", "--json")
    pictures = json.loads(out)["pictures"]
    assert code == 0 and pictures == [str(tmp_path / "a/b/statistics.png"), str(tmp_path / "a/b/samples.png")]
    for path in pictures:
        with Image.open(path) as picture:
            assert picture.format == "PNG" and picture.width > 1000


def test_mistakes(mistake, paperdoll_root):
    assert "no benchmark 'market'" in mistake("data", "stats", "market", paperdoll_root)
    assert "RSTPReid is not a folder" in mistake("data", "stats", "rstpreid", paperdoll_root)
