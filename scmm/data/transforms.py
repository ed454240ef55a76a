"""
Pixels of a person crop: resized as the processor says, augmented for training, normalized.

Everything but the last step works on 8-bit tensors of shape `(3, height, width)`, a quarter of the memory; a batch is
normalized at once, on the device that computes.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers import CLIPImageProcessorPil

from scmm.processing import ImageSource, load_image


def load_pixels(source: ImageSource, image_processor: CLIPImageProcessorPil) -> Tensor:
    """
    Loads one image at the processor's size.

    Args:
        source (path, `bytes`, binary file or `PIL.Image.Image`): see [`~scmm.processing.load_image`].
        image_processor (`CLIPImageProcessorPil`): says the size and the interpolation.

    Returns:
        `torch.Tensor` of shape `(3, height, width)` and dtype uint8: what the processor has before it normalizes.

    Raises:
        ImageError: if the image cannot be used.

    Example:

    ```python
    >>> from PIL import Image
    >>> from transformers import CLIPImageProcessorPil
    >>> from scmm.data.transforms import load_pixels
    >>> image_processor = CLIPImageProcessorPil(size={"height": 64, "width": 32}, do_center_crop=False)
    >>> load_pixels(Image.new("RGB", (50, 120)), image_processor).shape
    torch.Size([3, 64, 32])

    ```
    """
    size = (image_processor.size["width"], image_processor.size["height"])
    image = load_image(source)
    if image.size != size:
        image = image.resize(size, Image.Resampling(image_processor.resample))
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def normalize_pixels(pixels: Tensor, image_processor: CLIPImageProcessorPil) -> Tensor:
    """
    Turns 8-bit pixels into what the vision tower takes.

    Args:
        pixels (`torch.Tensor` of shape `(images, 3, height, width)` and dtype uint8): a batch.
        image_processor (`CLIPImageProcessorPil`): says the scale, the mean and the standard deviation.

    Returns:
        `torch.Tensor` of the same shape, float32, on the same device: the processor's `pixel_values`.

    Example:

    ```python
    >>> import torch
    >>> from transformers import CLIPImageProcessorPil
    >>> from scmm.data.transforms import normalize_pixels
    >>> normalize_pixels(torch.zeros(1, 3, 2, 1, dtype=torch.uint8), CLIPImageProcessorPil())[0, :, 0, 0]
    tensor([-1.7923, -1.7521, -1.4802])

    ```
    """
    mean = torch.tensor(image_processor.image_mean, device=pixels.device).view(3, 1, 1)
    std = torch.tensor(image_processor.image_std, device=pixels.device).view(3, 1, 1)
    # In place: memory that is touched for the first time costs more than the arithmetic.
    return pixels.to(torch.float32, copy=True).mul_(image_processor.rescale_factor).sub_(mean).div_(std)


def horizontal_flip(pixels: Tensor, generator: torch.Generator, probability: float) -> Tensor:
    """Mirrors an image `(3, height, width)` with the given probability."""
    return pixels.flip(-1) if _uniform(generator) < probability else pixels


def pad_and_crop(pixels: Tensor, generator: torch.Generator, padding: int, fill: int = 0) -> Tensor:
    """Pads an image `(3, height, width)` by `padding` pixels of value `fill` and crops its size at a random place."""
    if padding == 0:
        return pixels
    height, width = pixels.shape[-2:]
    top, left = torch.randint(2 * padding + 1, (2,), generator=generator).tolist()
    return F.pad(pixels, (padding,) * 4, value=fill)[:, top : top + height, left : left + width]


def random_erasing(pixels: Tensor, generator: torch.Generator, probability: float, fill: int = 0) -> Tensor:
    """
    Erases a random rectangle of an image `(3, height, width)` with the given probability: 2 to 40 % of the area,
    aspect ratio 0.3 to 3.3. An occluded person is still the same person.
    """
    if _uniform(generator) >= probability:
        return pixels
    height, width = pixels.shape[-2:]
    for _ in range(10):  # a tall rectangle may not fit; another try then
        area = height * width * (0.02 + 0.38 * _uniform(generator))
        ratio = math.exp(math.log(0.3) + (math.log(3.3) - math.log(0.3)) * _uniform(generator))
        tall, wide = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < tall < height and 0 < wide < width:
            top = int(_uniform(generator) * (height - tall + 1))
            left = int(_uniform(generator) * (width - wide + 1))
            pixels = pixels.clone()
            pixels[:, top : top + tall, left : left + wide] = fill
            return pixels
    return pixels


@dataclass(frozen=True)
class TrainingAugmentation:
    """
    The field's augmentation of a training image: horizontal flip, pad and random crop, random erasing.

    Args:
        flip_probability (`float`, defaults to 0.5): how often to mirror.
        crop_padding (`int`, defaults to 10): pixels to pad on each side before a random crop.
        erasing_probability (`float`, defaults to 0.0): how often to erase a rectangle.

    Example:

    ```python
    >>> import torch
    >>> from scmm.data.transforms import TrainingAugmentation
    >>> augment = TrainingAugmentation(flip_probability=1.0, crop_padding=0)
    >>> pixels = torch.arange(2, dtype=torch.uint8).expand(3, 1, 2)
    >>> augment(pixels, torch.Generator().manual_seed(0))[0].tolist()
    [[1, 0]]

    ```
    """

    flip_probability: float = 0.5
    crop_padding: int = 10
    erasing_probability: float = 0.0

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """Augments one image `(3, height, width)` of dtype uint8; every choice comes from the generator."""
        pixels = horizontal_flip(pixels, generator, self.flip_probability)
        pixels = pad_and_crop(pixels, generator, self.crop_padding, fill=_MEAN_GRAY)
        return random_erasing(pixels, generator, self.erasing_probability, fill=_MEAN_GRAY)


_MEAN_GRAY = 116  # about CLIP's mean pixel, so that what is padded or erased says nothing


def _uniform(generator: torch.Generator) -> float:
    return torch.rand((), generator=generator).item()
