"""What conversions are compared with: the models that checkpoints come from, written down once more, with OpenAI's
parameter names and torch's own attention."""

import copy
import json
from pathlib import Path

import torch
from torch import nn
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from scmm import SCMMProcessor


CAPTIONS = [
    "a man in a red shirt and blue jeans!",
    "the woman wears a long coat, jekyll and hyde",
    "striped sweater under an unbuttoned jacket, white sneakers, grey backpack over his left shoulder",
] * 5
SENTENCES = [CAPTIONS[0], CAPTIONS[2]]
VOCAB_SIZE = 589  # with the merges of CAPTIONS up to that of "jekyll", CLIP's own last one
LENGTH = 32
VISION_WIDTH, TEXT_WIDTH, EMBED_DIM, PATCH = 128, 64, 32, 8


def save_tokenizer(folder: Path, vocab_size: int = VOCAB_SIZE) -> CLIPTokenizer:
    """A small BPE in CLIP's layout, which knows no mask token: bytes, merges, start, end."""
    trained = SCMMProcessor.from_captions(CAPTIONS, vocab_size=vocab_size + 1).tokenizer
    model = json.loads(trained.backend_tokenizer.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = CLIPTokenizer(vocab=model["vocab"], merges=merges, model_max_length=LENGTH)
    tokenizer.save_pretrained(folder)
    return tokenizer


class Block(nn.Module):
    def __init__(self, width: int, causal_length: int | None):
        super().__init__()
        self.attn = nn.MultiheadAttention(width, width // 64)
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))
        # OpenAI's own is a plain attribute too: no part of the state dict, but of a TorchScript archive.
        self.attn_mask = None if causal_length is None else torch.full((causal_length,) * 2, -torch.inf).triu(1)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        normed = self.ln_1(tokens)
        mask = None if self.attn_mask is None else self.attn_mask[: len(tokens), : len(tokens)]
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False, attn_mask=mask)[0]
        hidden = self.mlp.c_fc(self.ln_2(tokens))
        return tokens + self.mlp.c_proj(hidden * torch.sigmoid(1.702 * hidden))


class Tower(nn.Module):
    def __init__(self, width: int, layers: int, causal_length: int | None = None):
        super().__init__()
        self.resblocks = nn.Sequential(*(Block(width, causal_length) for _ in range(layers)))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.resblocks(tokens.transpose(0, 1)).transpose(0, 1)


class Vision(nn.Module):
    def __init__(self, image_size: tuple[int, int], stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, VISION_WIDTH, PATCH, stride=stride, bias=False)
        num_patches = self.conv1(torch.zeros(1, 3, *image_size)).flatten(2).shape[2]
        self.class_embedding = nn.Parameter(torch.randn(VISION_WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(num_patches + 1, VISION_WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(VISION_WIDTH), nn.LayerNorm(VISION_WIDTH)
        self.transformer = Tower(VISION_WIDTH, layers=2)
        self.proj = nn.Parameter(torch.randn(VISION_WIDTH, EMBED_DIM) / 8)

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        patches = self.conv1(pixel_values).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_embedding.expand(len(patches), 1, -1), patches], dim=1)
        tokens = self.transformer(self.ln_pre(tokens + self.positional_embedding))
        return self.ln_post(tokens[:, 0]) @ self.proj


class SourceModel(nn.Module):
    """The dual encoder of OpenAI's CLIP, of any rectangle and stride."""

    def __init__(self, vocab_size: int = VOCAB_SIZE, image_size: tuple[int, int] = (32, 32), stride: int = PATCH):
        super().__init__()
        self.visual = Vision(image_size, stride)
        self.transformer = Tower(TEXT_WIDTH, layers=3, causal_length=LENGTH)
        self.token_embedding = nn.Embedding(vocab_size, TEXT_WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(LENGTH, TEXT_WIDTH))
        self.ln_final = nn.LayerNorm(TEXT_WIDTH)
        self.text_projection = nn.Parameter(torch.randn(TEXT_WIDTH, EMBED_DIM) / 8)
        self.logit_scale = nn.Parameter(torch.tensor(3.0))
        with torch.no_grad():  # biases and norms start at 0 and 1, where swapping them would not show
            for parameter in self.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        self.eval()

    def encode_text(self, input_ids: torch.Tensor) -> torch.Tensor:
        tokens = self.token_embedding(input_ids) + self.positional_embedding[: input_ids.shape[1]]
        tokens = self.ln_final(self.transformer(tokens))
        return tokens[torch.arange(len(tokens)), input_ids.argmax(dim=-1)] @ self.text_projection

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.visual(pixel_values), self.encode_text(input_ids)

    def rounded_to_half(self) -> "SourceModel":
        """The model that a half-precision checkpoint of it holds, for arithmetic in float32."""
        return copy.deepcopy(self).half().float()


def irra_state(model: SourceModel) -> dict[str, torch.Tensor]:
    """As in IRRA's `best.pth`: half the weights in half precision, a decoder and a classifier besides."""
    state = {f"base_model.{name}": weight for name, weight in model.state_dict().items() if name != "logit_scale"}
    for name in ("cross_attn.in_proj_weight", "cross_modal_transformer.resblocks.0.ln_1.bias", "ln_pre_t.weight"):
        state[name] = torch.zeros(3)
    return {
        **state,
        "ln_post.bias": torch.zeros(3),
        "mlm_head.fc.bias": torch.zeros(3),
        "classifier.bias": torch.ones(2),
    }


def rde_state(model: SourceModel) -> dict[str, torch.Tensor]:
    state = {f"base_model.{name}": weight for name, weight in model.state_dict().items() if name != "logit_scale"}
    return {**state, "visul_emb_layer.fc.weight": torch.ones(2, 2), "texual_emb_layer.mlp.bns.0.bias": torch.ones(2)}


def tbps_clip_state(model: SourceModel) -> dict[str, torch.Tensor]:
    state = {
        name if name.startswith(("visual.", "logit_scale")) else f"encode_text.{name}": weight
        for name, weight in model.state_dict().items()
    }
    return {**state, "simclr_mlp.0.weight": torch.ones(2, 2), "classifier.weight": torch.ones(2, 2)}


def hugging_face_clip(vocab_size: int = VOCAB_SIZE, image_size: int = 32) -> CLIPModel:
    """A random CLIP with weights far from zero."""
    text = {"hidden_size": TEXT_WIDTH, "intermediate_size": 256, "num_hidden_layers": 3, "num_attention_heads": 1}
    vision = {"hidden_size": VISION_WIDTH, "intermediate_size": 512, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"bos_token_id": vocab_size - 2, "eos_token_id": vocab_size - 1, "pad_token_id": vocab_size - 1}
    config = CLIPConfig(
        text_config={**text, **ids, "vocab_size": vocab_size, "max_position_embeddings": LENGTH},
        vision_config={**vision, "image_size": image_size, "patch_size": PATCH},
        projection_dim=EMBED_DIM,
    )
    clip = CLIPModel(config).eval()
    with torch.no_grad():
        for parameter in clip.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return clip


def openai_state(clip: CLIPModel) -> dict[str, torch.Tensor]:
    """A Hugging Face CLIP's weights by OpenAI's names: q, k and v fused, projections input-major."""
    state = {}
    for name, weight in clip.state_dict().items():
        name = name.removeprefix("text_model.").replace("vision_model.", "visual.")
        for theirs, ours in (
            ("embeddings.token_embedding", "token_embedding"),
            ("embeddings.position_embedding.weight", "positional_embedding"),
            ("embeddings.class_embedding", "class_embedding"),
            ("embeddings.patch_embedding", "conv1"),
            ("encoder.layers", "transformer.resblocks"),
            ("layer_norm", "ln_"),
            ("final_ln_", "ln_final"),
            ("pre_layrnorm", "ln_pre"),
            ("post_layernorm", "ln_post"),
            ("self_attn", "attn"),
            ("mlp.fc1", "mlp.c_fc"),
            ("mlp.fc2", "mlp.c_proj"),
        ):
            name = name.replace(theirs, ours)
        state[name] = weight
    state["visual.proj"] = state.pop("visual_projection.weight").T
    state["text_projection"] = state.pop("text_projection.weight").T
    for name in [name for name in state if ".q_proj." in name]:
        parts = [state.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        state[name.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return state
