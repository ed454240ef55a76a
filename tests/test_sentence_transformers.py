"""sentence-transformers loads a saved folder as it is and embeds captions and images as the model does."""

import pytest
import torch
from PIL import Image
from sentence_transformers import SentenceTransformer

from scmm import SCMMForPreTraining, SCMMModel, SCMMProcessor
from scmm.retrieval.encode import encode_captions, encode_images


CAPTIONS = ["a man", "a woman in a red coat and blue jeans", "a person " * 60, "a boy with a bag"]


@pytest.fixture(scope="module")
def images(paperdoll_root, tmp_path_factory) -> list[str]:
    """Paths of three photographs, one of them turned by EXIF, and of a transparent picture."""
    folder = tmp_path_factory.mktemp("images")
    paths = sorted((paperdoll_root / "PaperDoll" / "imgs").rglob("*.jpg"))[:2]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(paths[0]).save(folder / "turned.jpg", exif=exif)
    Image.new("RGBA", (20, 50), (200, 0, 0, 90)).save(folder / "transparent.png")
    return [str(path) for path in (*paths, folder / "turned.jpg", folder / "transparent.png")]


@pytest.fixture(scope="module", params=["dual encoder", "training checkpoint"])
def folder(request, checkpoint, tmp_path_factory) -> str:
    if request.param == "dual encoder":
        return str(checkpoint)
    folder = tmp_path_factory.mktemp("training")
    SCMMForPreTraining.from_pretrained(checkpoint).save_pretrained(folder)
    SCMMProcessor.from_pretrained(checkpoint).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(folder) -> SentenceTransformer:
    return SentenceTransformer(folder, device="cpu")


def test_captions(encoder, model, processor):
    with torch.inference_mode():
        raw = model.get_text_features(**processor(text=CAPTIONS, return_tensors="pt")).pooler_output
    encoded = encoder.encode(CAPTIONS, convert_to_tensor=True)
    assert torch.allclose(encoded, raw, atol=1e-6)
    assert not torch.allclose(encoded.norm(dim=1), torch.ones(len(CAPTIONS)), atol=0.01), "raw, not normalized"
    normalized = encoder.encode(CAPTIONS, convert_to_tensor=True, normalize_embeddings=True, batch_size=2)
    assert torch.allclose(normalized, encode_captions(model, processor, CAPTIONS), atol=1e-6)


@pytest.mark.parametrize("opened", [False, True])
def test_images(encoder, model, processor, images, opened):
    inputs = [Image.open(path) for path in images] if opened else images
    with torch.inference_mode():
        raw = model.get_image_features(**processor(images=images, return_tensors="pt")).pooler_output
    assert torch.allclose(encoder.encode(inputs, convert_to_tensor=True), raw, atol=1e-6)
    normalized = encoder.encode(inputs, convert_to_tensor=True, normalize_embeddings=True)
    assert torch.allclose(normalized, encode_images(model, processor, images), atol=1e-6)


def test_similarity_is_the_cosine(encoder, model, processor, images):
    scores = encoder.similarity(encoder.encode(CAPTIONS), encoder.encode(images))
    expected = encode_captions(model, processor, CAPTIONS) @ encode_images(model, processor, images).T
    assert torch.allclose(scores, expected, atol=1e-6)


def test_what_it_knows_of_the_model(encoder, processor):
    assert encoder.get_embedding_dimension() == 8
    assert encoder.max_seq_length == processor.tokenizer.model_max_length == 40
    assert set(encoder.modalities) == {"text", "image"}


def test_what_it_saves_is_still_a_checkpoint(encoder, model, processor, tmp_path):
    expected = encoder.encode(CAPTIONS, convert_to_tensor=True)
    encoder.save_pretrained(str(tmp_path))
    assert torch.equal(
        SentenceTransformer(str(tmp_path), device="cpu").encode(CAPTIONS, convert_to_tensor=True), expected
    )
    loaded, again = SCMMModel.from_pretrained(tmp_path), SCMMProcessor.from_pretrained(tmp_path)
    assert again.caption_quality(CAPTIONS) == processor.caption_quality(CAPTIONS)
    assert torch.equal(encode_captions(loaded, again, CAPTIONS), encode_captions(model, processor, CAPTIONS))
