"""The figure of an ablation: which points it draws."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from scmm.analysis.ablation import ArmResults, ablation_figure


@pytest.fixture
def drawn(monkeypatch):
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: (figures.append(self), savefig(self, *a, **k)))
    return figures


def runs(*rank1s, splits=("val", "test")):
    """Runs whose test rank-1 is one below the validation's, and whose mAP is half of it."""
    shift = {"val": 0, "test": 1}
    return [
        {"epoch": 1.0, **{split: {"rank1": rank1 - shift[split], "mAP": rank1 / 2} for split in splits}}
        for rank1 in rank1s
    ]


def points(axes):
    """The dots and the means, without the ends of the bars."""
    return [
        list(map(float, point))
        for line in axes.lines
        for point in line.get_xydata()
        if line.get_marker() in ("o", "D")
    ]


def test_each_arm_is_a_row_with_its_seeds_and_their_mean(tmp_path, drawn):
    arms = [ArmResults("one", runs(50, 54, 58)), ArmResults("two", runs(60))]
    with Image.open(ablation_figure("Title", arms, tmp_path / "ablation.png")) as picture:
        assert picture.format == "PNG"
    rank1, mean_ap = drawn[0].axes
    assert [label.get_text() for label in rank1.get_yticklabels()] == ["one", "two"]
    xs = [x for x, y in points(rank1) if y < 0.5]
    assert sorted(xs) == [49, 50, 53, 53, 54, 54, 57, 58]  # each seed, and the mean of either split
    assert {x for x, y in points(mean_ap) if y > 0.5} == {30.0}
    bars = [container for container in rank1.containers if container.has_xerr]
    ends = bars[0].lines[2][0].get_segments()
    assert ends[0][:, 0].tolist() == [54 - 4, 54 + 4]  # the standard deviation of a sample
    assert ends[1][:, 0].tolist() == [60, 60]


def test_a_sweep_is_a_line_and_what_it_is_compared_with_goes_across(tmp_path, drawn):
    arms = [ArmResults("0.4", runs(52, 54), 0.4), ArmResults("0", runs(40, 44), 0.0), ArmResults("adaptive", runs(60))]
    ablation_figure("Margin", arms, tmp_path / "sweep.png", x_label="fixed margin")
    rank1 = drawn[0].axes[0]
    assert rank1.get_xlabel() == "fixed margin"
    labeled = {line.get_label(): line.get_ydata() for line in rank1.lines}
    assert list(labeled["adaptive, validation"]) == [60, 60] and list(labeled["adaptive, test"]) == [59, 59]
    assert [0.0, 42.0] in points(rank1) and [0.4, 53.0] in points(rank1)
    lines = [line.get_xydata().tolist() for line in rank1.lines if len(line.get_xdata()) == 2]
    assert [[0.0, 42.0], [0.4, 53.0]] in lines  # in the order of x


def test_a_split_that_a_run_lacks_is_left_out(tmp_path, drawn):
    arms = [ArmResults("one", runs(50)), ArmResults("two", runs(60, splits=["val"]))]
    ablation_figure("Title", arms, tmp_path / "ablation.png")
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["validation"]


@pytest.mark.parametrize("arms", [[], [ArmResults("one", [])], [ArmResults("one", [{"epoch": 1.0}])]])
def test_nothing_to_draw_is_refused(arms, tmp_path):
    with pytest.raises(ValueError, match="nothing to draw"):
        ablation_figure("Title", arms, tmp_path / "ablation.png")
    assert list(tmp_path.iterdir()) == []
