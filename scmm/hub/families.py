"""The projects whose checkpoints become SCMM's: what tells them apart, and what their weights are called."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from PIL.Image import Resampling
from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from scmm.hub.state_dicts import CheckpointError, list_names


DECODER = ("cross_attn.*", "cross_modal_transformer.*", "ln_pre_i.*", "ln_pre_t.*", "ln_post.*", "mlm_head.*")
CLASSIFIER = {"the classifier of the training identities": ("classifier.*",)}


@dataclass(frozen=True)
class Family:
    """
    One project's checkpoints. All have the two towers of OpenAI's CLIP, below prefixes of their own.

    Args:
        name (`str`): what the project is called.
        text_prefix, vision_prefix (`str`): where the towers are.
        left_out (`dict[str, tuple[str, ...]]`): what else its checkpoints may hold, as patterns of keys, by the reason
            why SCMM has no place for it.
        is_clip (`bool`): whether this is a pretrained CLIP, to be adapted to person crops. The others have their own
            grid of patches, and a mask token in the place of the last BPE entry.
        takes_squares (`bool`): whether its code knows square images alone.
        constant_logit_scale (`float`, *optional*): the scale of the cosines where it is no weight.
        resample, image_mean, image_std: how its evaluation prepares images.
        warning (`str`, *optional*): what to know before comparing with published figures.
    """

    name: str
    text_prefix: str
    vision_prefix: str
    left_out: dict[str, tuple[str, ...]]
    is_clip: bool = False
    takes_squares: bool = False
    constant_logit_scale: float | None = None
    resample: Resampling = Resampling.BILINEAR
    image_mean: tuple[float, ...] = tuple(OPENAI_CLIP_MEAN)
    image_std: tuple[float, ...] = tuple(OPENAI_CLIP_STD)
    warning: str | None = None

    def find_left_out(self, keys: Iterable[str]) -> dict[str, list[str]]:
        """Those of a checkpoint's keys that are left out, sorted, by the reason."""
        matches = {
            reason: sorted(key for key in keys if any(fnmatchcase(key, pattern) for pattern in patterns))
            for reason, patterns in self.left_out.items()
        }
        return {reason: names for reason, names in matches.items() if names}


OPENAI_CLIP = Family(
    "OpenAI's CLIP",
    text_prefix="",
    vision_prefix="visual.",
    left_out={
        "numbers that the shapes tell too": ("input_resolution", "context_length", "vocab_size"),
        "the causal mask, which SCMM makes itself": ("*.attn_mask",),
    },
    is_clip=True,
    resample=Resampling.BICUBIC,
)
IRRA = Family(
    "IRRA",
    text_prefix="base_model.",
    vision_prefix="base_model.visual.",
    left_out={"IRRA's own cross-modal decoder and its head": DECODER, **CLASSIFIER},
    constant_logit_scale=50.0,
)
RDE = Family(
    "RDE",
    text_prefix="base_model.",
    vision_prefix="base_model.visual.",
    left_out={"RDE's token-selection branch": ("visul_emb_layer.*", "texual_emb_layer.*"), **CLASSIFIER},
    constant_logit_scale=50.0,
    warning="RDE's published figures average the similarities of its global and its token-selection branch. This is "
    "the global branch alone, which scores differently.",
)
TBPS_CLIP = Family(
    "TBPS-CLIP",
    text_prefix="encode_text.",
    vision_prefix="visual.",
    left_out={
        "TBPS-CLIP's own cross-modal decoder and its head": DECODER,
        "the projection of its self-supervision": ("simclr_mlp.*",),
        **CLASSIFIER,
    },
    takes_squares=True,
    resample=Resampling.BICUBIC,
    image_mean=tuple(IMAGENET_DEFAULT_MEAN),
    image_std=tuple(IMAGENET_DEFAULT_STD),
)


def recognize(state: dict[str, torch.Tensor], source: str) -> Family:
    """
    The project that a state dict is from, by its keys.

    Args:
        state (`dict[str, torch.Tensor]`): the weights.
        source (`str`): where they are from, for the message.

    Returns:
        [`Family`]

    Raises:
        CheckpointError: if it is none of the known ones.

    Example:

    ```python
    >>> import torch
    >>> from scmm.hub.families import recognize
    >>> recognize({"encode_text.text_projection": torch.zeros(2, 2)}, "best.pth").name
    'TBPS-CLIP'

    ```
    """

    def has(*prefixes: str) -> bool:
        return any(key.startswith(prefixes) for key in state)

    if has("visual.layer1.", "base_model.visual.layer1."):
        raise CheckpointError(f"{source}: its image encoder is a ResNet, SCMM's is a ViT.")
    if has("text_model.", "vision_model."):
        raise CheckpointError(f"{source} holds the weights of a Hugging Face model: give the folder that it is in.")
    if has("base_model."):
        return RDE if has("visul_emb_layer.", "texual_emb_layer.") else IRRA
    if has("encode_text."):
        return TBPS_CLIP
    if has("visual."):
        return OPENAI_CLIP
    raise CheckpointError(
        f"{source} is none of OpenAI's CLIP, IRRA, RDE and TBPS-CLIP: it has the keys {list_names(state)}."
    )


def target_names(family: Family, state: dict[str, torch.Tensor]) -> dict[str, list[str]]:
    """
    The keys that a complete checkpoint of a family has, with as many layers as this one.

    Args:
        family ([`Family`]): where the checkpoint is from.
        state (`dict[str, torch.Tensor]`): its weights.

    Returns:
        `dict[str, list[str]]`: for each key what [`SCMMModel`] calls it; a fused weight becomes three.

    Example:

    ```python
    >>> from scmm.hub.families import IRRA, target_names
    >>> names = target_names(IRRA, {})
    >>> names["base_model.visual.ln_post.bias"]
    ['vision_model.post_layernorm.bias']

    ```
    """
    text, vision = family.text_prefix, family.vision_prefix
    names = {
        f"{text}token_embedding.weight": ["text_model.embeddings.token_embedding.weight"],
        f"{text}positional_embedding": ["text_model.embeddings.position_embedding.weight"],
        f"{text}text_projection": ["text_projection.weight"],
        f"{vision}class_embedding": ["vision_model.embeddings.class_embedding"],
        f"{vision}conv1.weight": ["vision_model.embeddings.patch_embedding.weight"],
        f"{vision}positional_embedding": ["vision_model.embeddings.position_embedding.weight"],
        f"{vision}proj": ["visual_projection.weight"],
    }
    if family.constant_logit_scale is None:
        names["logit_scale"] = ["logit_scale"]
    modules = {
        f"{text}ln_final": "text_model.final_layer_norm",
        f"{vision}ln_pre": "vision_model.pre_layrnorm",
        f"{vision}ln_post": "vision_model.post_layernorm",
    }
    for prefix, tower in ((text, "text_model"), (vision, "vision_model")):
        for index in range(num_layers(state, prefix)):
            block, layer = f"{prefix}transformer.resblocks.{index}", f"{tower}.encoder.layers.{index}"
            modules |= {
                f"{block}.ln_1": f"{layer}.layer_norm1",
                f"{block}.ln_2": f"{layer}.layer_norm2",
                f"{block}.attn.out_proj": f"{layer}.self_attn.out_proj",
                f"{block}.mlp.c_fc": f"{layer}.mlp.fc1",
                f"{block}.mlp.c_proj": f"{layer}.mlp.fc2",
            }
            for kind in ("weight", "bias"):
                names[f"{block}.attn.in_proj_{kind}"] = [f"{layer}.self_attn.{part}_proj.{kind}" for part in "qkv"]
    for old, new in modules.items():
        names |= {f"{old}.{kind}": [f"{new}.{kind}"] for kind in ("weight", "bias")}
    return names


def num_layers(state: dict[str, torch.Tensor], prefix: str) -> int:
    """How many layers the tower below a prefix has; a checkpoint without any lacks those of the first."""
    start = f"{prefix}transformer.resblocks."
    return len({key.removeprefix(start).partition(".")[0] for key in state if key.startswith(start)}) or 1
