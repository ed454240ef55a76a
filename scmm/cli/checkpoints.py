"""What several commands take: a checkpoint of a model with its processor."""

from enum import StrEnum
from typing import Annotated

import typer


class Backend(StrEnum):
    """What computes embeddings: PyTorch, or onnxruntime with the files of `scmm export onnx`."""

    torch = "torch"
    onnx = "onnx"
    onnx_int8 = "onnx-int8"


Checkpoint = Annotated[str, typer.Argument(help="Folder or Hub id of an SCMM model with its processor.")]


def load_checkpoint(checkpoint: str, revision: str | None = None, backend: str = "torch"):
    """The dual encoder and its processor, on the GPU where there is one."""
    from transformers.utils import logging

    from scmm.retrieval.checkpoints import load_dual_encoder

    logging.disable_progress_bar()  # loading takes a blink; the command's own bars are what matters
    return load_dual_encoder(checkpoint, revision, backend)  # ty: ignore[invalid-argument-type]
