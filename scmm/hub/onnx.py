"""The two towers as ONNX files, and a dual encoder that runs them with onnxruntime in place of PyTorch."""

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import cached_file

from scmm.configuration import SCMMConfig
from scmm.extras import import_extra
from scmm.modeling_scmm import SCMMModel


Precision = Literal["fp32", "int8"]

OPSET = 23  # the newest that PyTorch's exporter writes; from here on attention is one operator
TOLERANCE = 1e-4
EMBEDS = {"text_model": "text_embeds", "vision_model": "image_embeds"}


@dataclass
class ExportedTower:
    """
    A written ONNX file, and how its embeddings of random input differ from PyTorch's.

    Args:
        path (`Path`): the file.
        largest_difference (`float`): the largest absolute difference of an embedding's component.
        lowest_cosine (`float`): the lowest cosine of an embedding with PyTorch's.
    """

    path: Path
    largest_difference: float
    lowest_cosine: float


def export_onnx(model: SCMMModel, save_directory: str | os.PathLike) -> list[ExportedTower]:
    """
    Writes both towers, projection included, as ONNX files: in float32, and in int8 by onnxruntime's dynamic
    quantization of the matrix products and of the token table. The batch is of any size, captions are of any length
    that the model takes. The outputs `text_embeds` and `image_embeds` are not normalized.

    Args:
        model ([`SCMMModel`]): the dual encoder, in float32 and on the CPU; a GPU may round to less than float32.
        save_directory (`str` or `os.PathLike`):
            The files go into its sub-folder `onnx`, named as transformers.js expects them. Configuration and
            processor are not written.

    Returns:
        `list[ExportedTower]`: text and vision tower, each in float32 and int8.

    Raises:
        ExtraNotInstalledError: if the packages of the extra `onnx` are missing.
        ValueError: if the model is not in float32 or not on the CPU.
        RuntimeError: if a float32 file's embeddings are off by more than 1e-4; no file is then written.

    Example:

    ```python
    >>> import tempfile, torch
    >>> from scmm import SCMMConfig, SCMMModel
    >>> from scmm.hub.onnx import OnnxModel, export_onnx
    >>> tower = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> model = SCMMModel(SCMMConfig.from_preset("tiny", text_config=tower, vision_config=tower))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     exported = export_onnx(model, folder)
    ...     model.config.save_pretrained(folder)
    ...     onnx_model = OnnxModel.from_pretrained(folder)
    >>> [tower.path.name for tower in exported]
    ['text_model.onnx', 'text_model_int8.onnx', 'vision_model.onnx', 'vision_model_int8.onnx']
    >>> onnx_model.get_text_features(torch.tensor([[49406, 320, 49407]])).pooler_output.shape
    torch.Size([1, 128])

    ```
    """
    for package in ("onnx", "onnxruntime", "onnxscript"):
        import_extra(package, "onnx")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(f"The model is in {model.dtype} on {model.device}; export it in float32 on the CPU.")
    batch = torch.export.Dim("batch", min=1)
    tokens = torch.export.Dim("tokens", min=1, max=model.text_model.config.max_position_embeddings)
    dynamic_shapes = {
        "text_model": {"input_ids": {0: batch, 1: tokens}, "attention_mask": {0: batch, 1: tokens}},
        "vision_model": {"pixel_values": {0: batch}},
    }
    folder = Path(save_directory, "onnx")
    folder.mkdir(parents=True, exist_ok=True)
    exported = []
    with tempfile.TemporaryDirectory(dir=folder) as scratch, _evaluating(model):
        for name, tower in {"text_model": _TextTower(model), "vision_model": _VisionTower(model)}.items():
            inputs = _random_inputs(model)[name]
            with torch.inference_mode():
                expected = tower(**inputs)
            file, int8_file = Path(scratch, f"{name}.onnx"), Path(scratch, f"{name}_int8.onnx")
            _export(tower, inputs, dynamic_shapes[name], EMBEDS[name], file)
            result = _compare(file, inputs, expected)
            if not result.largest_difference <= TOLERANCE:
                raise RuntimeError(
                    f"{name}: the embeddings of ONNX and PyTorch differ by {result.largest_difference:.1e}, more than "
                    f"{TOLERANCE:.0e}."
                )
            _quantize(file, int8_file)
            exported += [result, _compare(int8_file, inputs, expected)]
        for file in Path(scratch).iterdir():
            file.replace(folder / file.name)
    return [replace(result, path=folder / result.path.name) for result in exported]


class OnnxModel(nn.Module):
    """
    A dual encoder whose towers onnxruntime computes, on the CPU. It takes the place of an [`SCMMModel`] in
    [`~scmm.retrieval.encode.encode_images`], [`~scmm.retrieval.encode.encode_captions`] and all that builds on them.

    Args:
        config ([`SCMMConfig`]): the configuration of the exported model.
        text_model, vision_model (`str` or `os.PathLike`): the towers' ONNX files.
        precision (`str`, defaults to `"fp32"`):
            `"fp32"` or `"int8"`. In int8 one scale stands for a whole batch, so an embedding depends a little on what
            is beside it: [`Gallery`] embeds one at a time.
        name_or_path (`str`, defaults to `""`): folder or Hub id that the files are from.

    Example:

    ```python
    >>> from scmm import SCMMProcessor
    >>> from scmm.hub.onnx import OnnxModel
    >>> from scmm.retrieval.encode import encode_captions
    >>> model = OnnxModel.from_pretrained("runs/demo/onnx", "int8")  # doctest: +SKIP
    >>> processor = SCMMProcessor.from_pretrained("runs/demo/onnx")  # doctest: +SKIP
    >>> encode_captions(model, processor, ["a man in a red coat"])  # doctest: +SKIP

    ```
    """

    def __init__(
        self,
        config: SCMMConfig,
        text_model: str | os.PathLike,
        vision_model: str | os.PathLike,
        precision: Precision = "fp32",
        name_or_path: str = "",
    ):
        super().__init__()
        self.config = config
        self.files = (Path(text_model), Path(vision_model))
        self.precision: Precision = precision
        self.name_or_path = name_or_path
        self.text_session, self.vision_session = _session(text_model), _session(vision_model)

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | os.PathLike, precision: Precision = "fp32", revision: str | None = None
    ) -> "OnnxModel":
        """
        Loads what [`export_onnx`] wrote.

        Args:
            name_or_path (`str` or `os.PathLike`): folder or Hub id that holds `config.json` and the folder `onnx`.
            precision (`str`, defaults to `"fp32"`): `"fp32"` or `"int8"`.
            revision (`str`, *optional*): branch, tag or commit on the Hub.

        Raises:
            ExtraNotInstalledError: if onnxruntime is not installed.
            FileNotFoundError: if there are no such ONNX files.
        """
        import_extra("onnxruntime", "onnx")
        files = []
        for tower in EMBEDS:
            name = f"onnx/{tower}.onnx" if precision == "fp32" else f"onnx/{tower}_{precision}.onnx"
            file = cached_file(name_or_path, name, revision=revision, _raise_exceptions_for_missing_entries=False)
            if file is None:
                raise FileNotFoundError(
                    f"{name} is missing; write it with: scmm export onnx {name_or_path} OUTPUT_DIR"
                )
            files.append(file)
        config = SCMMConfig.from_pretrained(name_or_path, revision=revision or "main")
        return cls(config, *files, precision=precision, name_or_path=str(name_or_path))

    @property
    def device(self) -> torch.device:
        """`torch.device`: where inputs have to be, always the CPU."""
        return torch.device("cpu")

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> BaseModelOutputWithPooling:
        """
        Embeds captions as [`SCMMModel.get_text_features`] does; the output has a `pooler_output` and nothing else.

        Args:
            input_ids (`torch.LongTensor` of shape `(captions, tokens)`): token ids from the processor.
            attention_mask (`torch.Tensor` of shape `(captions, tokens)`, *optional*): 0 marks padding.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        inputs = {"input_ids": input_ids, "attention_mask": mask}
        return BaseModelOutputWithPooling(pooler_output=_run(self.text_session, inputs))

    def get_image_features(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
        """
        Embeds images as [`SCMMModel.get_image_features`] does; the output has a `pooler_output` and nothing else.

        Args:
            pixel_values (`torch.Tensor` of shape `(images, 3, height, width)`): normalized pixels, float32.
        """
        return BaseModelOutputWithPooling(pooler_output=_run(self.vision_session, {"pixel_values": pixel_values}))


class _TextTower(nn.Module):
    def __init__(self, model: SCMMModel):
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.model.get_text_features(input_ids, attention_mask).pooler_output


class _VisionTower(nn.Module):
    def __init__(self, model: SCMMModel):
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.get_image_features(pixel_values).pooler_output


def _random_inputs(model: SCMMModel) -> dict[str, dict[str, Tensor]]:
    """Three captions and images, one caption padded: the exporter takes a dimension of 1 for a constant."""
    generator = torch.Generator().manual_seed(0)
    text, vision = model.text_model.config, model.vision_model.config
    length = min(16, text.max_position_embeddings)
    input_ids = torch.randint(text.vocab_size, (3, length), generator=generator)
    attention_mask = torch.ones_like(input_ids)
    input_ids[:, -1] = input_ids[0, -2] = text.eos_token_id
    attention_mask[0, -1] = 0
    pixel_values = torch.randn(3, vision.num_channels, *vision.image_size, generator=generator)
    return {
        "text_model": {"input_ids": input_ids, "attention_mask": attention_mask},
        "vision_model": {"pixel_values": pixel_values},
    }


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Generator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    """Without the exporter's remarks on torchvision, which we do not need, and on its own use of PyTorch."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"copyreg|torch\.onnx")
        registration.disabled = True
        try:
            yield
        finally:
            registration.disabled = False


def _export(tower: nn.Module, inputs: dict[str, Tensor], dynamic_shapes: dict, output: str, path: Path) -> None:
    with _quiet():
        torch.onnx.export(
            tower.eval(),
            kwargs=inputs,
            f=path,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=dynamic_shapes,
            opset_version=OPSET,
            external_data=False,  # the weights in the file itself; beyond 2 GB they go beside it all the same
            dynamo=True,
            verbose=False,
        )


def _quantize(source: Path, target: Path) -> None:
    from onnxruntime.quantization import quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process

    prepared = target.with_suffix(".prepared")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    # Not the convolution of the patches: in integers it is slower, and a fiftieth of the work.
    quantize_dynamic(prepared, target, op_types_to_quantize=["MatMul", "Gather"])
    prepared.unlink()


def _compare(path: Path, inputs: dict[str, Tensor], expected: Tensor) -> ExportedTower:
    embeds = _run(_session(path), inputs)
    cosine = F.cosine_similarity(embeds, expected).min().item()
    return ExportedTower(path, (embeds - expected).abs().max().item(), cosine)


def _session(path: str | os.PathLike):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as many as PyTorch was given
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _run(session, inputs: dict[str, Tensor]) -> Tensor:
    (embeds,) = session.run(None, {name: tensor.cpu().numpy() for name, tensor in inputs.items()})
    return torch.from_numpy(embeds)
