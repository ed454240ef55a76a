"""transformers' auto classes know SCMM whatever is imported first; importing scmm costs nothing until it is used."""

import json
import os
import subprocess
import sys

import pytest
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, pipeline

import scmm
from scmm import SCMMForPreTraining


HEAVY = {"torch", "transformers", "datasets", "numpy", "PIL", "tokenizers"}

# What a user may have imported before the auto classes are asked.
ORDERS = {
    "scmm first": "import scmm",
    "transformers first": "import transformers; import scmm",
    "auto classes first": "from transformers import AutoConfig, AutoModel, AutoProcessor; import scmm",
    "one of them first": "from transformers import AutoConfig; import scmm; from transformers import AutoModel",
    "our model first": "import scmm.modeling_scmm",
}

# Every order has a process of its own, forked from one that has imported torch, which would take seconds each time.
SCRIPT = """
import json, os, sys
import torch, torch._dynamo

folder, orders = sys.argv[1], json.loads(sys.argv[2])
assert not {"scmm", "transformers"} & set(sys.modules)
for order, imports in orders.items():
    if os.fork() == 0:
        exec(imports)
        import transformers
        classes = "AutoConfig AutoModel AutoModelForPreTraining AutoModelForZeroShotImageClassification AutoProcessor"
        loaded = [getattr(transformers, name).from_pretrained(folder) for name in classes.split()]
        print(json.dumps([order, [f"{type(item).__module__}.{type(item).__name__}" for item in loaded]]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.fixture(scope="module")
def loaded(checkpoint) -> tuple[dict[str, list[str]], str]:
    """The classes that the auto classes loaded after each order of imports, and what went wrong."""
    command = [sys.executable, "-c", SCRIPT, str(checkpoint), json.dumps(ORDERS)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return dict(json.loads(line) for line in result.stdout.splitlines()), result.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.parametrize("order", ORDERS)
def test_auto_classes_know_scmm(loaded, order):
    classes, errors = loaded
    assert classes.get(order) == [
        "scmm.configuration.SCMMConfig",
        "scmm.modeling_scmm.SCMMModel",
        "scmm.modeling_scmm.SCMMForPreTraining",
        "scmm.modeling_scmm.SCMMModel",
        "scmm.processing.SCMMProcessor",
    ], errors


def test_towers_are_registered(checkpoint):
    config = AutoConfig.from_pretrained(checkpoint)
    assert type(AutoModel.from_config(config.text_config)).__name__ == "SCMMTextModel"
    assert type(AutoModel.from_config(config.vision_config)).__name__ == "SCMMVisionModel"


def test_zero_shot_pipeline(checkpoint, model, processor, caplog):
    classify = pipeline("zero-shot-image-classification", model=str(checkpoint))
    assert "not supported" not in caplog.text
    image, labels = Image.new("RGB", (20, 50), "red"), ["red coat", "blue coat", "a man with a hat"]
    results = classify(image, candidate_labels=labels, hypothesis_template="A person: {}.")
    inputs = processor(images=[image], text=[f"A person: {label}." for label in labels], return_tensors="pt")
    with torch.no_grad():
        expected = model(**inputs).logits_per_image[0].softmax(-1)
    scores = {result["label"]: result["score"] for result in results}
    assert [scores[label] for label in labels] == pytest.approx(expected.tolist(), abs=1e-4)
    assert len(set(scores.values())) == 3


def test_zero_shot_pipeline_of_a_training_checkpoint(checkpoint, model, processor, paperdoll_root, tmp_path):
    SCMMForPreTraining.from_pretrained(checkpoint).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    paths = [str(path) for path in sorted((paperdoll_root / "PaperDoll" / "imgs").rglob("*.jpg"))[:3]]
    labels = ["a man in a red coat.", "a woman with a bag."]
    classify = pipeline("zero-shot-image-classification", model=str(tmp_path))
    results = classify(paths, candidate_labels=labels, hypothesis_template="{}", batch_size=2)
    with torch.no_grad():
        expected = model(**processor(images=paths, text=labels, return_tensors="pt")).logits_per_image.softmax(-1)
    for result, probabilities in zip(results, expected.tolist(), strict=True):
        scores = {score["label"]: score["score"] for score in result}
        assert [scores[label] for label in labels] == pytest.approx(probabilities, abs=1e-4)


def test_importing_scmm_is_light():
    script = f"import sys, scmm; dir(scmm); print(sorted({HEAVY} & set(sys.modules)), len(scmm.__version__) > 0)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "[] True\n"


@pytest.mark.parametrize("name", scmm.__all__)
def test_public_names(name):
    value = getattr(scmm, name)
    assert value.__name__ == name and value.__module__.startswith("scmm.")
    assert value.__doc__
    assert name in dir(scmm)


def test_an_unknown_name():
    with pytest.raises(AttributeError, match="module 'scmm' has no attribute 'SCMMModle'"):
        _ = scmm.SCMMModle
