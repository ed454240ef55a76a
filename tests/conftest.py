"""Fixtures that several test files share: a configuration of a few thousand parameters."""

import os


os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for the network, and a typo must fail at once

import pytest

from scmm import SCMMConfig


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.fixture
def tiny_config() -> SCMMConfig:
    """A configuration with 16x8 images, 4x2 patches and a vocabulary of 60 tokens."""
    return SCMMConfig(
        text_config={
            **TOWER,
            "vocab_size": 60,
            "max_position_embeddings": 12,
            "bos_token_id": 57,
            "eos_token_id": 58,
            "pad_token_id": 58,
            "mask_token_id": 59,
        },
        vision_config={**TOWER, "image_size": [16, 8], "patch_size": 4},
        decoder_config={**TOWER, "num_hidden_layers": 1},
        projection_dim=24,
    )
