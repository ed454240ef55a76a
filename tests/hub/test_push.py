"""What is pushed loads in an interpreter without `scmm`, with the oldest and the newest supported transformers."""

import json
from pathlib import Path

import pytest
import torch
from hub_server import TOKEN
from PIL import Image
from safetensors.torch import load_file

from scmm import SCMMModel, SCMMProcessor


CODE_FILES = {"configuration.py", "modeling_scmm.py", "processing.py", "caption_quality.py"}
MODEL_FILES = {"config.json", "model.safetensors"}
PROCESSOR_FILES = {"processor_config.json", "tokenizer.json", "tokenizer_config.json", "caption_quality.json"}
COMPLETE = CODE_FILES | MODEL_FILES | PROCESSOR_FILES

CAPTION = "a woman in a red coat with a black backpack"

PUSH = """
from scmm import SCMMModel, SCMMProcessor
SCMMModel.from_pretrained(folder).push_to_hub(name)
SCMMProcessor.from_pretrained(folder).push_to_hub(name)
"""

TRAIN = """
import sys
sys.path.insert(0, tests)
from pathlib import Path
import torch
torch.set_num_threads(1)
from trainer_setup import build
trainer = build(
    Path(data), Path(output_dir), num_train_epochs=2, hub_model_id=name, hub_token=hub_token, **options
)
trainer.train()
if push_at_end:
    trainer.push_to_hub(dataset="paperdoll")
"""

LOAD = """
import json, sys, torch, transformers
from PIL import Image
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForPreTraining, AutoModelForZeroShotImageClassification, AutoProcessor

try:
    import scmm
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("scmm can be imported")

options = {"trust_remote_code": True, **({"revision": revision} if revision else {})}
model = AutoModel.from_pretrained(name, **options).eval()
processor = AutoProcessor.from_pretrained(name, **options)
inputs = processor(images=[Image.open(image)], text=[caption], return_tensors="pt")
with torch.no_grad():
    save_file({
        "image": model.get_image_features(inputs["pixel_values"]).pooler_output,
        "text": model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output,
    }, output)
autos = (AutoModelForPreTraining, AutoModelForZeroShotImageClassification)
other = [auto.from_pretrained(name, **options) for auto in autos]
print(json.dumps({
    "transformers": transformers.__version__,
    "classes": [type(item).__name__ for item in (model, processor, *other)],
    "quality": processor.caption_quality([caption]),
}))
"""


def loads(client, name, expected: Path, tmp_path, revision=None) -> dict:
    """Asserts that a repository or folder gives in a clean interpreter the features that `scmm` has from a folder."""
    image, output = tmp_path / "person.png", tmp_path / "features.safetensors"
    Image.linear_gradient("L").resize((20, 50)).convert("RGB").save(image)
    values = {"name": str(name), "image": str(image), "caption": CAPTION, "output": str(output), "revision": revision}
    result = client.run(LOAD, **values)
    assert result.ok, result.errors
    model, processor = SCMMModel.from_pretrained(expected).eval(), SCMMProcessor.from_pretrained(expected)
    inputs = processor(images=[Image.open(image)], text=[CAPTION], return_tensors="pt")
    features = load_file(output)
    with torch.no_grad():
        image_embeds = model.get_image_features(inputs["pixel_values"]).pooler_output
        text_embeds = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
    torch.testing.assert_close(features["image"], image_embeds)
    torch.testing.assert_close(features["text"], text_embeds)
    found = json.loads(result.output.splitlines()[-1])
    assert found["classes"] == ["SCMMModel", "SCMMProcessor", "SCMMForPreTraining", "SCMMModel"]
    assert found["quality"] == pytest.approx(processor.caption_quality([CAPTION]))
    return found


@pytest.fixture(scope="module")
def pushed(client, checkpoint) -> str:
    """A repository that `model.push_to_hub` and `processor.push_to_hub` have filled."""
    result = client.run(PUSH, folder=str(checkpoint), name="tester/pair")
    assert result.ok, result.errors
    return "tester/pair"


def train(client, paperdoll_root, output_dir, name, push_at_end=False, hub_token=TOKEN, **options):
    defaults = {"push_to_hub": True, "hub_strategy": "every_save", "hub_always_push": True, "save_total_limit": None}
    return client.run(
        TRAIN,
        tests=str(Path(__file__).parents[1]),
        data=str(paperdoll_root),
        output_dir=str(output_dir),
        name=name,
        hub_token=hub_token,
        push_at_end=push_at_end,
        options={**defaults, **options},
    )


@pytest.fixture(scope="module")
def run(client, paperdoll_root, tmp_path_factory) -> Path:
    """The output folder of a training of two epochs that pushed `tester/run` at every save and at its end."""
    output_dir = tmp_path_factory.mktemp("run")
    result = train(client, paperdoll_root, output_dir, "tester/run", push_at_end=True)
    assert result.ok, result.errors
    return output_dir


def test_model_and_processor_make_a_complete_repository(hub, pushed):
    assert set(hub.files(pushed)) - {".gitattributes", "README.md"} == COMPLETE
    assert hub.messages(pushed) == ["initial commit", "Upload model", "Upload processor"]
    assert hub.repositories["models", pushed].at("main").lfs == {"model.safetensors"}


def test_a_pushed_pair_loads_without_scmm(clean, pushed, checkpoint, tmp_path):
    loads(clean, pushed, checkpoint, tmp_path)


@pytest.mark.slow
def test_a_pushed_pair_loads_with_the_oldest_transformers(clean_oldest, pushed, checkpoint, tmp_path):
    assert loads(clean_oldest, pushed, checkpoint, tmp_path)["transformers"].startswith("5.4.")


def test_a_pushed_pair_loads_with_scmm(client, pushed, checkpoint):
    script = """
import scmm
from transformers import AutoModel, AutoProcessor
print(type(AutoModel.from_pretrained(name)).__module__, type(AutoProcessor.from_pretrained(name)).__module__)
"""
    result = client.run(script, name=pushed)
    assert result.output == "scmm.modeling_scmm scmm.processing\n", result.errors


def test_every_push_of_a_trainer_is_complete(hub, run):
    saves = ["Training in progress, epoch 1", "Training in progress, epoch 2"]
    assert hub.messages("tester/run") == ["initial commit", *saves, "End of training"]
    for oid in hub.repositories["models", "tester/run"].branches["main"][1:]:
        assert set(hub.files("tester/run", revision=oid)) >= COMPLETE | {"README.md"}
    assert {name for name in hub.files("tester/run") if name.startswith(".eval")} == {".eval_results/paperdoll.yaml"}


@pytest.mark.parametrize("save", [1, 2])
def test_a_push_in_the_middle_of_training_loads_without_scmm(hub, clean, run, tmp_path, save):
    oid = hub.repositories["models", "tester/run"].branches["main"][save]
    loads(clean, "tester/run", run / f"checkpoint-{6 * save}", tmp_path, revision=oid)


def test_the_end_of_training_loads_without_scmm(clean, run, tmp_path):
    loads(clean, "tester/run", run, tmp_path)


@pytest.mark.parametrize("step", [6, 12])
def test_the_folders_of_checkpoints_load_without_scmm(clean, run, tmp_path, step):
    assert {path.name for path in (run / f"checkpoint-{step}").iterdir()} >= COMPLETE
    loads(clean, run / f"checkpoint-{step}", run / f"checkpoint-{step}", tmp_path)


@pytest.mark.slow
def test_the_oldest_transformers_trains_pushes_and_loads(hub, client_oldest, clean_oldest, paperdoll_root, tmp_path):
    result = train(client_oldest, paperdoll_root, tmp_path / "run", "tester/oldest", push_at_end=True)
    assert result.ok, result.errors
    for save in (1, 2):
        oid = hub.repositories["models", "tester/oldest"].branches["main"][save]
        assert set(hub.files("tester/oldest", revision=oid)) >= COMPLETE | {"README.md"}
        loads(clean_oldest, "tester/oldest", tmp_path / "run" / f"checkpoint-{6 * save}", tmp_path, revision=oid)


def test_a_recipe_pushes_its_results(hub, client, clean, paperdoll_root, tmp_path):
    script = """
from scmm.recipes import parse_recipe
from scmm.runs import run_recipe
run_recipe(parse_recipe(recipe), source="recipes/mine.yaml")
"""
    recipe = {"dataset": "paperdoll", "data_root": str(paperdoll_root), "output_dir": str(tmp_path / "run")}
    tiny = {"preset": "tiny", "image_size": [32, 16], "use_cpu": True, "num_train_epochs": 1, "disable_tqdm": True}
    result = client.run(script, recipe={**recipe, **tiny, "push_to_hub": True, "hub_model_id": "tester/recipe"})
    assert result.ok, result.errors
    assert hub.messages("tester/recipe") == ["initial commit", "Training in progress, epoch 1", "End of training"]
    files = hub.files("tester/recipe")
    test = json.loads(files["results.json"])["best"]["test"]
    card = files["README.md"].decode()
    assert f"| best | test | {test['rank1']:.2f} |" in card and "| recipe | `recipes/mine.yaml` |" in card
    assert str(test["rank1"]) in files[".eval_results/paperdoll.yaml"].decode()
    loads(clean, "tester/recipe", tmp_path / "run", tmp_path)


def test_no_token_is_pushed(hub, run):
    files = hub.files("tester/run")
    assert "training_args.bin" in files
    assert [name for name, content in files.items() if TOKEN.encode() in content] == []


def test_the_examples_of_the_card_run_as_they_stand(hub, clean, run, tmp_path):
    card = hub.files("tester/run")["README.md"].decode()
    code = card.split("```python\n")[1].split("```")[0]
    for number, color in enumerate(("blue", "red"), start=1):
        Image.new("RGB", (20, 50), color).save(tmp_path / f"crop_{number}.jpg")
    result = clean.run(f"import os\nos.chdir({str(tmp_path)!r})\n{code}")
    assert result.ok, result.errors
    lines = [line.split() for line in result.output.splitlines()]
    assert {name for _, name in lines} == {"crop_1.jpg", "crop_2.jpg"}
    assert [float(score) for score, _ in lines] == sorted((float(score) for score, _ in lines), reverse=True)


def test_a_second_generation_names_its_own_code(hub, client, clean, pushed, checkpoint, tmp_path):
    """Loaded from the Hub and pushed elsewhere, a model must not need the repository that it came from."""
    result = clean.run(
        """
from transformers import AutoModel, AutoProcessor
AutoModel.from_pretrained(name, trust_remote_code=True).push_to_hub(copy)
AutoProcessor.from_pretrained(name, trust_remote_code=True).push_to_hub(copy)
""",
        name=pushed,
        copy="tester/copy",
    )
    assert result.ok, result.errors
    assert set(hub.files("tester/copy")) >= COMPLETE
    for name in ("config.json", "processor_config.json", "tokenizer_config.json"):
        assert "--" not in str(json.loads(hub.files("tester/copy")[name])["auto_map"]), name
    loads(clean, "tester/copy", checkpoint, tmp_path)


def test_data_sets_travel_too(hub, client):
    script = """
from datasets import Dataset, Image, load_dataset
from PIL import Image as PIL
images = [PIL.new("RGB", (4, 8), color) for color in ("red", "blue")]
data = Dataset.from_dict({"image": images, "person_id": [3, 7]}).cast_column("image", Image())
data.push_to_hub(name)
loaded = load_dataset(name, split="train")
assert loaded["person_id"] == [3, 7] and loaded[1]["image"].getpixel((0, 0)) == (0, 0, 255)
"""
    result = client.run(script, name="tester/dolls")
    assert result.ok, result.errors
    assert "README.md" in hub.files("tester/dolls", kind="datasets")
