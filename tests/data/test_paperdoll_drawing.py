"""Pixels: what an image shows changes them, what it hides does not."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from scmm.data.paperdoll import CAMERAS, draw_image, render_image, sample_identity, sample_scene, shown_attributes
from scmm.data.paperdoll.attributes import COLORS


PEOPLE = [sample_identity(0, "train", index) for index in range(45)]
PLAIN = replace(
    sample_scene(0, "train", 0, 0),
    camera=0,
    view="front",
    pose="standing",
    stride=0.0,
    occluder="none",
    covered="none",
    scale=1.0,
    shift=(0.0, 0.0),
    brightness=1.0,
    slope=0.0,
    blur=0.0,
    noise=0.0,
)
DRESSED = {
    "gender": "man", "build": "average", "skin": "light", "hair_style": "short", "hair_color": "black", "hat": "none",
    "glasses": "none", "scarf": "none", "upper_type": "T-shirt", "sleeves": "short", "upper_color": "white",
    "upper_pattern": "plain", "outer_type": "none", "lower_type": "trousers", "lower_length": "long",
    "lower_color": "black", "lower_pattern": "plain", "shoes_type": "sneakers", "shoes_color": "red", "bag": "none",
    "carried": "none",
}  # fmt: skip


def pixels(shown: dict[str, str], scene=PLAIN, size=(128, 64)) -> np.ndarray:
    return np.asarray(draw_image(shown, scene, size)).astype(int)


def changed_rows(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Rows that differ, as fractions of the height."""
    rows = np.flatnonzero(np.abs(first - second).max(axis=(1, 2)) > 8)
    return rows / len(first)


@pytest.mark.parametrize(
    ("change", "top", "bottom"),
    [
        ({"upper_color": "red"}, 0.19, 0.52),
        ({"upper_pattern": "horizontal stripes", "upper_pattern_color": "red"}, 0.19, 0.52),
        ({"upper_pattern": "logo", "upper_pattern_color": "red"}, 0.25, 0.38),
        ({"lower_color": "red"}, 0.45, 0.96),
        ({"lower_length": "cropped"}, 0.72, 0.95),
        ({"lower_type": "shorts", "lower_length": "short"}, 0.45, 0.95),
        ({"shoes_color": "blue"}, 0.88, 0.97),
        ({"hair_color": "blond"}, 0.03, 0.20),
        ({"hat": "cap", "hat_color": "yellow"}, 0.02, 0.14),
        ({"glasses": "sunglasses"}, 0.09, 0.18),
        ({"scarf": "scarf", "scarf_color": "red"}, 0.16, 0.36),
        ({"bag": "backpack"}, 0.19, 0.42),
        ({"bag": "handbag", "bag_color": "red"}, 0.45, 0.66),
        ({"carried": "suitcase", "carried_color": "red"}, 0.45, 0.97),
        ({"carried": "umbrella", "carried_color": "red"}, 0.0, 0.55),
    ],
)
def test_an_attribute_changes_its_place(change, top, bottom):
    for size in ((128, 64), (384, 128), (64, 32)):
        rows = changed_rows(pixels(DRESSED, size=size), pixels(DRESSED | change, size=size))
        assert len(rows) >= 2
        assert top - 2 / size[0] <= rows.min() and rows.max() <= bottom + 1 / size[0]


@pytest.mark.parametrize("view", ["front", "back", "left", "right"])
def test_every_shown_attribute_is_visible(view):
    """Swapping the value of any shown attribute for another person's changes the picture."""
    scene = replace(PLAIN, view=view)
    tried = set()
    for person, other in pairwise(PEOPLE):
        shown, donor = shown_attributes(person, view=view), shown_attributes(other, view=view)
        before = pixels(shown, scene)
        for name in shown.keys() & donor.keys():
            if shown[name] == donor[name] or "none" in (shown[name], donor[name]) or name == "lower_length":
                continue
            if name == "upper_pattern" and "plain" in (shown[name], donor[name]):
                continue
            if name == "carried" and not {shown[name], donor[name]} <= {"phone", "cup", "book"}:
                continue
            if name == "sleeves" and "sleeveless" in (shown[name], donor[name]):
                continue
            if name == "hair_style" and "bald" in (shown[name], donor[name]):
                continue
            if name in ("upper_type", "lower_type") and view in ("left", "right"):
                continue  # drawn through sleeves and lengths
            difference = np.abs(pixels(shown | {name: donor[name]}, scene) - before).max(axis=2)
            assert (difference > 12).sum() >= 3, (name, shown[name], donor[name])
            tried.add(name)
    assert {"gender", "build", "hair_color", "upper_color", "lower_color", "shoes_type", "shoes_color"} <= tried


def test_hidden_attributes_leave_no_trace():
    for person, hidden, view in [
        ({"glasses": "sunglasses"}, {"glasses": "none"}, "back"),
        ({"bag": "backpack", "bag_color": "red"}, {"bag_color": "blue"}, "front"),
        ({"bag": "handbag", "bag_color": "red"}, {"bag": "none"}, "left"),
        ({"carried": "phone"}, {"carried": "none"}, "back"),
        ({"outer_type": "coat", "outer_color": "red", "upper_color": "white"}, {"upper_color": "black"}, "back"),
        ({"hat": "beanie", "hat_color": "red"}, {"hair_style": "curly", "hair_color": "red"}, "back"),
    ]:
        scene = replace(PLAIN, view=view)
        first = pixels(shown_attributes(DRESSED | person, view=view), scene)
        second = pixels(shown_attributes(DRESSED | person | hidden, view=view), scene)
        assert np.array_equal(first, second), hidden


@pytest.mark.parametrize("occluder", ["bush", "wall", "car", "crop"])
@pytest.mark.parametrize("covered", ["feet", "shins"])
def test_occluders_cover(occluder, covered):
    scene = replace(PLAIN, occluder=occluder, covered=covered)
    assert np.array_equal(pixels(DRESSED, scene), pixels(DRESSED | {"shoes_color": "blue"}, scene))
    assert not np.array_equal(pixels(DRESSED, scene), pixels(DRESSED | {"lower_color": "red"}, scene))


def test_the_doll_is_the_same_at_any_size():
    """A large image averaged down is the small one, up to anti-aliasing."""
    for person in PEOPLE[:6]:
        large = pixels(shown_attributes(person, view="front"), size=(256, 128))
        small = pixels(shown_attributes(person, view="front"), size=(64, 32))
        averaged = large.reshape(64, 4, 32, 4, 3).mean(axis=(1, 3))
        assert np.abs(averaged - small).mean() < 3


def test_torso_color_survives_camera_and_light():
    """Under any camera the torso is nearest to its own color among a few clearly different ones."""
    names = ["black", "white", "red", "blue", "green", "yellow"]
    right = 0
    scenes = [replace(sample_scene(0, "train", i, 0), view="front", shift=(0.0, 0.0)) for i in range(40)]
    for scene in scenes:
        for name in names:
            picture = pixels(DRESSED | {"upper_color": name}, scene)
            torso = np.median(picture[52:58, 26:38].reshape(-1, 3), axis=0)
            nearest = min(names, key=lambda other: np.abs(torso - np.array(COLORS[other])).sum())
            right += nearest == name
    assert right / (len(scenes) * len(names)) > 0.95
    assert len({camera.gains for camera in CAMERAS}) == len(CAMERAS)


def test_camera_light_blur_and_noise_change_the_picture():
    base = pixels(DRESSED)
    for change in (
        {"camera": 3},
        {"brightness": 0.8},
        {"slope": 0.3},
        {"blur": 0.8},
        {"noise": 6.0},
        {"view": "back"},
    ):
        assert np.abs(pixels(DRESSED, replace(PLAIN, **change)) - base).mean() > 0.5, change


def test_rendering_is_deterministic():
    first, second = (np.asarray(render_image(5, "test", 3, 1)) for _ in range(2))
    assert np.array_equal(first, second)
    assert first.shape == (128, 64, 3) and first.dtype == np.uint8
    assert not np.array_equal(first, np.asarray(render_image(6, "test", 3, 1)))


@pytest.mark.parametrize("size", [(385, 128), (384, 129), (512, 256), (8, 8), (0, 0)])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(ValueError, match="384x128"):
        render_image(0, "train", 0, 0, image_size=size)
