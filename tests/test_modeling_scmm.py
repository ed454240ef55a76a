import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig, AutoModel, CLIPConfig, CLIPModel

from scmm import SCMMForPreTraining, SCMMModel
from scmm.modeling_scmm import resize_position_embedding


EOS, MASK = 58, 59


def batch(size: int = 3, length: int = 9, seed: int = 0) -> dict[str, torch.Tensor]:
    """Captions of different lengths that end and are padded with the end token, and images."""
    generator = torch.Generator().manual_seed(seed)
    input_ids = torch.randint(0, 57, (size, length), generator=generator)
    ends = torch.arange(size) % (length - 3) + 3
    input_ids[torch.arange(length) >= ends[:, None]] = EOS
    attention_mask = (torch.arange(length) <= ends[:, None]).long()
    pixel_values = torch.randn(size, 3, 16, 8, generator=generator)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "pixel_values": pixel_values}


def masked(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    mcm_input_ids, mcm_labels = inputs["input_ids"].clone(), torch.full_like(inputs["input_ids"], -100)
    mcm_labels[:, 1:3] = mcm_input_ids[:, 1:3]
    mcm_input_ids[:, 1:3] = MASK
    return {"mcm_input_ids": mcm_input_ids, "mcm_labels": mcm_labels}


@pytest.fixture
def model(tiny_config) -> SCMMModel:
    torch.manual_seed(0)
    return SCMMModel(tiny_config).eval()


@pytest.fixture
def training_model(tiny_config) -> SCMMForPreTraining:
    torch.manual_seed(0)
    return SCMMForPreTraining(tiny_config).eval()


@pytest.fixture
def clip(tmp_path) -> tuple[CLIPModel, str]:
    """A tiny CLIP with weights far from zero, so that a wrong wiring shows, and its folder."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 59, "max_position_embeddings": 12, "eos_token_id": EOS, "bos_token_id": 57}
    config = CLIPConfig(
        text_config=text, vision_config={**tower, "image_size": 16, "patch_size": 4}, projection_dim=24
    )
    torch.manual_seed(0)
    clip = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    clip.save_pretrained(tmp_path / "clip")
    return clip, str(tmp_path / "clip")


class TestFromClip:
    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_features_equal_clip_at_its_own_size(self, clip, attention):
        reference, folder = clip
        model = SCMMModel.from_clip_pretrained(folder, image_size=16)
        model.set_attn_implementation(attention)
        inputs = batch()
        pixel_values = torch.randn(3, 3, 16, 16)
        text = {name: inputs[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad():
            difference = (
                model.get_text_features(**text).pooler_output - reference.get_text_features(**text).pooler_output
            )
            assert difference.abs().max() <= 1e-5
            ours, theirs = model.get_image_features(pixel_values), reference.get_image_features(pixel_values)
            assert (ours.pooler_output - theirs.pooler_output).abs().max() <= 1e-5
            logits = model(**text, pixel_values=pixel_values).logits_per_image
            expected = reference(**text, pixel_values=pixel_values).logits_per_image
            assert torch.allclose(logits, expected, atol=1e-4)

    def test_old_checkpoints_pool_at_the_highest_id(self, clip):
        reference, folder = clip
        reference.config.text_config.eos_token_id = 2
        reference.text_model.eos_token_id = 2
        reference.save_pretrained(folder)
        model = SCMMModel.from_clip_pretrained(folder, image_size=16)
        input_ids = torch.tensor([[57, 3, 40, 9, 1, 1], [57, 2, 5, 8, EOS, 2]])
        with torch.no_grad():
            ours = model.get_text_features(input_ids).pooler_output
            theirs = reference.get_text_features(input_ids).pooler_output
        assert (ours - theirs).abs().max() <= 1e-5
        input_ids[1, 2] = MASK  # the mask token has a higher id than the end token and must not be pooled
        assert model.text_model.end_positions(input_ids).tolist() == [0, 4]

    def test_keys_equal_clips(self, clip):
        reference, folder = clip
        assert SCMMModel.from_clip_pretrained(folder).state_dict().keys() == reference.state_dict().keys()

    def test_rectangular_size_resizes_the_position_table(self, clip):
        reference, folder = clip
        model = SCMMModel.from_clip_pretrained(folder, image_size=(24, 8))
        table = model.vision_model.embeddings.position_embedding.weight
        original = reference.vision_model.embeddings.position_embedding.weight
        assert table.shape == (1 + 6 * 2, 32)
        assert torch.equal(table[0], original[0])
        expected = nn.functional.interpolate(
            original[1:].T.reshape(1, 32, 4, 4), size=(6, 2), mode="bicubic", align_corners=False
        )
        assert torch.allclose(table[1:].T.reshape(32, 6, 2), expected[0])
        assert model.get_image_features(torch.zeros(1, 3, 24, 8)).pooler_output.shape == (1, 24)

    def test_the_mask_token_gets_a_row(self, clip):
        reference, folder = clip
        model = SCMMModel.from_clip_pretrained(folder)
        rows = model.get_input_embeddings().weight
        assert model.config.text_config.mask_token_id == MASK and rows.shape[0] == MASK + 1
        assert torch.allclose(
            rows[MASK], reference.state_dict()["text_model.embeddings.token_embedding.weight"].mean(0)
        )

    def test_training_model_starts_from_clip_too(self, clip):
        _, folder = clip
        training_model = SCMMForPreTraining.from_clip_pretrained(
            folder, image_size=(24, 8), decoder_config={"num_hidden_layers": 1}, num_identities=7
        )
        dual = SCMMModel.from_clip_pretrained(folder, image_size=(24, 8))
        for name, weight in dual.state_dict().items():
            assert torch.equal(weight, training_model.scmm.state_dict()[name]), name
        assert len(training_model.decoder.layers) == 1
        assert all(weight.isfinite().all() for weight in training_model.state_dict().values())
        head, tokens = training_model.decoder.head.weight, training_model.get_input_embeddings().weight
        assert head is tokens

    def test_missing_weights_are_named(self, clip):
        reference, folder = clip
        state = reference.state_dict()
        del state["logit_scale"]
        reference.save_pretrained(folder, state_dict=state)
        with pytest.raises(ValueError, match="lacks weights of a CLIP model: logit_scale"):
            SCMMModel.from_clip_pretrained(folder)

    def test_another_model_type_is_refused(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=r"'scmm' checkpoint.*from_pretrained"):
            SCMMModel.from_clip_pretrained(str(tmp_path))


def test_overlapping_patches(tiny_config, tmp_path):
    """Each patch is embedded as if it were cut out by hand; what fills none at the edge has no influence."""
    tiny_config.vision_config.patch_stride = 3  # patches of 4 on 16x8 pixels: 5 x 2, one column is left
    model = SCMMModel(tiny_config).eval()
    embeddings = model.vision_model.embeddings
    images = torch.randn(2, 3, 16, 8)
    tokens = embeddings(images)
    assert tokens.shape == (2, 1 + 5 * 2, 32)
    kernel = embeddings.patch_embedding.weight.flatten(1)
    for row, column in ((0, 0), (1, 1), (4, 1)):
        patch = images[:, :, 3 * row : 3 * row + 4, 3 * column : 3 * column + 4].flatten(1)
        index = 1 + 2 * row + column
        expected = patch @ kernel.T + embeddings.position_embedding.weight[index]
        torch.testing.assert_close(tokens[:, index], expected)
    images[..., 7] = 9
    assert torch.equal(embeddings(images), tokens)
    model.save_pretrained(tmp_path)
    assert torch.equal(SCMMModel.from_pretrained(tmp_path).vision_model.embeddings(images), tokens)


def test_position_table_keeps_the_class_row_and_identity():
    table = torch.randn(17, 4)
    assert resize_position_embedding(table, (4, 4), (4, 4)) is table
    constant = torch.cat([torch.zeros(1, 4), torch.ones(16, 4)]).half()
    resized = resize_position_embedding(constant, (4, 4), (6, 2))
    assert resized.dtype == torch.float16 and torch.equal(resized[0], constant[0])
    assert torch.allclose(resized[1:].float(), torch.ones(12, 4), atol=1e-3)


class TestSaving:
    def test_round_trip(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert (tmp_path / "model.safetensors").is_file()
        loaded = SCMMModel.from_pretrained(tmp_path)
        inputs = batch()
        with torch.no_grad():
            assert torch.equal(loaded(**inputs).logits_per_text, model(**inputs).logits_per_text)

    def test_auto_classes(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "SCMMConfig"
        assert isinstance(AutoModel.from_pretrained(tmp_path), SCMMModel)

    def test_dual_encoder_leaves_the_decoder_out_without_a_word(self, training_model, tmp_path, caplog):
        training_model.save_pretrained(tmp_path)
        loaded, info = SCMMModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert "decoder" not in caplog.text and "not used" not in caplog.text
        assert not any("decoder" in name or "classifier" in name for name in loaded.state_dict())
        for name, weight in loaded.state_dict().items():
            assert torch.equal(weight, training_model.scmm.state_dict()[name]), name
        loaded.save_pretrained(tmp_path / "dual")
        saved = load_file(tmp_path / "dual" / "model.safetensors")
        assert saved.keys() == loaded.state_dict().keys()

    def test_identity_classifier_is_left_out_too(self, tiny_config, tmp_path):
        tiny_config.num_identities = 5
        SCMMForPreTraining(tiny_config).save_pretrained(tmp_path)
        _, info = SCMMModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not info["unexpected_keys"] and not info["missing_keys"]

    def test_training_checkpoint_round_trip_keeps_the_tie(self, training_model, tmp_path):
        training_model.save_pretrained(tmp_path)
        loaded = SCMMForPreTraining.from_pretrained(tmp_path)
        assert loaded.decoder.head.weight is loaded.get_input_embeddings().weight
        inputs = batch()
        with torch.no_grad():
            expected = training_model(**inputs, **masked(inputs)).mcm_logits
            assert torch.equal(loaded(**inputs, **masked(inputs)).mcm_logits, expected)

    def test_head_is_untied_where_the_widths_differ(self, tiny_config, tmp_path):
        tiny_config.decoder_config.hidden_size = 16
        model = SCMMForPreTraining(tiny_config).eval()
        assert model.decoder.head.weight.shape == (60, 16)
        model.save_pretrained(tmp_path)
        loaded = SCMMForPreTraining.from_pretrained(tmp_path)
        assert torch.equal(loaded.decoder.head.weight, model.decoder.head.weight)
        assert loaded.decoder.head.weight is not loaded.get_input_embeddings().weight

    def test_training_model_takes_a_dual_checkpoint(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        loaded = SCMMForPreTraining.from_pretrained(tmp_path)
        assert torch.equal(loaded.scmm.logit_scale, model.logit_scale)
        assert all(weight.isfinite().all() and weight.abs().max() < 10 for weight in loaded.state_dict().values())

    def test_missing_weights_are_initialized(self, model, tmp_path):
        state = {name: weight for name, weight in model.state_dict().items() if name != "logit_scale"}
        loaded = SCMMModel.from_pretrained(None, config=model.config, state_dict=state)
        assert loaded.logit_scale.item() == pytest.approx(2.6592)


class TestForward:
    def test_features_are_the_projected_embeddings(self, model):
        inputs = batch()
        with torch.no_grad():
            output = model(**inputs)
            text = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
            image = model.get_image_features(inputs["pixel_values"]).pooler_output
        assert text.shape == image.shape == (3, 24)
        assert torch.allclose(output.text_embeds, nn.functional.normalize(text))
        cosines = nn.functional.normalize(text) @ nn.functional.normalize(image).T
        assert torch.allclose(output.logits_per_text, cosines * model.logit_scale.exp(), atol=1e-5)
        assert torch.equal(output.logits_per_image, output.logits_per_text.T)

    def test_eager_and_sdpa_agree(self, training_model):
        inputs = batch()
        inputs.update(masked(inputs))
        eager = copy.deepcopy(training_model)
        eager.set_attn_implementation("eager")
        with torch.no_grad():
            one, other = training_model(**inputs), eager(**inputs)
        for name in ("image_embeds", "text_embeds", "mcm_logits"):
            assert torch.allclose(one[name], other[name], atol=1e-5), name

    def test_padding_changes_nothing(self, model):
        inputs = batch(length=7)
        longer = nn.functional.pad(inputs["input_ids"], (0, 4), value=EOS)
        longer_mask = nn.functional.pad(inputs["attention_mask"], (0, 4))
        with torch.no_grad():
            short = model.get_text_features(inputs["input_ids"], inputs["attention_mask"]).pooler_output
            assert torch.allclose(model.get_text_features(longer, longer_mask).pooler_output, short, atol=1e-6)

    def test_every_image_token_and_every_word_counts(self, training_model):
        inputs = batch()
        inputs.update(masked(inputs))
        inputs["pixel_values"].requires_grad_()
        output = training_model(**inputs)
        (gradient,) = torch.autograd.grad(output.mcm_logits.sum(), inputs["pixel_values"])
        patches = gradient.abs().sum(1).unfold(1, 4, 4).unfold(2, 4, 4).sum((-1, -2))
        assert (patches > 0).all(), "a patch does not reach the masked words"

    def test_mcm_logits_stand_at_the_masked_positions(self, training_model):
        inputs = batch()
        mcm = masked(inputs)
        with torch.no_grad():
            output = training_model(**inputs, **mcm)
            states = training_model.scmm.get_text_features(mcm["mcm_input_ids"], inputs["attention_mask"])
            image = training_model.scmm.get_image_features(inputs["pixel_values"])
            decoded = training_model.decoder(
                states.last_hidden_state, image.last_hidden_state, inputs["attention_mask"]
            ).last_hidden_state
            expected = training_model.decoder.head(decoded)[mcm["mcm_labels"] != -100]
        assert output.mcm_logits.shape == (6, 60)
        assert torch.allclose(output.mcm_logits, expected, atol=1e-5)

    def test_global_branch_sees_the_clean_caption(self, training_model):
        inputs = batch()
        with torch.no_grad():
            clean = training_model(**inputs)
            with_mcm = training_model(**inputs, **masked(inputs))
        assert torch.allclose(clean.text_embeds, with_mcm.text_embeds, atol=1e-6)
        assert clean.mcm_logits is None

    def test_masked_global_branch_shares_its_states(self, training_model):
        inputs = batch()
        mcm = masked(inputs)
        with torch.no_grad():
            two_copies = training_model(**inputs, **mcm)
            shared = training_model(**{**inputs, "input_ids": mcm["mcm_input_ids"]}, mcm_labels=mcm["mcm_labels"])
        assert torch.allclose(shared.mcm_logits, two_copies.mcm_logits, atol=1e-5)
        assert not torch.allclose(shared.text_embeds, two_copies.text_embeds, atol=1e-3)

    def test_identity_logits(self, tiny_config):
        tiny_config.num_identities = 5
        output = SCMMForPreTraining(tiny_config)(**batch())
        assert output.image_id_logits.shape == output.text_id_logits.shape == (3, 5)

    def test_hidden_states_and_attentions(self, training_model):
        training_model.set_attn_implementation("eager")
        inputs = batch()
        output = training_model.scmm(**inputs, output_hidden_states=True, output_attentions=True)
        assert len(output.vision_model_output.hidden_states) == 3
        assert output.vision_model_output.attentions[0].shape == (3, 2, 9, 9)
        assert output.text_model_output.attentions[0].triu(1).abs().max() == 0, "the text tower is causal"
        decoded = training_model.decoder(
            output.text_model_output.last_hidden_state,
            output.vision_model_output.last_hidden_state,
            inputs["attention_mask"],
            output_attentions=True,
        )
        assert decoded.attentions[0].shape == (3, 2, 9, 9) and len(decoded.attentions) == 1
        assert decoded.cross_attentions[0].shape == (3, 2, 9, 9) and len(decoded.cross_attentions) == 1

    def test_tuples_on_request(self, model):
        assert isinstance(model(**batch(), return_dict=False), tuple)

    def test_wrong_sizes_are_refused(self, model):
        with pytest.raises(ValueError, match=r"\(8, 16\).*\(16, 8\).*processor"):
            model.get_image_features(torch.zeros(1, 3, 8, 16))
        with pytest.raises(ValueError, match="13 tokens long, the model takes 12"):
            model.get_text_features(torch.full((1, 13), EOS))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_half_precision(self, training_model, dtype):
        inputs = batch()
        inputs.update(masked(inputs))
        with torch.no_grad():
            expected = training_model(**inputs)
            half = training_model.to(dtype)(**inputs)
        assert half.image_embeds.dtype == half.text_embeds.dtype == half.mcm_logits.dtype == dtype
        for name in ("image_embeds", "text_embeds"):
            cosine = nn.functional.cosine_similarity(half[name].float(), expected[name])
            assert (cosine > 0.999).all(), name

    def test_from_pretrained_dtype(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert SCMMModel.from_pretrained(tmp_path, dtype=torch.bfloat16).logit_scale.dtype == torch.bfloat16

    def test_gradient_checkpointing_gives_the_same_gradients(self, training_model):
        inputs = batch()
        inputs.update(masked(inputs))

        def gradients(model):
            model.zero_grad()
            output = model(**inputs)
            (output.mcm_logits.sum() + output.image_embeds.sum() + output.text_embeds.sum()).backward()
            return {
                name: parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.grad is not None
            }

        training_model.train()
        expected = gradients(training_model)
        training_model.gradient_checkpointing_enable()
        assert training_model.is_gradient_checkpointing
        actual = gradients(training_model)
        assert actual.keys() == expected.keys()
        for name, gradient in expected.items():
            assert torch.allclose(actual[name], gradient, atol=1e-6), name

    def test_compiles_without_graph_breaks(self, model):
        inputs = batch()
        with torch.no_grad():
            for function, arguments in (
                (model.get_image_features, (inputs["pixel_values"],)),
                (model.get_text_features, (inputs["input_ids"], inputs["attention_mask"])),
            ):
                compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
                expected = function(*arguments).pooler_output
                assert torch.allclose(compiled(*arguments).pooler_output, expected, atol=1e-5)

    def test_resizing_the_vocabulary(self, training_model):
        training_model.resize_token_embeddings(64)
        assert training_model.config.text_config.vocab_size == 64
        assert training_model.decoder.head.weight is training_model.get_input_embeddings().weight


def test_random_weights_start_as_clips_do(tiny_config):
    """Ten layers of each kind have CLIP's spread; transformers' default of 0.02 everywhere makes images all alike."""
    tiny_config.text_config.num_hidden_layers = tiny_config.vision_config.num_hidden_layers = 10
    tiny_config.text_config.initializer_factor = 2.0
    torch.manual_seed(0)
    model = SCMMModel(tiny_config)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 10, "num_attention_heads": 2}
    clip = CLIPModel(
        CLIPConfig(
            text_config={**tower, "vocab_size": 60, "max_position_embeddings": 12, "initializer_factor": 2.0},
            vision_config={**tower, "image_size": 16, "patch_size": 4},
            projection_dim=24,
        )
    )
    of_towers = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2", "_embedding", "bias")
    for tower_name in ("text_model.", "vision_model.", "text_projection", "visual_projection", "logit_scale"):
        for pattern in of_towers if tower_name.endswith(".") else ("",):
            ours, theirs = (
                [w.flatten() for n, w in m.named_parameters() if n.startswith(tower_name) and pattern in n]
                for m in (model, clip)
            )
            if ours:
                power, expected = (torch.cat(weights).square().mean().item() for weights in (ours, theirs))
                assert power == pytest.approx(expected, rel=0.35), (tower_name, pattern)


def test_lora_adapters_train_save_and_load(training_model, tmp_path):
    peft = pytest.importorskip("peft")
    inputs = batch()
    adapted = peft.get_peft_model(
        training_model.scmm, peft.LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    ).eval()
    adapted.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = adapted(**inputs).logits_per_text
        plain = adapted.unload()
        assert not torch.allclose(plain(**inputs).logits_per_text, expected)
        again = peft.PeftModel.from_pretrained(plain, tmp_path)
        assert torch.allclose(again(**inputs).logits_per_text, expected)
