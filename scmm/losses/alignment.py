"""The field's alignment losses, for the default objective, baselines and ablations: ITC, SDM and CMPM."""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .tensors import check_batch, check_choice, dot, full_precision, normalize, same_identity


Targets = Literal["identity", "pair"]

EPS = 1e-8  # inside the logarithm of SDM's and CMPM's target distribution, which has zeros


def itc_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor,
    logit_scale: Tensor | float,
    *,
    targets: Targets = "identity",
) -> Tensor:
    """
    Image-text contrast (symmetric InfoNCE): the mean of both directions' cross-entropies over scaled similarities.

    Args:
        image_embeds (`Tensor` of shape `(batch, dim)`): Image embeddings, not normalized.
        text_embeds (`Tensor` of shape `(batch, dim)`): Caption embeddings, not normalized.
        person_ids (integer `Tensor` of shape `(batch,)`): Whom each pair shows.
        logit_scale (`Tensor` or `float`): The factor itself, e.g. 50, not its logarithm.
        targets (`str`): `"identity"` spreads the target over all pairs of the same person, so that a person who occurs
            twice in the batch is no negative; `"pair"` is the plain CLIP loss.

    Returns:
        `Tensor`: a scalar, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes that disagree, an empty batch or unknown targets.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import itc_loss

    >>> embeds = torch.ones(4, 2)  # collapsed: each of four pairs looks alike
    >>> round(itc_loss(embeds, embeds, torch.arange(4), 50.0).item(), 4)  # log(4)
    1.3863

    ```
    """
    check_batch(image_embeds, text_embeds, person_ids)
    check_choice("targets", targets, get_args(Targets))
    logits = logit_scale * dot(*normalize(image_embeds, text_embeds))
    if targets == "identity":
        target = _normalized_rows(same_identity(person_ids), logits.dtype)
    else:
        target = torch.eye(len(logits), dtype=logits.dtype, device=logits.device)
    image_to_text = -(target * logits.log_softmax(dim=1)).sum(dim=1).mean()
    text_to_image = -(target * logits.mT.log_softmax(dim=1)).sum(dim=1).mean()
    return (image_to_text + text_to_image) / 2


def sdm_loss(image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor, logit_scale: Tensor | float) -> Tensor:
    """
    Similarity distribution matching (IRRA): the divergence of the scaled similarities' softmax from the same-identity
    distribution, summed over both directions.

    Args:
        image_embeds (`Tensor` of shape `(batch, dim)`): Image embeddings, not normalized.
        text_embeds (`Tensor` of shape `(batch, dim)`): Caption embeddings, not normalized.
        person_ids (integer `Tensor` of shape `(batch,)`): Whom each pair shows.
        logit_scale (`Tensor` or `float`): The factor itself, e.g. 50, not its logarithm.

    Returns:
        `Tensor`: a scalar, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes that disagree or an empty batch.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import sdm_loss

    >>> embeds = torch.eye(2)
    >>> round(abs(sdm_loss(embeds, embeds, torch.tensor([7, 9]), 50.0).item()), 4)
    0.0

    ```
    """
    check_batch(image_embeds, text_embeds, person_ids)
    logits = logit_scale * dot(*normalize(image_embeds, text_embeds))
    target = _normalized_rows(same_identity(person_ids), logits.dtype)
    return _divergence(logits, target) + _divergence(logits.mT, target)


def cmpm_loss(image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor) -> Tensor:
    """
    Cross-modal projection matching: like [`sdm_loss`], on the length of an embedding's projection onto the other
    modality's directions. Only the embedding that is projected upon is normalized, and there is no scale.

    Args:
        image_embeds (`Tensor` of shape `(batch, dim)`): Image embeddings, not normalized.
        text_embeds (`Tensor` of shape `(batch, dim)`): Caption embeddings, not normalized.
        person_ids (integer `Tensor` of shape `(batch,)`): Whom each pair shows.

    Returns:
        `Tensor`: a scalar, float32 (float64 for float64 embeddings). It can be negative where a person occurs more
        than once: the rows of the target have unit L2 norm, hence a sum above 1.

    Raises:
        ValueError: for shapes that disagree or an empty batch.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import cmpm_loss

    >>> embeds = 50 * torch.eye(2)
    >>> round(abs(cmpm_loss(embeds, embeds, torch.tensor([7, 9])).item()), 4)
    0.0

    ```
    """
    check_batch(image_embeds, text_embeds, person_ids)
    image_embeds, text_embeds = full_precision(image_embeds, text_embeds)
    image_directions, text_directions = normalize(image_embeds, text_embeds)
    target = F.normalize(same_identity(person_ids).to(image_embeds.dtype), dim=1)
    return _divergence(dot(image_embeds, text_directions), target) + _divergence(
        dot(text_embeds, image_directions), target
    )


def _divergence(logits: Tensor, target: Tensor) -> Tensor:
    """Mean over the rows of KL(softmax(logits) || target)."""
    log_predicted = logits.log_softmax(dim=1)
    return (log_predicted.exp() * (log_predicted - (target + EPS).log())).sum(dim=1).mean()


def _normalized_rows(matrix: Tensor, dtype: torch.dtype) -> Tensor:
    matrix = matrix.to(dtype)
    return matrix / matrix.sum(dim=1, keepdim=True)
