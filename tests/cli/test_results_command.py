"""The command that compares runs."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def runs(tmp_path) -> Path:
    """Three runs of one recipe, two of which differ in the seed alone."""
    for number, (seed, margin_max, rank1) in enumerate([(0, 0.4, 40.0), (1, 0.4, 42.0), (0, 0.9, 30.0)]):
        metrics = {"rank1": rank1, "rank5": 60.0, "rank10": 70.0, "mAP": 35.0, "mINP": 20.0}
        figures = {"epoch": 3.0, "step": 9, "val": metrics, "test": metrics}
        results = {
            "recipe": "recipes/mine.yaml",
            "data": {"dataset": "paperdoll", "root": "data", "selection_split": "val"},
            "seed": seed,
            "selection": {"split": "val", "metric": "rank1"},
            "best": figures,
            "last": figures,
            "arguments": {"margin_max": margin_max} if margin_max != 0.4 else {},
        }
        (tmp_path / "runs" / str(number)).mkdir(parents=True)
        (tmp_path / "runs" / str(number) / "results.json").write_text(json.dumps(results))
    return tmp_path / "runs"


def test_json(scmm, runs):
    code, out, _ = scmm("results", runs / "0", runs / "1", "--json")
    best, last = json.loads(out)
    assert code == 0 and (best["checkpoint"], last["checkpoint"]) == ("best", "last")
    assert best["seeds"] == [0, 1] and best["test"]["rank1"] == pytest.approx({"mean": 41, "std": 2**0.5})
    assert best["arguments"] == {}


def test_a_folder_of_runs_in_markdown(scmm, runs):
    code, out, _ = scmm("results", runs, runs / "0", "--markdown")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines()]
    assert code == 0 and lines[0][:6] == ["recipe", "data", "arguments", "model", "seeds", "epoch"]
    assert lines[1][0] == "---" and lines[1][-1] == "---:"
    assert lines[2][:5] == ["mine", "paperdoll", "margin_max=default", "best on val", "2"]
    assert lines[2][5:7] == ["3.0 ± 0.0", "41.00 ± 1.41"]
    assert lines[4][2:7] == ["margin_max=0.9", "best on val", "1", "3.0", "30.00"]
    assert len(lines) == 6 and {len(line) for line in lines} == {12}


def test_table(scmm, runs, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = scmm("results", runs)
    assert code == 0 and "41.00 ± 1.41" in out and "best on val" in out


def test_mistakes(mistake, runs, tmp_path):
    assert f"{tmp_path / 'none'} is not a folder" in mistake("results", runs, tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert f"{tmp_path / 'empty'} has no results.json" in mistake("results", runs, tmp_path / "empty")
    for text, message in [
        ("{", "is broken"),
        ("[]", "not the results of a run"),
        ("{}", "has no data, recipe"),
    ]:
        (runs / "1" / "results.json").write_text(text)
        line = mistake("results", runs)
        assert str(runs / "1" / "results.json") in line and message in line
