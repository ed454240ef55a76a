"""How two modalities share an embedding space: the gap between them, alignment and uniformity."""

import math

from torch import Tensor
from torch.nn import functional as F


_ROWS_AT_ONCE = 1024


def modality_gap(image_embeds: Tensor, text_embeds: Tensor) -> float:
    """
    The distance between the mean of the normalized image embeddings and that of the text embeddings, from 0 to 2.

    Source: Liang et al., "Mind the gap", NeurIPS 2022.

    Args:
        image_embeds (`torch.Tensor` of shape `(images, dim)`): image embeddings, normalized or not.
        text_embeds (`torch.Tensor` of shape `(captions, dim)`): caption embeddings, normalized or not.

    Returns:
        `float`

    Example:

    ```python
    >>> import torch
    >>> from scmm.analysis.gap import modality_gap
    >>> modality_gap(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[0.0, 2.0]]))
    0.707...

    ```
    """
    image_mean, text_mean = (F.normalize(embeds.double(), dim=1).mean(dim=0) for embeds in (image_embeds, text_embeds))
    return float((image_mean - text_mean).norm())


def alignment(image_embeds: Tensor, text_embeds: Tensor, image_ids: Tensor, text_ids: Tensor) -> float:
    """
    The mean squared distance between the normalized embeddings of positive pairs, from 0 (equal) to 4 (opposite).

    A caption and an image are a positive pair where their ids are equal: with person ids every caption is paired with
    every image of its person, with image ids with its own image alone. Each pair weighs the same.

    Source: Wang and Isola, "Understanding contrastive representation learning", ICML 2020, with an exponent of 2.

    Args:
        image_embeds (`torch.Tensor` of shape `(images, dim)`): image embeddings, normalized or not.
        text_embeds (`torch.Tensor` of shape `(captions, dim)`): caption embeddings, normalized or not.
        image_ids (integer `torch.Tensor` of shape `(images,)`): what makes a pair positive, of each image.
        text_ids (integer `torch.Tensor` of shape `(captions,)`): likewise, of each caption.

    Returns:
        `float`: NaN without a positive pair.

    Example:

    ```python
    >>> import torch
    >>> from scmm.analysis.gap import alignment
    >>> image, text = torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 0.0]])
    >>> alignment(image, text, torch.tensor([7, 7]), torch.tensor([7]))  # distances 0 and the square root of 2
    1.0

    ```
    """
    image_embeds, text_embeds = (F.normalize(embeds.double(), dim=1) for embeds in (image_embeds, text_embeds))
    total, count = 0.0, 0
    for rows, ids in zip(text_embeds.split(_ROWS_AT_ONCE), text_ids.split(_ROWS_AT_ONCE), strict=True):
        positive = ids[:, None] == image_ids[None, :]
        total += float((2 - 2 * rows @ image_embeds.T)[positive].sum())
        count += int(positive.sum())
    return total / count if count else math.nan


def uniformity(embeds: Tensor) -> float:
    """
    How evenly embeddings spread over the sphere: the logarithm of the mean of `exp(-2 d^2)` over all pairs of
    different rows, `d` their distance. 0 if all are equal; the lower, the more even.

    Source: Wang and Isola, "Understanding contrastive representation learning", ICML 2020, with t = 2.

    Args:
        embeds (`torch.Tensor` of shape `(rows, dim)`): embeddings of one modality, normalized or not; at least two.

    Returns:
        `float`

    Raises:
        ValueError: if there are fewer than two rows.

    Example:

    ```python
    >>> import torch
    >>> from scmm.analysis.gap import uniformity
    >>> round(uniformity(torch.tensor([[1.0, 0.0], [0.0, 1.0]])), 6)  # squared distance 2
    -4.0

    ```
    """
    if len(embeds) < 2:
        raise ValueError(f"Uniformity is about pairs of embeddings, got {len(embeds)}.")
    embeds = F.normalize(embeds.double(), dim=1)
    # exp(-2 d^2) is exp(4 cos - 4), which is 1 for a row and itself.
    total = sum(float((4 * rows @ embeds.T - 4).exp().sum()) for rows in embeds.split(_ROWS_AT_ONCE))
    return math.log((total - len(embeds)) / (len(embeds) * (len(embeds) - 1)))
