"""Caption quality: numbers by hand and on real captions, saving and loading, bad input."""

import ast
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import scmm.caption_quality
from scmm.caption_quality import CAPTION_QUALITY_NAME, CaptionQuality


CAPTIONS = [
    "A man in a red coat.",
    "A man in a red hat, red shoes and a RED scarf.",
    "The man has a red bag.He walks",
    "A woman in a coat",
    "the woman's coat is blue",
    "",
]
MEASURES = ["information", "length", "distinct", "constant"]
FITTED = [CaptionQuality(measure).fit(CAPTIONS) for measure in MEASURES]
REAL = Path(__file__).parents[1].parent / "shared" / "data" / "person_captions.json"


def test_information_by_hand() -> None:
    quality = CaptionQuality().fit(CAPTIONS)
    # man, red and coat are in three captions each, every other content word is in fewer: p = (3 + 1) / (6 + 2)
    assert quality.caption_counts == {"coat": 3, "man": 3, "red": 3}
    amounts = [3, 2, 2, 1, 1, 0]  # bits
    reference = 2 + 0.75 * (3 - 2)  # rank 0.95 * 5 = 4.75 of 0 1 1 2 2 3
    assert quality.reference == pytest.approx(reference)
    assert quality(CAPTIONS) == pytest.approx([min(1, amount / reference) for amount in amounts])


def test_words_that_differ_in_frequency_differ_in_information() -> None:
    quality = CaptionQuality().fit(["red coat"] * 3 + ["red"] * 6 + ["unseen"])
    assert quality("red") == pytest.approx([math.log2(12 / 10) / quality.reference])
    assert quality("coat") == pytest.approx([math.log2(12 / 4) / quality.reference])


def test_length_by_hand() -> None:
    quality = CaptionQuality("length").fit(CAPTIONS)
    words = [6, 12, 8, 5, 6, 0]  # "woman's" is two
    reference = 8 + 0.75 * (12 - 8)
    assert quality(CAPTIONS) == pytest.approx([min(1, n / reference) for n in words])


def test_distinct_by_hand() -> None:
    quality = CaptionQuality("distinct").fit(CAPTIONS)
    content = [3, 5, 4, 2, 3, 0]
    reference = 4 + 0.75 * (5 - 4)
    assert quality(CAPTIONS) == pytest.approx([min(1, n / reference) for n in content])


def test_constant_needs_no_fitting() -> None:
    quality = CaptionQuality("constant")
    assert quality.is_fitted
    assert quality(["", "a red coat"]) == quality.fit([])(["", "a red coat"]) == [1.0, 1.0]


def test_one_caption_or_several() -> None:
    quality = CaptionQuality().fit(CAPTIONS)
    assert quality(CAPTIONS[0]) == quality([CAPTIONS[0]]) == quality(caption for caption in CAPTIONS[:1])
    assert quality([]) == []


@pytest.mark.parametrize("measure", ["information", "length", "distinct"])
@pytest.mark.parametrize("caption", ["", "  \n", "...", "\N{GRINNING FACE}", "_"])
def test_a_caption_without_words_scores_zero(measure: str, caption: str) -> None:
    assert CaptionQuality(measure).fit(CAPTIONS)(caption) == [0.0]


def test_unknown_and_rare_words_carry_nothing() -> None:
    assert (
        CaptionQuality().fit(CAPTIONS)(["the of and", "zebra", "blue shoes", "\u7ea2\u8272 \u5916\u5957"]) == [0.0] * 4
    )


@settings(max_examples=50, deadline=None)
@given(caption=st.text(), word=st.sampled_from(["man", "red", "coat", "zebra", "the"]))
def test_another_word_never_lowers_the_score(caption: str, word: str) -> None:
    for quality in FITTED:
        without, with_word = quality([caption, f"{caption} {word}"])
        assert 0 <= without <= with_word <= 1


def test_neither_case_order_nor_missing_spaces_matter() -> None:
    quality = CaptionQuality().fit(CAPTIONS)
    scores = quality(["A man. A red coat.", "a man.a red coat", "A RED COAT, A MAN", "coat coat red man"])
    assert len(set(scores)) == 1 and scores[0] > 0


def test_real_captions() -> None:
    if not REAL.is_file():
        pytest.skip(f"the real captions are not at {REAL}")
    captions = [caption for entry in json.loads(REAL.read_text()) for caption in entry["captions"]]
    assert len(captions) == 4086
    scores = CaptionQuality().fit(captions)(captions)
    by_caption = dict(zip(captions, scores, strict=True))
    assert by_caption["The man is walking. He is wearing a black shirt."] == pytest.approx(0.03, abs=0.01)
    mean = sum(scores) / len(scores)
    assert mean == pytest.approx(0.37, abs=0.03)
    assert sum(score == 1 for score in scores) / len(scores) == pytest.approx(0.05, abs=0.001)
    four_sentences = [by_caption[caption] for caption in captions if caption.count(". ") >= 3]
    assert sum(four_sentences) / len(four_sentences) > 1.5 * mean


@pytest.mark.parametrize("measure", MEASURES)
def test_it_scores_the_same_once_loaded(tmp_path: Path, measure: str) -> None:
    saved = CaptionQuality(measure).fit(CAPTIONS)
    saved.save_pretrained(tmp_path / "new" / "folder")
    loaded = CaptionQuality.from_pretrained(tmp_path / "new" / "folder")
    assert vars(loaded) == vars(saved)
    assert loaded([*CAPTIONS, "a red zebra"]) == saved([*CAPTIONS, "a red zebra"])


def test_the_file_holds_what_is_needed_alone(tmp_path: Path) -> None:
    CaptionQuality().fit(CAPTIONS).save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == [CAPTION_QUALITY_NAME]
    assert json.loads((tmp_path / CAPTION_QUALITY_NAME).read_text()) == {
        "measure": "information",
        "num_captions": 6,
        "reference": 2.75,
        "caption_counts": {"coat": 3, "man": 3, "red": 3},
    }


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CaptionQuality().fit(CAPTIONS).save_pretrained(tmp_path)
    before = (tmp_path / CAPTION_QUALITY_NAME).read_bytes()

    def disk_is_full(*paths: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", disk_is_full)
    with pytest.raises(OSError, match="disk is full"):
        CaptionQuality("length").fit(CAPTIONS).save_pretrained(tmp_path)
    assert os.listdir(tmp_path) == [CAPTION_QUALITY_NAME]
    assert (tmp_path / CAPTION_QUALITY_NAME).read_bytes() == before


def test_the_scores_do_not_depend_on_the_hash_seed() -> None:
    program = (
        "from scmm.caption_quality import CaptionQuality;"
        "words = [f'w{i}x' for i in range(200)];"
        "captions = [' '.join(words[: i * 7 % 200]) for i in range(1, 60)];"
        "quality = CaptionQuality().fit(captions); print(quality(captions), quality.caption_counts)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("measure", ["information", "length", "distinct"])
def test_an_unfitted_scorer_says_so(tmp_path: Path, measure: str) -> None:
    quality = CaptionQuality(measure)
    assert not quality.is_fitted
    with pytest.raises(RuntimeError, match=r"is not fitted: call \.fit"):
        quality("a red coat")
    with pytest.raises(RuntimeError, match="is not fitted"):
        quality.save_pretrained(tmp_path)
    assert not os.listdir(tmp_path)


def test_an_unknown_measure_is_refused() -> None:
    with pytest.raises(ValueError, match=r"measure must be one of 'information', .*, got 'density'"):
        CaptionQuality("density")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("measure", "captions"), [("information", ["a red coat"] * 2), ("length", ["", "."]), ("distinct", [])]
)
def test_captions_that_leave_nothing_to_measure_are_refused(measure: str, captions: list[str]) -> None:
    quality = CaptionQuality(measure).fit(CAPTIONS)
    with pytest.raises(ValueError, match=f"The {len(captions)} training captions leave nothing to measure"):
        quality.fit(captions)
    assert not quality.is_fitted


def test_what_is_no_caption_is_refused() -> None:
    with pytest.raises(TypeError, match="list of strings, got one string"):
        CaptionQuality().fit("a red coat")
    with pytest.raises(TypeError, match="Caption 1 must be a string, got NoneType: None"):
        CaptionQuality().fit(["a red coat", None])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="Caption 0 must be a string, got int: 3"):
        CaptionQuality().fit(CAPTIONS)([3])  # type: ignore[list-item]


GOOD = {"measure": "information", "num_captions": 6, "reference": 2.75, "caption_counts": {"coat": 3}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is broken.*Expecting value"),
        (json.dumps(GOOD)[:40], "is broken"),
        ("[]", "is broken"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "reference"}), "lacks 'reference'"),
        (json.dumps({**GOOD, "measure": "density"}), "measure must be one of"),
        (json.dumps({**GOOD, "measure": []}), "measure must be one of"),
        (json.dumps({**GOOD, "reference": 0}), "reference must be a positive number, got 0"),
        (json.dumps({**GOOD, "reference": math.nan}), "reference must be a positive number, got nan"),
        (json.dumps({**GOOD, "reference": None}), "reference must be a positive number, got None"),
        (json.dumps({**GOOD, "num_captions": -1}), "num_captions must be a number of captions, got -1"),
        (json.dumps({**GOOD, "caption_counts": ["coat"]}), "caption_counts must map words"),
        (json.dumps({**GOOD, "caption_counts": {"coat": 7}}), "caption_counts of 'coat' must lie between 3 and"),
        (json.dumps({**GOOD, "caption_counts": {"coat": "3"}}), "caption_counts of 'coat'"),
        (b"\xff\xfe", "is broken"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, content: str | bytes, message: str) -> None:
    path = tmp_path / CAPTION_QUALITY_NAME
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=f"(?s){path}.*{message}"):
        CaptionQuality.from_pretrained(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"no {CAPTION_QUALITY_NAME} in {tmp_path}"):
        CaptionQuality.from_pretrained(tmp_path)


def test_it_ships_alone() -> None:
    tree = ast.parse(Path(scmm.caption_quality.__file__).read_text())
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert imported and {name.split(".")[0] for name in imported} <= sys.stdlib_module_names
    assert "__future__" not in imported
