"""`scmm convert`: what it prints, and one line for a mistake."""

import sys

import pytest
import torch
from source_models import SourceModel, rde_state, save_tokenizer

from scmm import SCMMModel, SCMMProcessor, cli


@pytest.fixture
def convert(tmp_path, monkeypatch, capsys):
    """Converts a small RDE checkpoint with some options; returns the exit code, stdout and stderr."""
    torch.save({"model": rde_state(SourceModel(image_size=(48, 16), stride=6))}, tmp_path / "best.pth")
    save_tokenizer(tmp_path / "tokenizer")

    def run(*options: object) -> tuple[int, str, str]:
        arguments = [tmp_path / "best.pth", tmp_path / "out", "--tokenizer", tmp_path / "tokenizer", *options]
        monkeypatch.setattr(sys, "argv", ["scmm", "convert", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        capsys.readouterr()
        try:
            cli.main()
        except SystemExit as end:
            return end.code or 0, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def test_the_report(convert, tmp_path):
    code, out, _ = convert("--image-size", 48, 16)
    assert code == 0
    for fact in (
        "RDE",
        "7 x 2 patches of 8, stride 6",
        "mask token 586",
        "texual_emb_layer, visul_emb_layer",
        "average",
    ):
        assert fact in out
    model, processor = SCMMModel.from_pretrained(tmp_path / "out"), SCMMProcessor.from_pretrained(tmp_path / "out")
    batch = processor(images=torch.zeros(3, 60, 30), text=["a man"], return_tensors="pt")
    assert model(**batch).logits_per_image.shape == (1, 1)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "its position table has 14 patches, but an image of 384 x 128 pixels has 48 x 16 = 768 patches"),
        (("--image-size", 48, 16, "--stride", 8), "has 6 x 2 = 12 patches of 8 pixels with a stride of 8"),
        (("--image-size", 48, 16, "--tokenizer", "no/tokenizer"), "The tokenizer no/tokenizer is not found"),
    ],
)
def test_mistakes(convert, options, reason):
    code, out, err = convert(*options)
    assert code == 2 and out == ""
    [line] = [line for line in err.splitlines() if line.startswith("scmm: error: ")]
    assert reason in line and "Traceback" not in err
