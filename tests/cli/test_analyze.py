"""The commands that analyze embeddings, on a real checkpoint and a rendered benchmark."""

import csv
import json
import math

import pytest
from PIL import Image
from typer.testing import CliRunner

from scmm import SCMMModel, cli
from scmm.analysis.gap import modality_gap, uniformity
from scmm.analysis.spectrum import effective_rank, embedding_spectrum
from scmm.retrieval.encode import encode_dataset


@pytest.fixture
def encoded(model, processor, paperdoll):
    return encode_dataset(model, processor, paperdoll["test"])


@pytest.fixture
def other_checkpoint(checkpoint, processor, tmp_path):
    """The checkpoint with half of its text projection turned off."""
    model = SCMMModel.from_pretrained(checkpoint)
    model.text_projection.weight.data[4:] = 0
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


def run(*args):
    result = CliRunner().invoke(cli.app, [str(arg) for arg in args], env={"COLUMNS": "150", "NO_COLOR": "1"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_spectrum(checkpoint, other_checkpoint, paperdoll_root, paperdoll, processor, encoded, tmp_path):
    output = tmp_path / "spectrum"
    names = ("--labels", "base", "half", "--output-dir", output)
    result = run("analyze", "spectrum", checkpoint, other_checkpoint, "paperdoll", paperdoll_root, *names)
    assert result.exit_code == 0
    with open(output / "spectrum.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    other = encode_dataset(SCMMModel.from_pretrained(other_checkpoint), processor, paperdoll["test"])
    expected = {
        f"{modality}_{model}": embedding_spectrum(getattr(found, f"{modality}_embeds"))
        for model, found in (("a", encoded), ("b", other))
        for modality in ("image", "text")
    }
    for name, values in expected.items():
        assert [float(row[name]) for row in rows] == pytest.approx(values.tolist(), abs=1e-6), name
    assert [float(row["image_log_difference"]) for row in rows] == pytest.approx([0] * 8, abs=1e-6)
    differences = [row["text_log_difference"] for row in rows]
    assert differences[4:] == [""] * 4  # these directions are gone
    ratio = float(rows[0]["text_b"]) / float(rows[0]["text_a"])
    assert float(differences[0]) == pytest.approx(math.log(ratio))
    for name in ("text_a", "text_b"):
        assert f"{effective_rank(expected[name]):.1f}" in result.output
    with Image.open(output / "spectrum.png") as picture:
        assert picture.format == "PNG"


def test_gap(checkpoint, paperdoll_root, paperdoll, encoded):
    result = run("analyze", "gap", checkpoint, "paperdoll", paperdoll_root, "--json")
    report = json.loads(result.stdout)
    assert (report["dataset"], report["split"]) == ("paperdoll", "test")
    image, text = encoded.image_embeds, encoded.text_embeds
    assert report["modality_gap"] == pytest.approx(modality_gap(image, text))
    assert report["uniformity_image"] == pytest.approx(uniformity(image))
    assert report["uniformity_text"] == pytest.approx(uniformity(text))
    own, person, caption = [], [], 0
    for row, captions in enumerate(paperdoll["test"]["captions"]):
        for _ in captions:
            distances = (image - text[caption]).square().sum(dim=1)
            own.append(float(distances[row]))
            person += distances[encoded.image_person_ids == encoded.text_person_ids[caption]].tolist()
            caption += 1
    assert report["alignment_own_image"] == pytest.approx(sum(own) / len(own), abs=1e-5)
    assert report["alignment_same_person"] == pytest.approx(sum(person) / len(person), abs=1e-5)

    table = run("analyze", "gap", checkpoint, "paperdoll", paperdoll_root).stdout
    assert f"{report['modality_gap']:.4f}" in table


@pytest.mark.parametrize("command", ["spectrum", "gap"])
def test_an_unknown_split_is_named(command, checkpoint, paperdoll_root):
    checkpoints = [checkpoint] * (2 if command == "spectrum" else 1)
    with pytest.raises(ValueError, match="no split 'dev', only test, train, val"):
        run("analyze", command, *checkpoints, "paperdoll", paperdoll_root, "--split", "dev")
