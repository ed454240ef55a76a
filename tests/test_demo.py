import json
import subprocess
import sys

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

import scmm.demo
from scmm import SCMMModel, SCMMProcessor
from scmm.data.paperdoll import render_paperdoll
from scmm.demo import RECIPE, run_demo
from scmm.results import read_results


@pytest.fixture
def few_dolls(monkeypatch):
    """The demo's own steps on fewer dolls, with one epoch of training."""

    def render(root, seed, train_identities):
        sizes = {"train_identities": 8, "val_identities": 3, "test_identities": 4}
        return render_paperdoll(root, seed=seed, **sizes, num_workers=1, progress=False)

    monkeypatch.setattr(scmm.demo, "render_paperdoll", render)
    monkeypatch.setitem(RECIPE, "num_train_epochs", 1)
    monkeypatch.setitem(RECIPE, "logging_steps", 1)


def test_the_demo_leaves_what_it_promises(few_dolls, tmp_path, capsys):
    output = tmp_path / "demo"
    metrics = run_demo(output, seed=3)
    assert json.loads((output / "metrics.json").read_text()) == metrics
    for split in ("test", "val"):
        assert metrics[split]["num_queries"] == {"test": 32, "val": 24}[split]
        for name in ("rank1", "rank5", "rank10", "mAP", "mINP"):
            assert 0 <= metrics[split][name] <= 100
            assert 0 <= metrics["oracle"][split][name] <= 100
    assert metrics["run"]["seed"] == 3 and metrics["selection"]["split"] == "val"
    SCMMModel.from_pretrained(output / "checkpoint")
    assert SCMMProcessor.from_pretrained(output / "checkpoint").caption_quality is not None
    results = read_results(output / "checkpoint")
    assert results["best"]["test"] == metrics["test"] and results["arguments"]["muon_learning_rate"] == 6e-3
    assert results["data"]["train"] == {"people": 8, "images": 32, "captions": 64}
    card = (output / "checkpoint" / "README.md").read_text()
    assert f"| best | test | {metrics['test']['rank1']:.2f} |" in card and "8 people, 32 images, 64 captions" in card
    assert len(list((output / "data").glob("**/imgs/**/*.jpg"))) == 60
    for picture in ("ranked_results.png", "search.png", "loss_curves.png"):
        assert min(Image.open(output / picture).size) > 200
    log = (output / "demo.log").read_text()
    assert "loss_sew" in log and "eval_rank1" in log
    printed = capsys.readouterr().out
    assert "oracle" in printed and printed.count("  scmm ") == 3


def test_the_same_seed_gives_the_same_model(few_dolls, tmp_path):
    metrics = [run_demo(tmp_path / name, seed=1) for name in "ab"]
    weights = [load_file(tmp_path / name / "checkpoint" / "model.safetensors") for name in "ab"]
    assert metrics[0]["test"] == metrics[1]["test"]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_second_run_does_not_mix_with_the_first(tmp_path):
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "metrics.json").write_text("{}")
    command = [sys.executable, "-m", "scmm.cli", "demo", "--output-dir", str(tmp_path / "demo")]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert finished.returncode == 2
    assert finished.stderr.startswith("scmm: error:") and "already holds a run" in finished.stderr
    assert [path.name for path in (tmp_path / "demo").iterdir()] == ["metrics.json"]


def test_the_recipe_file_says_the_same(pytestconfig):
    recipe = yaml.safe_load((pytestconfig.rootpath / "recipes" / "paperdoll.yaml").read_text())
    places = {"data_root", "output_dir"}
    assert {name: value for name, value in recipe.items() if name not in places} == RECIPE
