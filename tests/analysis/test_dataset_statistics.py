"""The histograms of a data set: which bins, which heights."""

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from scmm.analysis.dataset_statistics import dataset_statistics_figure
from scmm.data.stats import SplitStats


def split(words, quality, images_per_identity) -> SplitStats:
    return SplitStats(np.ones(len(words), dtype=np.int64), *map(np.array, (images_per_identity, words, quality)))


@pytest.fixture
def drawn(monkeypatch):
    """The figure as it was when it was saved."""
    figures, savefig = [], Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        return savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def stairs(axes):
    return [(patch.get_data().values, patch.get_data().edges) for patch in axes.patches]


def test_each_split_is_a_line_in_percent(tmp_path, drawn):
    stats = {
        "train": split([3, 3, 5, 9], [0.0, 0.5, 0.99, 1.0], [4, 4, 1]),
        "test": split([2], [0.25], [2]),
    }
    path = dataset_statistics_figure(stats, tmp_path / "new" / "statistics.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
    words, quality, images = drawn[0].axes
    (train, edges), (test, _) = stairs(words)
    assert edges.tolist() == [n - 0.5 for n in range(11)]
    assert train.tolist() == [0, 0, 0, 50, 0, 25, 0, 0, 0, 25]
    assert test.tolist() == [0, 0, 100, 0, 0, 0, 0, 0, 0, 0]
    heights, edges = stairs(quality)[0]
    assert (edges[0], edges[-1]) == (0, 1) and heights[-1] == 50 and heights.sum() == 100
    assert stairs(images)[0][0].tolist() == pytest.approx([0, 100 / 3, 0, 0, 200 / 3])
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["train", "test"]


def test_wide_bins_lose_nobody(tmp_path, drawn):
    for highest in (29, 30, 301):
        words = list(range(highest + 1))
        dataset_statistics_figure({"all": split(words, [0.5] * len(words), [highest])}, tmp_path / "statistics.png")
        heights, edges = stairs(drawn[-1].axes[0])[0]
        assert heights.sum() == pytest.approx(100) and len(heights) <= 31
        assert set(np.diff(edges)) == {edges[1] - edges[0]} and (edges % 1 == 0.5).all()


def test_a_split_without_captions_does_not_hide_the_others(tmp_path, drawn):
    dataset_statistics_figure({"train": split([3], [0.5], [1]), "test": split([], [], [1])}, tmp_path / "s.png")
    assert stairs(drawn[0].axes[0])[1][0].sum() == 0
    with pytest.raises(ValueError, match="stats has nothing to draw"):
        dataset_statistics_figure({"test": split([], [], [1])}, tmp_path / "none.png")
    assert not (tmp_path / "none.png").exists()
