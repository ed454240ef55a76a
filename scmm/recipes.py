"""Recipes: YAML files of data, model and training arguments, and the run that they describe."""

import contextlib
import dataclasses
import difflib
import math
import os
from collections.abc import Collection, Sequence
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import yaml
from datasets import Dataset, DatasetDict
from huggingface_hub.dataclasses import type_validator
from safetensors import SafetensorError
from transformers import AutoConfig, HfArgumentParser, set_seed
from transformers.utils import logging

from scmm.caption_quality import CaptionQuality
from scmm.configuration import SCMMConfig
from scmm.data.benchmarks import load_benchmark
from scmm.data.noise import count_other_person, noise_permutation, permute_captions, read_noise_file
from scmm.modeling_scmm import SCMMForPreTraining
from scmm.processing import SCMMProcessor
from scmm.trainer import SCMMTrainer
from scmm.training_arguments import SCMMTrainingArguments


logger = logging.get_logger(__name__)


class RecipeError(ValueError):
    """A recipe cannot be used; the message names the file and the key."""


@dataclass
class DataArguments:
    """Which data to train on."""

    dataset: str = field(metadata={"help": "cuhk-pedes, icfg-pedes, rstpreid, paperdoll, json or folder."})
    data_root: str = field(metadata={"help": "The folder that contains the data set's own folder; of json the file."})
    eval_split: str = field(default="val", metadata={"help": "The split that selects the best checkpoint."})
    hold_out_identities: int = field(
        default=0, metadata={"help": "Training identities to make a validation split of, for a set without one."}
    )
    fields: dict | None = field(
        default=None, metadata={"help": "Of json and folder: which key of a record holds what."}
    )
    image_root: str | None = field(default=None, metadata={"help": "Of json and folder: the folder of the images."})
    noise_ratio: float = field(
        default=0.0, metadata={"help": "Share of training captions that change places, drawn by the seed."}
    )
    noise_file: str | None = field(
        default=None, metadata={"help": "Instead: a .npy file of one permutation of the training captions."}
    )

    def __post_init__(self):
        if not 0 <= self.noise_ratio <= 1:
            raise ValueError(f"noise_ratio must lie in [0, 1], got {self.noise_ratio}")
        if self.noise_ratio and self.noise_file is not None:
            raise ValueError("give either noise_ratio or noise_file: the file says by itself how much it moves")


@dataclass
class ModelArguments:
    """Which model to start from: a preset with random weights, or a CLIP or SCMM checkpoint."""

    preset: str | None = field(default=None, metadata={"help": "tiny or base, with random weights."})
    model_name_or_path: str | None = field(default=None, metadata={"help": "Folder or Hub id of CLIP or SCMM."})
    image_size: list[int] | None = field(default=None, metadata={"help": "Height and width in pixels."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens at which a caption is cut."})
    decoder_layers: int | None = field(default=None, metadata={"help": "Layers of the decoder."})
    quality_measure: str = field(
        default="information", metadata={"help": "information, length, distinct or constant."}
    )

    temperature: float | None = field(
        default=None, metadata={"help": "What cosines are divided by at the start; null for the checkpoint's."}
    )

    def __post_init__(self):
        if self.temperature is not None and not 0.01 <= self.temperature <= 1:
            raise ValueError(f"temperature must lie in [0.01, 1], got {self.temperature}")
        if (self.preset is None) == (self.model_name_or_path is None):
            raise ValueError("give either preset or model_name_or_path")
        if self.image_size is not None and len(self.image_size) != 2:
            raise ValueError(f"image_size is [height, width], got {self.image_size}")


Recipe = tuple[DataArguments, ModelArguments, SCMMTrainingArguments]


def parse_recipe(values: dict[str, Any], source: str = "recipe") -> Recipe:
    """
    Checks the values of a recipe.

    Args:
        values (`dict[str, Any]`): keys are the fields of [`DataArguments`], [`ModelArguments`] and
            [`SCMMTrainingArguments`].
        source (`str`, *optional*): where the values come from, for messages.

    Returns:
        `tuple[DataArguments, ModelArguments, SCMMTrainingArguments]`

    Raises:
        RecipeError: if a key is unknown or missing, or a value is of the wrong type or out of its range.

    Example:

    ```python
    >>> from scmm.recipes import parse_recipe
    >>> data, model, args = parse_recipe(
    ...     {"dataset": "paperdoll", "data_root": "data", "preset": "tiny", "output_dir": "runs/x", "use_cpu": True}
    ... )
    >>> args.sew_weight
    4.0

    ```
    """
    groups = (DataArguments, ModelArguments, SCMMTrainingArguments)
    types = {}
    for group in groups:
        hints = get_type_hints(group)
        types.update({field.name: hints[field.name] for field in dataclasses.fields(group) if field.init})
    for key in values:
        if key not in types:
            raise RecipeError(f"{source}: unknown key {key!r}.{_did_you_mean(str(key), types)}")
    for required in dataclasses.fields(DataArguments):
        if required.default is MISSING and required.name not in values:
            raise RecipeError(f"{source}: the key {required.name!r} is missing.")
    values = {key: _typed(key, value, types[key], source) for key, value in values.items()}
    try:
        return HfArgumentParser(groups).parse_dict(values)  # ty: ignore
    except (TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if values.get("bf16") and "bf16" in reason:
            reason = "bf16 needs a GPU that has it. Without one, lay a YAML file with `bf16: false` over the recipe."
        raise RecipeError(f"{source}: {reason}") from None


def read_recipe(*paths: str | os.PathLike, **overrides: Any) -> Recipe:
    """
    Reads a recipe from a YAML file, or from several.

    Args:
        *paths (`str` or `os.PathLike`): the files; the values of a later one replace those of the earlier ones.
        **overrides: values that replace those of the files; `None` leaves the files'.

    Returns:
        As [`parse_recipe`].

    Raises:
        RecipeError: if a file is not YAML, or as in [`parse_recipe`].
        OSError: if a file cannot be read.

    Example:

    ```python
    >>> import tempfile, pathlib
    >>> from scmm.recipes import read_recipe
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "mine.yaml")
    ...     _ = path.write_text("dataset: paperdoll\\ndata_root: data\\npreset: tiny\\noutput_dir: x\\nuse_cpu: true")
    ...     data, model, args = read_recipe(path, seed=3)
    >>> args.seed
    3

    ```
    """
    values: dict[str, Any] = {}
    for path in paths:
        values.update(_read_yaml(Path(path)))
    values.update({name: value for name, value in overrides.items() if value is not None})
    return parse_recipe(values, source=recipe_name(paths))


def recipe_name(paths: Sequence[str | os.PathLike]) -> str:
    """How a recipe of one or several files is called in messages and results."""
    return " + ".join(str(path) for path in paths)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # of an impossible date, say, or of bytes that are no UTF-8
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must be a list of `key: value` lines.")
    return values


def build_trainer(recipe: Recipe) -> tuple[SCMMTrainer, DatasetDict]:
    """
    Loads the data and builds the processor, the model and the trainer of a recipe.

    Args:
        recipe: what [`read_recipe`] returned.

    Returns:
        `tuple[SCMMTrainer, DatasetDict]`: the trainer, ready for `train()`, and all splits.

    Raises:
        RecipeError, BenchmarkError, OSError: if data or model cannot be loaded.
    """
    data, model_args, args = recipe
    splits = load_benchmark(
        data.dataset,
        data.data_root,
        fields=data.fields,
        image_root=data.image_root,
        hold_out_identities=data.hold_out_identities,  # by one seed, whatever the run's: runs are selected alike
    )
    train_split, eval_split = splits["train"], splits[data.eval_split]
    if data.noise_ratio or data.noise_file is not None:
        train_split = splits["train"] = _add_noise(train_split, data, args)
    captions = [caption for captions in train_split["captions"] for caption in captions]
    set_seed(args.seed)
    processor, model = _build_model(model_args, args, captions, identities=len(set(train_split["person_id"])))
    if model_args.temperature is not None:
        model.scmm.logit_scale.data.fill_(-math.log(model_args.temperature))
    trainer = SCMMTrainer(model, args, train_split, eval_split, processing_class=processor)
    return trainer, splits


def _add_noise(train: Dataset, data: DataArguments, args: SCMMTrainingArguments) -> Dataset:
    num_captions = sum(map(len, train["captions"][:]))
    if data.noise_file is not None:
        permutation = read_noise_file(data.noise_file, num_captions)
    else:
        permutation = noise_permutation(num_captions, data.noise_ratio, args.seed)
    if args.should_log:
        moved, other = int((permutation != np.arange(num_captions)).sum()), count_other_person(train, permutation)
        logger.warning(
            f"Noisy correspondence: of {num_captions} training captions {moved} stand beside another pair's image, "
            f"{other} ({other / max(num_captions, 1):.1%}) beside another person's."
        )
    return permute_captions(train, permutation)


def _build_model(
    model_args: ModelArguments, args: SCMMTrainingArguments, captions: list[str], identities: int
) -> tuple[SCMMProcessor, SCMMForPreTraining]:
    overrides: dict[str, Any] = {"num_identities": identities if args.id_weight > 0 else 0}
    if model_args.decoder_layers is not None:
        overrides["decoder_config"] = {"num_hidden_layers": model_args.decoder_layers}
    if model_args.preset is not None:
        size: Any = model_args.image_size or SCMMConfig.from_preset(model_args.preset).vision_config.image_size  # ty: ignore
        processor = SCMMProcessor.from_captions(
            captions,
            image_size=tuple(size),
            max_length=model_args.max_length or 77,
            quality_measure=model_args.quality_measure,  # ty: ignore[invalid-argument-type]
        )
        overrides["text_config"] = processor.text_config_fields()
        overrides["vision_config"] = {"image_size": list(size)}
        return processor, SCMMForPreTraining(SCMMConfig.from_preset(model_args.preset, **overrides))

    source = str(model_args.model_name_or_path)
    try:
        processor, model = _load_model(source, model_args, overrides)
    except (OSError, ValueError, SafetensorError) as error:  # these seldom name the checkpoint
        raise RecipeError(f"model_name_or_path {source} cannot be used: {error}") from error
    # Fine-tuning fits the quality on its own captions: margins belong to the data that are trained on.
    processor.caption_quality = CaptionQuality(model_args.quality_measure).fit(captions)  # ty: ignore
    return processor, model


def _load_model(
    source: str, model_args: ModelArguments, overrides: dict[str, Any]
) -> tuple[SCMMProcessor, SCMMForPreTraining]:
    config = AutoConfig.from_pretrained(source)
    if config.model_type == "clip":
        longest = config.text_config.max_position_embeddings
        if model_args.max_length is not None and model_args.max_length > longest:
            raise ValueError(f"it takes {longest} tokens, so that max_length cannot be {model_args.max_length}.")
        size: Any = tuple(model_args.image_size or (384, 128))
        processor = SCMMProcessor.from_clip_pretrained(source, image_size=size, max_length=model_args.max_length)
        return processor, SCMMForPreTraining.from_clip_pretrained(source, image_size=size, **overrides)
    if config.model_type != "scmm":
        raise ValueError(f"it is a {config.model_type!r} checkpoint; expected CLIP or SCMM.")
    if model_args.image_size is not None or model_args.max_length is not None:
        raise ValueError("it is an SCMM checkpoint, whose image_size and max_length cannot be changed.")
    has_other_people = config.num_identities != overrides["num_identities"]  # their classifier starts anew
    for name, value in overrides.items():
        target, values = (getattr(config, name), value) if isinstance(value, dict) else (config, {name: value})
        for key, item in values.items():
            setattr(target, key, item)
    processor = SCMMProcessor.from_pretrained(source)
    model = SCMMForPreTraining.from_pretrained(source, config=config, ignore_mismatched_sizes=has_other_people)
    return processor, model


def _typed(key: str, value: Any, expected: Any, source: str) -> Any:
    """Checks a value's type, which `parse_dict` does not; a number may be written as 1 or as 1e-4."""
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    kinds = get_args(expected) or (expected,)
    if float in kinds and str not in kinds:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str):  # to YAML, 1e-4 without a point is text
            with contextlib.suppress(ValueError):
                return float(value)
    try:
        type_validator(key, value, expected)
    except TypeError:
        name = expected.__name__ if isinstance(expected, type) else expected
        raise RecipeError(f"{source}: {key} must be {name}, got {value!r}.") from None
    return value


def _did_you_mean(key: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""
