"""Embeds images and captions: each once, captions in batches of similar length, shared among processes."""

import contextlib
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from datasets import Dataset, Image
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader
from tqdm import tqdm

from scmm.data.schema import image_source
from scmm.data.transforms import load_pixels, normalize_pixels
from scmm.modeling_scmm import SCMMModel
from scmm.processing import ImageError, ImageSource, SCMMProcessor


@dataclass
class EncodedDataset:
    """
    The embeddings of a data set, ready for [`~scmm.retrieval.metrics.retrieval_metrics`].

    Args:
        image_embeds (`torch.Tensor` of shape `(images, projection_dim)`): float32, normalized, on the CPU.
        image_person_ids (`torch.Tensor` of shape `(images,)`): int64.
        text_embeds (`torch.Tensor` of shape `(captions, projection_dim)`): float32, normalized, on the CPU.
        text_person_ids (`torch.Tensor` of shape `(captions,)`): int64, the ids of the captions' images.
    """

    image_embeds: Tensor
    image_person_ids: Tensor
    text_embeds: Tensor
    text_person_ids: Tensor


def encode_images(
    model: SCMMModel,
    processor: SCMMProcessor,
    images: Sequence[ImageSource],
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = False,
    on_error: Callable[[int, Exception], None] | None = None,
) -> Tensor:
    """
    Embeds images.

    Args:
        model ([`SCMMModel`]): the dual encoder; it computes on its own device and in its own dtype.
        processor ([`SCMMProcessor`]): the processor saved with it.
        images (sequence of paths, `bytes` or `PIL.Image.Image`): one image each.
        batch_size (`int`, defaults to 64): images at once.
        num_workers (`int`, defaults to 0): processes that decode images.
        progress (`bool`, defaults to `False`): whether to show a progress bar.
        on_error (`Callable`, *optional*):
            Called with the position of an image that cannot be read and the error; the image is then skipped. By
            default the error is raised.

    Returns:
        `torch.Tensor` of shape `(images, projection_dim)`: float32, normalized, on the CPU; a row for each image that
        was not skipped, in order.

    Raises:
        ImageError, OSError: if an image cannot be read and there is no `on_error`.

    Example:

    ```python
    >>> from PIL import Image
    >>> from scmm import SCMMConfig, SCMMModel, SCMMProcessor
    >>> from scmm.retrieval.encode import encode_images
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3)
    >>> model = SCMMModel(SCMMConfig.from_preset("tiny"))
    >>> encode_images(model, processor, [Image.new("RGB", (60, 160))]).shape
    torch.Size([1, 128])

    ```
    """
    loader = DataLoader(
        _Pixels(images, processor),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_stack,
    )
    rows = []
    with tqdm(total=len(images), desc="Embedding images", unit="img", disable=not progress) as bar:
        for pixels, errors in loader:
            for index, error in errors:
                if on_error is None:
                    raise error
                on_error(index, error)
            if pixels is not None:
                rows.append(embed_pixels(model, processor, pixels))
            bar.update(len(errors) + (0 if pixels is None else len(pixels)))
    return torch.cat(rows) if rows else torch.empty(0, model.config.projection_dim)


def embed_pixels(model: SCMMModel, processor: SCMMProcessor, pixels: Tensor) -> Tensor:
    """
    Embeds one batch of images that are loaded already.

    Args:
        model ([`SCMMModel`]): the dual encoder; it computes on its own device and in its own dtype.
        processor ([`SCMMProcessor`]): the processor saved with it.
        pixels (`torch.Tensor` of shape `(images, 3, height, width)` and dtype uint8): as
            [`~scmm.data.transforms.load_pixels`] gives them.

    Returns:
        `torch.Tensor` of shape `(images, projection_dim)`: float32, normalized, on the CPU.
    """
    with _inference(model):
        pixel_values = normalize_pixels(pixels.to(model.device), processor.image_processor)
        return _normalized(model.get_image_features(pixel_values).pooler_output)


def encode_captions(
    model: SCMMModel,
    processor: SCMMProcessor,
    captions: Sequence[str],
    *,
    batch_size: int = 256,
    progress: bool = False,
) -> Tensor:
    """
    Embeds captions, in batches of similar length so that little is spent on padding.

    Args:
        model ([`SCMMModel`]): the dual encoder; it computes on its own device and in its own dtype.
        processor ([`SCMMProcessor`]): the processor saved with it. Captions longer than the model's length are cut.
        captions (sequence of `str`): the captions.
        batch_size (`int`, defaults to 256): captions at once.
        progress (`bool`, defaults to `False`): whether to show a progress bar.

    Returns:
        `torch.Tensor` of shape `(captions, projection_dim)`: float32, normalized, on the CPU, in the captions' order.

    Example:

    ```python
    >>> from scmm import SCMMConfig, SCMMModel, SCMMProcessor
    >>> from scmm.retrieval.encode import encode_captions
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3)
    >>> config = SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields())
    >>> encode_captions(SCMMModel(config), processor, ["a man", "a red coat"]).shape
    torch.Size([2, 128])

    ```
    """
    if len(captions) == 0:
        return torch.empty(0, model.config.projection_dim)
    token_ids = processor.tokenizer(list(captions), truncation=True)["input_ids"]
    order = sorted(range(len(token_ids)), key=lambda index: len(token_ids[index]))
    rows = []
    with _inference(model), tqdm(total=len(captions), desc="Embedding captions", disable=not progress) as bar:
        for start in range(0, len(order), batch_size):
            batch = [token_ids[index] for index in order[start : start + batch_size]]
            inputs = processor.tokenizer.pad({"input_ids": batch}, return_tensors="pt").to(model.device)
            rows.append(_normalized(model.get_text_features(**inputs).pooler_output))
            bar.update(len(batch))
    return torch.cat(rows)[torch.argsort(torch.tensor(order))]


def encode_dataset(
    model: SCMMModel,
    processor: SCMMProcessor,
    dataset: Dataset,
    *,
    batch_size: int = 64,
    num_workers: int = 0,
    progress: bool = False,
) -> EncodedDataset:
    """
    Embeds every image and every caption of a data set once. With `torch.distributed` each process embeds its share
    and all of them get the whole.

    Args:
        model ([`SCMMModel`]): the dual encoder.
        processor ([`SCMMProcessor`]): the processor saved with it.
        dataset (`datasets.Dataset`): rows of [`~scmm.data.schema.FEATURES`], as [`load_benchmark`] returns them.
        batch_size (`int`, defaults to 64): images at once; four times as many captions.
        num_workers (`int`, defaults to 0): processes that decode images.
        progress (`bool`, defaults to `False`): whether to show progress bars.

    Returns:
        [`EncodedDataset`]

    Raises:
        ImageError, OSError: if an image cannot be read: figures on a part of the gallery would not be comparable.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm import SCMMConfig, SCMMModel, SCMMProcessor, encode_dataset, load_benchmark, retrieval_metrics
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=0, val_identities=0, test_identities=3, progress=False)
    ...     test = load_benchmark("paperdoll", root)["test"]
    ...     processor = SCMMProcessor.from_captions([caption for captions in test["captions"] for caption in captions])
    ...     config = SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields())
    ...     encoded = encode_dataset(SCMMModel(config), processor, test)
    >>> encoded.image_embeds.shape, encoded.text_embeds.shape
    (torch.Size([12, 128]), torch.Size([24, 128]))

    ```
    """
    undecoded = dataset.select_columns(["image", "file_name"]).cast_column("image", Image(decode=False))
    captions_of_row = list(dataset["captions"])
    captions = [caption for captions in captions_of_row for caption in captions]
    person_ids = torch.tensor(list(dataset["person_id"]), dtype=torch.int64)
    counts = torch.tensor([len(captions) for captions in captions_of_row], dtype=torch.int64)

    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
    images = _Column(undecoded.select(range(rank, len(undecoded), world)))
    image_embeds = encode_images(
        model, processor, images, batch_size=batch_size, num_workers=num_workers, progress=progress and rank == 0
    )
    text_embeds = encode_captions(
        model, processor, captions[rank::world], batch_size=4 * batch_size, progress=progress and rank == 0
    )
    return EncodedDataset(
        image_embeds=_interleave(image_embeds, len(undecoded), rank, world),
        image_person_ids=person_ids,
        text_embeds=_interleave(text_embeds, len(captions), rank, world),
        text_person_ids=person_ids.repeat_interleave(counts),
    )


@contextlib.contextmanager
def _inference(model: torch.nn.Module) -> Generator[None]:
    """Inference and evaluation mode, the model's own mode restored at the end."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


class _Column(Sequence):
    """The undecoded images of a data set, as paths or open files."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> ImageSource:  # ty: ignore[incompatible-method-override]
        return image_source(self.dataset[index])


class _Pixels(torch.utils.data.Dataset):
    """
    The pixels of each image, or its position and the error: raised in a loader's worker, an error would come back with
    the worker's traceback as its message.
    """

    def __init__(self, images: Sequence[ImageSource], processor: SCMMProcessor):
        self.images = images
        self.image_processor = processor.image_processor

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor | tuple[int, Exception]:
        try:
            return load_pixels(self.images[index], self.image_processor)
        except (ImageError, OSError) as error:
            return index, error


def _stack(items: list[Tensor | tuple[int, Exception]]) -> tuple[Tensor | None, list[tuple[int, Exception]]]:
    pixels = [item for item in items if isinstance(item, Tensor)]
    return torch.stack(pixels) if pixels else None, [item for item in items if not isinstance(item, Tensor)]


def _normalized(embeds: Tensor) -> Tensor:
    return F.normalize(embeds.float(), dim=-1).cpu()


def _interleave(part: Tensor, total: int, rank: int, world: int) -> Tensor:
    """Puts together the rows that each process embedded: process r has rows r, r + world, ..."""
    if world == 1:
        return part
    parts: list[Tensor] = [part] * world
    dist.all_gather_object(parts, part)
    whole = torch.empty(total, part.shape[1])
    for owner, rows in enumerate(parts):
        whole[owner::world] = rows
    return whole
