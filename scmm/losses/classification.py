"""Cross-entropies of training-time heads: masked caption modeling and identity classification."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .tensors import check_batch, check_shape, full_precision


IGNORED_LABEL = -100


def mcm_loss(logits: Tensor, labels: Tensor, *, num_masked: Tensor | float | None = None) -> Tensor:
    """
    Masked caption modeling: the mean cross-entropy of the masked tokens; 0 (with a gradient graph) if there is none.

    Args:
        logits (`Tensor` of shape `(..., vocab_size)`): Scores of the tokens, at all positions or only the masked.
        labels (integer `Tensor` of shape `(...)`): The true tokens; -100 where nothing is to be predicted.
        num_masked (`Tensor` or `float`, *optional*): What to divide by, if not the number of labels other than -100.
            Processes mask different numbers of tokens; with the mean of these numbers here, the average over the
            processes (which `DistributedDataParallel` takes) is the mean over all masked tokens.

    Returns:
        `Tensor`: a scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: for shapes that disagree.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import mcm_loss

    >>> labels = torch.tensor([[-100, 3, -100, -100]])  # the second token of four is masked
    >>> round(mcm_loss(torch.zeros(1, 4, 8), labels).item(), 4)  # log(8): no idea which of eight tokens it is
    2.0794

    ```
    """
    check_shape("labels", labels, logits.shape[:-1])
    (logits,) = full_precision(logits)
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=IGNORED_LABEL, reduction="sum")
    count = torch.as_tensor((labels != IGNORED_LABEL).sum() if num_masked is None else num_masked)
    return total / torch.where(count > 0, count, 1)


def id_loss(image_logits: Tensor, text_logits: Tensor, labels: Tensor) -> Tensor:
    """
    Identity classification: the mean of both modalities' cross-entropies over one shared classifier.

    Args:
        image_logits (`Tensor` of shape `(batch, num_identities)`): The classifier's scores of the images.
        text_logits (`Tensor` of shape `(batch, num_identities)`): The classifier's scores of the captions.
        labels (integer `Tensor` of shape `(batch,)`): Index of the person among the training identities.

    Returns:
        `Tensor`: a scalar, float32 (float64 for float64 logits).

    Raises:
        ValueError: for shapes that disagree or an empty batch.

    Example:

    ```python
    >>> import torch
    >>> from scmm.losses import id_loss

    >>> round(id_loss(torch.zeros(3, 8), torch.zeros(3, 8), torch.tensor([0, 5, 7])).item(), 4)  # log(8)
    2.0794

    ```
    """
    check_batch(image_logits, text_logits, labels, names=("image_logits", "text_logits", "labels"))
    image_logits, text_logits = full_precision(image_logits, text_logits)
    return (F.cross_entropy(image_logits, labels) + F.cross_entropy(text_logits, labels)) / 2
