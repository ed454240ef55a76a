"""A gallery knows what computed its embeddings: which weights, and PyTorch or onnxruntime."""

import shutil

import pytest
import torch
from torch.nn import functional as F

from scmm import Gallery, SCMMModel
from scmm.app.service import Search
from scmm.cli.serve import _service
from scmm.hub.onnx import OnnxModel, export_onnx
from scmm.retrieval.checkpoints import load_dual_encoder
from scmm.retrieval.gallery import GalleryError
from scmm.retrieval.gallery.identity import identify
from scmm.retrieval.search import find_images


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory):
    """A checkpoint with its ONNX files beside the weights. Not to be written to."""
    folder = tmp_path_factory.mktemp("exported") / "checkpoint"
    shutil.copytree(checkpoint, folder)
    export_onnx(SCMMModel.from_pretrained(checkpoint), folder)
    return folder


@pytest.fixture
def int8_gallery(exported, images, tmp_path) -> Gallery:
    gallery = Gallery.create(tmp_path / "int8", *load_dual_encoder(exported, backend="onnx-int8"))
    gallery.add(images)
    return gallery


def test_an_int8_gallery_is_close_to_pytorch_and_loads_its_own_model(int8_gallery, gallery, images):
    gallery.add(images)
    ids = [str(path) for path in find_images(images)]
    ours, exact = (torch.stack([one.embedding(id).float() for id in ids]) for one in (int8_gallery, gallery))
    assert F.cosine_similarity(ours, exact).min() > 0.99 and not torch.equal(ours, exact)
    again = Gallery.open(int8_gallery.path)
    assert isinstance(again.model, OnnxModel) and again.model.precision == "int8"
    hits = again.search("a man in a red coat", top_k=5)
    assert torch.equal(again.embed(["a man in a red coat", "a bag"])[0], again.embed(["a man in a red coat"])[0])
    assert [hit.id for hit in hits] == [hit.id for hit in int8_gallery.search("a man in a red coat", top_k=5)]


def test_an_int8_embedding_does_not_depend_on_what_is_beside_it(int8_gallery, exported, images, tmp_path):
    path = find_images(images)[7]
    (tmp_path / "one").mkdir()
    shutil.copy(path, tmp_path / "one")
    alone = Gallery.create(tmp_path / "alone", *load_dual_encoder(exported, backend="onnx-int8"))
    alone.add(tmp_path / "one")
    assert torch.equal(alone.embedding(str(tmp_path / "one" / path.name)), int8_gallery.embedding(str(path)))


def test_reasons_need_pytorch(int8_gallery, images, exported, capsys):
    found = str(find_images(images)[0])
    with_weights = _service(int8_gallery.path, None, log_queries=False)
    assert with_weights.why(found, "a red coat").words == ["a", "red", "coat"]
    weights = exported / "model.safetensors"
    weights.rename(exported / "away")
    try:
        without = _service(int8_gallery.path, None, log_queries=False)
    finally:
        (exported / "away").rename(weights)
    assert "No result will be explained" in capsys.readouterr().err
    assert len(without.search(Search("a red coat")).hits) == 20
    with pytest.raises(ValueError, match="onnxruntime alone"):
        without.why(found, "a red coat")


def test_backends_and_exports_are_told_apart(int8_gallery, exported, model, processor, tmp_path):
    identities = [identify(*load_dual_encoder(exported, backend=of)) for of in ("torch", "onnx", "onnx-int8")]
    assert [identity.backend for identity in identities] == ["torch", "onnx", "onnx-int8"]
    assert len({identity.weights_hash for identity in identities}) == 3
    with pytest.raises(GalleryError, match=r"built with .*\(onnx-int8, weights .*, not with .*\(weights"):
        Gallery.open(int8_gallery.path, model=model, processor=processor)

    onnx_model = OnnxModel.from_pretrained(exported, "int8")
    assert identify(onnx_model, processor).is_same_model(int8_gallery.identity)
    text, vision = onnx_model.files
    content = bytearray(vision.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / vision.name).write_bytes(content)
    onnx_model.files = (text, tmp_path / vision.name)
    assert not identify(onnx_model, processor).is_same_model(int8_gallery.identity)
