"""Modality gap, alignment and uniformity against plain loops over all pairs."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scmm.analysis import gap
from scmm.analysis.gap import alignment, modality_gap, uniformity


def unit(embeds):
    return [[value / math.hypot(*row) for value in row] for row in embeds.tolist()]


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan


@pytest.fixture(params=[2, 1024])
def rows_at_once(request, monkeypatch):
    """Blocks smaller than the data, and larger."""
    monkeypatch.setattr(gap, "_ROWS_AT_ONCE", request.param)


def embeddings(seed, images=5, captions=7, dim=3):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, dim, generator=generator), torch.randn(captions, dim, generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_against_all_pairs(seed, rows_at_once):
    image, text = embeddings(seed)
    image_ids, text_ids = torch.tensor([1, 1, 2, 3, 4]), torch.tensor([1, 2, 3, 3, 9, 1, 2])
    images, texts = unit(image), unit(text)

    centers = [[mean(column) for column in zip(*rows, strict=True)] for rows in (images, texts)]
    assert modality_gap(image, text) == pytest.approx(math.dist(*centers))
    distances = [
        math.dist(texts[i], images[j]) ** 2 for i in range(7) for j in range(5) if text_ids[i] == image_ids[j]
    ]
    assert alignment(image, text, image_ids, text_ids) == pytest.approx(mean(distances))
    pairs = itertools.combinations(texts, 2)
    assert uniformity(text) == pytest.approx(math.log(mean(math.exp(-2 * math.dist(a, b) ** 2) for a, b in pairs)))


@given(st.integers(0, 1000), st.floats(0.1, 100))
def test_length_does_not_matter(seed, scale):
    image, text = embeddings(seed)
    ids = torch.arange(5), torch.arange(7)
    assert modality_gap(scale * image, text) == pytest.approx(modality_gap(image, text), abs=1e-6)
    assert alignment(image, scale * text, *ids) == pytest.approx(alignment(image, text, *ids), abs=1e-6)
    assert uniformity(scale * text) == pytest.approx(uniformity(text), abs=1e-6)


def test_the_extremes():
    image = torch.eye(3)
    assert modality_gap(image, image) == 0
    assert alignment(image, -image, torch.arange(3), torch.arange(3)) == 4
    assert math.isnan(alignment(image, image, torch.arange(3), torch.arange(3, 6)))
    assert uniformity(torch.ones(4, 2)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(ValueError, match="pairs of embeddings, got 1"):
        uniformity(image[:1])
