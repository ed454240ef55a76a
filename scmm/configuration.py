"""The configuration of an SCMM model: a text tower, a vision tower and the decoder of the training model."""

from copy import deepcopy
from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


def _check_heads(name: str, hidden_size: int, num_attention_heads: int) -> None:
    if num_attention_heads < 1 or hidden_size % num_attention_heads:
        raise ValueError(
            f"{name}: hidden_size ({hidden_size}) is not a multiple of num_attention_heads ({num_attention_heads})."
        )


@strict
class SCMMTextConfig(PreTrainedConfig):
    """
    The text tower: CLIP's causal transformer, pooled at the end token.

    Args:
        vocab_size (`int`, defaults to 49409):
            CLIP's 49,408 tokens and `<|mask|>`.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads (`int`):
            The transformer's dimensions.
        max_position_embeddings (`int`, defaults to 77):
            The longest caption in tokens, start and end token included.
        eos_token_id (`int`, defaults to 49407):
            The token whose first occurrence is pooled. The value 2 marks old CLIP checkpoints, which pool at the
            highest id of the caption instead.
        mask_token_id (`int`, defaults to 49408):
            The token that stands for a masked word; it never marks the end of a caption.

    Example:

    ```python
    >>> from scmm import SCMMTextConfig
    >>> SCMMTextConfig(hidden_size=64, num_attention_heads=2).max_position_embeddings
    77

    ```
    """

    model_type = "scmm_text_model"
    base_config_key = "text_config"

    vocab_size: int = 49409
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 12
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float | int = 1e-5
    attention_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    initializer_factor: float | int = 1.0
    pad_token_id: int | None = 49407
    bos_token_id: int | None = 49406
    eos_token_id: int = 49407
    mask_token_id: int | None = 49408

    def validate_architecture(self):
        """Checks that the heads divide the width (called by `@strict`)."""
        _check_heads("text_config", self.hidden_size, self.num_attention_heads)


@strict
class SCMMVisionConfig(PreTrainedConfig):
    """
    The vision tower: CLIP's ViT on images of any rectangular size.

    Args:
        image_size (`list[int]`, `tuple[int, int]` or `int`, defaults to `[384, 128]`):
            Height and width in pixels; an integer means a square. Stored as `[height, width]`.
        patch_size (`int`, defaults to 16):
            Side of a square patch in pixels.
        patch_stride (`int`, *optional*):
            Pixels from one patch to the next. By default `patch_size`: patches tile the image and divide its sides. A
            smaller stride makes them overlap. Given a stride, pixels at the right and lower edge that do not fill a
            patch are left out.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads (`int`):
            The transformer's dimensions.
        position_initializer_range (`float`, defaults to 0.02):
            Standard deviation of random position embeddings. CLIP's 0.02 is small beside the patches: a model that
            has only minutes to learn tells top from bottom sooner with a larger one.

    Raises:
        `huggingface_hub.errors.StrictDataclassError`: if the patches do not fit the image.

    Example:

    ```python
    >>> from scmm import SCMMVisionConfig
    >>> SCMMVisionConfig(image_size=(384, 128), patch_size=16).grid_size
    (24, 8)
    >>> SCMMVisionConfig(image_size=(384, 128), patch_size=16, patch_stride=12).grid_size
    (31, 10)

    ```
    """

    model_type = "scmm_vision_model"
    base_config_key = "vision_config"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_channels: int = 3
    image_size: list[int] | tuple[int, int] | int = (384, 128)
    patch_size: int = 16
    patch_stride: int | None = None
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float | int = 1e-5
    attention_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    position_initializer_range: float | int = 0.02
    initializer_factor: float | int = 1.0

    def __post_init__(self, **kwargs):
        if isinstance(self.image_size, int):
            self.image_size = [self.image_size, self.image_size]
        self.image_size = list(self.image_size)
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> tuple[int, int]:
        """`tuple[int, int]`: patches down and across."""
        stride = self.patch_stride or self.patch_size
        height, width = ((side - self.patch_size) // stride + 1 for side in self.image_size)
        return height, width

    def validate_architecture(self):
        """Checks the heads and that the patches fit the image (called by `@strict`)."""
        _check_heads("vision_config", self.hidden_size, self.num_attention_heads)
        sides = self.image_size if isinstance(self.image_size, list | tuple) else [self.image_size] * 2
        if self.patch_stride is not None:
            if not 1 <= self.patch_stride <= self.patch_size:
                raise ValueError(
                    f"vision_config: patch_stride ({self.patch_stride}) must be from 1 to patch_size "
                    f"({self.patch_size})."
                )
            if len(sides) != 2 or any(side < self.patch_size for side in sides):
                raise ValueError(
                    f"vision_config: image_size {self.image_size} (height, width) must be two numbers that are no "
                    f"smaller than patch_size ({self.patch_size})."
                )
        elif len(sides) != 2 or self.patch_size < 1 or any(side < 1 or side % self.patch_size for side in sides):
            raise ValueError(
                f"vision_config: image_size {self.image_size} (height, width) must be two positive multiples of "
                f"patch_size ({self.patch_size}), unless a patch_stride is given."
            )


@strict
class SCMMDecoderConfig(PreTrainedConfig):
    """
    The cross-modal decoder of masked caption modeling, which [`SCMMForPreTraining`] alone builds. Its dimensions are a
    reconstruction: the paper publishes the idea, not the numbers.

    Args:
        hidden_size (`int`, defaults to 512):
            Width. Where it equals the text tower's, the output matrix is tied to the token embedding.
        num_hidden_layers (`int`, defaults to 4):
            Number of layers; 0 leaves the head alone.

    Example:

    ```python
    >>> from scmm.configuration import SCMMDecoderConfig
    >>> SCMMDecoderConfig().num_hidden_layers
    4

    ```
    """

    model_type = "scmm_decoder"
    base_config_key = "decoder_config"

    hidden_size: int = 512
    intermediate_size: int = 2048
    num_hidden_layers: int = 4
    num_attention_heads: int = 8
    hidden_act: str = "quick_gelu"
    layer_norm_eps: float | int = 1e-5
    attention_dropout: float | int = 0.0
    initializer_range: float | int = 0.02
    initializer_factor: float | int = 1.0

    def validate_architecture(self):
        """Checks that the heads divide the width (called by `@strict`)."""
        _check_heads("decoder_config", self.hidden_size, self.num_attention_heads)


# `base` is CLIP ViT-B/16 on the field's 384x128 crops, which is also what the classes default to; `tiny` is small
# enough to learn from random weights on a laptop's processor.
PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {
        "projection_dim": 128,
        "logit_scale_init_value": 4.0,
        "text_config": {
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "hidden_act": "gelu",
        },
        "vision_config": {
            "image_size": [64, 32],
            "patch_size": 8,
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "hidden_act": "gelu",
            "position_initializer_range": 0.3,
        },
        "decoder_config": {
            "hidden_size": 64,
            "intermediate_size": 256,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "hidden_act": "gelu",
        },
    },
    "base": {"projection_dim": 512, "text_config": {}, "vision_config": {}, "decoder_config": {}},
}


# The classes that remote code gives to each auto class. transformers would add only the one that is saved, and the
# trainer's checkpoints are meant to load as the dual encoder as well.
AUTO_MAP = {
    "AutoConfig": "configuration.SCMMConfig",
    "AutoModel": "modeling_scmm.SCMMModel",
    "AutoModelForPreTraining": "modeling_scmm.SCMMForPreTraining",
    "AutoModelForZeroShotImageClassification": "modeling_scmm.SCMMModel",
}


@strict
class SCMMConfig(PreTrainedConfig):
    """
    The configuration of [`SCMMModel`] and [`SCMMForPreTraining`]. The defaults are CLIP ViT-B/16 at 384x128.

    Args:
        text_config (`SCMMTextConfig` or `dict`, *optional*): the text tower.
        vision_config (`SCMMVisionConfig` or `dict`, *optional*): the vision tower.
        decoder_config (`SCMMDecoderConfig` or `dict`, *optional*): the decoder of the training model.
        projection_dim (`int`, defaults to 512): width of the shared embedding space.
        logit_scale_init_value (`float`, defaults to 2.6592): logarithm of the initial scale of the cosines (CLIP's).
        num_identities (`int`, defaults to 0):
            Classes of the optional identity classifier of the training model; 0 builds none.

    Example:

    ```python
    >>> from scmm import SCMMConfig
    >>> config = SCMMConfig.from_preset("tiny", projection_dim=64)
    >>> config.vision_config.image_size, config.projection_dim
    ([64, 32], 64)

    ```
    """

    model_type = "scmm"
    sub_configs = {
        "text_config": SCMMTextConfig,
        "vision_config": SCMMVisionConfig,
        "decoder_config": SCMMDecoderConfig,
    }

    text_config: dict | SCMMTextConfig | None = None
    vision_config: dict | SCMMVisionConfig | None = None
    decoder_config: dict | SCMMDecoderConfig | None = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = 2.6592
    num_identities: int = 0
    initializer_factor: float | int = 1.0
    tie_word_embeddings: bool = True

    def __post_init__(self, **kwargs):
        for name, config_class in self.sub_configs.items():
            value = getattr(self, name)
            if value is None or isinstance(value, dict):
                setattr(self, name, config_class(**(value or {})))
        super().__post_init__(**kwargs)
        self.auto_map = dict(AUTO_MAP)  # loaded from the Hub, it names that repository, which a copy must not need

    @classmethod
    def from_preset(cls, name: str, **overrides) -> "SCMMConfig":
        """
        The configuration of a named preset.

        Args:
            name (`str`): `"tiny"` (half a million parameters, 64x32) or `"base"` (CLIP ViT-B/16 at 384x128).
            **overrides: fields to change; a dict for a sub-configuration changes only the keys that it has.

        Raises:
            ValueError: if there is no such preset.

        Example:

        ```python
        >>> from scmm import SCMMConfig
        >>> SCMMConfig.from_preset("tiny", text_config={"vocab_size": 1000}).text_config.hidden_size
        64

        ```
        """
        if name not in PRESETS:
            raise ValueError(f"There is no preset {name!r}; choose one of {sorted(PRESETS)}.")
        fields = deepcopy(PRESETS[name])
        for key, value in overrides.items():
            fields[key] = {**fields[key], **value} if key in cls.sub_configs and isinstance(value, dict) else value
        return cls(**fields)


SCMMConfig.register_for_auto_class()

__all__ = ["SCMMConfig", "SCMMDecoderConfig", "SCMMTextConfig", "SCMMVisionConfig"]
