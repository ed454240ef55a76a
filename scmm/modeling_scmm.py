"""SCMM: the dual encoder that users load and search with, and the training model that adds a cross-modal decoder.

The towers are CLIP's, with CLIP's parameter names, on rectangular images: `SCMMModel`'s keys equal `CLIPModel`'s.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import ModelOutput, TransformersKwargs
from transformers.utils.generic import can_return_tuple, merge_with_config_defaults
from transformers.utils.output_capturing import OutputRecorder, capture_outputs

from .configuration import SCMMConfig, SCMMDecoderConfig, SCMMTextConfig, SCMMVisionConfig


@dataclass
class SCMMOutput(ModelOutput):
    """
    What [`SCMMModel`] returns.

    Args:
        logits_per_image (`torch.Tensor` of shape `(images, captions)`): scaled cosine similarities.
        logits_per_text (`torch.Tensor` of shape `(captions, images)`): their transpose.
        text_embeds (`torch.Tensor` of shape `(captions, projection_dim)`): normalized caption embeddings.
        image_embeds (`torch.Tensor` of shape `(images, projection_dim)`): normalized image embeddings.
        text_model_output, vision_model_output (`BaseModelOutputWithPooling`): the towers' own outputs.
    """

    logits_per_image: torch.Tensor | None = None
    logits_per_text: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    image_embeds: torch.Tensor | None = None
    text_model_output: BaseModelOutputWithPooling | None = None
    vision_model_output: BaseModelOutputWithPooling | None = None

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are set, towers' outputs as tuples too."""
        return tuple(value.to_tuple() if isinstance(value, ModelOutput) else value for value in self.values())


@dataclass
class SCMMForPreTrainingOutput(ModelOutput):
    """
    What [`SCMMForPreTraining`] returns: everything that the losses need.

    Args:
        image_embeds, text_embeds (`torch.Tensor` of shape `(batch, projection_dim)`): embeddings, not normalized.
        logit_scale (`torch.Tensor`, a scalar): scale of the cosines, at most 100.
        mcm_logits (`torch.Tensor` of shape `(masked tokens, vocab_size)`, *optional*):
            Predictions at the masked positions alone, in row-major order of `mcm_labels != -100`.
        image_id_logits, text_id_logits (`torch.Tensor` of shape `(batch, num_identities)`, *optional*):
            The identity classifier's logits, where the configuration has one.
    """

    image_embeds: torch.Tensor | None = None
    text_embeds: torch.Tensor | None = None
    logit_scale: torch.Tensor | None = None
    mcm_logits: torch.Tensor | None = None
    image_id_logits: torch.Tensor | None = None
    text_id_logits: torch.Tensor | None = None


def resize_position_embedding(
    table: torch.Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int]
) -> torch.Tensor:
    """
    Resizes a vision tower's position table to another grid of patches, bicubically; the class token's row stays.

    Args:
        table (`torch.Tensor` of shape `(1 + old height * old width, hidden_size)`): the class row, then the patches.
        old_grid, new_grid (`tuple[int, int]`): patches down and across.

    Returns:
        `torch.Tensor` of shape `(1 + new height * new width, hidden_size)` and the table's dtype.

    Example:

    ```python
    >>> import torch
    >>> from scmm.modeling_scmm import resize_position_embedding
    >>> resize_position_embedding(torch.randn(1 + 14 * 14, 8), (14, 14), (24, 8)).shape
    torch.Size([193, 8])

    ```
    """
    if old_grid == new_grid:
        return table
    patches = table[1:].float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)
    patches = nn.functional.interpolate(patches, size=new_grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], patches.flatten(2)[0].T.to(table.dtype)])


def _with_std(module: nn.Module, std: float) -> Any:
    """
    Notes the standard deviation that a layer's weight starts from. The layer itself carries it because transformers
    calls `_init_weights` on modules of other packages only where they have parameters of their own: a rule for the
    attention block around its projections would never run.
    """
    module.initializer_std = std
    return module


class SCMMTextEmbeddings(nn.Module):
    def __init__(self, config: SCMMTextConfig):
        super().__init__()
        width, std = config.hidden_size, config.initializer_range * config.initializer_factor
        self.token_embedding = _with_std(nn.Embedding(config.vocab_size, width), std)
        self.position_embedding = _with_std(nn.Embedding(config.max_position_embeddings, width), std)

    def forward(self, input_ids: torch.LongTensor) -> torch.Tensor:
        length, limit = input_ids.shape[-1], self.position_embedding.num_embeddings
        if length > limit:
            raise ValueError(f"The captions are {length} tokens long, the model takes {limit}: truncate them.")
        return self.token_embedding(input_ids) + self.position_embedding.weight[:length]


class SCMMVisionEmbeddings(nn.Module):
    def __init__(self, config: SCMMVisionConfig):
        super().__init__()
        self.config = config
        rows, columns = config.grid_size
        width, std = config.hidden_size, config.initializer_range * config.initializer_factor
        self.class_embedding = nn.Parameter(torch.empty(width))
        stride = config.patch_stride or config.patch_size
        patches = nn.Conv2d(config.num_channels, width, config.patch_size, stride=stride, bias=False)
        self.patch_embedding = _with_std(patches, std)
        position_std = config.position_initializer_range * config.initializer_factor
        self.position_embedding = _with_std(nn.Embedding(1 + rows * columns, width), position_std)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        if list(pixel_values.shape[-2:]) != list(self.config.image_size):
            raise ValueError(
                f"The images are {tuple(pixel_values.shape[-2:])} (height, width), the model takes "
                f"{tuple(self.config.image_size)}: prepare them with the model's own processor."
            )
        patches = self.patch_embedding(pixel_values.to(self.patch_embedding.weight.dtype)).flatten(2).transpose(1, 2)
        class_token = self.class_embedding.expand(patches.shape[0], 1, -1)
        return torch.cat([class_token, patches], dim=1) + self.position_embedding.weight


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    weights = torch.matmul(query, key.transpose(-1, -2)) * scaling
    if attention_mask is not None:
        weights = weights + attention_mask
    weights = nn.functional.softmax(weights, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


class SCMMAttention(nn.Module):
    """Multi-head attention over the tokens themselves, or over `context` tokens of width `context_size`."""

    def __init__(
        self,
        config: SCMMTextConfig | SCMMVisionConfig | SCMMDecoderConfig,
        is_causal: bool = False,
        context_size: int | None = None,
    ):
        super().__init__()
        self.config = config
        self.head_dim = config.hidden_size // config.num_attention_heads
        self.is_causal = is_causal
        width, context_width = config.hidden_size, context_size or config.hidden_size
        out_std = width**-0.5 * config.initializer_factor
        in_std = out_std * (2 * config.num_hidden_layers) ** -0.5
        self.k_proj = _with_std(nn.Linear(context_width, width), in_std)
        self.v_proj = _with_std(nn.Linear(context_width, width), in_std)
        self.q_proj = _with_std(nn.Linear(width, width), in_std)
        self.out_proj = _with_std(nn.Linear(width, width), out_std)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        context = hidden_states if context is None else context
        batch, length, width = hidden_states.shape
        queries = self.q_proj(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
        keys = self.k_proj(context).view(batch, context.shape[1], -1, self.head_dim).transpose(1, 2)
        values = self.v_proj(context).view(batch, context.shape[1], -1, self.head_dim).transpose(1, 2)

        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            queries,
            keys,
            values,
            attention_mask,
            scaling=self.head_dim**-0.5,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(output.reshape(batch, length, width)), weights


class SCMMMLP(nn.Module):
    def __init__(self, config: SCMMTextConfig | SCMMVisionConfig | SCMMDecoderConfig):
        super().__init__()
        self.config = config
        self.activation_fn = ACT2FN[config.hidden_act]
        width, inner, factor = config.hidden_size, config.intermediate_size, config.initializer_factor
        self.fc1 = _with_std(nn.Linear(width, inner), (2 * width) ** -0.5 * factor)
        self.fc2 = _with_std(nn.Linear(inner, width), width**-0.5 * (2 * config.num_hidden_layers) ** -0.5 * factor)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.activation_fn(self.fc1(hidden_states)))


class SCMMEncoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: SCMMTextConfig | SCMMVisionConfig, is_causal: bool):
        super().__init__()
        self.self_attn = SCMMAttention(config, is_causal)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SCMMMLP(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), attention_mask, **kwargs)[0]
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))


class SCMMEncoder(nn.Module):
    def __init__(self, config: SCMMTextConfig | SCMMVisionConfig, is_causal: bool):
        super().__init__()
        self.layers = nn.ModuleList([SCMMEncoderLayer(config, is_causal) for _ in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        for layer in self.layers:
            hidden_states = layer(hidden_states, attention_mask, **kwargs)
        return hidden_states


class SCMMDecoderLayer(GradientCheckpointingLayer):
    def __init__(self, config: SCMMDecoderConfig, context_size: int):
        super().__init__()
        self.self_attn = SCMMAttention(config)
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross_attn = SCMMAttention(config, context_size=context_size)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SCMMMLP(config)
        self.layer_norm3 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(
        self,
        hidden_states: torch.Tensor,
        context: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> torch.Tensor:
        hidden_states = hidden_states + self.self_attn(self.layer_norm1(hidden_states), attention_mask, **kwargs)[0]
        attended, _ = self.cross_attn(self.layer_norm2(hidden_states), context=context, **kwargs)
        hidden_states = hidden_states + attended
        return hidden_states + self.mlp(self.layer_norm3(hidden_states))


class SCMMPreTrainedModel(PreTrainedModel):
    """What every SCMM class shares: loading, saving, initialization and the start from a CLIP checkpoint."""

    config: SCMMConfig
    base_model_prefix = "scmm"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False
    _no_split_modules = ["SCMMTextEmbeddings", "SCMMVisionEmbeddings", "SCMMEncoderLayer", "SCMMDecoderLayer"]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": SCMMEncoderLayer, "attentions": SCMMAttention}

    @torch.no_grad()
    def _init_weights(self, module: nn.Module):
        super()._init_weights(module)
        if hasattr(module, "initializer_std"):
            init.normal_(module.weight, std=module.initializer_std)
        elif isinstance(module, SCMMVisionEmbeddings):
            std = module.config.hidden_size**-0.5 * module.config.initializer_factor
            init.normal_(module.class_embedding, std=std)
        elif isinstance(module, SCMMModel):
            init.constant_(module.logit_scale, self.config.logit_scale_init_value)

    @classmethod
    def from_clip_pretrained(
        cls,
        name_or_path: str,
        image_size: tuple[int, int] | int = (384, 128),
        **config_overrides,
    ):
        """
        Starts from a Hugging Face CLIP checkpoint: the same weights, the position table resized to `image_size`, and
        one more row of token embeddings (the mean of the others) for `<|mask|>`.

        Args:
            name_or_path (`str`): a CLIP folder or Hub id.
            image_size (`tuple[int, int]` or `int`, defaults to `(384, 128)`):
                Height and width in pixels, multiples of the checkpoint's patch size.
            **config_overrides: other fields of [`SCMMConfig`], such as `decoder_config`; of a sub-configuration only
                the keys that it has.

        Returns:
            A model of this class in evaluation mode and float32, whose features equal `CLIPModel`'s where the image
            size is the checkpoint's own. [`SCMMForPreTraining`]'s decoder is newly initialized.

        Raises:
            ValueError: if the checkpoint is not a CLIP model, or lacks some of its weights.

        Example:

        ```python
        >>> import tempfile
        >>> from transformers import CLIPConfig, CLIPModel
        >>> from scmm import SCMMModel
        >>> small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
        >>> clip = CLIPModel(CLIPConfig(text_config=small, vision_config={**small, "image_size": 32, "patch_size": 8}))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     clip.save_pretrained(folder)
        ...     model = SCMMModel.from_clip_pretrained(folder, image_size=(64, 16))
        >>> model.config.vision_config.grid_size
        (8, 2)

        ```
        """
        from transformers import AutoConfig, CLIPModel

        source = AutoConfig.from_pretrained(name_or_path)
        if source.model_type != "clip":
            raise ValueError(
                f"{name_or_path} is a {source.model_type!r} checkpoint, not a CLIP one."
                + (" Load it with from_pretrained." if source.model_type == "scmm" else "")
            )
        text, vision = source.text_config, source.vision_config
        shared = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
        shared += ("layer_norm_eps", "attention_dropout")
        token_ids = ("pad_token_id", "bos_token_id", "eos_token_id")
        fields: dict[str, Any] = {
            "text_config": {
                **{name: getattr(text, name) for name in (*shared, *token_ids, "max_position_embeddings")},
                "vocab_size": text.vocab_size + 1,
                "mask_token_id": text.vocab_size,
            },
            "vision_config": {
                **{name: getattr(vision, name) for name in (*shared, "num_channels", "patch_size")},
                "image_size": image_size,
            },
            "decoder_config": {
                "hidden_size": text.hidden_size,
                "intermediate_size": text.intermediate_size,
                "num_attention_heads": text.num_attention_heads,
                "hidden_act": text.hidden_act,
            },
            "projection_dim": source.projection_dim,
            "logit_scale_init_value": source.logit_scale_init_value,
        }
        for name, value in config_overrides.items():
            fields[name] = {**fields[name], **value} if isinstance(value, dict) and name in fields else value
        config = SCMMConfig(**fields)

        clip, loading = CLIPModel.from_pretrained(name_or_path, dtype=torch.float32, output_loading_info=True)
        if loading["missing_keys"]:
            raise ValueError(
                f"{name_or_path} lacks weights of a CLIP model: {', '.join(sorted(loading['missing_keys']))}"
            )
        state = clip.state_dict()
        tokens = state["text_model.embeddings.token_embedding.weight"]
        state["text_model.embeddings.token_embedding.weight"] = torch.cat([tokens, tokens.mean(0, keepdim=True)])
        positions = state["vision_model.embeddings.position_embedding.weight"]
        side = vision.image_size // vision.patch_size
        state["vision_model.embeddings.position_embedding.weight"] = resize_position_embedding(
            positions, (side, side), config.vision_config.grid_size
        )
        model = cls.from_pretrained(None, config=config, state_dict=state)
        model.name_or_path = model.config.name_or_path = str(name_or_path)  # tells it from random weights
        return model


class SCMMTextModel(SCMMPreTrainedModel):
    """
    The text tower.

    Example:

    ```python
    >>> import torch
    >>> from scmm import SCMMConfig
    >>> from scmm.modeling_scmm import SCMMTextModel
    >>> tower = SCMMTextModel(SCMMConfig.from_preset("tiny").text_config).eval()
    >>> tower(torch.tensor([[49406, 320, 2533, 49407]])).pooler_output.shape
    torch.Size([1, 64])

    ```
    """

    config: SCMMTextConfig
    base_model_prefix = "text_model"
    input_modalities = ("text",)
    main_input_name = "input_ids"

    def __init__(self, config: SCMMTextConfig):
        super().__init__(config)
        self.embeddings = SCMMTextEmbeddings(config)
        self.encoder = SCMMEncoder(config, is_causal=True)
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module):
        self.embeddings.token_embedding = value

    def end_positions(self, input_ids: torch.LongTensor) -> torch.LongTensor:
        """The position `(batch,)` of each caption's end token, or of its highest id where the checkpoint is old."""
        if self.config.eos_token_id == 2:
            if self.config.mask_token_id is not None:
                input_ids = input_ids.masked_fill(input_ids == self.config.mask_token_id, -1)
            return input_ids.int().argmax(dim=-1)
        return (input_ids == self.config.eos_token_id).int().argmax(dim=-1)

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        hidden_states = self.embeddings(input_ids)
        attention_mask = create_causal_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask, past_key_values=None
        )
        hidden_states = self.final_layer_norm(self.encoder(hidden_states, attention_mask, **kwargs))
        rows = torch.arange(hidden_states.shape[0], device=hidden_states.device)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=hidden_states[rows, self.end_positions(input_ids)]
        )


class SCMMVisionModel(SCMMPreTrainedModel):
    """
    The vision tower.

    Example:

    ```python
    >>> import torch
    >>> from scmm import SCMMConfig
    >>> from scmm.modeling_scmm import SCMMVisionModel
    >>> tower = SCMMVisionModel(SCMMConfig.from_preset("tiny").vision_config).eval()
    >>> tower(torch.zeros(2, 3, 64, 32)).last_hidden_state.shape  # the class token and 8 x 4 patches
    torch.Size([2, 33, 64])

    ```
    """

    config: SCMMVisionConfig
    base_model_prefix = "vision_model"
    input_modalities = ("image",)
    main_input_name = "pixel_values"

    def __init__(self, config: SCMMVisionConfig):
        super().__init__(config)
        self.embeddings = SCMMVisionEmbeddings(config)
        # The misspelling is CLIP's; checkpoints carry it.
        self.pre_layrnorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.encoder = SCMMEncoder(config, is_causal=False)
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.embeddings.patch_embedding

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]) -> BaseModelOutputWithPooling:
        hidden_states = self.encoder(self.pre_layrnorm(self.embeddings(pixel_values)), **kwargs)
        return BaseModelOutputWithPooling(
            last_hidden_state=hidden_states, pooler_output=self.post_layernorm(hidden_states[:, 0])
        )


class SCMMModel(SCMMPreTrainedModel):
    """
    The dual encoder: embeds images and captions into one space, where cosine similarity ranks a gallery.

    `from_pretrained` takes a saved dual encoder or a training checkpoint, whose decoder it leaves out.

    Args:
        config ([`SCMMConfig`]): the configuration; its decoder part is not built.

    Example:

    ```python
    >>> import torch
    >>> from scmm import SCMMConfig, SCMMModel
    >>> model = SCMMModel(SCMMConfig.from_preset("tiny")).eval()
    >>> with torch.inference_mode():
    ...     images = model.get_image_features(torch.zeros(2, 3, 64, 32)).pooler_output
    ...     captions = model.get_text_features(torch.tensor([[49406, 320, 2533, 49407]])).pooler_output
    >>> torch.nn.functional.cosine_similarity(captions, images).shape
    torch.Size([2])

    ```
    """

    # A training checkpoint holds these too; the dual encoder does without them, silently.
    _keys_to_ignore_on_load_unexpected = [r"^decoder\.", r"^id_classifier\."]

    def __init__(self, config: SCMMConfig):
        super().__init__(config)
        self.text_model = SCMMTextModel._from_config(config.text_config)
        self.vision_model = SCMMVisionModel._from_config(config.vision_config)
        image_width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        visual = nn.Linear(image_width, config.projection_dim, bias=False)
        textual = nn.Linear(text_width, config.projection_dim, bias=False)
        self.visual_projection = _with_std(visual, image_width**-0.5 * config.initializer_factor)
        self.text_projection = _with_std(textual, text_width**-0.5 * config.initializer_factor)
        self.logit_scale = nn.Parameter(torch.tensor(float(config.logit_scale_init_value)))
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.LongTensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        Embeds captions.

        Args:
            input_ids (`torch.LongTensor` of shape `(captions, tokens)`): token ids from the processor.
            attention_mask (`torch.Tensor` of shape `(captions, tokens)`, *optional*): 0 marks padding.

        Returns:
            `BaseModelOutputWithPooling`: the embedding `(captions, projection_dim)`, not normalized, is its
            `pooler_output`.
        """
        output = self.text_model(input_ids=input_ids, attention_mask=attention_mask, **kwargs)
        output.pooler_output = self.text_projection(output.pooler_output)
        return output

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """
        Embeds images.

        Args:
            pixel_values (`torch.Tensor` of shape `(images, 3, height, width)`): normalized pixels from the processor.

        Returns:
            `BaseModelOutputWithPooling`: the embedding `(images, projection_dim)`, not normalized, is its
            `pooler_output`.
        """
        output = self.vision_model(pixel_values=pixel_values, **kwargs)
        output.pooler_output = self.visual_projection(output.pooler_output)
        return output

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SCMMOutput:
        """
        Compares every image with every caption.

        Args:
            input_ids (`torch.LongTensor` of shape `(captions, tokens)`): token ids.
            pixel_values (`torch.Tensor` of shape `(images, 3, height, width)`): normalized pixels.
            attention_mask (`torch.Tensor` of shape `(captions, tokens)`, *optional*): 0 marks padding.

        Returns:
            [`SCMMOutput`]
        """
        vision_output = self.get_image_features(pixel_values, **kwargs)
        text_output = self.get_text_features(input_ids, attention_mask, **kwargs)
        image_embeds = nn.functional.normalize(vision_output.pooler_output, dim=-1)
        text_embeds = nn.functional.normalize(text_output.pooler_output, dim=-1)
        logits_per_text = text_embeds @ image_embeds.T * self.logit_scale.exp()
        return SCMMOutput(
            logits_per_image=logits_per_text.T,
            logits_per_text=logits_per_text,
            text_embeds=text_embeds,
            image_embeds=image_embeds,
            text_model_output=text_output,
            vision_model_output=vision_output,
        )


class SCMMDecoder(SCMMPreTrainedModel):
    """
    The cross-modal decoder of masked caption modeling (a reconstruction of the paper's idea): caption states attend to
    each other and to all image tokens; a head predicts the masked tokens.
    """

    config: SCMMDecoderConfig
    base_model_prefix = "decoder"
    _can_record_outputs = {
        "hidden_states": SCMMDecoderLayer,
        "attentions": OutputRecorder(SCMMAttention, index=1, layer_name="self_attn"),
        "cross_attentions": OutputRecorder(SCMMAttention, index=1, layer_name="cross_attn"),
    }

    def __init__(self, config: SCMMDecoderConfig, text_config: SCMMTextConfig, vision_config: SCMMVisionConfig):
        super().__init__(config)
        width, text_width, image_width = config.hidden_size, text_config.hidden_size, vision_config.hidden_size
        self.text_projection = nn.Identity() if text_width == width else nn.Linear(text_width, width)
        self.image_layer_norm = nn.LayerNorm(image_width, eps=config.layer_norm_eps)
        self.layers = nn.ModuleList(
            [SCMMDecoderLayer(config, context_size=image_width) for _ in range(config.num_hidden_layers)]
        )
        self.final_layer_norm = nn.LayerNorm(width, eps=config.layer_norm_eps)
        self.head = nn.Linear(width, text_config.vocab_size, bias=False)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        text_states: torch.Tensor,
        image_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> BaseModelOutputWithPooling:
        """
        Args:
            text_states (`torch.Tensor` of shape `(batch, tokens, text width)`): the masked captions' token states.
            image_states (`torch.Tensor` of shape `(batch, patches, image width)`): all image tokens.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 0 marks padding.

        Returns:
            `BaseModelOutputWithPooling`: `last_hidden_state` `(batch, tokens, decoder width)` feeds `head`.
        """
        hidden_states = self.text_projection(text_states)
        attention_mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        context = self.image_layer_norm(image_states)
        for layer in self.layers:
            hidden_states = layer(hidden_states, context, attention_mask, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=self.final_layer_norm(hidden_states))


class SCMMForPreTraining(SCMMPreTrainedModel):
    """
    The training model: the dual encoder as `scmm`, the cross-modal decoder and, on request, an identity classifier.
    A checkpoint saved from it loads into [`SCMMModel`] without the rest.

    Args:
        config ([`SCMMConfig`]): the configuration.

    Example:

    ```python
    >>> import torch
    >>> from scmm import SCMMConfig, SCMMForPreTraining
    >>> model = SCMMForPreTraining(SCMMConfig.from_preset("tiny"))
    >>> captions = torch.tensor([[49406, 320, 2533, 49407]])
    >>> masked, labels = captions.clone(), torch.full_like(captions, -100)
    >>> masked[0, 2], labels[0, 2] = 49408, 2533
    >>> output = model(captions, torch.zeros(1, 3, 64, 32), mcm_input_ids=masked, mcm_labels=labels)
    >>> output.text_embeds.shape, output.mcm_logits.shape
    (torch.Size([1, 128]), torch.Size([1, 49409]))

    ```
    """

    _tied_weights_keys = {"decoder.head.weight": "scmm.text_model.embeddings.token_embedding.weight"}

    def __init__(self, config: SCMMConfig):
        super().__init__(config)
        self.scmm = SCMMModel(config)
        self.decoder = SCMMDecoder(config.decoder_config, config.text_config, config.vision_config)
        if config.decoder_config.hidden_size != config.text_config.hidden_size:
            self._tied_weights_keys = {}
        else:  # what the trainer expects to miss when it loads a checkpoint back
            self._keys_to_ignore_on_save = list(self._tied_weights_keys)
        if config.num_identities:
            self.id_classifier = nn.Linear(config.projection_dim, config.num_identities)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.scmm.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        self.scmm.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        return self.decoder.head

    def set_output_embeddings(self, new_embeddings: nn.Module):
        self.decoder.head = new_embeddings

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.LongTensor,
        pixel_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        mcm_input_ids: torch.LongTensor | None = None,
        mcm_labels: torch.LongTensor | None = None,
        **kwargs: Unpack[TransformersKwargs],
    ) -> SCMMForPreTrainingOutput:
        """
        Embeds pairs of images and captions and predicts the masked tokens of the captions' masked copies.

        Args:
            input_ids (`torch.LongTensor` of shape `(batch, tokens)`): the captions, as the global branch sees them.
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): normalized pixels.
            attention_mask (`torch.Tensor` of shape `(batch, tokens)`, *optional*): 0 marks padding.
            mcm_input_ids (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                The masked copy of the captions. Without it `input_ids` itself counts as masked: the switch
                `mask_global_branch` of the trainer.
            mcm_labels (`torch.LongTensor` of shape `(batch, tokens)`, *optional*):
                The hidden tokens, -100 elsewhere. Without it the decoder does not run.

        Returns:
            [`SCMMForPreTrainingOutput`]
        """
        vision_output = self.scmm.get_image_features(pixel_values, **kwargs)
        if mcm_labels is None or mcm_input_ids is None:
            text_output = self.scmm.get_text_features(input_ids, attention_mask, **kwargs)
            text_embeds, masked_states = text_output.pooler_output, text_output.last_hidden_state
        else:
            # One pass over both copies costs less than two passes.
            both_masks = None if attention_mask is None else torch.cat([attention_mask, attention_mask])
            text_output = self.scmm.get_text_features(torch.cat([input_ids, mcm_input_ids]), both_masks, **kwargs)
            text_embeds = text_output.pooler_output[: len(input_ids)]
            masked_states = text_output.last_hidden_state[len(input_ids) :]
        image_embeds = vision_output.pooler_output

        mcm_logits = None
        if mcm_labels is not None:
            decoded = self.decoder(masked_states, vision_output.last_hidden_state, attention_mask, **kwargs)
            mcm_logits = self.decoder.head(decoded.last_hidden_state[mcm_labels != -100])
        has_classifier = self.config.num_identities > 0
        return SCMMForPreTrainingOutput(
            image_embeds=image_embeds,
            text_embeds=text_embeds,
            logit_scale=self.scmm.logit_scale.exp().clamp(max=100.0),
            mcm_logits=mcm_logits,
            image_id_logits=self.id_classifier(image_embeds) if has_classifier else None,
            text_id_logits=self.id_classifier(text_embeds) if has_classifier else None,
        )


# One auto class a class: what the saved folder's `auto_map` names.
SCMMModel.register_for_auto_class("AutoModel")
SCMMForPreTraining.register_for_auto_class("AutoModelForPreTraining")

__all__ = [
    "SCMMForPreTraining",
    "SCMMForPreTrainingOutput",
    "SCMMModel",
    "SCMMOutput",
    "SCMMPreTrainedModel",
    "SCMMTextModel",
    "SCMMVisionModel",
    "resize_position_embedding",
]
