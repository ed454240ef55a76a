"""Loading the dual encoder of a checkpoint with its processor, and its decoder where it has one."""

import os
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoConfig

from scmm.modeling_scmm import SCMMForPreTraining, SCMMModel
from scmm.processing import SCMMProcessor


Backend = Literal["torch", "onnx", "onnx-int8"]


def load_dual_encoder(
    checkpoint: str | os.PathLike, revision: str | None = None, backend: Backend = "torch"
) -> tuple[SCMMModel, SCMMProcessor]:
    """
    Loads the dual encoder of a checkpoint, in evaluation mode and on the GPU where there is one.

    Args:
        checkpoint (`str` or `os.PathLike`): folder or Hub id of an SCMM model with its processor; a training
            checkpoint will do, what only training needs is left out.
        revision (`str`, *optional*): branch, tag or commit on the Hub.
        backend (`str`, defaults to `"torch"`): what computes the embeddings. `"onnx"` and `"onnx-int8"` need the files
            of `scmm export onnx`; onnxruntime then runs them, in an [`~scmm.hub.onnx.OnnxModel`].

    Returns:
        `tuple[SCMMModel, SCMMProcessor]`

    Raises:
        ValueError: if it is not found, is of another kind, or a file of it is broken.

    Example:

    ```python
    >>> from scmm.retrieval.checkpoints import load_dual_encoder
    >>> load_dual_encoder("no/model")
    Traceback (most recent call last):
    ValueError: no/model is not a folder, and not found on the Hub: ...

    ```
    """
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    try:
        config = AutoConfig.from_pretrained(checkpoint, **options)
        if config.model_type != "scmm":
            raise ValueError(f"it is a {config.model_type!r} checkpoint, not an SCMM one.")
        if backend == "torch":
            model = SCMMModel.from_pretrained(checkpoint, **options)
        else:
            from scmm.hub.onnx import OnnxModel

            model = OnnxModel.from_pretrained(checkpoint, "int8" if backend == "onnx-int8" else "fp32", revision)
        processor = SCMMProcessor.from_pretrained(checkpoint, **options)
        # Without its files a tokenizer is not missed but made up, with an empty vocabulary.
        if len(processor.tokenizer) != config.text_config.vocab_size:
            raise ValueError(
                f"its tokenizer has {len(processor.tokenizer)} tokens, its model {config.text_config.vocab_size}."
            )
    except Exception as error:  # broken files make loaders raise whatever they stumble over, seldom with a name
        what = "cannot be loaded" if Path(checkpoint).is_dir() else "is not a folder, and not found on the Hub"
        raise ValueError(f"{checkpoint} {what}: {error}") from error
    model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
    return model, processor  # ty: ignore[invalid-explicit-return] (an OnnxModel does what an SCMMModel does)


def load_decoder(
    checkpoint: str | os.PathLike, encoder: SCMMModel, revision: str | None = None
) -> SCMMForPreTraining | None:
    """
    Loads the cross-modal decoder of a training checkpoint, around a dual encoder that is loaded already.

    Args:
        checkpoint (`str` or `os.PathLike`): folder or Hub id that `encoder` was loaded from.
        encoder ([`SCMMModel`]): the checkpoint's dual encoder.
        revision (`str`, *optional*): branch, tag or commit on the Hub.

    Returns:
        [`SCMMForPreTraining`], *optional*: in evaluation mode and on the encoder's device; `None` if the checkpoint is
        that of a dual encoder.
    """
    if SCMMForPreTraining.__name__ not in (encoder.config.architectures or ()):
        return None
    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    model = SCMMForPreTraining.from_pretrained(checkpoint, **options)
    model.scmm = encoder  # not twice in memory
    return model.to(encoder.device).eval()
