"""Embedding images and captions: the same as one by one, whatever the batches, workers and processes."""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from datasets import Dataset, Image
from PIL import Image as PILImage
from torch import Tensor
from torch.nn import functional as F

from scmm import SCMMModel, SCMMProcessor, encode_dataset, load_benchmark
from scmm.data.schema import FEATURES
from scmm.processing import ImageError
from scmm.retrieval.encode import encode_captions, encode_images


CAPTIONS = ["a man", "", "A woman in a red coat carries a black bag.", "穿红衣服", "word " * 10_000, "a hat", "a man"]


@pytest.fixture(scope="module")
def test_split(paperdoll) -> Dataset:
    return paperdoll["test"]


@pytest.fixture(scope="module")
def paths(test_split) -> list[str]:
    return [row["image"]["path"] for row in test_split.cast_column("image", Image(decode=False))]


@pytest.fixture
def one_broken(paths, tmp_path) -> list[str]:
    """Five images, of which number 1 is no image and number 3 does not exist."""
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    return [paths[0], str(tmp_path / "broken.jpg"), paths[1], str(tmp_path / "missing.jpg"), paths[2]]


def images_one_by_one(model: SCMMModel, processor: SCMMProcessor, paths: list[str]) -> Tensor:
    rows = []
    for path in paths:
        inputs = processor(images=[PILImage.open(path)], return_tensors="pt")
        with torch.no_grad():
            rows.append(model.get_image_features(**inputs).pooler_output[0])
    return F.normalize(torch.stack(rows), dim=-1)


def captions_one_by_one(model: SCMMModel, processor: SCMMProcessor, captions: list[str]) -> Tensor:
    rows = []
    for caption in captions:
        with torch.no_grad():
            rows.append(model.get_text_features(**processor(text=[caption], return_tensors="pt")).pooler_output[0])
    return F.normalize(torch.stack(rows), dim=-1)


class TestImages:
    @pytest.mark.parametrize("batch_size", [1, 5, 64])
    def test_equal_to_one_by_one(self, model, processor, paths, batch_size):
        expected = images_one_by_one(model, processor, paths)
        assert (expected @ expected.T).min() < 0.99  # the images are told apart, so an exchange would show
        embeds = encode_images(model, processor, paths, batch_size=batch_size)
        assert embeds.dtype == torch.float32 and embeds.device.type == "cpu"
        assert (embeds - expected).abs().max() <= 1e-5

    def test_workers_make_no_difference(self, model, processor, paths):
        alone = encode_images(model, processor, paths, batch_size=5)
        assert torch.equal(encode_images(model, processor, paths, batch_size=5, num_workers=2), alone)

    def test_any_source(self, model, processor, paths):
        sources = [Path(paths[0]), Path(paths[1]).read_bytes(), PILImage.open(paths[2])]
        expected = images_one_by_one(model, processor, paths[:3])
        assert (encode_images(model, processor, sources) - expected).abs().max() <= 1e-5

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_an_error_is_raised_in_one_line(self, model, processor, one_broken, num_workers):
        with pytest.raises(ImageError) as error:
            encode_images(model, processor, one_broken[:2], num_workers=num_workers)
        assert str(error.value).startswith(one_broken[1]) and "\n" not in str(error.value)
        with pytest.raises(FileNotFoundError) as error:
            encode_images(model, processor, one_broken[2:], num_workers=num_workers)
        assert error.value.filename == one_broken[3]

    @pytest.mark.parametrize("batch_size, num_workers", [(64, 0), (1, 0), (2, 2)])
    def test_errors_are_skipped_on_request(self, model, processor, one_broken, paths, batch_size, num_workers):
        errors = {}
        embeds = encode_images(
            model,
            processor,
            one_broken,
            batch_size=batch_size,
            num_workers=num_workers,
            on_error=lambda index, error: errors.update({index: error}),
        )
        assert (embeds - images_one_by_one(model, processor, paths[:3])).abs().max() <= 1e-5
        assert {index: type(error) for index, error in errors.items()} == {1: ImageError, 3: FileNotFoundError}
        assert one_broken[1] in str(errors[1]) and one_broken[3] in str(errors[3])

    def test_nothing_left(self, model, processor, one_broken):
        embeds = encode_images(model, processor, one_broken[1:2], on_error=lambda index, error: None)
        assert embeds.shape == encode_images(model, processor, []).shape == (0, 8)
        assert embeds.dtype == torch.float32

    def test_half_precision_models_return_float32(self, model, processor, paths):
        expected = images_one_by_one(model, processor, paths)
        embeds = encode_images(model.to(torch.bfloat16), processor, paths)
        assert embeds.dtype == torch.float32
        assert 0 < (embeds - expected).abs().max() < 0.05
        assert torch.allclose(embeds.norm(dim=-1), torch.ones(len(paths)), atol=1e-6)  # normalized after the raise


class TestCaptions:
    @pytest.mark.parametrize("batch_size", [1, 3, 64])
    def test_equal_to_one_by_one_in_their_order(self, model, processor, batch_size):
        expected = captions_one_by_one(model, processor, CAPTIONS)
        embeds = encode_captions(model, processor, CAPTIONS, batch_size=batch_size)
        assert embeds.dtype == torch.float32 and embeds.device.type == "cpu"
        assert (embeds - expected).abs().max() <= 1e-5
        assert torch.allclose(embeds[0], embeds[6], atol=1e-6)
        distances = torch.cdist(expected[:6], expected[:6]) + 9 * torch.eye(6)
        assert distances.min() > 1e-3  # the others are told apart, so another order would show

    def test_batches_are_of_similar_length(self, model, processor, monkeypatch):
        shapes = []
        original = model.get_text_features
        monkeypatch.setattr(
            model,
            "get_text_features",
            lambda **inputs: shapes.append(tuple(inputs["input_ids"].shape)) or original(**inputs),
        )
        encode_captions(model, processor, ["word " * 20, "a"] * 4, batch_size=4)
        assert [count for count, _ in shapes] == [4, 4]
        assert shapes[0][1] == 3 and shapes[1][1] > 20

    def test_no_captions(self, model, processor):
        embeds = encode_captions(model, processor, [])
        assert embeds.shape == (0, 8) and embeds.dtype == torch.float32


class TestModel:
    @pytest.mark.parametrize("training", [True, False])
    def test_the_mode_is_restored(self, model, processor, paths, training, one_broken):
        modes = []
        model.vision_model.register_forward_hook(
            lambda module, *_: modes.append((module.training, torch.is_grad_enabled()))
        )
        model.train(training)
        encode_images(model, processor, paths[:2])
        assert model.training is training and modes == [(False, False)]
        encode_captions(model, processor, ["a man"])
        assert model.training is training
        with pytest.raises(ImageError):
            encode_images(model, processor, one_broken)
        assert model.training is training and torch.is_grad_enabled()

    def test_embeddings_can_enter_a_graph(self, model, processor, paths):
        weight = torch.ones(8, requires_grad=True)
        embeds = encode_images(model, processor, paths[:2]).sum(0) + encode_captions(model, processor, ["a"]).sum(0)
        (weight * embeds).sum().backward()
        assert torch.equal(weight.grad, embeds)


class TestDataset:
    def test_equal_to_one_by_one(self, model, processor, test_split, paths):
        encoded = encode_dataset(model, processor, test_split, batch_size=3)
        captions = [caption for captions in test_split["captions"] for caption in captions]
        assert (encoded.image_embeds - images_one_by_one(model, processor, paths)).abs().max() <= 1e-5
        assert (encoded.text_embeds - captions_one_by_one(model, processor, captions)).abs().max() <= 1e-5
        person_ids = list(test_split["person_id"])
        assert encoded.image_person_ids.tolist() == person_ids
        assert encoded.text_person_ids.tolist() == [person_id for person_id in person_ids for _ in range(2)]
        assert encoded.image_person_ids.dtype == encoded.text_person_ids.dtype == torch.int64

    def test_different_numbers_of_captions(self, model, processor, test_split):
        counts = [index % 3 for index in range(len(test_split))]
        rows = [{**row, "captions": ["a man", "a hat"][:count]} for row, count in zip(test_split, counts, strict=True)]
        encoded = encode_dataset(model, processor, Dataset.from_list(rows, features=FEATURES))
        expected = [row["person_id"] for row in rows for _ in row["captions"]]
        assert encoded.text_person_ids.tolist() == expected and len(encoded.text_embeds) == len(expected)

    def test_embedded_images(self, model, processor, test_split, tmp_path):
        rows = test_split.cast_column("image", Image(decode=False)).select(range(2)).to_dict()
        rows["image"] = [{"path": None, "bytes": Path(image["path"]).read_bytes()} for image in rows["image"]]
        embedded = Dataset.from_dict(rows, features=FEATURES)
        expected = encode_dataset(model, processor, test_split.select(range(2)))
        assert torch.equal(encode_dataset(model, processor, embedded).image_embeds, expected.image_embeds)
        rows["image"][1]["bytes"] = b"no image"
        with pytest.raises(ImageError, match=rows["file_name"][1]):
            encode_dataset(model, processor, Dataset.from_dict(rows, features=FEATURES))

    def test_no_rows(self, model, processor, test_split):
        encoded = encode_dataset(model, processor, test_split.select([]))
        assert encoded.image_embeds.shape == encoded.text_embeds.shape == (0, 8)
        assert len(encoded.image_person_ids) == len(encoded.text_person_ids) == 0

    def test_a_broken_image_is_an_error(self, model, processor, test_split, one_broken):
        rows = {**test_split.cast_column("image", Image(decode=False)).select([0]).to_dict(), "image": one_broken[1:2]}
        with pytest.raises(ImageError, match=r"broken\.jpg"):
            encode_dataset(model, processor, Dataset.from_dict(rows, features=FEATURES))


def process(rank: int, folder: Path, checkpoint: Path, root: Path) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meeting", rank=rank, world_size=2)
    model, processor = SCMMModel.from_pretrained(checkpoint), SCMMProcessor.from_pretrained(checkpoint)
    seen = []
    model.vision_model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(output), with_kwargs=True
    )
    test_split = load_benchmark("paperdoll", root)["test"]
    results = [
        vars(encode_dataset(model, processor, test_split.select(range(rows)), batch_size=2)) for rows in (15, 1, 0)
    ]
    images = sum(len(output.pooler_output) for output in seen)
    torch.save((results, images), folder / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes_share_the_work_and_both_get_all(
    model, processor, test_split, checkpoint, paperdoll_root, tmp_path
):
    mp.spawn(process, args=(tmp_path, checkpoint, paperdoll_root), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    assert [images for _, images in found] == [8 + 1, 7]
    for index, rows in enumerate((15, 1, 0)):  # odd, fewer than processes, none
        expected = vars(encode_dataset(model, processor, test_split.select(range(rows))))
        for results, _ in found:
            assert results[index].keys() == expected.keys()
            for name, tensor in expected.items():
                assert results[index][name].shape == tensor.shape
                assert torch.allclose(results[index][name].double(), tensor.double(), rtol=0, atol=1e-6), name
