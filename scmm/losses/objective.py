"""The weighted training objective."""

import functools
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .alignment import Targets, cmpm_loss, itc_loss, sdm_loss
from .classification import id_loss, mcm_loss
from .sew_calibration import Mining, check_sew_options, sew_calibration_loss, triplet_loss
from .tensors import check_choice, check_not_negative


Alignment = Literal["itc", "sdm", "cmpm", "triplet"]


class SCMMLoss(nn.Module):
    """
    The weighted training objective `sew_weight * sew + mcm_weight * mcm + align_weight * align + id_weight * id`.

    The defaults are a reconstruction: image-text contrast beside four times the sew calibration loss learns from
    random weights, where hardest-mined sew calibration alone collapses. The paper's own two terms are
    `SCMMLoss(sew_weight=1.0, align=None)`. There are no learnable parameters: the logit scale lives in the model, the
    identity classifier beside it.

    Args:
        sew_weight (`float`): Weight of [`sew_calibration_loss`]. A term with weight 0 is not computed.
        mcm_weight (`float`): Weight of [`mcm_loss`].
        align_weight (`float`): Weight of the alignment loss that `align` names.
        id_weight (`float`): Weight of [`id_loss`].
        align (`str`, *optional*): `"itc"`, `"sdm"`, `"cmpm"`, `"triplet"`, or `None` for none.
        itc_targets (`str`): `targets` of [`itc_loss`].
        triplet_margin (`float`): `margin` of [`triplet_loss`].
        margin_min (`float`): Cross-modal margin of a caption with quality 0; for this and the following see
            [`sew_calibration_loss`]. At a mean quality near 0.4, the defaults average the field's customary 0.2.
        margin_max (`float`): Cross-modal margin of a caption with quality 1.
        margin_single (`float`): Margin within a modality.
        mining (`str`): `"hardest"`, `"all"` or `"softplus"`.
        tau (`float`): Smoothness of `"softplus"`.
        weight_cross (`float`): Weight of the cross-modal terms within the sew calibration loss.
        weight_single (`float`): Weight of the single-modal terms within the sew calibration loss.

    Raises:
        ValueError: for an option out of its range, or if all terms have weight 0.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import SCMMLoss

    >>> objective = SCMMLoss(mcm_weight=0.0)
    >>> ids, quality = torch.tensor([1, 1, 2]), torch.tensor([0.2, 0.9, 0.5])
    >>> terms = objective(torch.randn(3, 8), torch.randn(3, 8), ids, quality, logit_scale=50.0)
    >>> sorted(terms)
    ['itc', 'loss', 'sew']
    >>> torch.equal(terms["loss"], 4 * terms["sew"] + terms["itc"])
    True

    ```
    """

    def __init__(
        self,
        *,
        sew_weight: float = 4.0,
        mcm_weight: float = 1.0,
        align_weight: float = 1.0,
        id_weight: float = 0.0,
        align: Alignment | None = "itc",
        itc_targets: Targets = "identity",
        triplet_margin: float = 0.2,
        margin_min: float = 0.1,
        margin_max: float = 0.4,
        margin_single: float = 0.2,
        mining: Mining = "hardest",
        tau: float = 0.1,
        weight_cross: float = 1.0,
        weight_single: float = 1.0,
    ):
        super().__init__()
        check_not_negative(
            sew_weight=sew_weight,
            mcm_weight=mcm_weight,
            align_weight=align_weight,
            id_weight=id_weight,
            triplet_margin=triplet_margin,
        )
        check_choice("align", align, (*get_args(Alignment), None))
        check_choice("itc_targets", itc_targets, get_args(Targets))
        check_sew_options(margin_min, margin_max, margin_single, mining, tau, weight_cross, weight_single)

        weights = {"sew": sew_weight, "mcm": mcm_weight, align: align_weight, "id": id_weight}
        self.weights = {term: weight for term, weight in weights.items() if term is not None and weight > 0}
        if not self.weights:
            raise ValueError("Nothing to train: every term of the objective has weight 0.")
        self.itc_targets: Targets = itc_targets
        self.triplet_margin = triplet_margin
        self.sew_calibration_loss = functools.partial(
            sew_calibration_loss,
            margin_min=margin_min,
            margin_max=margin_max,
            margin_single=margin_single,
            mining=mining,
            tau=tau,
            weight_cross=weight_cross,
            weight_single=weight_single,
        )

    def forward(
        self,
        image_embeds: Tensor,
        text_embeds: Tensor,
        person_ids: Tensor,
        caption_quality: Tensor,
        logit_scale: Tensor | float,
        *,
        mcm_logits: Tensor | None = None,
        mcm_labels: Tensor | None = None,
        num_masked: Tensor | float | None = None,
        image_id_logits: Tensor | None = None,
        text_id_logits: Tensor | None = None,
        id_labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """
        Args:
            image_embeds (`Tensor` of shape `(batch, dim)`): Image embeddings, not normalized.
            text_embeds (`Tensor` of shape `(batch, dim)`): Caption embeddings, not normalized.
            person_ids (integer `Tensor` of shape `(batch,)`): Whom each pair shows.
            caption_quality (`Tensor` of shape `(batch,)`): Quality of each caption in [0, 1].
            logit_scale (`Tensor` or `float`): Factor of the cosine similarities in ITC and SDM, not its logarithm.
            mcm_logits, mcm_labels, num_masked: As in [`mcm_loss`]; required if `mcm_weight > 0`, but for `num_masked`.
            image_id_logits, text_id_logits, id_labels: As in [`id_loss`]; required if `id_weight > 0`.

        Returns:
            `dict[str, Tensor]`: every term by its name (`"sew"`, `"mcm"`, `"id"` and the alignment loss's own name),
            unweighted, and `"loss"`, their weighted sum.

        Raises:
            ValueError: for shapes that disagree, or if what a term needs is missing.
        """
        batch = (image_embeds, text_embeds, person_ids)
        terms = {}
        if "sew" in self.weights:
            terms["sew"] = self.sew_calibration_loss(*batch, caption_quality)
        if "mcm" in self.weights:
            if mcm_logits is None or mcm_labels is None:
                raise ValueError("The mcm term needs mcm_logits and mcm_labels; pass them or set mcm_weight=0.")
            terms["mcm"] = mcm_loss(mcm_logits, mcm_labels, num_masked=num_masked)
        if "itc" in self.weights:
            terms["itc"] = itc_loss(*batch, logit_scale, targets=self.itc_targets)
        if "sdm" in self.weights:
            terms["sdm"] = sdm_loss(*batch, logit_scale)
        if "cmpm" in self.weights:
            terms["cmpm"] = cmpm_loss(*batch)
        if "triplet" in self.weights:
            terms["triplet"] = triplet_loss(*batch, margin=self.triplet_margin)
        if "id" in self.weights:
            if image_id_logits is None or text_id_logits is None or id_labels is None:
                raise ValueError(
                    "The id term needs image_id_logits, text_id_logits and id_labels; pass them or set id_weight=0."
                )
            terms["id"] = id_loss(image_id_logits, text_id_logits, id_labels)
        weighted = [weight * terms[term] for term, weight in self.weights.items()]
        return {**terms, "loss": torch.stack(weighted).sum()}

    def extra_repr(self) -> str:
        return ", ".join(f"{term}_weight={weight}" for term, weight in self.weights.items())
