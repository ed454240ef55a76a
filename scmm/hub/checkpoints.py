"""Checkpoints of other projects into SCMM: Hugging Face's and OpenAI's CLIP, IRRA, RDE and TBPS-CLIP."""

import math
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPImageProcessorPil

from scmm.configuration import SCMMConfig
from scmm.hub.clip_tokenizer import load_clip_tokenizer
from scmm.hub.families import Family, num_layers, recognize, target_names
from scmm.hub.state_dicts import CheckpointError, list_names, read_state_dict
from scmm.modeling_scmm import SCMMModel, resize_position_embedding
from scmm.processing import SCMMProcessor


HEAD_SIZE = 64  # in all of these models, which do not store the number of heads
DEFAULT_IMAGE_SIZE = (384, 128)
DEFAULT_TOKENIZER = "openai/clip-vit-base-patch16"
FILE_SUFFIXES = (".pt", ".pth", ".tar", ".bin", ".ckpt", ".safetensors")


@dataclass
class ConversionReport:
    """
    What [`convert_checkpoint`] did.

    Args:
        source (`str`): where the weights came from.
        output_dir (`Path`): the folder that was written.
        family (`str`): what the source was recognized as.
        config (`SCMMConfig`): the configuration of the result.
        num_converted (`int`): tensors of the source that were converted.
        left_out (`dict[str, list[str]]`): the source's keys that were left out, by the reason.
        notes (`list[str]`): what else was decided on the way.
        warnings (`list[str]`): what to know before the result is compared with published figures.
    """

    source: str
    output_dir: Path
    family: str
    config: SCMMConfig
    num_converted: int
    left_out: dict[str, list[str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def convert_checkpoint(
    source: str | os.PathLike,
    output_dir: str | os.PathLike,
    *,
    image_size: tuple[int, int] | None = None,
    stride: int | None = None,
    tokenizer: str | os.PathLike | None = None,
) -> ConversionReport:
    """
    Converts a checkpoint of CLIP, IRRA, RDE or TBPS-CLIP into a folder of an SCMM model and its processor.

    What the source is, its keys tell; its dimensions, the shapes. Weights become float32. The features of the result
    equal the source's own, from the same pixels and token ids: the result's image processor resizes and normalizes as
    the source's evaluation does, its tokenizer gives the same ids, with the mask token of IRRA, RDE and TBPS-CLIP in
    the place of the last BPE entry. Three things that their code does differently do not touch features, or seldom do:

    - they pad with id 0, which `pad_token_id` records; the tokenizer pads with the end token, because id 0 is also the
      character `!`. Padding follows the end token that is pooled, and the tower is causal, so it has no influence;
    - their logit scale is a constant, not a weight, in IRRA and RDE: 50;
    - they repair captions with ftfy and resolve HTML entities before they tokenize. SCMM does neither.

    A pretrained CLIP is adapted to person crops as by [`SCMMModel.from_clip_pretrained`]: the position table is
    resized, and a mask token appended. Its features equal the source's at `image_size` of the source. OpenAI's layout
    does not tell the activation, which is taken to be OpenAI's own, `quick_gelu`.

    Args:
        source (`str` or `os.PathLike`):
            A Hugging Face CLIP model's folder or Hub id, or the file of a state dict: OpenAI's CLIP (a TorchScript
            archive or a plain state dict), IRRA's or RDE's `best.pth`, TBPS-CLIP's `checkpoint_best.pth`, each also as
            safetensors.
        output_dir (`str` or `os.PathLike`):
            Folder to write, which must not exist or be empty. It appears at once, when all is done.
        image_size (`tuple[int, int]`, *optional*):
            Height and width in pixels. By default 384 and 128, for TBPS-CLIP the square that its position table tells.
        stride (`int`, *optional*):
            Pixels from one patch to the next. By default the one that agrees with image size and position table; for a
            pretrained CLIP, that of tiles.
        tokenizer (`str` or `os.PathLike`, *optional*):
            Folder or Hub id of CLIP's tokenizer. By default the source's own where it is a Hugging Face model,
            otherwise `openai/clip-vit-base-patch16`.

    Returns:
        [`ConversionReport`]

    Raises:
        CheckpointError: If the source is not recognized, has unknown keys, lacks some, contradicts `image_size` or
            `stride`, does not fit the tokenizer, or needs more than `weights_only=True` loads.
        ValueError: If `stride` is below 1, or a Hugging Face model is no CLIP or lacks weights.
        OSError: If a file is not found, or `output_dir` is not empty.
        `huggingface_hub.errors.StrictDataclassError`: If the patches of a pretrained CLIP do not fit `image_size`.

    Example:

    ```python
    >>> import pathlib, tempfile
    >>> from transformers import CLIPConfig, CLIPModel
    >>> from scmm import SCMMModel, SCMMProcessor
    >>> from scmm.hub.checkpoints import convert_checkpoint
    >>> processor = SCMMProcessor.from_captions(["a man in a red shirt"] * 3)
    >>> small = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 1}
    >>> text = {**small, "vocab_size": len(processor.tokenizer) - 1, "eos_token_id": processor.tokenizer.eos_token_id}
    >>> clip = CLIPModel(CLIPConfig(text_config=text, vision_config={**small, "image_size": 32, "patch_size": 8}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     source, output = pathlib.Path(folder, "clip"), pathlib.Path(folder, "scmm")
    ...     clip.save_pretrained(source)
    ...     _ = processor.save_pretrained(source)
    ...     report = convert_checkpoint(source, output, image_size=(64, 32))
    ...     model, processor = SCMMModel.from_pretrained(output), SCMMProcessor.from_pretrained(output)
    >>> report.family, model.config.vision_config.grid_size
    ("Hugging Face's CLIP", (8, 4))

    ```
    """
    if stride is not None and stride < 1:
        raise ValueError(f"stride must be at least 1 pixel, got {stride}.")
    source, output_dir = str(source), Path(output_dir)
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} already exists and is not an empty folder: choose another.")
    if Path(source).is_file():
        name = str(tokenizer or DEFAULT_TOKENIZER)
        model, processor, report = _convert_file(source, output_dir, image_size, stride, name)
    elif source.endswith(FILE_SUFFIXES) or (Path(source).is_dir() and not Path(source, "config.json").is_file()):
        raise FileNotFoundError(f"{source} is neither a checkpoint file nor the folder of a Hugging Face model.")
    else:
        name = str(tokenizer or source)
        model, processor, report = _convert_hugging_face(source, output_dir, image_size, stride, name)

    output_dir.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output_dir.parent, prefix=f".{output_dir.name}-") as folder:
        unfinished = Path(folder, "unfinished")
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        if output_dir.exists():
            output_dir.rmdir()
        unfinished.rename(output_dir)
    return report


def _convert_hugging_face(
    source: str, output_dir: Path, image_size: tuple[int, int] | None, stride: int | None, tokenizer: str
) -> tuple[SCMMModel, SCMMProcessor, ConversionReport]:
    size = image_size or DEFAULT_IMAGE_SIZE
    try:
        model = SCMMModel.from_clip_pretrained(source, image_size=size, vision_config={"patch_stride": stride})
    except OSError as error:
        what = "cannot be loaded" if Path(source).is_dir() else "is neither a file nor a folder, nor found on the Hub"
        raise CheckpointError(f"{source} {what}: {error}") from error
    text_config = model.config.text_config
    length = text_config.max_position_embeddings
    loaded = load_clip_tokenizer(tokenizer, text_config.vocab_size - 1, length, mask_is_new=True)
    image_processor = SCMMProcessor.from_clip_pretrained(source, image_size=size, max_length=length).image_processor
    report = ConversionReport(source, output_dir, "Hugging Face's CLIP", model.config, len(model.state_dict()))
    report.notes.append("as from_clip_pretrained: the position table at the new grid, a row for the mask token")
    return model, SCMMProcessor(image_processor, loaded), report


def _convert_file(
    source: str, output_dir: Path, image_size: tuple[int, int] | None, stride: int | None, tokenizer: str
) -> tuple[SCMMModel, SCMMProcessor, ConversionReport]:
    state = read_state_dict(source)
    family = recognize(state, source)
    left_out = family.find_left_out(state)
    for key in [key for keys in left_out.values() for key in keys]:
        del state[key]
    targets = target_names(family, state)
    _check_keys(state, targets, source)
    config = _infer_config(family, state, image_size, stride, source)
    text_config: Any = config.text_config
    vision_config: Any = config.vision_config
    report = ConversionReport(source, output_dir, family.name, config, len(state), left_out)
    if family.warning:
        report.warnings.append(family.warning)
    # The tokenizer may be missing: better known before the work than after it.
    num_embeddings = len(state[f"{family.text_prefix}token_embedding.weight"])
    length = text_config.max_position_embeddings
    loaded = load_clip_tokenizer(tokenizer, num_embeddings, length, mask_is_new=family.is_clip)

    dtypes = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()})
    if dtypes != ["float32"]:
        report.notes.append(f"weights: {' and '.join(dtypes)}, now float32")
    weights = _rename(state, targets)
    if family.is_clip:
        report.notes += _adapt_clip(weights, vision_config.grid_size)
    if family.constant_logit_scale is not None:
        weights["logit_scale"] = torch.tensor(config.logit_scale_init_value)
        report.notes.append(f"logit scale: {family.constant_logit_scale:g}, the constant of its code")
    report.notes.append(f"images: {family.resample.name.lower()} resizing, as in its evaluation")
    _check_shapes(weights, config, source)
    model = SCMMModel.from_pretrained(None, config=config, state_dict=weights)

    height, width = vision_config.image_size
    image_processor = CLIPImageProcessorPil(
        size={"height": height, "width": width},
        do_center_crop=False,
        resample=family.resample,
        image_mean=list(family.image_mean),
        image_std=list(family.image_std),
    )
    return model, SCMMProcessor(image_processor, loaded), report


def _check_keys(state: dict[str, torch.Tensor], targets: dict[str, list[str]], source: str) -> None:
    missing, unknown = targets.keys() - state.keys(), state.keys() - targets.keys()
    if missing or unknown:
        parts = [f"it lacks {list_names(missing)}"] if missing else []
        parts += [f"it has unknown keys: {list_names(unknown)}"] if unknown else []
        raise CheckpointError(f"{source} cannot be converted: {'; '.join(parts)}.")
    for key, tensor in state.items():
        if not tensor.is_floating_point() or tensor.layout != torch.strided:
            raise CheckpointError(f"{source}: {key} is {tensor.dtype}, not a dense tensor of floating-point numbers.")
        if not tensor.isfinite().all():
            raise CheckpointError(f"{source}: {key} has values that are not finite.")


def _infer_config(
    family: Family,
    state: dict[str, torch.Tensor],
    image_size: tuple[int, int] | None,
    stride: int | None,
    source: str,
) -> SCMMConfig:
    """The configuration that the shapes tell, and where they do not, `image_size` and `stride`."""

    def shape(key: str, dimensions: int) -> torch.Size:
        if state[key].ndim != dimensions:
            raise CheckpointError(
                f"{source}: {key} has the shape {list(state[key].shape)}, not {dimensions} dimensions."
            )
        return state[key].shape

    def tower(prefix: str, width: int) -> dict[str, int]:
        if width % HEAD_SIZE:
            raise CheckpointError(
                f"{source}: a width of {width} is no multiple of the {HEAD_SIZE} channels of a head."
            )
        return {
            "hidden_size": width,
            "intermediate_size": shape(f"{prefix}transformer.resblocks.0.mlp.c_fc.weight", 2)[0],
            "num_hidden_layers": num_layers(state, prefix),
            "num_attention_heads": width // HEAD_SIZE,
        }

    text, vision = family.text_prefix, family.vision_prefix
    num_embeddings, text_width = shape(f"{text}token_embedding.weight", 2)
    vision_width, num_channels, patch_size, _ = shape(f"{vision}conv1.weight", 4)
    num_patches = shape(f"{vision}positional_embedding", 2)[0] - 1
    if family.is_clip:
        if math.isqrt(num_patches) ** 2 != num_patches:
            raise CheckpointError(f"{source}: its position table has {num_patches} patches, which make no square.")
        size = image_size or DEFAULT_IMAGE_SIZE
    else:
        size, stride = _fit_grid(family, num_patches, patch_size, image_size, stride, source)
    text_tower = tower(text, text_width)
    config = SCMMConfig(
        text_config={
            **text_tower,
            "vocab_size": num_embeddings + family.is_clip,
            "max_position_embeddings": shape(f"{text}positional_embedding", 2)[0],
            "bos_token_id": num_embeddings - 2,
            "eos_token_id": num_embeddings - 1,
            "pad_token_id": 0,
            "mask_token_id": num_embeddings if family.is_clip else num_embeddings - 3,
        },
        vision_config={
            **tower(vision, vision_width),
            "num_channels": num_channels,
            "image_size": list(size),
            "patch_size": patch_size,
            "patch_stride": stride,
        },
        decoder_config={name: text_tower[name] for name in text_tower if name != "num_hidden_layers"},
        projection_dim=shape(f"{text}text_projection", 2)[1],
    )
    if family.constant_logit_scale is not None:
        config.logit_scale_init_value = math.log(family.constant_logit_scale)
    return config


def _fit_grid(
    family: Family,
    num_patches: int,
    patch_size: int,
    image_size: tuple[int, int] | None,
    stride: int | None,
    source: str,
) -> tuple[tuple[int, int], int | None]:
    """The image size and the stride, `None` for tiles, with which patches fill a position table that is kept."""
    side = math.isqrt(num_patches)
    if image_size is None and family.takes_squares and side**2 == num_patches:
        image_size = (side * patch_size, side * patch_size)
    height, width = image_size or DEFAULT_IMAGE_SIZE

    def grid(stride: int) -> tuple[int, int]:
        return (height - patch_size) // stride + 1, (width - patch_size) // stride + 1

    fitting = [
        number
        for number in ([stride] if stride else range(patch_size, 0, -1))
        if min(height, width) >= patch_size and math.prod(grid(number)) == num_patches
    ]
    if not fitting:
        rows, columns = grid(stride or patch_size)
        raise CheckpointError(
            f"{source}: its position table has {num_patches} patches, but an image of {height} x {width} pixels has "
            f"{rows} x {columns} = {rows * columns} patches of {patch_size} pixels with a stride of "
            f"{stride or patch_size}{'' if stride else ', and no smaller stride fits'}. Give the --image-size HEIGHT "
            "WIDTH and the --stride that it was trained with."
        )
    if len(fitting) > 1 and fitting[0] != patch_size:
        raise CheckpointError(
            f"{source}: on images of {height} x {width} pixels the strides {', '.join(map(str, fitting))} all give "
            f"the {num_patches} patches of its position table. Say which with --stride."
        )
    is_tiled = fitting[0] == patch_size and not (height % patch_size or width % patch_size)
    return (height, width), None if is_tiled else fitting[0]


def _rename(state: dict[str, torch.Tensor], targets: dict[str, list[str]]) -> dict[str, torch.Tensor]:
    weights = {}
    for key, names in targets.items():
        tensor = state[key].float()
        if key.endswith(("text_projection", "visual.proj")):  # stored input-major, unlike a Linear's weight
            tensor = tensor.T
        for name, part in zip(names, tensor.chunk(len(names)) if len(names) > 1 else [tensor], strict=True):
            weights[name] = part.contiguous()
    return weights


def _adapt_clip(weights: dict[str, torch.Tensor], grid: tuple[int, int]) -> list[str]:
    """Resizes the position table and appends a mask token, as `from_clip_pretrained` does. Says what it did."""
    positions = "vision_model.embeddings.position_embedding.weight"
    tokens = "text_model.embeddings.token_embedding.weight"
    side = math.isqrt(len(weights[positions]) - 1)
    weights[positions] = resize_position_embedding(weights[positions], (side, side), grid)
    weights[tokens] = torch.cat([weights[tokens], weights[tokens].mean(0, keepdim=True)])
    notes = ["mask token: a new row, the mean of the others"]
    if grid != (side, side):
        notes.append(f"position table: resized from {side} x {side} to {grid[0]} x {grid[1]} patches")
    return notes


def _check_shapes(weights: dict[str, torch.Tensor], config: SCMMConfig, source: str) -> None:
    with torch.device("meta"):
        expected = SCMMModel(config).state_dict()
    wrong = [
        f"{name} {list(weights[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if weights[name].shape != tensor.shape
    ]
    if wrong:
        raise CheckpointError(f"{source}: shapes contradict each other: {list_names(wrong)}.")
