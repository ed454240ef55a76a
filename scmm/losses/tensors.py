"""What all losses share: precision, cosine similarity, and checks of their arguments."""

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor


def same_identity(person_ids: Tensor) -> Tensor:
    return person_ids[:, None] == person_ids[None, :]


def full_precision(*tensors: Tensor) -> list[Tensor]:
    dtype = functools.reduce(torch.promote_types, (tensor.dtype for tensor in tensors), torch.float32)
    return [tensor.to(dtype) for tensor in tensors]


def normalize(*embeds: Tensor) -> list[Tensor]:
    return [F.normalize(tensor, dim=1) for tensor in full_precision(*embeds)]


def dot(rows: Tensor, columns: Tensor) -> Tensor:
    with torch.autocast(rows.device.type, enabled=False):  # it would lower the product to half precision again
        return rows @ columns.mT


def check_batch(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor,
    names: tuple[str, str, str] = ("image_embeds", "text_embeds", "person_ids"),
) -> None:
    if image_embeds.ndim != 2 or not len(image_embeds):
        raise ValueError(
            f"{names[0]} must have shape (batch, dim) with at least one row, got {tuple(image_embeds.shape)}."
        )
    check_shape(names[1], text_embeds, image_embeds.shape)
    check_shape(names[2], person_ids, image_embeds.shape[:1])
    if person_ids.is_floating_point():
        raise ValueError(f"{names[2]} must be integers, got {person_ids.dtype}.")


def check_shape(name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != tuple(shape):
        raise ValueError(f"{name} must have shape {tuple(shape)} to fit the batch, got {tuple(tensor.shape)}.")


def check_choice(name: str, value: object, choices: tuple[object, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def check_not_negative(**values: float) -> None:
    for name, value in values.items():
        if not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a finite number and not negative, got {value}.")
