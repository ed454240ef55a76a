"""`scmm data export`: the files, and what is refused before any work."""

from datasets import load_dataset


def test_files(scmm, paperdoll_root, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    code, out, _ = scmm("data", "export", "paperdoll", paperdoll_root, tmp_path / "out")
    assert code == 0 and out.startswith("3 files, ") and f"datasets.load_dataset('{tmp_path}/out')" in out
    assert {split: rows.num_rows for split, rows in load_dataset(str(tmp_path / "out")).items()} == {
        "train": 24,
        "val": 12,
        "test": 16,
    }


def test_refusals_come_first(mistake, paperdoll_root, tmp_path):
    """Nothing is loaded or written: the data sets named are not even there."""
    assert "give a folder to export to, or --push-to-hub" in mistake("data", "export", "rstpreid", tmp_path)
    target = tmp_path / "out"
    for name in ("cuhk-pedes", "icfg-pedes", "rstpreid"):
        line = mistake("data", "export", name, tmp_path, target, "--push-to-hub", "me/mine", "--public")
        assert f"{name} shows real people" in line and "--i-have-permission" in line
    # With the permission it gets as far as the Hub, which the tests do not reach.
    line = mistake("data", "export", "rstpreid", tmp_path, target, "--push-to-hub", "me/mine", "--i-have-permission")
    assert "me/mine" in line and "offline" in line
    assert "'mine' is no repository" in mistake("data", "export", "paperdoll", tmp_path, "--push-to-hub", "mine")
    assert list(tmp_path.iterdir()) == []
    target.mkdir()
    (target / "mine.txt").touch()
    assert f"{target} exists and is not an empty folder" in mistake("data", "export", "rstpreid", tmp_path, target)
    assert "RSTPReid is not a folder" in mistake("data", "export", "rstpreid", tmp_path, tmp_path / "new")
