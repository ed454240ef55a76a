"""Caption masking for masked caption modeling."""

import torch
import torch.nn.functional as F
from torch import Tensor


IGNORED_LABEL = -100
MASKED_FRACTION = 0.8  # of the chosen tokens; what the two leave stays as it is
RANDOM_FRACTION = 0.1


def mask_captions(
    input_ids: Tensor,
    maskable: Tensor,
    *,
    mask_token_id: int,
    ordinary_ids: Tensor,
    probability: float = 0.15,
    word_ids: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """
    Hides words of captions, for a model to guess.

    Each maskable token is chosen with the given probability, and at least one in any caption that has one. Of the
    chosen ones 80 % become the mask token, 10 % a random ordinary token, and 10 % stay as they are. With `word_ids`,
    whole words are chosen, and all tokens of a word share its fate.

    Reconstruction: the paper masks words of the caption, the rates are BERT's.

    Args:
        input_ids (integer `Tensor` of shape `(batch, length)`): Tokenized captions. They are not changed.
        maskable (boolean `Tensor` of shape `(batch, length)`): Where a token may be masked: not at special tokens, and
            not at padding (which its id may not tell: CLIP's tokenizer pads with the end token).
        mask_token_id (`int`): The mask token.
        ordinary_ids (integer `Tensor` of shape `(num_ordinary,)`): The tokens to draw random ones from: the vocabulary
            without its special tokens.
        probability (`float`): Share of the maskable tokens to choose, above 0 and at most 1.
        word_ids (integer `Tensor` of shape `(batch, length)`, *optional*): Which word each token belongs to, as a fast
            tokenizer's `word_ids()`, with -1 for `None`; neighbors with the same number are one word.
        generator (`torch.Generator`, *optional*): Source of the randomness, for reproducible masks.

    Returns:
        `tuple(Tensor, Tensor)`: the masked copy of `input_ids`, and the labels: the true token where one was chosen,
        -100 elsewhere.

    Raises:
        ValueError: for shapes that disagree, a `maskable` that is not boolean, a probability out of its range, or
            `ordinary_ids` that are empty or contain the mask token.

    Example:

    ```python
    >>> import torch
    >>> from scmm.data.masking import mask_captions

    >>> input_ids = torch.tensor([[1, 10, 11, 12, 2, 2]])  # start, three words, end, padding
    >>> maskable = torch.tensor([[False, True, True, True, False, False]])
    >>> generator = torch.Generator().manual_seed(0)
    >>> masked_ids, labels = mask_captions(
    ...     input_ids, maskable, mask_token_id=3, ordinary_ids=torch.arange(4, 20), generator=generator
    ... )
    >>> masked_ids
    tensor([[ 1, 10,  3,  3,  2,  2]])
    >>> labels
    tensor([[-100, -100,   11,   12, -100, -100]])

    ```
    """
    _check(input_ids, maskable, mask_token_id, ordinary_ids, probability, word_ids)

    def draw_per_word() -> Tensor:
        draws = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
        return draws if word_ids is None else draws.gather(1, _word_index(word_ids))

    draws = draw_per_word().masked_fill(~maskable, torch.inf)
    lowest = draws.amin(dim=1, keepdim=True)  # choosing it makes a difference only where nothing else is chosen
    chosen = maskable & ((draws < probability) | (draws == lowest))

    fate = draw_per_word()
    random_ids = torch.randint(len(ordinary_ids), input_ids.shape, generator=generator, device=input_ids.device)
    masked_ids = input_ids.masked_fill(chosen & (fate < MASKED_FRACTION), mask_token_id)
    at_random = chosen & (fate >= MASKED_FRACTION) & (fate < MASKED_FRACTION + RANDOM_FRACTION)
    masked_ids = torch.where(at_random, ordinary_ids.to(input_ids)[random_ids], masked_ids)
    return masked_ids, input_ids.masked_fill(~chosen, IGNORED_LABEL)


def _word_index(word_ids: Tensor) -> Tensor:
    """Numbers the words of each caption from 0, whatever numbers the tokenizer gave them."""
    starts = F.pad(word_ids[:, 1:] != word_ids[:, :-1], (1, 0))
    return starts.cumsum(dim=1)


def _check(
    input_ids: Tensor,
    maskable: Tensor,
    mask_token_id: int,
    ordinary_ids: Tensor,
    probability: float,
    word_ids: Tensor | None,
) -> None:
    if input_ids.ndim != 2:
        raise ValueError(f"input_ids must have shape (batch, length), got {tuple(input_ids.shape)}.")
    for name, tensor in (("maskable", maskable), ("word_ids", word_ids)):
        if tensor is not None and tensor.shape != input_ids.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, but input_ids {tuple(input_ids.shape)}.")
    if maskable.dtype != torch.bool:
        raise ValueError(f"maskable must be boolean, True where a token may be masked, got {maskable.dtype}.")
    if not 0 < probability <= 1:
        raise ValueError(f"probability must be above 0 and at most 1, got {probability}.")
    if not len(ordinary_ids) or bool((ordinary_ids == mask_token_id).any()):
        raise ValueError("ordinary_ids must be the vocabulary without its special tokens, the mask token among them.")
