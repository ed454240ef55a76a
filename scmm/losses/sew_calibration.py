"""Sew calibration: margin losses across and within the modalities; the plain triplet loss is their special case."""

import functools
import math
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from .tensors import check_batch, check_choice, check_not_negative, check_shape, dot, normalize, same_identity


Mining = Literal["hardest", "all", "softplus"]


def sew_calibration_loss(
    image_embeds: Tensor,
    text_embeds: Tensor,
    person_ids: Tensor,
    caption_quality: Tensor,
    *,
    margin_min: float,
    margin_max: float,
    margin_single: float,
    mining: Mining = "hardest",
    tau: float = 0.1,
    weight_cross: float = 1.0,
    weight_single: float = 1.0,
) -> Tensor:
    """
    Sew calibration: bidirectional margin losses across and within the modalities, on cosine similarities.

    Each image and each caption is an anchor; positives share its person id, negatives do not. Across modalities, the
    margin adapts to the quality `q` of the caption in the positive pair, `margin_min + (margin_max - margin_min) * q`:
    a rich caption must be separated further than a vague one, which fits many people. Within a modality the margin is
    constant. The result is `weight_cross * (L_TI + L_IT) / 2 + weight_single * (L_II + L_TT) / 2`, each `L` the mean
    over the anchors that have a positive and a negative, and 0 (with a gradient graph) where there is no such anchor.

    Reconstruction: the paper describes these properties, the equations are this project's.

    Args:
        image_embeds (`Tensor` of shape `(batch, dim)`): Image embeddings, not normalized.
        text_embeds (`Tensor` of shape `(batch, dim)`): Caption embeddings, not normalized; row i describes image i.
        person_ids (integer `Tensor` of shape `(batch,)`): Whom each pair shows.
        caption_quality (`Tensor` of shape `(batch,)`): Quality of each caption in [0, 1], see [`CaptionQuality`].
        margin_min (`float`): Cross-modal margin of a caption with quality 0.
        margin_max (`float`): Cross-modal margin of a caption with quality 1. Equal to `margin_min`: a fixed margin.
        margin_single (`float`): Margin within a modality.
        mining (`str`): `"hardest"` takes each anchor's least similar positive and most similar negative (of equally
            hard positives, the one with the widest margin); `"all"` averages the hinge over all triplets; `"softplus"`
            is `"hardest"` with `tau * log(1 + exp(z / tau))` in place of the hinge `max(0, z)`.
        tau (`float`): Smoothness of `"softplus"`, in units of cosine similarity.
        weight_cross (`float`): Weight of the cross-modal terms.
        weight_single (`float`): Weight of the single-modal terms.

    Returns:
        `Tensor`: a scalar, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes that disagree, an empty batch, margins that are negative or out of order, negative
            weights, a `tau` that is not positive, or an unknown mining.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import sew_calibration_loss

    >>> embeds = torch.tensor([[1.0, 0.0], [0.6, 0.8]])  # two people, cosine similarity 0.6
    >>> ids, quality = torch.tensor([7, 9]), torch.tensor([0.0, 1.0])  # a vague caption and a rich one
    >>> loss = sew_calibration_loss(
    ...     embeds, embeds, ids, quality, margin_min=0.2, margin_max=0.6, margin_single=0.2
    ... )
    >>> round(loss.item(), 4)  # the vague caption is separated well enough, the rich one falls short by 0.2
    0.1

    ```
    """
    check_batch(image_embeds, text_embeds, person_ids)
    check_shape("caption_quality", caption_quality, (len(person_ids),))
    check_sew_options(margin_min, margin_max, margin_single, mining, tau, weight_cross, weight_single)

    image_embeds, text_embeds = normalize(image_embeds, text_embeds)
    quality_margin = margin_min + (margin_max - margin_min) * caption_quality.to(image_embeds.dtype)
    same = same_identity(person_ids)
    margin_loss = functools.partial(_margin_loss, negative=~same, mining=mining, tau=tau)

    loss = image_embeds.new_zeros(())
    if weight_cross:
        similarity = dot(text_embeds, image_embeds)
        text_to_image = margin_loss(similarity, positive=same, margin=quality_margin[:, None])
        image_to_text = margin_loss(similarity.mT, positive=same, margin=quality_margin[None, :])
        loss = loss + weight_cross * (text_to_image + image_to_text) / 2
    if weight_single:
        others = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)  # no anchor is its own positive
        margin = image_embeds.new_full((), margin_single)
        image_to_image = margin_loss(dot(image_embeds, image_embeds), positive=others, margin=margin)
        text_to_text = margin_loss(dot(text_embeds, text_embeds), positive=others, margin=margin)
        loss = loss + weight_single * (image_to_image + text_to_text) / 2
    return loss


def triplet_loss(image_embeds: Tensor, text_embeds: Tensor, person_ids: Tensor, *, margin: float = 0.2) -> Tensor:
    """
    Cross-modal triplet loss with a fixed margin and the hardest positive and negative of the batch, the mean of both
    directions: [`sew_calibration_loss`] without its adaptive margin and its single-modal terms.

    Args:
        image_embeds (`Tensor` of shape `(batch, dim)`): Image embeddings, not normalized.
        text_embeds (`Tensor` of shape `(batch, dim)`): Caption embeddings, not normalized.
        person_ids (integer `Tensor` of shape `(batch,)`): Whom each pair shows.
        margin (`float`): By how much a positive must be more similar than a negative.

    Returns:
        `Tensor`: a scalar, float32 (float64 for float64 embeddings).

    Raises:
        ValueError: for shapes that disagree, an empty batch or a negative margin.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import triplet_loss

    >>> embeds = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> round(triplet_loss(embeds, embeds, torch.tensor([7, 9]), margin=0.5).item(), 4)
    0.1

    ```
    """
    check_not_negative(margin=margin)
    quality = torch.zeros_like(person_ids)  # no margin depends on it
    return sew_calibration_loss(
        image_embeds,
        text_embeds,
        person_ids,
        quality,
        margin_min=margin,
        margin_max=margin,
        margin_single=margin,
        weight_single=0.0,
    )


def check_sew_options(
    margin_min: float,
    margin_max: float,
    margin_single: float,
    mining: str,
    tau: float,
    weight_cross: float,
    weight_single: float,
) -> None:
    check_not_negative(
        margin_min=margin_min,
        margin_max=margin_max,
        margin_single=margin_single,
        weight_cross=weight_cross,
        weight_single=weight_single,
    )
    if margin_min > margin_max:
        raise ValueError(f"margin_min ({margin_min}) must not exceed margin_max ({margin_max}).")
    if weight_cross == weight_single == 0:
        raise ValueError("weight_cross and weight_single are both 0: the sew calibration loss would be nothing.")
    if not 0 < tau < math.inf:
        raise ValueError(f"tau must be a finite number above 0, got {tau}.")
    check_choice("mining", mining, get_args(Mining))


def _margin_loss(
    similarity: Tensor, *, positive: Tensor, negative: Tensor, margin: Tensor, mining: Mining, tau: float
) -> Tensor:
    """One term of the sew calibration loss: anchors in rows; `margin` of the (anchor, positive) pair, broadcast."""
    if mining == "all":
        return _margin_loss_of_all_triplets(similarity, positive, negative, margin)
    hardest_positive = similarity.masked_fill(~positive, torch.inf).amin(dim=1, keepdim=True)
    hardest_negative = similarity.masked_fill(~negative, -torch.inf).amax(dim=1, keepdim=True)
    # Of equally hard positives the widest margin counts, or the loss would depend on the order of the batch.
    margin = torch.where(positive & (similarity == hardest_positive), margin, -torch.inf).amax(dim=1, keepdim=True)
    # An anchor without a positive or a negative violates by -inf, where the hinge and its gradient are 0.
    violation = margin - hardest_positive + hardest_negative
    hinge = F.softplus(violation, beta=1 / tau) if mining == "softplus" else F.relu(violation)
    num_valid = (positive.any(dim=1) & negative.any(dim=1)).sum()
    return hinge.sum() / num_valid.clamp(min=1)


def _margin_loss_of_all_triplets(similarity: Tensor, positive: Tensor, negative: Tensor, margin: Tensor) -> Tensor:
    # The hinges of one (anchor, positive) over all negatives add up to sum(s_n) - count * c over the s_n above
    # c = s_p - margin: a look-up in the sorted negatives, which takes batch^2 memory where the triplets take batch^3.
    threshold = similarity - margin
    descending = similarity.masked_fill(~negative, -torch.inf).sort(dim=1, descending=True).values
    count = torch.searchsorted(-descending.detach(), -threshold.detach().contiguous())
    sums = F.pad(descending.cumsum(dim=1), (1, 0))
    hinges = sums.gather(1, count) - count * threshold
    num_triplets = (positive.sum(dim=1) * negative.sum(dim=1)).sum()
    return hinges.masked_fill(~positive, 0).sum() / num_triplets.clamp(min=1)
