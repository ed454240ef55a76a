"""The weighted objective: which terms it has, how it weighs them, what it refuses."""

import math
import pickle

import pytest
import torch
from loss_references import random_batch

from scmm.losses import (
    SCMMLoss,
    cmpm_loss,
    id_loss,
    itc_loss,
    mcm_loss,
    sdm_loss,
    sew_calibration_loss,
    triplet_loss,
)


BATCH = random_batch(0, 6, num_people=3)
SCALE = torch.tensor(20.0)
LABELS = torch.tensor([[1, -100], [-100, 3]])
HEADS = {
    "mcm_logits": torch.randn(2, 2, 5, generator=torch.Generator().manual_seed(0)),
    "mcm_labels": LABELS,
    "image_id_logits": torch.randn(6, 4, generator=torch.Generator().manual_seed(1)),
    "text_id_logits": torch.randn(6, 4, generator=torch.Generator().manual_seed(2)),
    "id_labels": torch.tensor([0, 1, 2, 3, 0, 1]),
}


def test_every_term_is_weighed() -> None:
    margins = {"margin_min": 0.2, "margin_max": 0.5, "margin_single": 0.4, "mining": "softplus", "tau": 0.3}
    margins |= {"weight_cross": 0.7, "weight_single": 1.3}
    weights = {"sew_weight": 2.0, "mcm_weight": 3.0, "align_weight": 5.0, "id_weight": 7.0}
    terms = SCMMLoss(**weights, **margins, itc_targets="pair")(*BATCH.all, SCALE, **HEADS)
    expected = {
        "sew": sew_calibration_loss(*BATCH.all, **margins),
        "mcm": mcm_loss(HEADS["mcm_logits"], LABELS),
        "itc": itc_loss(*BATCH.pairs, SCALE, targets="pair"),
        "id": id_loss(HEADS["image_id_logits"], HEADS["text_id_logits"], HEADS["id_labels"]),
    }
    expected["loss"] = 2 * expected["sew"] + 3 * expected["mcm"] + 5 * expected["itc"] + 7 * expected["id"]
    assert list(terms) == list(expected)
    torch.testing.assert_close(terms, expected)


def test_the_default_is_four_sew_mcm_and_itc() -> None:
    terms = SCMMLoss()(*BATCH.all, SCALE, **HEADS)
    assert set(terms) == {"sew", "mcm", "itc", "loss"}
    torch.testing.assert_close(terms["itc"], itc_loss(*BATCH.pairs, SCALE, targets="identity"))
    torch.testing.assert_close(terms["loss"], 4 * terms["sew"] + terms["mcm"] + terms["itc"])


def test_the_two_terms_of_the_paper() -> None:
    terms = SCMMLoss(sew_weight=1.0, align=None)(*BATCH.all, SCALE, **HEADS)
    assert set(terms) == {"sew", "mcm", "loss"}
    torch.testing.assert_close(terms["loss"], terms["sew"] + terms["mcm"])


@pytest.mark.parametrize("align", ["itc", "sdm", "cmpm", "triplet"])
def test_the_alignment_losses(align: str) -> None:
    expected = {
        "itc": itc_loss(*BATCH.pairs, SCALE),
        "sdm": sdm_loss(*BATCH.pairs, SCALE),
        "cmpm": cmpm_loss(*BATCH.pairs),
        "triplet": triplet_loss(*BATCH.pairs, margin=0.6),
    }[align]
    terms = SCMMLoss(sew_weight=0, mcm_weight=0, align=align, triplet_margin=0.6)(*BATCH.all, SCALE)
    assert set(terms) == {align, "loss"}
    assert expected != 0
    torch.testing.assert_close(terms, {align: expected, "loss": expected})


def test_the_number_of_masked_tokens_is_passed_on() -> None:
    objective = SCMMLoss(sew_weight=0, align_weight=0)
    once, half = (objective(*BATCH.all, SCALE, **HEADS, num_masked=n)["mcm"] for n in (2, 4))
    torch.testing.assert_close(once, 2 * half)


def test_nothing_in_it_is_learned_and_it_travels() -> None:
    objective = SCMMLoss(align="sdm")
    assert not list(objective.parameters()) and not objective.state_dict()
    copy = pickle.loads(pickle.dumps(objective))
    torch.testing.assert_close(copy(*BATCH.all, SCALE, **HEADS), objective(*BATCH.all, SCALE, **HEADS))
    assert repr(objective) == "SCMMLoss(sew_weight=4.0, mcm_weight=1.0, sdm_weight=1.0)"


def test_it_compiles_without_graph_breaks() -> None:
    objective = SCMMLoss(id_weight=1.0)
    compiled = torch.compile(objective, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(*BATCH.all, SCALE, **HEADS), objective(*BATCH.all, SCALE, **HEADS))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sew_weight": -1.0}, "sew_weight must be a finite number and not negative, got -1.0"),
        ({"mcm_weight": math.nan}, "mcm_weight .* got nan"),
        ({"align": "clip"}, "align must be one of 'itc', 'sdm', 'cmpm', 'triplet', None, got 'clip'"),
        ({"itc_targets": "person"}, "itc_targets must be one of"),
        ({"margin_min": 0.5, "margin_max": 0.4}, "margin_min .0.5. must not exceed margin_max"),
        ({"mining": "easy"}, "mining must be one of"),
        ({"triplet_margin": -0.1}, "triplet_margin .* got -0.1"),
        ({"sew_weight": 0, "mcm_weight": 0, "align": None}, "every term of the objective has weight 0"),
    ],
)
def test_options_out_of_range_are_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SCMMLoss(**options)


@pytest.mark.parametrize(
    ("options", "missing", "message"),
    [
        ({}, "mcm_labels", "needs mcm_logits and mcm_labels; pass them or set mcm_weight=0"),
        ({"id_weight": 1.0}, "text_id_logits", "needs image_id_logits, text_id_logits and id_labels"),
    ],
)
def test_a_term_without_its_inputs_is_refused(options: dict, missing: str, message: str) -> None:
    heads = {name: value for name, value in HEADS.items() if name != missing}
    with pytest.raises(ValueError, match=message):
        SCMMLoss(**options)(*BATCH.all, SCALE, **heads)
