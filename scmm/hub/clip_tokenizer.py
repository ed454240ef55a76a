"""CLIP's tokenizer with a mask token, where a checkpoint has it."""

import json
from typing import Any

from transformers import CLIPTokenizer

from scmm.hub.state_dicts import CheckpointError
from scmm.processing import MASK_TOKEN


def load_clip_tokenizer(name: str, num_embeddings: int, max_length: int, *, mask_is_new: bool) -> CLIPTokenizer:
    """
    Loads CLIP's tokenizer and gives it a mask token.

    Args:
        name (`str`): Folder or Hub id.
        num_embeddings (`int`): Token embeddings that the checkpoint holds; the tokenizer must have as many tokens.
        max_length (`int`): Tokens at which a caption is cut, special tokens included.
        mask_is_new (`bool`):
            Whether the mask token is appended, after all embeddings of the checkpoint, or takes the place of the last
            BPE entry, just below the start token, as in IRRA and what follows it.

    Returns:
        `CLIPTokenizer`

    Raises:
        CheckpointError: If the tokenizer cannot be loaded, has another number of tokens, or another order.

    Example:

    ```python
    >>> import tempfile
    >>> from transformers import CLIPTokenizer
    >>> from scmm.hub.clip_tokenizer import load_clip_tokenizer
    >>> vocab = {"a": 0, "a</w>": 1, "aa</w>": 2, "<|startoftext|>": 3, "<|endoftext|>": 4}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     _ = CLIPTokenizer(vocab=vocab, merges=[("a", "a</w>")]).save_pretrained(folder)
    ...     tokenizer = load_clip_tokenizer(folder, 5, 77, mask_is_new=False)
    >>> tokenizer("a <|mask|> aa")["input_ids"]
    [3, 1, 2, 0, 1, 4]

    ```
    """
    try:
        tokenizer = CLIPTokenizer.from_pretrained(name, model_max_length=max_length)
    except Exception as error:  # broken files make the loader raise whatever it stumbles over
        raise CheckpointError(
            f"The tokenizer {name} cannot be loaded: give a folder or Hub id of CLIP's as --tokenizer. {error}"
        ) from error
    if not json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]:  # without files, it is made up
        raise CheckpointError(f"The tokenizer {name} is not found: give a folder or Hub id of CLIP's as --tokenizer.")
    if mask_is_new and tokenizer.mask_token is None:
        tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
    expected = num_embeddings + mask_is_new
    if len(tokenizer) != expected:
        raise CheckpointError(
            f"The tokenizer {name} has {len(tokenizer)} tokens where the checkpoint needs {expected}: give CLIP's "
            "as --tokenizer."
        )
    if not mask_is_new:
        tokenizer = _mask_in_place_of_last_merge(tokenizer, name)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in (tokenizer.bos_token, tokenizer.eos_token)}
    if list(ids.values()) != [num_embeddings - 2, num_embeddings - 1]:
        raise CheckpointError(
            f"The tokenizer {name} is not laid out as CLIP's: start and end token are {ids}, not the last two of "
            f"{num_embeddings}."
        )
    return tokenizer


def _mask_in_place_of_last_merge(tokenizer: CLIPTokenizer, name: str) -> CLIPTokenizer:
    """
    Renames the last BPE entry (CLIP's is "jekyll</w>") to the mask token and drops the merge that made it, so that the
    word is still spelled, by its parts.
    """
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]
    mask_id = len(tokenizer) - 3
    [entry] = [token for token, index in model["vocab"].items() if index == mask_id] or [None]
    if entry == tokenizer.mask_token == MASK_TOKEN:
        return tokenizer
    if tokenizer.mask_token is not None or "".join(model["merges"][-1]) != entry:
        raise CheckpointError(
            f"The tokenizer {name} is not laid out as CLIP's: token {mask_id}, {entry!r}, is not what its last "
            "merge makes."
        )
    vocab = {MASK_TOKEN if index == mask_id else token: index for token, index in model["vocab"].items()}
    merges: Any = [tuple(pair) for pair in model["merges"][:-1]]
    max_length = tokenizer.model_max_length
    return CLIPTokenizer(vocab=vocab, merges=merges, mask_token=MASK_TOKEN, model_max_length=max_length)
