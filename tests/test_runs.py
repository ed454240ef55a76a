"""A recipe's run: which models are evaluated on which splits, and what is written down about it."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from scmm import SCMMForPreTraining, SCMMProcessor, encode_dataset, retrieval_metrics, runs
from scmm.data.paperdoll import export_paperdoll
from scmm.recipes import build_trainer, parse_recipe
from scmm.results import read_results
from scmm.runs import changed_arguments, run_recipe


@pytest.fixture
def recipe(paperdoll_root, checkpoint, tmp_path):
    def recipe(**values):
        defaults = {"dataset": "paperdoll", "data_root": paperdoll_root, "output_dir": tmp_path / "run"}
        tiny = {"model_name_or_path": str(checkpoint), "use_cpu": True, "disable_tqdm": True, "seed": 5}
        steps = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 3}
        return parse_recipe({**defaults, **tiny, **steps, "per_device_train_batch_size": 8, **values})

    return recipe


def evaluated(folder, dataset) -> dict[str, float]:
    model, processor = SCMMForPreTraining.from_pretrained(folder).scmm, SCMMProcessor.from_pretrained(folder)
    found = encode_dataset(model, processor, dataset)
    return retrieval_metrics(found.text_embeds, found.image_embeds, found.text_person_ids, found.image_person_ids)


class _WorseAndWorse(TrainerCallback):
    """Lets the first evaluation be the best, whatever the model does: the selection is what is under test."""

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        metrics["eval_rank1"] = 100.0 - state.global_step


def test_best_and_last_are_evaluated_on_all_splits(recipe, paperdoll, tmp_path, monkeypatch):
    def build(parsed):
        trainer, splits = build_trainer(parsed)
        trainer.add_callback(_WorseAndWorse())
        return trainer, splits

    monkeypatch.setattr(runs, "build_trainer", build)
    results = run_recipe(recipe(learning_rate=1e-2), source="recipes/mine.yaml")
    run = tmp_path / "run"
    assert read_results(run) == json.loads(json.dumps(results))
    assert (results["best"]["step"], results["last"]["step"]) == (1, 3)
    assert results["best"]["epoch"] == pytest.approx(1 / 6) and results["last"]["epoch"] == pytest.approx(3 / 6)
    for name, step in (("best", 1), ("last", 3)):
        for split in ("val", "test"):
            expected = evaluated(run / f"checkpoint-{step}", paperdoll[split])
            assert results[name][split] == pytest.approx(expected), (name, split)
    assert results["best"]["test"] != results["last"]["test"]
    saved, best = (load_file(folder / "model.safetensors") for folder in (run, run / "checkpoint-1"))
    assert all(torch.equal(weight, saved[name]) for name, weight in best.items())


def test_what_is_written_down(recipe, tmp_path, paperdoll_root, checkpoint):
    results = run_recipe(recipe(margin_max=0.9, max_steps=1), source=tmp_path / "mine.yaml")
    assert list(results) == [
        *("data", "recipe", "seed", "selection", "best", "last", "arguments", "model", "versions", "hardware"),
        *("wall_seconds", "peak_memory_mib", "resumed"),
        *(["peak_gpu_memory_mib"] if torch.cuda.is_available() else []),
    ]
    counts = {"people": 6, "images": 24, "captions": 48}
    data = {"dataset": "paperdoll", "root": str(paperdoll_root), "selection_split": "val", "train": counts}
    assert results["data"] == data
    assert results["selection"] == {"split": "val", "metric": "rank1"}
    assert (results["recipe"], results["seed"], results["resumed"]) == (str(tmp_path / "mine.yaml"), 5, False)
    assert results["arguments"]["margin_max"] == 0.9
    assert results["arguments"]["model_name_or_path"] == str(checkpoint)
    weights = sum(weight.numel() for weight in SCMMForPreTraining.from_pretrained(tmp_path / "run").scmm.parameters())
    assert results["model"] == {"parameters": weights, "start": str(checkpoint)}
    assert results["versions"].keys() == {"scmm", "torch", "transformers", "datasets", "accelerate", "python"}
    assert results["hardware"]["cores"] >= 1 and results["hardware"]["memory_gib"] > 0.5
    assert results["wall_seconds"] > 0 and 100 < results["peak_memory_mib"] < 1e6


@pytest.mark.parametrize("length", [{"max_steps": 2}, {"max_steps": -1, "num_train_epochs": 1}], ids=str)
def test_a_run_that_was_interrupted_after_its_last_step(recipe, tmp_path, length):
    whole = run_recipe(recipe(per_device_train_batch_size=16, **length))
    (tmp_path / "run" / "results.json").unlink()
    with pytest.raises(FileExistsError, match="already holds a run"):
        run_recipe(recipe(**length))
    again = run_recipe(recipe(per_device_train_batch_size=16, **length), resume=True)
    assert again["resumed"] and not whole["resumed"]
    assert (again["best"], again["last"]) == (whole["best"], whole["last"])
    assert read_results(tmp_path / "run") == again


def test_nothing_to_resume(recipe):
    with pytest.raises(ValueError, match="no checkpoint to resume from"):
        run_recipe(recipe(), resume=True)


def test_selecting_on_the_test_split_is_recorded(recipe, paperdoll_root, tmp_path):
    results = run_recipe(recipe(eval_split="test", max_steps=1))
    assert results["selection"]["split"] == results["data"]["selection_split"] == "test"
    assert results["arguments"]["eval_split"] == "test" and {"val", "test"} <= results["best"].keys()
    export_paperdoll(paperdoll_root, tmp_path, "icfg-pedes")
    values = {"dataset": "icfg-pedes", "data_root": tmp_path, "output_dir": tmp_path / "icfg", "eval_split": "test"}
    results = run_recipe(recipe(**values, max_steps=1))
    assert results["best"].keys() == {"epoch", "step", "test"}


def test_without_selection_the_last_model_is_the_best(recipe):
    results = run_recipe(recipe(load_best_model_at_end=False, eval_strategy="no", save_strategy="no", max_steps=2))
    assert results["selection"] == {"split": "val", "metric": None}
    assert results["best"] == results["last"] and results["last"]["step"] == 2


def test_only_arguments_that_were_changed(recipe, checkpoint):
    changed = changed_arguments(recipe(margin_max=0.4, flip_probability=0.25, per_device_train_batch_size=4))
    steps = {"eval_strategy": "steps", "save_strategy": "steps", "eval_steps": 1, "save_steps": 1, "max_steps": 3}
    assert changed == {
        "model_name_or_path": str(checkpoint),
        "use_cpu": True,
        "disable_tqdm": True,
        **steps,
        "per_device_train_batch_size": 4,
        "flip_probability": 0.25,
    }
