"""What several commands take: a checkpoint of a model with its processor."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


Checkpoint = Annotated[str, typer.Argument(help="Folder or Hub id of an SCMM model with its processor.")]


class Backend(StrEnum):
    """What computes the embeddings: PyTorch, or onnxruntime with the files of `scmm export onnx`."""

    torch = "torch"
    onnx = "onnx"
    onnx_int8 = "onnx-int8"


BackendOption = Annotated[Backend, typer.Option(help="onnx and onnx-int8 need what scmm export onnx writes.")]


def load_checkpoint(checkpoint: str, backend: Backend = Backend.torch):
    """The dual encoder and its processor, on the GPU where there is one."""
    import torch
    from transformers import AutoConfig
    from transformers.utils import logging

    from scmm.modeling_scmm import SCMMModel
    from scmm.processing import SCMMProcessor

    logging.disable_progress_bar()  # loading takes a blink; the command's own bars are what matters
    try:
        config = AutoConfig.from_pretrained(checkpoint)
        if config.model_type != "scmm":
            raise ValueError(f"it is a {config.model_type!r} checkpoint, not an SCMM one.")
        if backend == Backend.torch:
            model = SCMMModel.from_pretrained(checkpoint)
        else:
            from scmm.hub.onnx import OnnxModel

            model = OnnxModel.from_pretrained(checkpoint, "fp32" if backend == Backend.onnx else "int8")
        processor = SCMMProcessor.from_pretrained(checkpoint)
        # Without its files a tokenizer is not missed but made up, with an empty vocabulary.
        if len(processor.tokenizer) != config.text_config.vocab_size:
            raise ValueError(
                f"its tokenizer has {len(processor.tokenizer)} tokens, its model {config.text_config.vocab_size}."
            )
    except Exception as error:  # broken files make loaders raise whatever they stumble over, seldom with a name
        what = "cannot be loaded" if Path(checkpoint).is_dir() else "is not a folder, and not found on the Hub"
        raise ValueError(f"{checkpoint} {what}: {error}") from error
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval(), processor
