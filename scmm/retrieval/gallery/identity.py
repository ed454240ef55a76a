"""Which model made the embeddings of a gallery: vectors of two models must never meet."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass

import torch

from scmm.hub.onnx import OnnxModel
from scmm.modeling_scmm import SCMMModel
from scmm.processing import SCMMProcessor
from scmm.retrieval.checkpoints import Backend


@dataclass(frozen=True)
class ModelIdentity:
    """
    What tells one model from another.

    Two models are the same if their weights and their processors are, wherever they were loaded from; the name and the
    revision say where that was.

    Args:
        name (`str`): the Hub id, or the absolute path of the folder.
        revision (`str`, *optional*): the commit on the Hub; `None` for a folder.
        weights_hash (`str`): SHA-256 over name, dtype, shape and bytes of every weight, in the order of the names; of
            a model that onnxruntime runs, over its files.
        processor_hash (`str`): SHA-256 over what makes pixels of images and tokens of sentences.
        backend (`str`, defaults to `"torch"`): what computes the embeddings, `"torch"`, `"onnx"` or `"onnx-int8"`.
    """

    name: str
    revision: str | None
    weights_hash: str
    processor_hash: str
    backend: Backend = "torch"

    def __str__(self) -> str:
        revision = f" at {self.revision[:12]}" if self.revision else ""
        backend = "" if self.backend == "torch" else f"{self.backend}, "
        return (
            f"{self.name}{revision} ({backend}weights {self.weights_hash[:12]}, processor {self.processor_hash[:12]})"
        )

    def is_same_model(self, other: "ModelIdentity") -> bool:
        """Whether embeddings of both may be compared."""
        return (self.weights_hash, self.processor_hash) == (other.weights_hash, other.processor_hash)

    def to_dict(self) -> dict[str, str | None]:
        """The fields, for JSON."""
        return asdict(self)


def identify(model: SCMMModel | OnnxModel, processor: SCMMProcessor) -> ModelIdentity:
    """
    The identity of a loaded model and its processor.

    Args:
        model ([`SCMMModel`] or [`~scmm.hub.onnx.OnnxModel`]): the dual encoder.
        processor ([`SCMMProcessor`]): the processor saved with it.

    Returns:
        [`ModelIdentity`]

    Example:

    ```python
    >>> from scmm import SCMMConfig, SCMMModel, SCMMProcessor
    >>> from scmm.retrieval.gallery.identity import identify
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3)
    >>> config = SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields())
    >>> one, other = (identify(SCMMModel(config), processor) for _ in range(2))
    >>> one.is_same_model(other), one.processor_hash == other.processor_hash
    (False, True)

    ```
    """
    name = str(model.name_or_path) or "a model that was never saved"
    if os.path.isdir(name):
        name = os.path.abspath(name)
    return ModelIdentity(
        name=name,
        revision=getattr(model.config, "_commit_hash", None),
        weights_hash=_weights_hash(model),
        processor_hash=_processor_hash(processor),
        backend=backend_of(model),
    )


def backend_of(model: SCMMModel | OnnxModel) -> Backend:
    """What computes a model's embeddings."""
    if isinstance(model, OnnxModel):
        return "onnx" if model.precision == "fp32" else "onnx-int8"
    return "torch"


def _weights_hash(model: SCMMModel | OnnxModel) -> str:
    digest = hashlib.sha256()
    if isinstance(model, OnnxModel):
        # Weights of more than 2 GB lie beside the file.
        for path in sorted(path for file in model.files for path in file.parent.glob(f"{file.name}*")):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with open(path, "rb") as file:
                while block := file.read(2**24):
                    digest.update(block)
        return digest.hexdigest()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(f"{name} {weight.dtype} {tuple(weight.shape)}\n".encode())
        digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _processor_hash(processor: SCMMProcessor) -> str:
    image, tokenizer = processor.image_processor, processor.tokenizer
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    state = {
        "image": {name: getattr(image, name) for name in ("resample", "rescale_factor", "image_mean", "image_std")},
        "size": [image.size["height"], image.size["width"]],
        # Truncation and padding are left out: they are what the last call asked for.
        "tokenizer": {name: backend[name] for name in ("normalizer", "pre_tokenizer", "added_tokens", "model")},
        "max_length": tokenizer.model_max_length,
    }
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()
