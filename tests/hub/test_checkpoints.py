"""Conversion: features equal the sources' own, and everything that does not fit is said."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from source_models import (
    LENGTH,
    PATCH,
    SENTENCES,
    SourceModel,
    hugging_face_clip,
    irra_state,
    openai_state,
    rde_state,
    save_tokenizer,
    tbps_clip_state,
)
from torch import nn
from transformers import AutoModel, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from scmm import SCMMModel, SCMMProcessor
from scmm.hub.checkpoints import convert_checkpoint
from scmm.hub.state_dicts import CheckpointError


IRRA = Path(__file__).parents[2].parent / "shared" / "fixtures" / "irra_tiny.safetensors"
TOLERANCE = 1e-4
WRAP = {"irra": irra_state, "rde": rde_state, "tbps": tbps_clip_state}


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small tokenizer of 589 tokens in CLIP's layout."""
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder)
    return str(folder)


@pytest.fixture(scope="session")
def clip(tokenizer, tmp_path_factory: pytest.TempPathFactory) -> tuple[CLIPModel, Path]:
    """A random Hugging Face CLIP of 32x32 images and its folder, complete with tokenizer and image processor."""
    torch.manual_seed(0)
    model, folder = hugging_face_clip(), tmp_path_factory.mktemp("clip")
    model.save_pretrained(folder)
    CLIPTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, image_mean=[0.1, 0.2, 0.3]).save_pretrained(folder)
    return model, folder


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def captions_of(tokenizer: str, pad: int = 0) -> torch.Tensor:
    """Token ids as the sources' code makes them: padded with id 0 to the full length."""
    rows = CLIPTokenizer.from_pretrained(tokenizer)(SENTENCES)["input_ids"]
    return torch.tensor([row + [pad] * (LENGTH - len(row)) for row in rows])


@torch.no_grad()
def differences(folder: Path, pixel_values: torch.Tensor, input_ids: torch.Tensor, expected) -> list[float]:
    """The largest absolute differences of a converted folder's image and text features."""
    model = SCMMModel.from_pretrained(folder)
    assert all(weight.dtype == torch.float32 for weight in model.state_dict().values())
    features = model.get_image_features(pixel_values), model.get_text_features(input_ids)
    return [
        float((ours.pooler_output - theirs.float()).abs().max())
        for ours, theirs in zip(features, expected, strict=True)
    ]


@torch.no_grad()
def clip_features(clip: CLIPModel, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> list[torch.Tensor]:
    return [clip.get_image_features(pixel_values).pooler_output, clip.get_text_features(input_ids).pooler_output]


class TestParity:
    @pytest.mark.skipif(not IRRA.is_file(), reason=f"a model computed by IRRA's own code is not at {IRRA}")
    def test_irra_fixture(self, tmp_path):
        with safe_open(IRRA, "pt") as fixture:
            facts = fixture.metadata()
        tensors = load_file(IRRA)
        state = {name.removeprefix("state."): value for name, value in tensors.items() if name.startswith("state.")}
        torch.save({"model": state, "epoch": 3}, tmp_path / "best.pth")
        letters = [chr(number) for number in range(33, 91)]
        tokens = [
            *letters,
            *(letter + "</w>" for letter in letters),
            "AB",
            "ABC</w>",
            "<|startoftext|>",
            "<|endoftext|>",
        ]
        merges = [("A", "B"), ("AB", "C</w>")]
        vocab = {token: index for index, token in enumerate(tokens)}
        assert len(vocab) == 120
        CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=77).save_pretrained(tmp_path / "tokenizer")
        report = convert_checkpoint(
            tmp_path / "best.pth",
            tmp_path / "out",
            image_size=tuple(json.loads(facts["image_size"])),
            tokenizer=tmp_path / "tokenizer",
        )
        assert report.family == "IRRA"
        assert sum(map(len, report.left_out.values())) + report.num_converted == len(state)
        text_config, vision_config = report.config.text_config, report.config.vision_config
        assert text_config.mask_token_id == int(facts["mask_token_id"]) == 117
        assert text_config.eos_token_id == int(facts["eos_token_id"]) and text_config.pad_token_id == 0
        assert vision_config.grid_size == (6, 3) and vision_config.patch_stride is None
        assert SCMMModel.from_pretrained(tmp_path / "out").logit_scale.exp().item() == pytest.approx(50)
        inputs = tensors["inputs.pixel_values"], tensors["inputs.input_ids"]
        expected = tensors["outputs.image_features"], tensors["outputs.text_features"]
        image, text = differences(tmp_path / "out", *inputs, expected)
        print(f"IRRA fixture: image {image:.1e}, text {text:.1e}")
        assert image <= TOLERANCE and text <= TOLERANCE

    @pytest.mark.parametrize("family", WRAP)
    @pytest.mark.parametrize("stride", [PATCH, 6])
    def test_person_search_models(self, tokenizer, tmp_path, family, stride):
        source = SourceModel(image_size=(48, 16), stride=stride)
        torch.save({"model": WRAP[family](source)}, tmp_path / "best.pth")
        report = convert_checkpoint(
            tmp_path / "best.pth", tmp_path / "out", image_size=(48, 16), tokenizer=tokenizer, stride=None
        )
        assert report.config.vision_config.patch_stride == (None if stride == PATCH else stride)
        pixel_values, input_ids = torch.randn(2, 3, 48, 16), captions_of(tokenizer)
        image, text = differences(tmp_path / "out", pixel_values, input_ids, source(pixel_values, input_ids))
        print(f"{report.family}, stride {stride}: image {image:.1e}, text {text:.1e}")
        assert image <= TOLERANCE and text <= TOLERANCE
        scale = SCMMModel.from_pretrained(tmp_path / "out").logit_scale
        assert scale.item() == pytest.approx(source.logit_scale.item() if family == "tbps" else np.log(50))

    def test_the_fields_sizes(self, tokenizer, tmp_path):
        """384x128 is the default size, 24x8 the usual grid, and 31x10 that of overlapping patches (stride 12)."""
        source = SourceModel(image_size=(384, 128))
        state = irra_state(source)
        conv, positions = "base_model.visual.conv1.weight", "base_model.visual.positional_embedding"
        state[conv] = torch.randn(128, 3, 16, 16) / 20
        for num_patches, stride in ((24 * 8, None), (31 * 10, 12)):
            state[positions] = torch.randn(1 + num_patches, 128)
            torch.save(state, tmp_path / "best.pth")
            report = convert_checkpoint(tmp_path / "best.pth", tmp_path / str(stride), tokenizer=tokenizer)
            assert report.config.vision_config.patch_stride == stride
            pixel_values, input_ids = torch.randn(1, 3, 384, 128), captions_of(tokenizer)[:1]
            source.visual.conv1.weight = nn.Parameter(state[conv])
            source.visual.conv1.stride = (stride or 16, stride or 16)
            source.visual.positional_embedding = nn.Parameter(state[positions])
            expected = source(pixel_values, input_ids)
            assert max(differences(tmp_path / str(stride), pixel_values, input_ids, expected)) <= TOLERANCE

    def test_tbps_clip_is_square_by_itself(self, tokenizer, tmp_path):
        source = SourceModel(image_size=(40, 40))
        torch.save({"model": tbps_clip_state(source)}, tmp_path / "best.pth")
        report = convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", tokenizer=tokenizer)
        assert report.config.vision_config.image_size == [40, 40]
        pixel_values, input_ids = torch.randn(2, 3, 40, 40), captions_of(tokenizer)
        expected = source(pixel_values, input_ids)
        assert max(differences(tmp_path / "out", pixel_values, input_ids, expected)) <= TOLERANCE

    def test_half_precision_becomes_single(self, tokenizer, tmp_path):
        source = SourceModel(image_size=(48, 16)).rounded_to_half()
        state = {
            name: weight if "ln_" in name else weight.half() for name, weight in irra_state(source).items()
        }  # as IRRA keeps them
        torch.save({"model": state}, tmp_path / "best.pth")
        report = convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", image_size=(48, 16), tokenizer=tokenizer)
        assert "weights: float16 and float32, now float32" in report.notes
        pixel_values, input_ids = torch.randn(2, 3, 48, 16), captions_of(tokenizer)
        expected = source(pixel_values, input_ids)
        assert max(differences(tmp_path / "out", pixel_values, input_ids, expected)) <= TOLERANCE

    def test_hugging_face(self, clip, tmp_path):
        source, folder = clip
        report = convert_checkpoint(folder, tmp_path / "out", image_size=(32, 32))
        assert report.family == "Hugging Face's CLIP"
        pixel_values, input_ids = torch.randn(2, 3, 32, 32), captions_of(str(folder), pad=588)
        expected = clip_features(source, pixel_values, input_ids)
        image, text = differences(tmp_path / "out", pixel_values, input_ids, expected)
        print(f"Hugging Face's CLIP: image {image:.1e}, text {text:.1e}")
        assert image <= TOLERANCE and text <= TOLERANCE

    @pytest.mark.parametrize("file_format", ["pickle", "half", "safetensors", "wrapped"])
    def test_openai_state_dict(self, clip, tokenizer, tmp_path, file_format):
        source, _ = clip
        state = openai_state(source)
        path = tmp_path / ("clip.safetensors" if file_format == "safetensors" else "ViT.pt")
        if file_format == "safetensors":
            save_file({name: weight.contiguous() for name, weight in state.items()}, path)
        elif file_format == "half":
            torch.save({name: weight.half() for name, weight in state.items()}, path)
            source = hugging_face_clip()
            source.load_state_dict({name: weight.half().float() for name, weight in clip[0].state_dict().items()})
        elif file_format == "wrapped":
            torch.save({"state_dict": {f"module.{name}": weight for name, weight in state.items()}}, path)
        else:
            torch.save({**state, "input_resolution": torch.tensor(32), "vocab_size": torch.tensor(589)}, path)
        report = convert_checkpoint(path, tmp_path / "out", image_size=(32, 32), tokenizer=tokenizer)
        assert report.family == "OpenAI's CLIP"
        pixel_values, input_ids = torch.randn(2, 3, 32, 32), captions_of(tokenizer)
        expected = clip_features(source, pixel_values, input_ids)
        image, text = differences(tmp_path / "out", pixel_values, input_ids, expected)
        print(f"OpenAI's CLIP, {file_format}: image {image:.1e}, text {text:.1e}")
        assert image <= TOLERANCE and text <= TOLERANCE

    @pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore::torch.jit.TracerWarning")
    def test_openai_torchscript_archive(self, tokenizer, tmp_path):
        source = SourceModel().rounded_to_half()
        pixel_values, input_ids = torch.randn(2, 3, 32, 32), captions_of(tokenizer)
        archive = torch.jit.trace(copy.deepcopy(source), (pixel_values, input_ids)).half()
        archive.save(str(tmp_path / "ViT.pt"))
        convert_checkpoint(tmp_path / "ViT.pt", tmp_path / "out", image_size=(32, 32), tokenizer=tokenizer)
        expected = source(pixel_values, input_ids)
        image, text = differences(tmp_path / "out", pixel_values, input_ids, expected)
        print(f"OpenAI's CLIP, TorchScript in half precision: image {image:.1e}, text {text:.1e}")
        assert image <= TOLERANCE and text <= TOLERANCE

    @pytest.mark.parametrize("stride", [None, 5])
    def test_openai_and_hugging_face_adapt_alike(self, clip, tokenizer, tmp_path, stride):
        torch.save(openai_state(clip[0]), tmp_path / "ViT.pt")
        for source, name in ((tmp_path / "ViT.pt", "openai"), (clip[1], "hugging face")):
            convert_checkpoint(source, tmp_path / name, image_size=(64, 16), stride=stride, tokenizer=tokenizer)
        openai, hugging_face = (SCMMModel.from_pretrained(tmp_path / name) for name in ("openai", "hugging face"))
        assert openai.config.vision_config.to_dict() == hugging_face.config.vision_config.to_dict()
        assert openai.config.text_config.mask_token_id == 589
        for name, weight in hugging_face.state_dict().items():
            torch.testing.assert_close(openai.state_dict()[name], weight, rtol=0, atol=0, msg=name)


class TestProcessor:
    @pytest.fixture
    def processor(self, tokenizer, tmp_path) -> SCMMProcessor:
        torch.save({"model": irra_state(SourceModel(image_size=(48, 16)))}, tmp_path / "best.pth")
        convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", image_size=(48, 16), tokenizer=tokenizer)
        return SCMMProcessor.from_pretrained(tmp_path / "out")

    def test_captions_become_the_sources_ids(self, processor, tokenizer):
        batch = processor(text=[*SENTENCES, "a man!", "!?!"], return_tensors="pt")
        plain = CLIPTokenizer.from_pretrained(tokenizer)
        for caption, row, mask in zip(
            [*SENTENCES, "a man!", "!?!"], batch["input_ids"], batch["attention_mask"], strict=True
        ):
            assert row[mask.bool()].tolist() == plain(caption)["input_ids"]

    def test_the_mask_token_takes_the_last_merge(self, processor, tokenizer):
        plain = CLIPTokenizer.from_pretrained(tokenizer)
        assert plain.convert_tokens_to_ids("jekyll</w>") == 586
        assert len(processor.tokenizer) == len(plain) == 589
        assert processor.tokenizer.mask_token_id == 586
        assert processor.tokenizer("a <|mask|> man")["input_ids"][2] == 586
        assert processor.tokenizer.tokenize("jekyll") == ["jek", "yll</w>"]

    def test_features_from_a_file_and_a_sentence(self, tokenizer, tmp_path):
        """From pixels and words to features: the source's preparation is written out by hand."""
        source = SourceModel(image_size=(48, 16))
        torch.save({"model": irra_state(source)}, tmp_path / "best.pth")
        convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", image_size=(48, 16), tokenizer=tokenizer)
        model = AutoModel.from_pretrained(tmp_path / "out")
        processor = SCMMProcessor.from_pretrained(tmp_path / "out")
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 37, 3), dtype=np.uint8))
        pixels = np.asarray(image.resize((16, 48), Image.Resampling.BILINEAR)) / 255
        pixels = (pixels - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
        batch = processor(images=[image], text=SENTENCES, return_tensors="pt")
        with torch.no_grad():
            expected = source(torch.tensor(pixels).permute(2, 0, 1)[None].float(), captions_of(tokenizer))
            image_features = model.get_image_features(batch["pixel_values"]).pooler_output
            text_features = model.get_text_features(batch["input_ids"], batch["attention_mask"]).pooler_output
        torch.testing.assert_close(image_features, expected[0], rtol=0, atol=TOLERANCE)
        torch.testing.assert_close(text_features, expected[1], rtol=0, atol=TOLERANCE)

    def test_tbps_clip_prepares_images_its_own_way(self, tokenizer, tmp_path):
        torch.save({"model": tbps_clip_state(SourceModel(image_size=(32, 32)))}, tmp_path / "best.pth")
        convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", tokenizer=tokenizer)
        processor = SCMMProcessor.from_pretrained(tmp_path / "out")
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3), dtype=np.uint8))
        pixels = np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) / 255
        pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        found = processor(images=image, return_tensors="np")["pixel_values"][0]
        np.testing.assert_allclose(found, pixels.transpose(2, 0, 1), atol=1e-5)

    def test_clip_gets_a_new_mask_token_and_keeps_its_image_processor(self, clip, tmp_path):
        convert_checkpoint(clip[1], tmp_path / "out", image_size=(64, 16))
        processor = SCMMProcessor.from_pretrained(tmp_path / "out")
        assert processor.tokenizer.mask_token_id == 589 and len(processor.tokenizer) == 590
        assert list(processor.image_processor.image_mean) == [0.1, 0.2, 0.3]
        assert processor.image_processor.resample == Image.Resampling.BICUBIC


class TestReport:
    def test_rde_warns_about_its_other_branch(self, tokenizer, tmp_path):
        torch.save(rde_state(SourceModel(image_size=(48, 16))), tmp_path / "best.pth")
        report = convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", image_size=(48, 16), tokenizer=tokenizer)
        assert report.family == "RDE"
        branch = ["texual_emb_layer.mlp.bns.0.bias", "visul_emb_layer.fc.weight"]
        assert report.left_out == {"RDE's token-selection branch": branch}
        assert "average" in report.warnings[0]

    def test_irras_decoder_is_left_out(self, tokenizer, tmp_path):
        source = SourceModel(image_size=(48, 16))
        torch.save(irra_state(source), tmp_path / "best.pth")
        report = convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", image_size=(48, 16), tokenizer=tokenizer)
        assert report.num_converted == len(source.state_dict()) - 1
        assert sorted(name.partition(".")[0] for keys in report.left_out.values() for name in keys) == [
            "classifier",
            "cross_attn",
            "cross_modal_transformer",
            "ln_post",
            "ln_pre_t",
            "mlm_head",
        ]


class TestRefusals:
    """Each leaves no trace of a folder."""

    @pytest.fixture
    def refused(self, tokenizer, tmp_path):
        def run(state, **options) -> str:
            path = tmp_path / "best.pth"
            torch.save(state, path)
            with pytest.raises(CheckpointError) as refusal:
                convert_checkpoint(path, tmp_path / "out", **{"tokenizer": tokenizer, **options})
            assert [entry.name for entry in tmp_path.iterdir()] == ["best.pth"]
            message = str(refusal.value)
            assert "\n" not in message
            return message

        return run

    @pytest.fixture
    def state(self) -> dict[str, torch.Tensor]:
        return irra_state(SourceModel(image_size=(48, 16)))

    def test_unknown_keys(self, state, refused):
        state |= {f"base_model.visual.extra_{index}": torch.zeros(1) for index in range(11)}
        message = refused(state, image_size=(48, 16))
        assert "unknown keys: base_model.visual.extra_0, " in message and message.endswith("and 3 more.")

    def test_missing_keys(self, state, refused):
        del state["base_model.ln_final.bias"], state["base_model.transformer.resblocks.1.mlp.c_fc.weight"]
        message = refused(state, image_size=(48, 16))
        assert "it lacks base_model.ln_final.bias, base_model.transformer.resblocks.1.mlp.c_fc.weight." in message

    def test_a_missing_layer_between_others(self, state, refused):
        for name in [name for name in state if name.startswith("base_model.transformer.resblocks.1.")]:
            del state[name]
        message = refused(state, image_size=(48, 16))
        assert "lacks base_model.transformer.resblocks.1." in message and "unknown" in message

    def test_a_size_that_contradicts_the_position_table(self, state, refused):
        assert (
            "has 12 patches, but an image of 384 x 128 pixels has 48 x 16 = 768 patches of 8 pixels with a stride of 8"
        ) in refused(state)
        assert "64 x 16 pixels has 8 x 2 = 16 patches" in refused(state, image_size=(64, 16))
        assert "4 x 16 pixels" in refused(state, image_size=(4, 16))

    def test_a_stride_that_contradicts_the_position_table(self, state, refused):
        message = refused(state, image_size=(48, 16), stride=4)
        assert "has 12 patches, but an image of 48 x 16 pixels has 11 x 3 = 33 patches of 8 pixels" in message
        assert "stride of 4." in message

    def test_strides_that_cannot_be_told_apart(self, refused, tokenizer, tmp_path):
        source = SourceModel(image_size=(30, 22), stride=7)
        message = refused(irra_state(source), image_size=(30, 22))
        assert "strides 7, 6 all give the 12 patches" in message
        convert_checkpoint(tmp_path / "best.pth", tmp_path / "out", image_size=(30, 22), stride=7, tokenizer=tokenizer)
        pixel_values, input_ids = torch.randn(2, 3, 30, 22), captions_of(tokenizer)
        expected = source(pixel_values, input_ids)
        assert max(differences(tmp_path / "out", pixel_values, input_ids, expected)) <= TOLERANCE

    def test_shapes_that_contradict_each_other(self, state, refused):
        state["base_model.visual.ln_pre.weight"] = torch.ones(7)
        assert "vision_model.pre_layrnorm.weight [7] instead of [128]" in refused(state, image_size=(48, 16))

    def test_a_shape_of_too_few_dimensions(self, state, refused):
        state["base_model.visual.conv1.weight"] = torch.ones(128, 3)
        assert "conv1.weight has the shape [128, 3], not 4 dimensions" in refused(state, image_size=(48, 16))

    @pytest.mark.parametrize(("value", "reason"), [(torch.nan, "not finite"), (torch.inf, "not finite")])
    def test_values_that_no_feature_survives(self, state, refused, value, reason):
        state["base_model.ln_final.bias"][3] = value
        assert f"base_model.ln_final.bias has values that are {reason}" in refused(state, image_size=(48, 16))

    def test_whole_numbers(self, state, refused):
        state["base_model.ln_final.bias"] = torch.zeros(64, dtype=torch.int64)
        assert "base_model.ln_final.bias is torch.int64" in refused(state, image_size=(48, 16))

    def test_a_resnet_and_strangers(self, refused):
        assert "is a ResNet" in refused({"visual.layer1.0.conv1.weight": torch.zeros(1)})
        assert "give the folder" in refused({"text_model.encoder.x": torch.zeros(1)})
        assert "none of OpenAI's CLIP, IRRA, RDE and TBPS-CLIP: it has the keys fc.bias" in refused(
            {"fc.bias": torch.zeros(1)}
        )

    def test_openais_table_that_is_no_square(self, refused):
        state = SourceModel(image_size=(48, 16)).state_dict()
        assert "has 12 patches, which make no square" in refused(state)

    def test_tokenizers_that_do_not_fit(self, state, refused, tmp_path_factory):
        folder = tmp_path_factory.mktemp("tokenizer")
        save_tokenizer(folder, vocab_size=575)
        message = refused(state, image_size=(48, 16), tokenizer=folder)
        assert "has 575 tokens where the checkpoint needs 589" in message and "--tokenizer" in message
        message = refused(state, image_size=(48, 16), tokenizer=tmp_path_factory.mktemp("empty"))
        assert "tokenizer" in message

    def test_without_the_default_tokenizer(self, state, refused):
        assert (
            "openai/clip-vit-base-patch16 is not found: give a folder or Hub id of CLIP's as --tokenizer"
            in refused(state, image_size=(48, 16), tokenizer=None)
        )

    def test_a_tokenizer_of_another_order(self, state, refused, tokenizer, tmp_path_factory):
        folder = tmp_path_factory.mktemp("tokenizer")
        model = json.loads(CLIPTokenizer.from_pretrained(tokenizer).backend_tokenizer.to_str())["model"]
        merges = [tuple(pair) for pair in model["merges"]]
        CLIPTokenizer(vocab=model["vocab"], merges=merges[::-1]).save_pretrained(folder)
        assert "not laid out as CLIP's" in refused(state, image_size=(48, 16), tokenizer=folder)


class TestFiles:
    @pytest.fixture
    def source(self, tmp_path) -> Path:
        torch.save(irra_state(SourceModel(image_size=(48, 16))), tmp_path / "best.pth")
        return tmp_path / "best.pth"

    def test_an_output_that_holds_something_is_left_alone(self, source, tokenizer, tmp_path):
        (tmp_path / "out").mkdir()
        convert_checkpoint(source, tmp_path / "out", image_size=(48, 16), tokenizer=tokenizer)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
        for output in (tmp_path / "out", source):
            with pytest.raises(FileExistsError, match="choose another"):
                convert_checkpoint(source, output, image_size=(48, 16), tokenizer=tokenizer)
        assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}

    def test_folders_above_the_output_are_made_and_nothing_else_stays(self, source, tokenizer, tmp_path):
        convert_checkpoint(source, tmp_path / "a" / "b", image_size=(48, 16), tokenizer=tokenizer)
        assert [path.name for path in (tmp_path / "a").iterdir()] == ["b"]
        (tmp_path / "plain").mkdir()
        assert (tmp_path / "a" / "b").stat().st_mode == (tmp_path / "plain").stat().st_mode

    def test_sources_that_are_not_there(self, tmp_path):
        for source in (tmp_path / "best.pth", tmp_path):
            with pytest.raises(FileNotFoundError, match="neither a checkpoint file nor the folder"):
                convert_checkpoint(source, tmp_path / "out")
        with pytest.raises(
            CheckpointError, match="no-such/model is neither a file nor a folder, nor found on the Hub"
        ):
            convert_checkpoint("no-such/model", tmp_path / "out")

    def test_a_stride_of_nothing(self, source, tmp_path):
        with pytest.raises(ValueError, match="at least 1 pixel, got 0"):
            convert_checkpoint(source, tmp_path / "out", stride=0)

    def test_a_clip_folder_that_lacks_weights(self, clip, tmp_path):
        state = clip[0].state_dict()
        del state["logit_scale"]
        clip[0].save_pretrained(tmp_path / "clip", state_dict=state)
        with pytest.raises(ValueError, match=r"lacks weights of a CLIP model: logit_scale"):
            convert_checkpoint(tmp_path / "clip", tmp_path / "out")

    def test_a_size_that_the_patch_of_clip_does_not_divide(self, clip, tmp_path):
        with pytest.raises(StrictDataclassError, match="unless a patch_stride is given"):
            convert_checkpoint(clip[1], tmp_path / "out", image_size=(60, 20))
        report = convert_checkpoint(clip[1], tmp_path / "out", image_size=(60, 20), stride=8)
        assert report.config.vision_config.grid_size == (7, 2)
