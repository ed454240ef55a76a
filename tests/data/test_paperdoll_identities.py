"""Identities, scenes and what a view shows."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from scmm.data.paperdoll import attributes, number_of_identities, sample_identity, sample_scene, shown_attributes


PEOPLE = [sample_identity(0, "train", index) for index in range(600)]


def test_there_are_a_billion_identities():
    assert number_of_identities() >= 10**9


def test_number_of_identities_counts_what_can_be_drawn(monkeypatch):
    """With tables cut down to a few values, drawing often enough meets every combination exactly once."""
    small = {
        "BUILDS": {"slim": 1},
        "SKINS": {"light": attributes.SKINS["light"]},
        "HAIR_COLORS": {"black": (0, 0, 0)},
        "HAIR_COLOR_WEIGHTS": {"black": 1},
        "HAIR_STYLES": {"man": {"bald": 1}, "woman": {"long": 1}},
        "HATS": {"none": 1},
        "GLASSES": {"none": 1},
        "SCARVES": {"none": 1},
        "OUTER_TYPES": {"none": 1, "coat": 1},
        "UPPER_TYPES": {"man": {"shirt": 1}, "woman": {"shirt": 1}},
        "UPPER_COLORS": {"black": 1, "white": 1},
        "PATTERNS": {"plain": 1, "dots": 1},
        "LOWER_TYPES": {"man": {"jeans": 1}, "woman": {"skirt": 1}},
        "LOWER_LENGTHS": {"jeans": {"long": 1}, "skirt": {"short": 1, "long": 1}},
        "LOWER_COLORS": {"red": 1},
        "LOWER_PATTERNS": {"plain": 1},
        "JEANS_COLORS": {"blue": 1},
        "SHOE_TYPES": {"boots": 1},
        "SHOE_COLORS": {"black": 1},
        "BAGS": {"none": 1},
        "CARRIED": {"none": 1, "umbrella": 1},
        "CARRIED_COLORS": {"umbrella": {"red": 1, "blue": 1}},
    }
    for name, table in small.items():
        monkeypatch.setattr(attributes, name, table)
    drawn = {tuple(sorted(sample_identity(0, "train", index).items())) for index in range(4_000)}
    assert len(drawn) == number_of_identities()


def test_an_identity_depends_on_its_place_alone():
    assert sample_identity(3, "test", 17) == sample_identity(3, "test", 17)
    assert sample_scene(3, "test", 17, 2) == sample_scene(3, "test", 17, 2)
    for other in (sample_identity(4, "test", 17), sample_identity(3, "val", 17), sample_identity(3, "test", 18)):
        assert other != sample_identity(3, "test", 17)
    assert sample_scene(3, "test", 17, 1) != sample_scene(3, "test", 17, 2)


def test_crowd_is_uneven_and_has_lookalikes():
    colors = Counter(person["lower_color"] for person in PEOPLE)
    assert colors["black"] > 8 * colors["yellow"]

    def differences(first: dict, second: dict) -> int:
        return sum(first.get(name) != second.get(name) for name in first | second)

    neighbors = [differences(a, b) for a, b in pairwise(PEOPLE)]
    strangers = [differences(a, b) for a, b in zip(PEOPLE, PEOPLE[2:], strict=False)]
    assert 0.08 < np.mean(np.array(neighbors) <= 8) < 0.3
    assert np.mean(np.array(strangers) <= 8) < 0.08
    assert min(neighbors) >= 1


@pytest.mark.parametrize("person", PEOPLE[:50])
def test_attributes_apply(person):
    for thing in ("hat", "scarf", "bag"):
        assert (f"{thing}_color" in person) == (person[thing] != "none")
    assert ("outer_color" in person) == (person["outer_type"] != "none")
    assert ("upper_pattern_color" in person) == (person["upper_pattern"] != "plain")
    assert person.get("upper_pattern_color") != person["upper_color"]


@settings(max_examples=200, deadline=None)
@given(
    index=st.integers(0, 599),
    view=st.sampled_from(["front", "back", "left", "right"]),
    covered=st.sampled_from(["none", "feet", "shins"]),
)
def test_shown_attributes_hide_and_never_invent(index, view, covered):
    person = PEOPLE[index]
    shown = shown_attributes(person, view=view, covered=covered)
    assert shown.items() <= person.items()
    assert {"gender", "build", "hat", "outer_type"} <= shown.keys()
    assert ("glasses" in shown) == (view != "back")
    assert ("shoes_type" in shown) == (covered == "none")
    if view == "back" and person["outer_type"] != "none":
        assert not {"upper_type", "upper_color", "upper_pattern", "upper_pattern_color"} & shown.keys()
    if person["bag"] == "backpack":
        assert shown["bag"] == "backpack"
        assert ("bag_color" in shown) == (view != "front")
    if view == "left" and person["bag"] in ("none", "handbag", "shoulder bag"):
        assert "bag" not in shown  # neither the bag nor its absence can be seen from the other side
    if view == "back" and person["carried"] in ("none", "phone", "cup", "book"):
        assert "carried" not in shown
    if view == "front" and person["hair_style"] == "ponytail":
        assert "hair_style" not in shown


def test_scenes_vary():
    scenes = [sample_scene(0, "train", identity, image) for identity in range(150) for image in range(4)]
    views = Counter(scene.view for scene in scenes)
    assert set(views) == {"front", "back", "left", "right"} and min(views.values()) > 60
    assert len({scene.camera for scene in scenes}) == 6
    assert 0.1 < np.mean([scene.covered != "none" for scene in scenes]) < 0.28
    assert len({scene.seed for scene in scenes}) == len(scenes)
    assert len({scene.jpeg_quality for scene in scenes}) > 20


def test_negative_seed_is_refused():
    with pytest.raises(ValueError, match="non-negative"):
        sample_identity(-1, "train", 0)
