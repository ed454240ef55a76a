"""The oracle against a slow reference, and its range on the default test split."""

import math

import numpy as np
import pytest

from scmm.data.paperdoll import oracle_scores, paperdoll_records


def rank1(scores: np.ndarray, query_ids: np.ndarray, gallery_ids: np.ndarray) -> float:
    """Percentage; equal scores rank by gallery index, as argmax does."""
    return 100 * float(np.mean(gallery_ids[scores.argmax(axis=1)] == query_ids))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_data_are_neither_trivial_nor_hopeless(seed):
    records = paperdoll_records(seed=seed, train_identities=0, val_identities=0)
    scores, query_ids, gallery_ids = oracle_scores(records)
    assert scores.shape == (2000, 1000) and scores.dtype == np.float32
    assert len(set(gallery_ids)) == 250
    assert 70 <= rank1(scores, query_ids, gallery_ids) <= 95


def test_oracle_equals_a_loop():
    records = paperdoll_records(train_identities=0, val_identities=0, test_identities=12)
    scores, query_ids, gallery_ids = oracle_scores(records)
    row = 0
    for record in records:
        for stated in record["caption_attributes"]:
            assert query_ids[row] == record["id"]
            for column, candidate in enumerate(records):
                expected = 0.0
                for name, values in stated.items():
                    visible = [r["attributes"][name] for r in records if name in r["attributes"]]
                    share = sum(value in values for value in visible) / len(visible)
                    if name not in candidate["attributes"]:
                        continue
                    match = candidate["attributes"][name] in values
                    if name in ("view", "pose"):
                        expected += math.log((0.25 + 0.75 * share) / share) if match else math.log(0.75)
                    else:
                        expected += -math.log(share) if match else -12
                assert scores[row, column] == pytest.approx(expected, abs=1e-4)
            row += 1
    assert row == len(scores) and list(gallery_ids) == [r["id"] for r in records]


def test_matches_count_for_contradictions_against_and_hidden_is_neutral():
    def record(person_id, **attributes):
        return {"id": person_id, "attributes": attributes, "caption_attributes": []}

    query = record(0, hat="cap", upper_color="navy")
    query["caption_attributes"] = [{"hat": ["cap"], "upper_color": ["black", "navy"]}]
    gallery = [query, record(1, hat="beanie", upper_color="navy"), record(2, upper_color="black"), record(3)]
    scores, _, _ = oracle_scores(gallery)
    assert scores[0, 0] > scores[0, 2] >= scores[0, 3] == 0 > scores[0, 1]


def test_richer_captions_are_found_more_often():
    records = paperdoll_records(train_identities=0, val_identities=0)
    scores, query_ids, gallery_ids = oracle_scores(records)
    stated = np.array([len(facts) for record in records for facts in record["caption_attributes"]])
    poor, rich = stated <= 4, stated >= 10
    assert (
        rank1(scores[poor], query_ids[poor], gallery_ids) < 50 < 90 < rank1(scores[rich], query_ids[rich], gallery_ids)
    )


def test_the_described_image_is_never_contradicted():
    records = paperdoll_records(train_identities=0, val_identities=0, test_identities=60)
    scores, query_ids, gallery_ids = oracle_scores(records)
    assert scores[query_ids[:, None] == gallery_ids[None, :]].min() > -3
