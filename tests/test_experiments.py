"""The ablations: what their arms change, and that runs are shared, resumed and reported as they are."""

import csv
import json
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


# The folders of the quality study's runs; a constant quality is a fixed margin.
QUALITY_RUNS = {
    "information": "mcm_weight=0.0",
    "length": "mcm_weight=0.0,quality_measure=length",
    "distinct": "mcm_weight=0.0,quality_measure=distinct",
    "constant": "margin_min=0.4,mcm_weight=0.0",
}


@pytest.fixture(scope="module")
def study(paperdoll_root, tmp_path_factory) -> Path:
    """
    The output folder of a study that was killed between two checkpoints of its second run, and finished by a second
    call. Not to be written to.
    """
    folder = tmp_path_factory.mktemp("study")
    steps = {"max_steps": 6, "save_steps": 3, "eval_steps": 3}
    recipe = write_recipe(folder / "mine.yaml", data_root=str(paperdoll_root), **steps)
    command = [sys.executable, "-m", "scmm.cli", "ablate", "quality", "--seeds", "0", "--recipe", str(recipe)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    killed, later = (folder / "out" / "runs" / QUALITY_RUNS[name] / "seed-0" for name in ("length", "distinct"))
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

    before = finished(folder / "out")
    assert [*before] == ["runs/mcm_weight=0.0/seed-0/results.json"]
    assert run_study("quality", recipe, [0, 3]) == folder / "out" / "quality.md"
    assert before.items() <= finished(folder / "out").items()
    return folder / "out"


def test_the_table_has_the_runs_means_and_deviations(study):
    with open(study / "quality.csv", newline="") as file:
        rows = {(row["arm"], row["split"]): row for row in csv.DictReader(file)}
    assert [*rows] == [(arm, split) for arm in QUALITY_RUNS for split in ("val", "test")]
    markdown = (study / "quality.md").read_text()
    for (arm, split), row in rows.items():
        results = [read_results(study / "runs" / QUALITY_RUNS[arm] / f"seed-{seed}") for seed in (0, 3)]
        assert [run["seed"] for run in results] == [0, 3]
        for metric in ("rank1", "rank5", "rank10", "mAP", "mINP"):
            values = [run["best"][split][metric] for run in results]
            mean, std = statistics.mean(values), statistics.stdev(values)
            assert float(row[f"{metric}_mean"]) == pytest.approx(mean)
            assert float(row[f"{metric}_std"]) == pytest.approx(std)
            assert f"{mean:.2f} ± {std:.2f}" in markdown
        assert row["seeds"] == "2" and f"| {arm} | {split} |" in markdown
    assert "best checkpoint by rank1 on val; mean ± standard deviation over the seeds 0, 3." in markdown
    assert min(Image.open(study / "quality.png").size) > 300


def test_what_was_interrupted_ends_as_if_it_had_been_left_alone(study, tmp_path):
    values = {"mcm_weight": 0.0, "quality_measure": "length", "seed": 0, "output_dir": tmp_path / "undisturbed"}
    expected = run_recipe(read_recipe(study.parent / "mine.yaml", **values))
    found = read_results(study / "runs" / QUALITY_RUNS["length"] / "seed-0")
    assert found["resumed"] and not expected["resumed"]
    assert found["best"] == expected["best"] and found["last"] == expected["last"]
    assert "1 run was resumed" in (study / "quality.md").read_text()


def test_a_finished_run_keeps_its_model_and_not_its_checkpoints(study):
    assert not list(study.rglob("checkpoint-*"))
    assert len(list(study.glob("runs/*/seed-*/model.safetensors"))) == 8


def test_nothing_is_trained_twice(study, capsys):
    before, markdown = finished(study), (study / "quality.md").read_text()
    run_study("quality", study.parent / "mine.yaml", [3, 0])
    assert finished(study) == before
    table = [line for line in markdown.splitlines() if line.startswith("|")]
    assert (study / "quality.md").read_text().splitlines()[: len(table)] == table
    printed = capsys.readouterr().out
    assert all(arm in printed for arm in QUALITY_RUNS)


def test_runs_with_other_settings_are_neither_mixed_nor_lost(study, tmp_path):
    before = finished(study)
    values = yaml.safe_load((study.parent / "mine.yaml").read_text())
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**values, "learning_rate": 0.5}))
    with pytest.raises(ValueError, match=r"runs/mcm_weight=0.0 holds runs with learning_rate None, not 0.5: choose"):
        run_study("quality", tmp_path / "mine.yaml", [0])
    assert finished(study) == before


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
