"""What several test files share: a tiny configuration, a PaperDoll, a checkpoint that fits it, the command line."""

import os
import shutil
import sys
import tempfile
from pathlib import Path


os.environ["HF_HUB_OFFLINE"] = "1"  # nothing here may reach for the network, and a typo must fail at once
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="scmm-tests-")  # the user's own keeps nothing of the tests

import pytest
import torch
from datasets import DatasetDict

from scmm import SCMMConfig, SCMMModel, SCMMProcessor, cli, load_benchmark
from scmm.data.paperdoll import render_paperdoll


TOWER = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL_TOWER = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["HF_DATASETS_CACHE"], ignore_errors=True)


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


@pytest.fixture(scope="session")
def paperdoll_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a rendered PaperDoll: 6, 3 and 4 people with four 32x16 images each. Not to be written to."""
    root = tmp_path_factory.mktemp("paperdoll")
    render_paperdoll(
        root,
        train_identities=6,
        val_identities=3,
        test_identities=4,
        image_size=(32, 16),
        num_workers=1,
        progress=False,
    )
    return root


@pytest.fixture(scope="session")
def paperdoll(paperdoll_root: Path) -> DatasetDict:
    """The splits of `paperdoll_root`."""
    return load_benchmark("paperdoll", paperdoll_root)


@pytest.fixture(scope="session")
def checkpoint(paperdoll: DatasetDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a dual encoder of random weights and its processor, for `paperdoll`. Not to be written to."""
    folder = tmp_path_factory.mktemp("checkpoint")
    captions = [caption for captions in paperdoll["train"]["captions"] for caption in captions]
    processor = SCMMProcessor.from_captions(captions, image_size=(32, 16), max_length=40)
    config = SCMMConfig(
        text_config={**SMALL_TOWER, **processor.text_config_fields()},
        vision_config={**SMALL_TOWER, "image_size": [32, 16], "patch_size": 8},
        decoder_config=SMALL_TOWER,
        projection_dim=8,
    )
    torch.manual_seed(0)
    model = SCMMModel(config)
    with torch.no_grad():  # the usual initialization is so close to zero that wrong inputs hardly show
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def model(checkpoint: Path) -> SCMMModel:
    """The dual encoder of `checkpoint`, anew for each test."""
    return SCMMModel.from_pretrained(checkpoint)


@pytest.fixture(scope="session")
def processor(checkpoint: Path) -> SCMMProcessor:
    """The processor of `checkpoint`."""
    return SCMMProcessor.from_pretrained(checkpoint)


@pytest.fixture
def scmm(monkeypatch, capsys):
    """Runs a command in this process; returns its exit code and what it wrote to stdout and stderr."""

    def run(*args: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["scmm", *map(str, args)])
        capsys.readouterr()
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def mistake(scmm):
    """Runs a command that has to fail and returns the one line that it says."""

    def run(*args: object) -> str:
        code, out, err = scmm(*args)
        assert code == 2 and out == ""
        assert "Traceback" not in err
        assert [line for line in err.splitlines() if line.startswith("scmm: error: ")] == err.splitlines()[-1:]
        return err.splitlines()[-1]

    return run
