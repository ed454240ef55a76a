"""The card says what the run recorded, and nothing else."""

import copy
import csv
import importlib.resources
import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries

from scmm import SCMMConfig
from scmm.hub.model_card import eval_results, model_card, write_model_card


CARDS = Path(__file__).parents[2] / "model_cards"


@pytest.fixture
def results() -> dict:
    return {
        "data": {
            "dataset": "cuhk-pedes",
            "root": "/home/somebody/data",
            "selection_split": "val",
            "train": {"people": 11003, "images": 34054, "captions": 68126},
        },
        "recipe": "recipes/scmm.yaml",
        "seed": 7,
        "selection": {"split": "val", "metric": "rank1"},
        "best": {
            "epoch": 12.0,
            "step": 120,
            "val": {"rank1": 61.234, "rank5": 80.0, "rank10": 88.5, "mAP": 55.5, "mINP": 40.25, "num_queries": 6158},
            "test": {"rank1": 59.876, "rank5": 79.0, "rank10": 87.5, "mAP": 54.5, "mINP": 39.25, "num_queries": 6156},
        },
        "last": {"epoch": 60.0, "step": 600, "test": {"rank1": 58.111, "num_queries": 6156}},
        "arguments": {"learning_rate": 1e-5, "align": "sdm", "learning_rate_multipliers": {"decoder": 5.0}},
        "model": {"parameters": 1, "start": "openai/clip-vit-base-patch16"},
        "versions": {"scmm": "0.1.0", "torch": "2.13.0"},
        "hardware": {
            "device": "cuda:0",
            "gpus": ["NVIDIA H100"],
            "cores": 16,
            "processor": "EPYC",
            "memory_gib": 128.0,
        },
        "wall_seconds": 7500.0,
        "peak_memory_mib": 9000.4,
        "resumed": False,
    }


@pytest.fixture
def folder(tmp_path) -> Path:
    SCMMConfig.from_preset("tiny").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def render(results, **options) -> ModelCard:
    return model_card(SCMMConfig.from_preset("base"), results, "me/search", **options)


def words(card: ModelCard) -> str:
    return " ".join(card.text.split())


def test_the_facts_of_a_run_stand_in_its_card(results):
    text = words(render(results))
    for fact in (
        "| data | CUHK-PEDES: 11,003 people, 34,054 images, 68,126 captions |",
        "[openai/clip-vit-base-patch16](https://huggingface.co/openai/clip-vit-base-patch16)",
        "| recipe | `recipes/scmm.yaml` |",
        "| seed | 7 |",
        "| checkpoint | the best by rank-1 on the split val (epoch 12, step 120) |",
        "| time | 2.1 h |",
        "| hardware | NVIDIA H100, 16 cores of EPYC, 128 GiB memory |",
        "| peak memory | 9,000 MiB |",
        "| software | scmm 0.1.0, torch 2.13.0 |",
        '| `learning_rate` | `1e-05` | | `align` | `sdm` | | `learning_rate_multipliers` | `{"decoder": 5.0}` |',
        "| best | val | 61.23 | 80.00 | 88.50 | 55.50 | 40.25 | 6158 |",
        "| best | test | 59.88 | 79.00 | 87.50 | 54.50 | 39.25 | 6156 |",
        "| last | test | 58.11 | - | - | - | - | 6156 |",
        "selected by rank-1 on the split `val`",
        "Surveillance without a legal basis",
        "private persons",
        "academic research only",
        "images are resized to 384x128",
        "Emissions were not measured. Training took 2.1 h on NVIDIA H100",
    ):
        assert fact in text, fact
    assert "somebody" not in text, "a folder of the machine that trained"


def test_the_number_of_parameters_is_that_of_the_dual_encoder(model):
    card = model_card(model.config, {}, "me/search")
    assert f"| parameters | {sum(weight.numel() for weight in model.parameters()):,} |" in card.text


def test_metadata(results):
    data = render(results).data
    assert (data.library_name, data.pipeline_tag, data.language) == (
        "transformers",
        "zero-shot-image-classification",
        "en",
    )
    assert data.base_model == "openai/clip-vit-base-patch16"
    assert data.license == "other" and data.license_name
    results["data"]["dataset"], results["model"]["start"] = "paperdoll", "tiny"
    data = render(results).data
    assert data.license == "apache-2.0" and data.license_name is None and data.base_model is None
    given = {"license": "mit", "tags": ["mine"], "language": None, "datasets": "me/dolls"}
    data = render(results, metadata=given).data
    assert (data.license, data.language, data.datasets) == ("mit", "en", "me/dolls")
    assert "scmm" in data.tags and "mine" in data.tags


def test_a_start_from_a_folder_names_no_base_model(results, tmp_path):
    results["model"]["start"] = str(tmp_path)
    card = render(results)
    assert card.data.base_model is None and str(tmp_path) not in card.content
    assert "| started from | a checkpoint on the disk |" in card.text


@pytest.mark.parametrize("dataset", ["paperdoll", "cuhk-pedes", "icfg-pedes", "rstpreid", "json", "folder", None])
def test_every_kind_of_data_has_a_whole_card(results, dataset):
    results["data"] = {"dataset": dataset}
    card = render(results)
    headings = re.findall(r"^## (.+)$", card.text, flags=re.MULTILINE)
    assert headings == [
        *("Use", "Training", "Evaluation", "Intended use", "Out-of-scope use", "Data and licenses"),
        *("Bias, risks and limitations", "Environmental impact", "Citation"),
    ]
    for heading, body in zip(headings, re.split(r"^## .+$", card.text, flags=re.MULTILINE)[1:], strict=True):
        assert len(body.split()) > 5, heading
    assert "None" not in card.text and "Undefined" not in card.text and "\n\n\n\n" not in card.text


def test_a_checkpoint_without_a_record_claims_nothing(folder):
    text = write_model_card(folder).read_text()
    assert "No facts of a training run are recorded" in text and "No evaluation is recorded" in text
    assert not (folder / ".eval_results").exists()


def test_metrics_in_the_format_of_the_hub(results, folder):
    (folder / "results.json").write_text(json.dumps(results))
    write_model_card(folder, dataset_id="me/cuhk-pedes")
    values = yaml.safe_load((folder / ".eval_results" / "cuhk-pedes.yaml").read_text())
    entries = parse_eval_result_entries(values)
    assert entries == eval_results(results, dataset_id="me/cuhk-pedes")
    found = {entry.task_id: entry.value for entry in entries}
    metrics = ("rank1", "rank5", "rank10", "mAP", "mINP")
    assert found == {f"{split}_{name}": results["best"][split][name] for split in ("val", "test") for name in metrics}
    assert {entry.dataset_id for entry in entries} == {"me/cuhk-pedes"}
    assert all("seed 7" in entry.notes and "the best by rank-1 on the split val" in entry.notes for entry in entries)
    assert {entry.dataset_id for entry in eval_results(results)} == {"cuhk-pedes"}


# The columns of codecarbon 3.3, as it writes them.
CODECARBON = (
    "timestamp,project_name,run_id,experiment_id,duration,emissions,emissions_rate,cpu_power,gpu_power,ram_power,"
    "cpu_energy,gpu_energy,ram_energy,energy_consumed,water_consumed,country_name,country_iso_code,region"
).split(",")


def write_emissions(path: Path, *runs: dict) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, CODECARBON, restval="")
        writer.writeheader()
        writer.writerows(runs)


def test_data_of_ones_own_have_metrics_under_the_name_that_they_are_given(results):
    results["data"]["dataset"] = "json"
    assert eval_results(results) == []
    assert {entry.dataset_id for entry in eval_results(results, dataset_id="me/mine")} == {"me/mine"}


def test_dolls_seen_by_clip_are_not_all_that_it_has_seen(results):
    results["data"]["dataset"] = "paperdoll"
    card = render(results)
    assert "nothing but drawn figures" not in words(card) and card.data.license == "other"
    results["model"]["start"] = "tiny"
    assert "nothing but drawn figures" in words(render(results))


def test_emissions_that_codecarbon_has_measured(results, folder):
    first = {"duration": 3600, "emissions": 0.02, "energy_consumed": 0.05, "country_name": "Germany"}
    write_emissions(folder / "emissions.csv", first, {**first, "duration": 7200, "emissions": 0.03})  # resumed once
    card = ModelCard.load(write_model_card(folder, results))
    assert card.data.co2_eq_emissions == {
        "emissions": 50.0,
        "source": "codecarbon",
        "training_type": "fine-tuning",
        "geographical_location": "Germany",
        "hardware_used": "NVIDIA H100, 16 cores of EPYC, 128 GiB memory",
    }
    text = words(card)
    assert "codecarbon estimated 50 g of CO2 equivalent and 0.1 kWh over 3.0 h of training; it took" in text


def test_a_broken_record_of_emissions_is_named(results, folder):
    (folder / "emissions.csv").write_text("time,power\n1,2\n")
    with pytest.raises(ValueError, match=r"emissions\.csv is not codecarbon's record"):
        write_model_card(folder, results)


def test_the_command_line(scmm, mistake, results, folder, tmp_path):
    (folder / "results.json").write_text(json.dumps(results))
    code, out, _ = scmm("card", folder, "--repo-id", "me/search", "--dataset-id", "me/data")
    assert code == 0 and out == f"Wrote {folder / 'README.md'}.\n"
    card = ModelCard.load(folder / "README.md")
    expected = model_card(SCMMConfig.from_pretrained(folder), results, "me/search", metadata={"datasets": "me/data"})
    assert card.content == f"{expected}\n"
    assert 'from_pretrained("me/search"' in card.text and "# search\n" in card.text
    assert (folder / ".eval_results" / "data.yaml").is_file()

    assert "holds no checkpoint: it has no config.json" in mistake("card", tmp_path)
    (folder / "results.json").write_text("{}")
    assert "results.json is not the results of a run" in mistake("card", folder)
    shutil.rmtree(folder)
    assert "holds no checkpoint" in mistake("card", folder)


def test_the_cards_of_the_repository_are_cards():
    cards = [path for path in CARDS.glob("*.md") if path.name not in ("README.md", "template.md")]
    assert {path.stem for path in cards} == {"hf_clip", "openai_clip", "irra", "tbps_clip", "rde", "paperdoll_demo"}
    for path in cards:
        card = ModelCard.load(path)
        assert card.data.library_name == "transformers" and card.data.license
        for text in ("Surveillance without a legal basis", "private persons", "```bibtex", "## Intended use"):
            assert text in card.text, (path, text)
        for code in re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL):
            compile(code, path.name, "exec")
    template = importlib.resources.files("scmm.hub").joinpath("model_card_template.md").read_text()
    assert (CARDS / "template.md").read_text() == template


def test_the_demos_card_is_what_the_template_makes_of_its_run():
    results = json.loads((CARDS / "paperdoll_demo.json").read_text())
    config = SCMMConfig.from_preset(
        "tiny", text_config={"max_position_embeddings": results["arguments"]["max_length"]}
    )
    rendered = str(model_card(config, copy.deepcopy(results), "runs/demo/checkpoint"))
    # The size of the vocabulary, which the number of parameters depends on, is the training captions'.
    parameters = re.compile(r"(?<=\| parameters \| )[\d,]+")
    kept = (CARDS / "paperdoll_demo.md").read_text()
    assert parameters.search(kept)[0] == f"{results['model']['parameters']:,}"
    assert parameters.sub("", rendered).strip() == parameters.sub("", kept).strip(), (
        "make it anew: model_cards/README.md"
    )
