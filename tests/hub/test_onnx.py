"""The exported towers compute what PyTorch computes, for any batch and length, and take its place in a search."""

import json
import shutil

import onnx
import pytest
import torch
from torch.nn import functional as F
from typer.testing import CliRunner

from scmm import cli, encode_dataset, retrieval_metrics
from scmm.hub.onnx import OPSET, OnnxModel, export_onnx


runner = CliRunner()


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """What `scmm export onnx` writes for `checkpoint`, and what it says. Not to be written to."""
    folder = tmp_path_factory.mktemp("exported")
    result = runner.invoke(cli.app, ["export", "onnx", str(checkpoint), str(folder)])
    assert result.exit_code == 0, result.output
    return folder, result.output


@pytest.fixture(scope="module")
def onnx_model(exported) -> OnnxModel:
    return OnnxModel.from_pretrained(exported[0])


def captions(model, rows: int, length: int) -> dict[str, torch.Tensor]:
    """Random captions, the first padded by a third, a word of the last hidden by the mask."""
    config, generator = model.config.text_config, torch.Generator().manual_seed(rows * 100 + length)
    input_ids = torch.randint(config.bos_token_id, (rows, length), generator=generator)
    input_ids[:, -1] = config.eos_token_id
    attention_mask = torch.ones_like(input_ids)
    input_ids[0, length - length // 3 - 1 :] = config.eos_token_id
    attention_mask[0, length - length // 3 :] = 0
    if rows > 1:  # padding at the end changes nothing, for a token sees those before it alone
        attention_mask[-1, 1] = 0
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def test_the_command_says_what_it_wrote(exported):
    folder, output = exported
    names = {"text_model.onnx", "text_model_int8.onnx", "vision_model.onnx", "vision_model_int8.onnx"}
    assert {path.name for path in (folder / "onnx").iterdir()} == names
    assert all(name in output for name in names) and "PyTorch" in output
    assert not (folder / "model.safetensors").exists()


@pytest.mark.parametrize("rows, length", [(1, 1), (1, 2), (2, 3), (5, 17), (3, 40)])
def test_captions_of_any_number_and_length(model, onnx_model, rows, length):
    inputs = captions(model, rows, length)
    with torch.inference_mode():
        expected = model.get_text_features(**inputs).pooler_output
    assert expected.abs().max() > 0.1
    assert (onnx_model.get_text_features(**inputs).pooler_output - expected).abs().max() <= 1e-4


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_images_of_any_number(model, onnx_model, rows):
    pixel_values = torch.randn(rows, 3, 32, 16)
    with torch.inference_mode():
        expected = model.get_image_features(pixel_values).pooler_output
    assert expected.abs().max() > 0.1
    assert (onnx_model.get_image_features(pixel_values).pooler_output - expected).abs().max() <= 1e-4


def test_without_a_mask_every_token_counts(model, onnx_model):
    inputs = captions(model, 2, 9)
    unmasked = onnx_model.get_text_features(inputs["input_ids"]).pooler_output
    with torch.inference_mode():
        expected = model.get_text_features(inputs["input_ids"]).pooler_output
        masked = model.get_text_features(**inputs).pooler_output
    assert (unmasked - expected).abs().max() <= 1e-4 < (masked - expected).abs().max()


def test_the_files_are_onnx_of_the_day(exported):
    for path in (exported[0] / "onnx").glob("*_model.onnx"):
        onnx.checker.check_model(str(path), full_check=True)
        written = onnx.load(path)
        assert {opset.domain: opset.version for opset in written.opset_import} == {"": OPSET}
        dimensions = [
            [axis.dim_param or axis.dim_value for axis in x.type.tensor_type.shape.dim] for x in written.graph.input
        ]
        text = path.name.startswith("text")
        assert dimensions == ([["batch", "tokens"]] * 2 if text else [["batch", 3, 32, 16]])
        assert [output.name for output in written.graph.output] == ["text_embeds" if text else "image_embeds"]


def test_int8_is_smaller_and_close(exported, model, onnx_model):
    quantized = OnnxModel.from_pretrained(exported[0], "int8")
    inputs, pixel_values = captions(model, 8, 20), torch.randn(8, 3, 32, 16)
    for expected, actual in (
        (onnx_model.get_text_features(**inputs), quantized.get_text_features(**inputs)),
        (onnx_model.get_image_features(pixel_values), quantized.get_image_features(pixel_values)),
    ):
        assert not torch.equal(actual.pooler_output, expected.pooler_output)
        assert F.cosine_similarity(actual.pooler_output, expected.pooler_output).min() > 0.99
    weights = onnx.load(exported[0] / "onnx" / "text_model_int8.onnx").graph.initializer
    assert any(init.data_type == onnx.TensorProto.INT8 for init in weights)


def test_a_data_set_is_encoded_alike(model, onnx_model, processor, paperdoll):
    expected, actual = (encode_dataset(one, processor, paperdoll["test"], batch_size=3) for one in (model, onnx_model))
    for name in ("image_embeds", "text_embeds"):
        assert (getattr(actual, name) - getattr(expected, name)).abs().max() <= 1e-4, name
    figures = [
        retrieval_metrics(one.text_embeds, one.image_embeds, one.text_person_ids, one.image_person_ids)
        for one in (expected, actual)
    ]
    assert figures[0] == pytest.approx(figures[1])


def test_search(exported, checkpoint, paperdoll_root):
    images = str(paperdoll_root / "PaperDoll" / "imgs")

    def search(folder, *options) -> list[dict]:
        command = ["search", str(folder), images, "a woman in a red coat", "--top-k", "100", "--json", *options]
        result = runner.invoke(cli.app, command)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    expected, actual = search(checkpoint), search(exported[0], "--backend", "onnx")
    assert len(actual) == 52
    scores = {image["path"]: image["score"] for image in expected}
    assert all(abs(image["score"] - scores[image["path"]]) <= 1e-5 for image in actual)
    quantized = search(exported[0], "--backend", "onnx-int8")
    assert 0 < max(abs(image["score"] - scores[image["path"]]) for image in quantized) < 0.05


def test_search_without_the_files(checkpoint, paperdoll_root):
    command = ["search", str(checkpoint), str(paperdoll_root), "a man", "--backend", "onnx"]
    error = runner.invoke(cli.app, command).exception
    assert isinstance(error, ValueError)
    assert "onnx/text_model.onnx is missing; write it with: scmm export onnx" in str(error)


def test_old_checkpoints_pool_at_the_highest_id(model, tmp_path):
    model.config.text_config.eos_token_id = model.text_model.config.eos_token_id = 2
    model.train()
    export_onnx(model, tmp_path)
    assert model.training
    model.config.save_pretrained(tmp_path)
    input_ids = torch.tensor([[5, 9, 300, 7, 2], [5, 9, 30, 200, 8], [5, 2, 2, 2, 2]])
    with torch.inference_mode():
        expected = model.eval().get_text_features(input_ids).pooler_output
    actual = OnnxModel.from_pretrained(tmp_path).get_text_features(input_ids).pooler_output
    assert (actual - expected).abs().max() <= 1e-4


def test_a_file_that_is_off_is_not_kept(model, tmp_path):
    with torch.no_grad():
        model.text_projection.weight.mul_(1e6)
    with pytest.raises(RuntimeError, match=r"text_model: .* differ by .*, more than 1e-04"):
        export_onnx(model, tmp_path)
    assert list((tmp_path / "onnx").iterdir()) == []


@pytest.mark.parametrize("where", [torch.bfloat16, torch.device("meta")])
def test_float32_on_the_cpu_alone(model, tmp_path, where):
    with pytest.raises(ValueError, match=r"in torch\.\w+ on \w+; export it in float32 on the CPU"):
        export_onnx(model.to(where), tmp_path)
    assert not any(tmp_path.iterdir())


def test_a_missing_file(exported, tmp_path):
    shutil.copytree(exported[0], tmp_path / "copy")
    (tmp_path / "copy" / "onnx" / "vision_model_int8.onnx").unlink()
    with pytest.raises(FileNotFoundError, match=r"onnx/vision_model_int8\.onnx is missing"):
        OnnxModel.from_pretrained(tmp_path / "copy", "int8")
    OnnxModel.from_pretrained(tmp_path / "copy")
