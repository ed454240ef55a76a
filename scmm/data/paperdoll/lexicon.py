"""The words of PaperDoll's captions. Every word is listed with the values that it may mean, so that what a caption
states is exactly what its words say: "dark" is one of six colors, "a hat" any headgear."""

from scmm.data.paperdoll.attributes import (
    BAGS,
    CARRIED,
    GLASSES,
    HATS,
    OUTER_TYPES,
    SHOE_TYPES,
    SLEEVES,
)


DARK = ("black", "dark gray", "navy", "maroon", "olive", "brown")
LIGHT = ("white", "beige", "light blue", "pink", "gray")
BRIGHT = ("red", "orange", "yellow", "pink", "green", "blue", "purple")

# Word -> the values it may mean. A word with one value is exact; the others are vague.
COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black",),
    "dark gray": ("dark gray",),
    "charcoal": ("dark gray",),
    "light gray": ("gray",),
    "gray": ("gray", "dark gray"),
    "white": ("white",),
    "navy": ("navy",),
    "navy blue": ("navy",),
    "dark blue": ("navy",),
    "bright blue": ("blue",),
    "royal blue": ("blue",),
    "light blue": ("light blue",),
    "sky blue": ("light blue",),
    "blue": ("blue", "navy", "light blue"),
    "green": ("green",),
    "olive": ("olive",),
    "dark green": ("olive",),
    "red": ("red",),
    "maroon": ("maroon",),
    "dark red": ("maroon",),
    "pink": ("pink",),
    "purple": ("purple",),
    "violet": ("purple",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "brown": ("brown",),
    "beige": ("beige",),
    "cream": ("beige",),
    "khaki": ("beige", "olive"),
    "dark": DARK,
    "dark-colored": DARK,
    "light": LIGHT,
    "light-colored": LIGHT,
    "bright": BRIGHT,
    "brightly colored": BRIGHT,
}
HAIR_COLOR_WORDS: dict[str, tuple[str, ...]] = {
    "black": ("black",),
    "brown": ("brown",),
    "blond": ("blond",),
    "fair": ("blond",),
    "red": ("red",),
    "ginger": ("red",),
    "gray": ("gray",),
    "dark": ("black", "brown"),
    "light": ("blond", "gray"),
}
SHORT_SLEEVED = tuple(kind for kind, sleeves in SLEEVES.items() if "short" in sleeves)

TYPE_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "gender": {
        "man": ("man",),
        "male": ("man",),
        "guy": ("man",),
        "gentleman": ("man",),
        "woman": ("woman",),
        "lady": ("woman",),
        "female": ("woman",),
    },
    "build": {
        "slim": ("slim",),
        "thin": ("slim",),
        "slender": ("slim",),
        "stout": ("heavy",),
        "heavyset": ("heavy",),
    },
    "hat": {
        "cap": ("cap",),
        "baseball cap": ("cap",),
        "beanie": ("beanie",),
        "knit hat": ("beanie",),
        "wide-brimmed hat": ("brimmed hat",),
        "sun hat": ("brimmed hat",),
        "hat": tuple(kind for kind in HATS if kind != "none"),
    },
    "glasses": {
        "glasses": ("glasses",),
        "spectacles": ("glasses",),
        "sunglasses": ("sunglasses",),
        "dark glasses": ("sunglasses",),
        "eyewear": tuple(kind for kind in GLASSES if kind != "none"),
    },
    "scarf": {"scarf": ("scarf",), "neck scarf": ("scarf",)},
    "upper_type": {
        "T-shirt": ("T-shirt",),
        "tee": ("T-shirt",),
        "button-up shirt": ("shirt",),
        "collared shirt": ("shirt",),
        "sweater": ("sweater",),
        "pullover": ("sweater",),
        "hoodie": ("hoodie",),
        "hooded sweatshirt": ("hoodie",),
        "tank top": ("tank top",),
        "sleeveless top": ("tank top",),
        "shirt": tuple(kind for kind, sleeves in SLEEVES.items() if "short" in sleeves),
        "top": tuple(SLEEVES),
    },
    "upper_pattern": {
        "striped": ("horizontal stripes", "vertical stripes"),
        "horizontally striped": ("horizontal stripes",),
        "vertically striped": ("vertical stripes",),
        "checked": ("checks",),
        "plaid": ("checks",),
        "dotted": ("dots",),
        "polka-dot": ("dots",),
        "plain": ("plain",),
    },
    "sleeves": {
        "short-sleeved": ("short",),
        "short-sleeve": ("short",),
        "long-sleeved": ("long",),
        "long-sleeve": ("long",),
        "sleeveless": ("sleeveless",),
    },
    "outer_type": {
        "jacket": ("jacket", "blazer"),
        "zip jacket": ("jacket",),
        "coat": ("coat",),
        "long coat": ("coat",),
        "blazer": ("blazer",),
        "suit jacket": ("blazer",),
        "vest": ("vest",),
        "padded vest": ("vest",),
        "outer garment": tuple(kind for kind in OUTER_TYPES if kind != "none"),
    },
    "lower_type": {
        "trousers": ("trousers",),
        "pants": ("trousers", "jeans", "leggings"),
        "jeans": ("jeans",),
        "denim pants": ("jeans",),
        "leggings": ("leggings",),
        "tight pants": ("leggings",),
        "shorts": ("shorts",),
        "skirt": ("skirt",),
        "bottoms": ("trousers", "jeans", "leggings", "shorts"),
    },
    "lower_length": {
        "cropped": ("cropped",),
        "short": ("short",),
        "knee-length": ("knee",),
        "long": ("long",),
    },
    "lower_pattern": {"checked": ("checks",), "plaid": ("checks",), "side-striped": ("side stripe",)},
    "shoes_type": {
        "sneakers": ("sneakers",),
        "trainers": ("sneakers",),
        "sports shoes": ("sneakers",),
        "dress shoes": ("dress shoes",),
        "leather shoes": ("dress shoes",),
        "boots": ("boots",),
        "sandals": ("sandals",),
        "shoes": ("sneakers", "dress shoes"),
        "footwear": tuple(SHOE_TYPES),
    },
    "bag": {
        "backpack": ("backpack",),
        "rucksack": ("backpack",),
        "shoulder bag": ("shoulder bag",),
        "crossbody bag": ("shoulder bag",),
        "handbag": ("handbag",),
        "purse": ("handbag",),
        "bag": tuple(kind for kind in BAGS if kind != "none"),
    },
    "carried": {
        "shopping bag": ("shopping bag",),
        "carrier bag": ("shopping bag",),
        "phone": ("phone",),
        "mobile phone": ("phone",),
        "cup": ("cup",),
        "cup of coffee": ("cup",),
        "book": ("book",),
        "suitcase": ("suitcase",),
        "trolley case": ("suitcase",),
        "umbrella": ("umbrella",),
        "open umbrella": ("umbrella",),
        "something": tuple(kind for kind in CARRIED if kind != "none"),
    },
    "hair_style": {
        "short": ("short",),
        "curly": ("curly",),
        "frizzy": ("curly",),
        "long": ("long",),
        "ponytail": ("ponytail",),
        "bun": ("bun",),
        "bald": ("bald",),
        "shaved": ("bald",),
    },
}

PLURAL = {"trousers", "pants", "jeans", "denim pants", "leggings", "tight pants", "shorts", "bottoms"}

COLORED = ("upper", "upper_pattern", "outer", "lower", "shoes", "bag", "hat", "scarf", "carried")
WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    **TYPE_WORDS,
    **{f"{thing}_color": COLOR_WORDS for thing in COLORED},
    "hair_color": HAIR_COLOR_WORDS,
}


def _by_value(words: dict[str, tuple[str, ...]]) -> dict[str, tuple[list[str], list[str]]]:
    """Which words describe a value: (exact words, vague words)."""
    values = {value for meaning in words.values() for value in meaning}
    return {
        value: (
            [word for word, meaning in words.items() if meaning == (value,)],
            [word for word, meaning in words.items() if value in meaning and len(meaning) > 1],
        )
        for value in values
    }


CHOICES = {attribute: _by_value(words) for attribute, words in WORDS.items()}
