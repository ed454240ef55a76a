"""The loss curves: which lines are drawn, from which numbers."""

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from scmm.analysis.loss_curves import loss_curves_figure


HISTORY = [
    {"step": 10, "epoch": 0.5, "loss": 9.0, "loss_sew": 0.5, "loss_mcm": 6.0, "loss_itc": 1.0, "learning_rate": 1e-3},
    {"step": 20, "epoch": 1.0, "loss": 5.0, "loss_sew": 0.25, "loss_mcm": 3.5, "loss_itc": 0.5, "learning_rate": 1e-3},
    {"step": 20, "epoch": 1.0, "eval_rank1": 20.0, "eval_mAP": 15.0, "eval_num_queries": 40, "eval_runtime": 1.0},
    {"step": 40, "epoch": 2.0, "eval_rank1": 60.0, "eval_mAP": 45.0, "eval_num_queries": 40, "eval_runtime": 1.0},
    {"step": 60, "epoch": 3.0, "eval_rank1": 50.0, "eval_mAP": 47.0, "eval_num_queries": 40, "eval_runtime": 1.0},
    {"step": 60, "train_loss": 7.0, "train_runtime": 3.0},
]


@pytest.fixture
def drawn(monkeypatch):
    """The figure as it was when it was saved."""
    figures, savefig = [], Figure.savefig

    def keep(self, *args, **kwargs):
        figures.append(self)
        return savefig(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


def lines(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_every_term_is_a_line_beside_rank1_and_map(tmp_path, drawn):
    path = loss_curves_figure(HISTORY, tmp_path / "loss_curves.png")
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).min() < 100
    losses, metrics = drawn[0].axes
    assert lines(losses) == {
        "total, weighted": [[10, 9], [20, 5]],
        "sew calibration": [[10, 0.5], [20, 0.25]],
        "masked caption modeling": [[10, 6], [20, 3.5]],
        "ITC": [[10, 1], [20, 0.5]],
    }
    assert lines(metrics) == {
        "rank-1, best 60.0": [[20, 20], [40, 60], [60, 50]],
        "mAP, best 47.0": [[20, 15], [40, 45], [60, 47]],
    }
    assert losses.get_yscale() == "log"
    assert len({line.get_color() for line in losses.lines}) == 4


def test_a_loss_of_zero_needs_a_linear_scale(tmp_path, drawn):
    loss_curves_figure([{"step": 1, "loss": 1.0, "loss_sew": 0.0}, {"step": 2, "loss": 0.5}], tmp_path / "curves.png")
    (losses,) = drawn[0].axes
    assert losses.get_yscale() == "linear"


def test_a_lone_point_is_visible(tmp_path, drawn):
    loss_curves_figure([{"step": 1, "loss": 1.0}], tmp_path / "curves.png")
    assert drawn[0].axes[0].lines[0].get_marker() == "o"


def test_evaluations_alone_are_drawn(tmp_path, drawn):
    loss_curves_figure([entry for entry in HISTORY if "loss" not in entry], tmp_path / "curves.png")
    (metrics,) = drawn[0].axes
    assert len(metrics.lines) == 2


@pytest.mark.parametrize("history", [[], [{"step": 3, "train_loss": 1.0}], [{"loss": 1.0}]])
def test_nothing_to_draw_is_refused(history, tmp_path):
    with pytest.raises(ValueError, match="log_history has nothing to draw"):
        loss_curves_figure(history, tmp_path / "curves.png")
    assert list(tmp_path.iterdir()) == []


def test_pyplot_is_left_alone(tmp_path):
    before = sys.modules.get("matplotlib.pyplot")
    loss_curves_figure(HISTORY, tmp_path / "curves.png")
    assert sys.modules.get("matplotlib.pyplot") is before
