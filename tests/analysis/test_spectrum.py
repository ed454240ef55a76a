"""Spectra of embeddings against eigenvalues of the covariance, and what the figure draws."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image

from scmm.analysis.spectrum import effective_rank, embedding_spectrum, log_difference, spectrum_figure


def covariance_spectrum(rows):
    """Square roots of the eigenvalues of the covariance of the unit vectors, in plain loops."""
    rows = [[value / math.sqrt(sum(other**2 for other in row)) for value in row] for row in rows]
    count, dim = len(rows), len(rows[0])
    mean = [sum(row[i] for row in rows) / count for i in range(dim)]
    covariance = [
        [sum((row[i] - mean[i]) * (row[j] - mean[j]) for row in rows) / count for j in range(dim)] for i in range(dim)
    ]
    return sorted(np.sqrt(np.clip(np.linalg.eigvalsh(np.array(covariance)), 0, None)), reverse=True)


@given(st.integers(2, 12), st.integers(1, 6), st.integers(0, 1000))
def test_singular_values_are_the_standard_deviations_along_the_principal_axes(count, dim, seed):
    embeds = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    spectrum = embedding_spectrum(embeds)
    assert spectrum.dtype == torch.float64 and spectrum.shape == (min(count - 1, dim),)
    expected = covariance_spectrum(embeds.tolist())[: len(spectrum)]
    assert spectrum.tolist() == pytest.approx(expected, abs=1e-6)


def test_neither_scale_nor_repetition_nor_rotation_matters():
    embeds = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
    rotation = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(1))).Q
    spectrum = embedding_spectrum(embeds)
    for same in (3 * embeds, embeds.repeat(4, 1), embeds @ rotation):
        torch.testing.assert_close(embedding_spectrum(same), spectrum, atol=1e-6, rtol=0)


def test_a_spectrum_needs_two_rows():
    with pytest.raises(ValueError, match=r"at least two embeddings in rows, got the shape \(1, 4\)"):
        embedding_spectrum(torch.ones(1, 4))


@given(st.lists(st.floats(0.01, 10), min_size=1, max_size=8))
def test_effective_rank_is_the_perplexity_of_the_shares(values):
    shares = [value / sum(values) for value in values]
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    found = effective_rank(torch.tensor(values, dtype=torch.float64))
    assert found == pytest.approx(expected)
    assert 1 - 1e-9 <= found <= len(values) + 1e-9


def test_zeros_have_no_logarithm():
    a, b = torch.tensor([1.0, 0.5, 0.25]), torch.tensor([2.0, 1e-6, 0.0, 0.0])
    difference = log_difference(a, b)
    assert difference[0].item() == pytest.approx(math.log(2))
    assert difference.isnan().tolist() == [False, True, True]


def test_the_figure_draws_both_spectra_and_their_difference(tmp_path, monkeypatch):
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), savefig(self, *a, **k)))
    image = torch.tensor([0.4, 0.2, 0.1]), torch.tensor([0.8, 0.2, 0.05])
    text = torch.tensor([0.3, 0.3, 0.0]), torch.tensor([0.6, 0.15, 0.1])
    path = spectrum_figure([("base", (image[0], text[0])), ("mine", (image[1], text[1]))], tmp_path / "spectrum.png")
    assert Image.open(path).format == "PNG"
    images, texts, difference = figures[0].axes
    assert [line.get_ydata() for line in images.lines] == [pytest.approx(values.tolist()) for values in image]
    assert [len(line.get_ydata()) for line in texts.lines] == [2, 3]  # 0 is not on a logarithmic axis
    assert images.lines[0].get_label() == f"base, effective rank {effective_rank(image[0]):.1f}"
    drawn = {line.get_label(): list(line.get_ydata()) for line in difference.lines}
    assert drawn["image"] == pytest.approx([math.log(2), 0, math.log(0.5)], abs=1e-6)
    assert drawn["text"][:2] == pytest.approx([math.log(2), math.log(0.5)], abs=1e-6)
    assert difference.get_ylabel() == "log mine - log base"
