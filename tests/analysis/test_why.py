"""Explanations, against independent references."""

import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from scmm import SCMMForPreTraining
from scmm.analysis.why import attention_maps, explain, gradient_maps
from scmm.retrieval.encode import encode_captions, encode_images


SENTENCE = "A man, wearing blue-green trousers!"


@pytest.fixture
def image(paperdoll) -> Image.Image:
    return paperdoll["test"][0]["image"]


def test_score_and_shares_are_those_of_the_search(model, processor, image):
    found = explain(model, processor, SENTENCE, image)
    assert found.words == ["A", "man", "wearing", "blue-green", "trousers"] and found.method == "gradient"
    without = [
        "man, wearing blue-green trousers!", "A wearing blue-green trousers!", "A man, blue-green trousers!",
        "A man, wearing trousers!", "A man, wearing blue-green",
    ]  # fmt: skip
    # The punctuation that touches a word goes with it.
    without[1] = "A wearing blue-green trousers!"
    embeds = encode_captions(model, processor, [SENTENCE, *without])
    cosines = embeds @ encode_images(model, processor, [image])[0]
    assert found.score == pytest.approx(float(cosines[0]), abs=1e-5)
    assert torch.allclose(found.shares, cosines[0] - cosines[1:], atol=1e-5)
    assert found.maps.shape == (5, 4, 2) and (found.maps >= 0).all()
    assert all(peak in (0.0, 1.0) for peak in found.maps.amax(dim=(1, 2)).tolist())


def test_gradient_maps_by_finite_differences():
    torch.manual_seed(0)
    states = torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(2, 4, 3, dtype=torch.float64)

    def scores(values):
        return (weights * values.tanh()).sum(dim=(1, 2))

    maps = gradient_maps(scores(states), states)
    for patch in range(3):
        step = torch.zeros_like(states)
        step[0, patch + 1] = 1e-6 * states[0, patch + 1].detach()  # along the state itself
        slope = (scores(states + step) - scores(states - step)) / 2e-6
        assert torch.allclose(maps[:, patch], slope.relu(), atol=1e-6)


def test_attention_maps_hide_one_word_at_a_time(model, processor, image):
    torch.manual_seed(0)
    training = SCMMForPreTraining(model.config).eval()
    training.scmm = model
    with torch.no_grad():
        for parameter in training.decoder.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    inputs = processor(text=["a red coat"], images=[image], return_tensors="pt")
    ids = inputs["input_ids"][0]
    with torch.no_grad():
        states = model.get_image_features(inputs["pixel_values"]).last_hidden_state
    maps = attention_maps(training, ids, [[1], [2, 3]], states)
    assert maps.shape == (2, 8) and (maps > 0).all() and (maps.sum(dim=1) < 1).all()

    # The reference: one word, one pass, the weights computed by hand.
    masked = ids.clone()
    masked[2:4] = model.config.text_config.mask_token_id
    with torch.no_grad():
        text = training.decoder.text_projection(model.get_text_features(masked[None]).last_hidden_state)
        layer = training.decoder.layers[0]
        text = text + layer.self_attn(layer.layer_norm1(text))[0]
        attention, context = layer.cross_attn, training.decoder.image_layer_norm(states)
        queries = attention.q_proj(layer.layer_norm2(text)).view(-1, 2, attention.head_dim)
        keys = attention.k_proj(context).view(-1, 2, attention.head_dim)
        weights = F.softmax(torch.einsum("thd,phd->htp", queries, keys) * attention.head_dim**-0.5, dim=-1)
    assert torch.allclose(maps[1], weights.mean(dim=0)[2:4].mean(dim=0)[1:], atol=1e-6)


def test_a_decoder_explains_by_attention(model, processor, image):
    training = SCMMForPreTraining(model.config).eval()
    training.scmm = model
    found = explain(training, processor, SENTENCE, image)
    assert found.method == "attention" and found.maps.amax(dim=(1, 2)).eq(1).all()
    assert torch.equal(found.shares, explain(model, processor, SENTENCE, image).shares)


def test_sentences_of_any_kind(model, processor, image):
    assert explain(model, processor, "a 🧥 coat", image).words == ["a", "🧥", "coat"]
    long = explain(model, processor, "red coat " * 100, image)
    assert 0 < len(long.words) < 40 and long.maps.isfinite().all()
    assert explain(model, processor, "coat", image).words == ["coat"]
    for empty in ("", "?! …"):
        with pytest.raises(ValueError, match="no words"):
            explain(model, processor, empty, image)
