"""What a PaperDoll identity is made of: attribute tables, how common each value is, and which values a view shows.

An identity is a plain dictionary from attribute name to value. Attributes that do not apply are left out (a person
without a hat has `hat="none"` and no `hat_color`). Frequencies are uneven on purpose: in a crowd most trousers are
black or blue, and some people look almost alike.
"""

from collections.abc import Mapping
from math import prod

import numpy as np


SPLITS = ("train", "val", "test")

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (24, 24, 28),
    "dark gray": (80, 82, 88),
    "gray": (150, 152, 156),
    "white": (242, 242, 240),
    "navy": (24, 36, 92),
    "blue": (36, 92, 210),
    "light blue": (138, 196, 240),
    "green": (36, 150, 62),
    "olive": (92, 100, 44),
    "red": (214, 30, 38),
    "maroon": (112, 20, 40),
    "pink": (246, 140, 186),
    "purple": (122, 56, 170),
    "orange": (244, 124, 22),
    "yellow": (248, 214, 42),
    "brown": (116, 70, 34),
    "beige": (216, 190, 146),
}

HAIR_COLORS: dict[str, tuple[int, int, int]] = {
    "black": (26, 22, 22),
    "brown": (98, 58, 28),
    "blond": (226, 186, 92),
    "red": (176, 72, 24),
    "gray": (172, 172, 172),
}

SKINS: dict[str, tuple[int, int, int]] = {
    "light": (246, 208, 180),
    "tan": (222, 172, 130),
    "brown": (164, 110, 74),
    "dark": (100, 64, 44),
}

BUILDS = {"slim": 0.3, "average": 0.5, "heavy": 0.2}
HAIR_STYLES = {
    "man": {"short": 0.62, "bald": 0.12, "curly": 0.14, "long": 0.08, "ponytail": 0.04},
    "woman": {"long": 0.4, "ponytail": 0.24, "bun": 0.14, "curly": 0.1, "short": 0.12},
}
HAIR_COLOR_WEIGHTS = {"black": 0.36, "brown": 0.28, "blond": 0.18, "red": 0.07, "gray": 0.11}
HATS = {"none": 0.7, "cap": 0.14, "beanie": 0.09, "brimmed hat": 0.07}
GLASSES = {"none": 0.72, "glasses": 0.16, "sunglasses": 0.12}
SCARVES = {"none": 0.88, "scarf": 0.12}
SLEEVES = {
    "T-shirt": {"short": 0.85, "long": 0.15},
    "shirt": {"short": 0.3, "long": 0.7},
    "sweater": {"long": 1.0},
    "hoodie": {"long": 1.0},
    "tank top": {"sleeveless": 1.0},
}
UPPER_TYPES = {
    "man": {"T-shirt": 0.42, "shirt": 0.24, "sweater": 0.12, "hoodie": 0.16, "tank top": 0.06},
    "woman": {"T-shirt": 0.36, "shirt": 0.2, "sweater": 0.18, "hoodie": 0.1, "tank top": 0.16},
}
PATTERNS = {
    "plain": 0.62,
    "horizontal stripes": 0.11,
    "vertical stripes": 0.05,
    "checks": 0.09,
    "dots": 0.05,
    "logo": 0.08,
}
OUTER_TYPES = {"none": 0.68, "jacket": 0.14, "coat": 0.07, "blazer": 0.06, "vest": 0.05}
LOWER_TYPES = {
    "man": {"trousers": 0.4, "jeans": 0.36, "shorts": 0.24},
    "woman": {"trousers": 0.22, "jeans": 0.28, "leggings": 0.12, "shorts": 0.14, "skirt": 0.24},
}
LOWER_LENGTHS = {
    "trousers": {"long": 0.9, "cropped": 0.1},
    "jeans": {"long": 0.85, "cropped": 0.15},
    "leggings": {"long": 0.8, "cropped": 0.2},
    "shorts": {"short": 0.5, "knee": 0.5},
    "skirt": {"short": 0.4, "knee": 0.35, "long": 0.25},
}
LOWER_PATTERNS = {"plain": 0.88, "checks": 0.05, "side stripe": 0.07}
SHOE_TYPES = {"sneakers": 0.55, "dress shoes": 0.18, "boots": 0.17, "sandals": 0.1}
BAGS = {"none": 0.4, "backpack": 0.25, "shoulder bag": 0.2, "handbag": 0.15}
CARRIED = {
    "none": 0.68,
    "shopping bag": 0.09,
    "phone": 0.05,
    "cup": 0.03,
    "book": 0.04,
    "suitcase": 0.05,
    "umbrella": 0.06,
}

UPPER_COLORS = {
    "black": 17, "white": 15, "gray": 9, "dark gray": 6, "navy": 6, "blue": 8, "light blue": 6, "green": 5, "olive": 3,
    "red": 8, "maroon": 3, "pink": 5, "purple": 4, "orange": 3, "yellow": 4, "brown": 2, "beige": 4,
}  # fmt: skip
LOWER_COLORS = {
    "black": 30, "navy": 13, "blue": 17, "gray": 8, "dark gray": 9, "beige": 8, "white": 5, "brown": 4, "olive": 3,
    "light blue": 4, "red": 2, "green": 1, "maroon": 1, "pink": 1, "purple": 1, "orange": 1, "yellow": 1,
}  # fmt: skip
JEANS_COLORS = {"blue": 5, "navy": 4, "black": 4, "light blue": 3, "gray": 1, "white": 1}
SHOE_COLORS = {
    "black": 38,
    "white": 26,
    "brown": 12,
    "gray": 8,
    "red": 5,
    "blue": 5,
    "pink": 2,
    "yellow": 2,
    "green": 2,
}
BAG_COLORS = {
    "black": 26, "brown": 12, "red": 11, "blue": 11, "gray": 8, "white": 6, "green": 6, "pink": 6, "yellow": 5,
    "orange": 5, "purple": 4, "beige": 4, "navy": 4,
}  # fmt: skip
HAT_COLORS = {
    "black": 24,
    "white": 14,
    "red": 14,
    "blue": 12,
    "gray": 8,
    "yellow": 7,
    "green": 7,
    "beige": 7,
    "pink": 7,
}
CARRIED_COLORS = {
    "umbrella": {"black": 3, "red": 2, "blue": 2, "yellow": 1, "green": 1, "pink": 1},
    "suitcase": {"black": 4, "gray": 2, "blue": 2, "red": 2, "green": 1},
    "shopping bag": {"white": 4, "brown": 2, "red": 2, "yellow": 1, "green": 1, "blue": 1},
}

# An identity is a look-alike of its predecessor this often; only `LOOKALIKE_CHANGES` of its groups are drawn anew.
LOOKALIKE_FRACTION = 0.2
LOOKALIKE_CHANGES = 3


def generator(seed: int, split: str, *path: int) -> np.random.Generator:
    """
    The random generator of one identity, image or caption: a pure function of the seed and of its place, so that the
    order and the process in which things are drawn do not matter.

    Args:
        seed (`int`): the benchmark's seed, not negative.
        split (`str`): one of `SPLITS`.
        path (`int`): identity index within the split, then stream, image and caption numbers.

    Returns:
        `np.random.Generator`
    """
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), *path))))


def weighted(rng: np.random.Generator, table: Mapping[str, float]) -> str:
    """One key of a table of weights (they need not sum to 1)."""
    threshold = rng.random() * sum(table.values())
    for value, weight in table.items():
        threshold -= weight
        if threshold < 0:
            return value
    return value


def _person(rng: np.random.Generator, gender: str) -> dict[str, str]:
    return {"gender": gender, "build": weighted(rng, BUILDS), "skin": weighted(rng, dict.fromkeys(SKINS, 1))}


def _hair(rng: np.random.Generator, gender: str) -> dict[str, str]:
    style = weighted(rng, HAIR_STYLES[gender])
    if style == "bald":
        return {"hair_style": style}
    color = weighted(rng, HAIR_COLOR_WEIGHTS)
    return {"hair_style": style, "hair_color": color}


def _hat(rng: np.random.Generator, gender: str) -> dict[str, str]:
    hat = weighted(rng, HATS)
    return {"hat": hat} if hat == "none" else {"hat": hat, "hat_color": weighted(rng, HAT_COLORS)}


def _glasses(rng: np.random.Generator, gender: str) -> dict[str, str]:
    return {"glasses": weighted(rng, GLASSES)}


def _scarf(rng: np.random.Generator, gender: str) -> dict[str, str]:
    scarf = weighted(rng, SCARVES)
    return {"scarf": scarf} if scarf == "none" else {"scarf": scarf, "scarf_color": weighted(rng, HAT_COLORS)}


def _upper(rng: np.random.Generator, gender: str) -> dict[str, str]:
    kind = weighted(rng, UPPER_TYPES[gender])
    color, pattern = weighted(rng, UPPER_COLORS), weighted(rng, PATTERNS)
    upper = {
        "upper_type": kind,
        "sleeves": weighted(rng, SLEEVES[kind]),
        "upper_color": color,
        "upper_pattern": pattern,
    }
    if pattern != "plain":
        # The second color has to stand out from the first, or there would be no pattern to see.
        others = {name: weight for name, weight in UPPER_COLORS.items() if _contrast(name, color) > 150}
        upper["upper_pattern_color"] = weighted(rng, others)
    return upper


def _outer(rng: np.random.Generator, gender: str) -> dict[str, str]:
    kind = weighted(rng, OUTER_TYPES)
    return {"outer_type": kind} if kind == "none" else {"outer_type": kind, "outer_color": weighted(rng, UPPER_COLORS)}


def _lower(rng: np.random.Generator, gender: str) -> dict[str, str]:
    kind = weighted(rng, LOWER_TYPES[gender])
    colors = JEANS_COLORS if kind == "jeans" else LOWER_COLORS
    return {
        "lower_type": kind,
        "lower_length": weighted(rng, LOWER_LENGTHS[kind]),
        "lower_color": weighted(rng, colors),
        "lower_pattern": "plain" if kind == "jeans" else weighted(rng, LOWER_PATTERNS),
    }


def _shoes(rng: np.random.Generator, gender: str) -> dict[str, str]:
    return {"shoes_type": weighted(rng, SHOE_TYPES), "shoes_color": weighted(rng, SHOE_COLORS)}


def _bag(rng: np.random.Generator, gender: str) -> dict[str, str]:
    bag = weighted(rng, BAGS)
    return {"bag": bag} if bag == "none" else {"bag": bag, "bag_color": weighted(rng, BAG_COLORS)}


def _carried(rng: np.random.Generator, gender: str) -> dict[str, str]:
    carried = weighted(rng, CARRIED)
    if carried not in CARRIED_COLORS:
        return {"carried": carried}
    return {"carried": carried, "carried_color": weighted(rng, CARRIED_COLORS[carried])}


_GROUPS = (_person, _hair, _hat, _glasses, _scarf, _upper, _outer, _lower, _shoes, _bag, _carried)


def _contrast(first: str, second: str) -> int:
    return sum(abs(a - b) for a, b in zip(COLORS[first], COLORS[second], strict=True))


def sample_identity(seed: int, split: str, index: int) -> dict[str, str]:
    """
    The attributes of one person. About one in five looks like the person before, apart from a few garments.

    Args:
        seed (`int`): the benchmark's seed.
        split (`str`): `"train"`, `"val"` or `"test"`.
        index (`int`): the person's number within the split, from 0.

    Returns:
        `dict[str, str]`: attribute name to value, without the attributes that do not apply.

    Example:

    ```python
    >>> from scmm.data.paperdoll import sample_identity
    >>> sample_identity(0, "train", 7) == sample_identity(0, "train", 7)
    True

    ```
    """

    def original(number: int) -> tuple[np.random.Generator, list[dict[str, str]]]:
        rng = generator(seed, split, number, 0)
        gender = "man" if rng.random() < 0.5 else "woman"
        return rng, [draw(rng, gender) for draw in _GROUPS]

    rng, groups = original(index)
    if index > 0 and rng.random() < LOOKALIKE_FRACTION:
        _, double = original(index - 1)
        groups = list(double)
        while groups == double:  # drawn anew, a group may come out as it was
            for place in rng.choice(np.arange(1, len(_GROUPS)), size=LOOKALIKE_CHANGES, replace=False):
                groups[place] = _GROUPS[place](rng, groups[0]["gender"])
    return {name: value for group in groups for name, value in group.items()}


def number_of_identities() -> int:
    """
    How many different identities the tables allow.

    Returns:
        `int`

    Example:

    ```python
    >>> from scmm.data.paperdoll import number_of_identities
    >>> number_of_identities() >= 10**9
    True

    ```
    """
    contrasting = sum(_contrast(a, b) > 150 for a in UPPER_COLORS for b in UPPER_COLORS)
    uppers = len(UPPER_COLORS) + (len(PATTERNS) - 1) * contrasting
    jeans = len(LOWER_LENGTHS["jeans"]) * len(JEANS_COLORS)

    def person(gender: str) -> int:
        hair = sum(1 if style == "bald" else len(HAIR_COLORS) for style in HAIR_STYLES[gender])
        upper = sum(len(SLEEVES[kind]) for kind in UPPER_TYPES[gender]) * uppers
        lower = sum(
            jeans if kind == "jeans" else len(LOWER_LENGTHS[kind]) * len(LOWER_COLORS) * len(LOWER_PATTERNS)
            for kind in LOWER_TYPES[gender]
        )
        return hair * upper * lower

    return sum(person(gender) for gender in HAIR_STYLES) * prod(
        (
            len(BUILDS),
            len(SKINS),
            1 + (len(HATS) - 1) * len(HAT_COLORS),
            len(GLASSES),
            1 + (len(SCARVES) - 1) * len(HAT_COLORS),
            1 + (len(OUTER_TYPES) - 1) * len(UPPER_COLORS),
            len(SHOE_TYPES) * len(SHOE_COLORS),
            1 + (len(BAGS) - 1) * len(BAG_COLORS),
            sum(len(CARRIED_COLORS.get(kind, "1")) for kind in CARRIED),
        )
    )


def shown_attributes(identity: dict[str, str], *, view: str, covered: str = "none") -> dict[str, str]:
    """
    What an image of an identity shows. An attribute that the view or an occluder hides is left out, and so is the
    *absence* of a thing that could not be seen from there: nobody can tell from behind that someone wears no glasses.

    Args:
        identity (`dict[str, str]`): from [`sample_identity`].
        view (`str`): `"front"`, `"back"`, `"left"` (walking to the left) or `"right"`.
        covered (`str`, *optional*, defaults to `"none"`): what an occluder or the crop hides: `"none"`, `"feet"` or
            `"shins"`.

    Returns:
        `dict[str, str]`: a subset of `identity`.

    Example:

    ```python
    >>> from scmm.data.paperdoll import sample_identity, shown_attributes
    >>> "glasses" in shown_attributes(sample_identity(0, "train", 0), view="back")
    False

    ```
    """
    hidden: set[str] = set()
    outer, hair, hat = identity["outer_type"], identity["hair_style"], identity["hat"]

    if view == "back":
        hidden |= {"glasses"}
        if outer != "none":
            hidden |= {"upper_type", "upper_color", "upper_pattern", "upper_pattern_color"}
        if identity["upper_pattern"] == "logo":
            hidden |= {"upper_pattern", "upper_pattern_color"}
        elif identity["upper_pattern"] == "plain":
            hidden |= {"upper_pattern"}  # there may be a logo on the chest
    if outer == "blazer" or (view in ("left", "right") and outer != "none"):
        hidden |= {"upper_pattern", "upper_pattern_color"}  # too little of it is seen
    if view in ("left", "right") and outer != "none":
        hidden |= {"upper_type"}
    if outer not in ("none", "vest"):
        hidden |= {"sleeves"}
    if outer == "coat" and view != "front" and identity["lower_length"] == "short":
        hidden |= {"lower_type", "lower_color", "lower_pattern", "lower_length"}

    tied_back = hair == "ponytail" and view == "front"
    if hat != "none" and (tied_back or hair not in ("long", "ponytail")):
        hidden |= {"hair_style", "hair_color"}  # all of it is under the hat
    elif tied_back:
        hidden |= {"hair_style"}

    bag = identity["bag"]
    if view == "front" and bag == "backpack":
        hidden |= {"bag_color"}  # the straps alone are seen
    if view == "left" and bag != "backpack":
        hidden |= {"bag", "bag_color"}  # shoulder bag and handbag hang on the right side

    carried = identity["carried"]
    if view == "back" and carried in ("none", "phone", "cup", "book"):
        hidden |= {"carried"}
    if view == "right" and carried not in ("umbrella", "suitcase"):
        hidden |= {"carried", "carried_color"}  # held in the left hand

    if covered in ("feet", "shins"):
        hidden |= {"shoes_type", "shoes_color"}
    if covered == "shins":
        hidden |= {"lower_length"}
        if carried in ("none", "suitcase"):
            hidden |= {"carried", "carried_color"}
    return {name: value for name, value in identity.items() if name not in hidden}
