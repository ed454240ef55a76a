"""Captions state what their image shows and nothing else."""

import re
from itertools import pairwise

import numpy as np
import pytest

from scmm.data.paperdoll import captions, paperdoll_records
from scmm.data.paperdoll.lexicon import TYPE_WORDS


RECORDS = paperdoll_records(train_identities=250, val_identities=0, test_identities=0)
CAPTIONS = [
    (record, text, stated)
    for record in RECORDS
    for text, stated in zip(record["captions"], record["caption_attributes"], strict=True)
]


def test_stated_attributes_are_shown():
    for record, text, stated in CAPTIONS:
        for name, values in stated.items():
            if name == "view" and len(values) == 2:
                assert record["attributes"]["view"] in ("left", "right")
            assert record["attributes"].get(name) in values, (text, name)
            assert "none" not in values


def test_words_agree_with_the_record():
    """An independent reading of the text: every noun of a thing is stated, and means what the image shows."""
    things = ("hat", "glasses", "scarf", "outer_type", "bag", "carried", "lower_type", "shoes_type")
    nouns = {word.lower(): (thing, meaning) for thing in things for word, meaning in TYPE_WORDS[thing].items()}
    pattern = re.compile(r"\b(" + "|".join(sorted(map(re.escape, nouns), key=len, reverse=True)) + r")\b")
    found = 0
    for record, text, stated in CAPTIONS:
        words = text.lower().split()
        once = " ".join(word for word, before in zip(words, ["", *words], strict=False) if word != before)
        names = {nouns[word] for word in pattern.findall(once)}
        for thing, meaning in names:
            assert stated[thing] == list(meaning), text
            assert record["attributes"][thing] in meaning, text
            found += 1
        for thing in set(things) & stated.keys():
            assert thing in {name for name, _ in names}, (text, thing)
    assert found > 4000


def test_genders_agree():
    for record, text, _ in CAPTIONS:
        words = set(re.findall(r"[a-z]+", text.lower()))
        if words & {"he", "man", "male", "guy", "gentleman"}:
            assert record["attributes"]["gender"] == "man", text
        if words & {"she", "woman", "female", "lady"}:
            assert record["attributes"]["gender"] == "woman", text


def test_seen_from_behind_nobody_wears_glasses():
    behind = [(text, stated) for record, text, stated in CAPTIONS if record["attributes"]["view"] == "back"]
    assert len(behind) > 300
    for text, stated in behind:
        assert "glasses" not in stated and "glasses" not in text.lower() and "logo" not in text.lower()


def test_density_spreads():
    words = np.array([len(text.split()) for _, text, _ in CAPTIONS])
    stated = np.array([len(facts) for _, _, facts in CAPTIONS])
    assert words.min() <= 5 and np.quantile(words, 0.1) <= 9 and np.quantile(words, 0.9) >= 30
    assert np.mean(stated <= 4) > 0.1 and np.mean(stated >= 10) > 0.25
    assert any(text.rstrip(".").endswith("in dark clothes") for _, text, _ in CAPTIONS)
    first, second = np.array([[len(facts) for facts in record["caption_attributes"]] for record in RECORDS]).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.35  # independent densities of the same picture


def test_captions_read_like_sentences():
    for _, text, _ in CAPTIONS:
        assert text == text.strip() and text
        assert not re.search(r"\ba [aeiou]", text.lower().replace("a a ", "a ")), text
        assert not re.search(r"\ban [bcdfghjklmnpqrstvwxyz]", text.lower()), text
        assert "  " not in text and " ," not in text and " ." not in text
        assert text.isascii()


def test_slips_are_a_seeded_fraction(monkeypatch):
    assert [r["captions"] for r in RECORDS[:40]] == [
        r["captions"] for r in paperdoll_records(train_identities=10, val_identities=0, test_identities=0)
    ]
    monkeypatch.setattr(captions, "SLIP_FRACTION", 0.0)
    clean = paperdoll_records(train_identities=250, val_identities=0, test_identities=0)
    pairs = [
        pair
        for record, other in zip(RECORDS, clean, strict=True)
        for pair in zip(record["captions"], other["captions"], strict=True)
    ]
    slips = [(text, other) for text, other in pairs if text != other]
    assert 0.09 < len(slips) / len(pairs) < 0.15
    assert [r["caption_attributes"] for r in RECORDS] == [r["caption_attributes"] for r in clean]
    kinds = {"space": 0, "case": 0, "repetition": 0}
    for text, other in slips:
        if text == other.lower():
            kinds["case"] += 1
        elif text == other.replace(". ", ".", 1):
            kinds["space"] += 1
        else:
            words = text.split(" ")
            repeated = [place for place, (a, b) in enumerate(pairwise(words)) if a == b]
            assert any(words[:p] + words[p + 1 :] == other.split(" ") for p in repeated), (text, other)
            kinds["repetition"] += 1
    assert min(kinds.values()) > 20
    assert all(re.search(r"\.[A-Z]", text) is None for text, other in pairs if text == other)


@pytest.mark.parametrize(("phrase", "expected"), [("olive coat", "an olive coat"), ("cap", "a cap")])
def test_article(phrase, expected):
    assert captions.article(phrase) == expected
