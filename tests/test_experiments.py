"""The ablations: what their arms change, and that runs are shared, resumed and reported as they are."""

import csv
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from PIL import Image

from scmm.caption_quality import CaptionQuality
from scmm.experiments import STUDIES, define_study, mean_margin, run_name, run_study
from scmm.recipes import RecipeError, parse_recipe, read_recipe
from scmm.results import read_results
from scmm.runs import run_recipe


SETTINGS = {
    "dataset": "paperdoll",
    "preset": "tiny",
    "image_size": [32, 16],
    "use_cpu": True,
    "disable_tqdm": True,
    "per_device_train_batch_size": 8,
    "max_steps": 1,
    "save_strategy": "steps",
    "save_steps": 1,
    "eval_strategy": "steps",
    "eval_steps": 1,
}


@pytest.fixture
def recipe(paperdoll_root, tmp_path) -> Path:
    return write_recipe(tmp_path / "mine.yaml", data_root=str(paperdoll_root))


def write_recipe(path: Path, **values) -> Path:
    path.write_text(yaml.safe_dump({**SETTINGS, "output_dir": str(path.parent / "out"), **values}))
    return path


def finished(output: Path) -> dict[str, int]:
    """When each run finished."""
    return {str(file.relative_to(output)): file.stat().st_mtime_ns for file in output.rglob("results.json")}


class TestDefinitions:
    def objective(self, overrides):
        _, _, args = parse_recipe({**SETTINGS, "data_root": "data", "output_dir": "out", **overrides})
        return args, set(args.loss_function().weights)

    def test_components_take_away_one_thing_at_a_time(self):
        arms = {arm.label: self.objective(arm.overrides) for arm in define_study("components", 0.25, 0.4).arms}
        assert [terms for _, terms in arms.values()] == [
            {"itc"},
            {"itc", "sew"},
            {"itc", "sew"},
            {"itc", "mcm"},
            {"itc"},
            {"itc", "sew", "mcm"},
        ]
        fixed, adaptive = arms["+ sew, fixed margin 0.25"][0], arms["+ sew, adaptive margin"][0]
        assert fixed.margin_min == fixed.margin_max == 0.25 and adaptive.margin_min < adaptive.margin_max
        masks = [label for label, (args, _) in arms.items() if args.mask_global_branch]
        assert masks == ["+ masked global branch, no MCM"]

    @pytest.mark.parametrize("name", STUDIES)
    def test_every_arm_is_a_recipe_of_its_own(self, name):
        arms = define_study(name, 0.25, 0.4).arms
        assert len({json.dumps(arm.overrides, sort_keys=True) for arm in arms}) == len(arms)
        for arm in arms:
            self.objective(arm.overrides)

    def test_sweeps_say_where_their_arms_stand(self):
        margin = define_study("margin", 0.268, 0.4)
        assert [arm.x for arm in margin.arms] == [0.0, 0.2, 0.268, 0.4, 0.8, None]
        assert [arm.overrides["margin_min"] for arm in margin.arms[:-1]] == [arm.x for arm in margin.arms[:-1]]
        assert len(define_study("margin", 0.2, 0.4).arms) == 5  # 0.2 once

    def test_studies_share_what_they_have_in_common(self, recipe):
        whole = read_recipe(recipe)
        names = {study: [run_name(arm, whole) for arm in define_study(study, 0.268, 0.4).arms] for study in STUDIES}
        assert names["components"] == [
            "mcm_weight=0.0,sew_weight=0.0",
            "margin_max=0.268,margin_min=0.268,mcm_weight=0.0",
            "mcm_weight=0.0",
            "sew_weight=0.0",
            "mask_global_branch=True,mcm_weight=0.0,sew_weight=0.0",
            "recipe",
        ]
        assert names["margin"][-1] == names["quality"][0] == names["decoder"][-1] == "mcm_weight=0.0"
        assert names["margin"][2] == names["components"][1]
        assert names["margin"][3] == names["quality"][3]
        assert names["mask-ratio"][1] == "recipe"  # the recipe's own ratio

    def test_the_mean_margin_is_that_of_the_training_captions(self, recipe, paperdoll):
        captions = [caption for captions in paperdoll["train"]["captions"] for caption in captions]
        margins = [0.1 + 0.3 * quality for quality in CaptionQuality("length").fit(captions)(captions)]
        found = mean_margin(read_recipe(recipe, quality_measure="length"))
        assert found == pytest.approx(sum(margins) / len(margins), abs=0.0005)
        assert mean_margin(read_recipe(recipe, quality_measure="constant")) == 0.4


def test_a_study_ends_in_its_table_and_figure(recipe, paperdoll_root, tmp_path, capsys):
    table = run_study("quality", recipe, [0, 3])
    output = tmp_path / "out"
    assert table == output / "quality.md"
    assert min(Image.open(output / "quality.png").size) > 300
    runs = {
        "information": "mcm_weight=0.0",
        "length": "mcm_weight=0.0,quality_measure=length",
        "distinct": "mcm_weight=0.0,quality_measure=distinct",
        "constant": "margin_min=0.4,mcm_weight=0.0",
    }
    with open(output / "quality.csv", newline="") as file:
        rows = {(row["arm"], row["split"]): row for row in csv.DictReader(file)}
    assert [*rows] == [(arm, split) for arm in runs for split in ("val", "test")]
    markdown, printed = table.read_text(), capsys.readouterr().out
    for (arm, split), row in rows.items():
        results = [read_results(output / "runs" / runs[arm] / f"seed-{seed}") for seed in (0, 3)]
        assert [run["seed"] for run in results] == [0, 3]
        for metric in ("rank1", "rank5", "rank10", "mAP", "mINP"):
            values = [run["best"][split][metric] for run in results]
            mean, std = statistics.mean(values), statistics.stdev(values)
            assert float(row[f"{metric}_mean"]) == pytest.approx(mean)
            assert float(row[f"{metric}_std"]) == pytest.approx(std)
            assert f"{mean:.2f} ± {std:.2f}" in markdown
        assert row["seeds"] == "2"
        assert f"| {arm} | {split} |" in markdown and arm in printed
    assert "best checkpoint by rank1 on val; mean ± standard deviation over the seeds 0, 3." in markdown
    assert not list(output.rglob("checkpoint-*"))
    assert list(output.glob("runs/*/seed-0/model.safetensors"))

    # Nothing is trained twice.
    before = finished(output)
    table.unlink()
    run_study("quality", recipe, [0, 3])
    assert finished(output) == before and table.read_text() == markdown

    # Runs with other settings are neither mixed with these nor lost.
    write_recipe(recipe, data_root=str(paperdoll_root), learning_rate=0.5)
    with pytest.raises(ValueError, match=r"runs/mcm_weight=0.0 holds runs with learning_rate None, not 0.5: choose"):
        run_study("quality", recipe, [0, 3])
    assert finished(output) == before


def test_an_interrupted_study_goes_on_where_it_was(paperdoll_root, tmp_path):
    """Killed between two checkpoints, and with a checkpoint half written, it ends as one that was left alone."""
    steps = {"max_steps": 6, "save_steps": 3, "eval_steps": 3}
    recipe = write_recipe(tmp_path / "mine.yaml", data_root=str(paperdoll_root), **steps)
    command = [sys.executable, "-m", "scmm.cli", "ablate", "quality", "--seeds", "0", "--recipe", str(recipe)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    runs = tmp_path / "out" / "runs"
    killed, later = (runs / f"mcm_weight=0.0,quality_measure={name}" / "seed-0" for name in ("length", "distinct"))
    while not list(killed.glob("checkpoint-*/trainer_state.json")):
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (killed / "results.json").exists()
    (killed / "checkpoint-9").mkdir()  # newer than the last one that is whole
    (killed / "checkpoint-9" / "model.safetensors").write_bytes(b"half")
    later.mkdir(exist_ok=True)  # begun, but without a checkpoint
    (later / "config.json").write_text("{")
    before = finished(tmp_path / "out")
    assert [*before] == ["runs/mcm_weight=0.0/seed-0/results.json"]

    run_study("quality", recipe, [0])
    after = finished(tmp_path / "out")
    assert before.items() <= after.items() and len(after) == 4
    assert "1 run was resumed" in (tmp_path / "out" / "quality.md").read_text()
    undisturbed = read_recipe(recipe, mcm_weight=0.0, quality_measure="length", seed=0, output_dir=tmp_path / "whole")
    expected, found = run_recipe(undisturbed), read_results(killed)
    assert found["resumed"] and not expected["resumed"]
    assert found["best"] == expected["best"] and found["last"] == expected["last"]


class TestMistakes:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"mcm_weight": 0.0}, "mcm_weight is 0.0. A study starts from the whole method"),
            ({"sew_weight": 0.0}, "sew_weight is 0.0"),
            ({"align": None}, "align is None"),
            ({"margin_max": 0.1}, "margin_max is 0.1"),
            ({"mask_global_branch": True}, "mask_global_branch is True"),
        ],
    )
    def test_a_recipe_without_a_part_has_nothing_to_take_away(self, values, message, paperdoll_root, tmp_path):
        recipe = write_recipe(tmp_path / "part.yaml", data_root=str(paperdoll_root), **values)
        with pytest.raises(RecipeError, match=f"part.yaml: {message}"):
            run_study("components", recipe, [0])
        assert not (tmp_path / "out").exists()

    @pytest.mark.parametrize(
        ("name", "seeds", "message"),
        [
            ("component", [0], "no study 'component'; choose one of components, margin"),
            ("margin", [1, 2, 1], "different numbers, got 1, 2, 1"),
            ("margin", [], "different numbers, got none"),
        ],
    )
    def test_unknown_studies_and_repeated_seeds(self, name, seeds, message, recipe):
        with pytest.raises(ValueError, match=message):
            run_study(name, recipe, seeds)
