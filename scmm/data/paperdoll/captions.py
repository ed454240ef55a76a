"""Captions: a grammar over what one image shows, from "a man in dark clothes" to a full description.

Every caption keeps a record of what it states: attribute name to the list of values that its words allow.
"""

from collections.abc import Sequence

import numpy as np

from scmm.data.paperdoll.lexicon import CHOICES, PLURAL, WORDS


Stated = dict[str, list[str]]

SLIP_FRACTION = 0.12
TERSE_FRACTION = 0.16

# How readily people mention a thing, and at which density they start to.
SALIENCE = {
    "upper": 1.5,
    "outer": 1.6,
    "lower": 1.3,
    "shoes": 0.95,
    "hair": 0.85,
    "hat": 1.5,
    "glasses": 1.0,
    "scarf": 1.2,
    "bag": 1.4,
    "carried": 1.3,
    "build": 0.3,
    "action": 0.35,
}
NEUTRAL_NOUNS = ("person", "pedestrian", "individual")


class Writer:
    """
    Writes one caption and records what it states.

    Args:
        shown (`dict[str, str]`): what the image shows, from [`shown_attributes`].
        view (`str`): the image's view.
        pose (`str`): the image's pose.
        rng (`np.random.Generator`): the caption's own generator.
    """

    def __init__(self, shown: dict[str, str], view: str, pose: str, rng: np.random.Generator):
        self.shown, self.view, self.pose, self.rng = shown, view, pose, rng
        self.stated: Stated = {}
        self.density = 0.0

    # ---------------------------------------------------------------- words

    def chance(self, probability: float) -> bool:
        return self.rng.random() < probability

    def pick(self, options: Sequence[str]) -> str:
        return options[int(self.rng.random() * len(options))]

    def word(self, attribute: str, vague: float) -> str:
        """A word for an attribute that the image shows; vague with the given probability. Records what it states."""
        exact, loose = CHOICES[attribute][self.shown[attribute]]
        word = self.pick(loose if loose and (not exact or self.chance(vague)) else exact)
        self.state(attribute, WORDS[attribute][word])
        return word

    def state(self, attribute: str, values: Sequence[str]) -> None:
        self.stated[attribute] = list(values)

    def color(self, thing: str, probability: float = 1.0) -> str:
        """The color of a thing with a trailing space, or nothing."""
        attribute = f"{thing}_color"
        if attribute not in self.shown or not self.chance(probability):
            return ""
        return self.word(attribute, vague=0.3 - 0.22 * self.density) + " "

    # ---------------------------------------------------------------- noun phrases

    def upper(self) -> str:
        shown, dense = self.shown, self.density
        if "upper_type" not in shown:  # seen under an outer garment, from the side
            return article(self.color("upper") + "top")
        color = self.color("upper", 0.97)
        noun = self.word("upper_type", vague=0.5 - 0.35 * dense)
        sleeves, pattern = "", shown.get("upper_pattern", "")
        if "sleeves" in shown and noun not in ("tank top", "sleeveless top") and self.chance(0.45 * dense):
            sleeves = self.word("sleeves", vague=0) + " "
        tail = ""
        if pattern == "logo" and self.chance(0.35 + 0.6 * dense):
            self.state("upper_pattern", ["logo"])
            second = self.color("upper_pattern", 0.55)
            tail = (
                " with "
                + article(second + self.pick(("logo", "print", "graphic")))
                + self.pick((" on the chest", " on the front", ""))
            )
        elif pattern == "plain" and color and self.chance(0.06 * dense):
            color = self.word("upper_pattern", vague=0) + " " + color
        elif pattern not in ("", "plain", "logo") and self.chance(0.35 + 0.65 * dense):
            if color and self.chance(0.6):
                second = self.color("upper_pattern")
                if self.chance(0.5) and pattern != "checks":
                    self.state("upper_pattern", [pattern])
                    tail = f" with {second}{pattern}"
                else:
                    color = f"{color}and {second}" + self.word("upper_pattern", vague=0.6) + " "
            else:
                color = self.word("upper_pattern", vague=0.5) + " " + color
        return article(f"{color}{sleeves}{noun}{tail}")

    def outer(self) -> str:
        return article(self.color("outer", 0.97) + self.word("outer_type", vague=0.5 - 0.3 * self.density))

    def lower(self) -> str:
        shown, dense = self.shown, self.density
        color = self.color("lower", 0.95)
        noun = self.word("lower_type", vague=0.45 - 0.3 * dense)
        length = shown.get("lower_length")
        adjective = ""
        if (
            length
            and self.chance(0.4 * dense)
            and not (length == "long" and noun != "skirt")
            and (noun, length) != ("shorts", "short")
        ):
            adjective = self.word("lower_length", vague=0) + " "
        tail = ""
        if shown["lower_pattern"] == "checks" and self.chance(0.3 + 0.6 * dense):
            adjective += self.word("lower_pattern", vague=0) + " "
        elif shown["lower_pattern"] == "side stripe" and self.chance(0.3 + 0.6 * dense):
            self.state("lower_pattern", ["side stripe"])
            tail = self.pick((" with a stripe down the side", " with side stripes"))
        phrase = adjective + color + noun + tail
        if noun in PLURAL:
            return self.pick(("a pair of ", "", "", "")) + phrase
        return article(phrase)

    def shoes(self) -> str:
        return (
            self.pick(("a pair of ", "", ""))
            + self.color("shoes", 0.95)
            + self.word("shoes_type", vague=0.55 - 0.3 * self.density)
        )

    def hair(self) -> str:
        shown = self.shown
        style = shown.get("hair_style")
        if style == "bald":
            return article(self.word("hair_style", vague=0) + " head")
        color = self.word("hair_color", vague=0.2) + " " if style is None or self.chance(0.85) else ""
        if style in ("ponytail", "bun"):
            self.state("hair_style", [style])
            if self.chance(0.5):
                return f"{color}hair in a {style}"
            return article(f"{color}{style}")
        if style and (not color or self.chance(0.75)):
            return self.word("hair_style", vague=0) + f" {color}hair"
        return f"{color}hair"

    def hat(self) -> str:
        return article(self.color("hat", 0.85) + self.word("hat", vague=0.3 - 0.2 * self.density))

    def glasses(self) -> str:
        return self.pick(("a pair of ", "", "")) + self.word("glasses", vague=0.06)

    def scarf(self) -> str:
        return article(self.color("scarf", 0.85) + self.word("scarf", vague=0))

    def bag(self) -> str:
        return article(self.color("bag", 0.85) + self.word("bag", vague=0.3 - 0.22 * self.density))

    def carried(self) -> str:
        noun = self.word("carried", vague=0.08)
        if noun == "something":
            return "something"
        return article(self.color("carried", 0.8) + noun)

    def noun(self) -> str:
        """The head noun, with the build: "slim woman", "person"."""
        neutral = self.chance(0.12)
        noun = self.pick(NEUTRAL_NOUNS) if neutral else self.word("gender", vague=0)
        if self.shown["build"] != "average" and self.chance(SALIENCE["build"] * self.density):
            noun = self.word("build", vague=0) + " " + noun
        return noun

    def pronoun(self) -> str:
        if "gender" not in self.stated:
            return "The person"
        return "He" if self.shown["gender"] == "man" else "She"

    def action(self) -> str:
        """What the person does; records pose and view."""
        self.state("pose", [self.pose])
        if not self.chance(0.6):
            return self.pose
        self.state("view", [self.view] if self.view in ("front", "back") else ["left", "right"])
        if self.view == "front":
            return self.pick((f"{self.pose} towards the camera", f"{self.pose} and facing the camera"))
        if self.view == "back":
            return self.pick((f"{self.pose} with the back to the camera", f"{self.pose} and seen from behind"))
        return self.pick((f"{self.pose} and seen from the side", f"{self.pose} past the camera"))

    # ---------------------------------------------------------------- captions

    def topics(self) -> list[str]:
        """Things that the image shows, chosen by salience and density, in a natural order."""
        shown = self.shown
        present = {
            "hat": shown["hat"] != "none",
            "hair": "hair_style" in shown or "hair_color" in shown,
            "glasses": shown.get("glasses", "none") != "none",
            "scarf": shown["scarf"] != "none",
            "outer": shown["outer_type"] != "none",
            "upper": "upper_color" in shown,
            "lower": "lower_type" in shown,
            "shoes": "shoes_type" in shown,
            "bag": shown.get("bag", "none") != "none",
            "carried": shown.get("carried", "none") != "none",
        }
        reach = 0.25 + 0.75 * self.density
        chosen = [name for name, there in present.items() if there and self.chance(min(0.97, SALIENCE[name] * reach))]
        if not any(name in chosen for name in ("outer", "upper", "lower")):
            chosen.append("outer" if present["outer"] else "upper")
        return chosen

    def terse(self) -> str:
        """A vague caption of a few words."""
        shown = self.shown
        noun, main = self.noun(), "outer_color" if shown["outer_type"] != "none" else "upper_color"
        if "lower_color" in shown:
            for tone, words in (("dark", "dark"), ("light-colored", "light")):
                allowed = WORDS["lower_color"][words]
                if shown[main] in allowed and shown["lower_color"] in allowed and self.chance(0.5):
                    self.state(main, allowed)
                    self.state("lower_color", allowed)
                    return f"{article(noun)} in {tone} clothes"
        thing = self.pick(
            [name for name in ("hat", "bag", "carried") if shown.get(name, "none") != "none"] or ["clothes"]
        )
        lead = article(noun)
        if thing != "clothes" and self.chance(0.5):
            return f"{lead} with {getattr(self, thing)()}"
        garment = self.outer() if shown["outer_type"] != "none" else self.upper()
        if "lower_type" in shown and self.chance(0.5):
            return f"{lead} {self.pick(('in', 'wearing'))} {garment} and {self.lower()}"
        return f"{lead} {self.pick(('in', 'wearing'))} {garment}"

    def description(self) -> str:
        """A caption of one to five sentences."""
        topics = self.topics()
        lead = self.noun()
        phrases = {name: getattr(self, name)() for name in topics}
        action = self.action() if self.chance(SALIENCE["action"]) else ""
        worn = [phrases[name] for name in ("outer", "upper", "lower", "shoes") if name in phrases]
        if "outer" in phrases and "upper" in phrases:
            worn[:2] = [f"{phrases['outer']} over {phrases['upper']}"]
        extras = [phrases[name] for name in ("hat", "glasses", "scarf") if name in phrases]
        hair, bag, carried = phrases.get("hair", ""), phrases.get("bag", ""), phrases.get("carried", "")
        he = self.pronoun()
        shape = int(self.rng.random() * 5)
        if shape == 0:  # one long sentence
            head = f"{article(lead)} with {hair}" if hair else article(lead)
            middle = f" is {action}, wearing " if action else self.pick((" is wearing ", " wears ", " is dressed in "))
            text = head + middle + listing(worn + extras)
            carrying = [part for part in (bag, carried) if part]
            if carrying:
                text += self.pick((" and carrying ", ", carrying ", " while carrying ")) + listing(carrying)
            return text + "."
        if shape == 1:  # several short sentences
            sentences = [f"This {lead} {self.pick(('has on', 'is wearing', 'wears'))} {worn[0]}."]
            if len(worn) > 1:
                sentences.append(f"{he} {self.pick(('also wears', 'is in', 'wears'))} {listing(worn[1:])}.")
            if hair:
                sentences.append(f"{he} has {hair}.")
            if extras:
                sentences.append(f"{he} {self.pick(('has on', 'is wearing'))} {listing(extras)}.")
            if bag:
                sentences.append(f"{he} {self.pick(('carries', 'has', 'is carrying'))} {bag}.")
            if carried:
                sentences.append(f"{he} {self.pick(('holds', 'is holding', 'carries'))} {carried}.")
            if action:
                sentences.append(f"{he} is {action}.")
            return " ".join(sentences)
        if shape == 2:  # notes
            parts = [lead, *([hair] if hair else []), *worn, *extras, *(part for part in (bag, carried) if part)]
            if action:
                parts.append(action)
            return ", ".join(parts).capitalize().replace("t-shirt", "T-shirt") + self.pick((".", ""))
        if shape == 3:  # the belongings first
            things = [part for part in (bag, carried) if part] or extras or worn[:1]
            used = set(things)
            text = f"{listing(things)} {'are' if len(things) > 1 or plural(things[0]) else 'is'} "
            text += self.pick(("seen on ", "worn or carried by ", "what stands out on ")) + article(lead)
            rest = [part for part in worn + extras if part not in used]
            text += (f" in {listing(rest)}" if rest else "") + "."
            if hair:
                text += f" {he} has {hair}."
            if action:
                text += f" {he} is {action}."
            return text
        # two sentences: the clothes, then the rest
        text = " ".join([article(lead), action]).strip()
        text += f", {self.pick(('dressed in', 'wearing', 'in'))} {listing(worn)}."
        rest = [part for part in (hair, *extras, bag, carried) if part]
        if rest:
            text += f" {he} has {listing(rest)}."
        return text


def article(phrase: str) -> str:
    """ "a" or "an" before a noun phrase."""
    return ("an " if phrase[0].lower() in "aeiou" else "a ") + phrase


def plural(phrase: str) -> bool:
    """Whether a noun phrase takes "are"."""
    return not phrase.startswith(("a ", "an ", "something"))


def listing(parts: Sequence[str]) -> str:
    """ "x, y and z"."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def slip(text: str, rng: np.random.Generator) -> str:
    """A careless version of a caption: a missing space after a full stop, lower case, or a repetition."""
    kind = int(rng.random() * 3)
    if kind == 0 and ". " in text:
        return text.replace(". ", ".", 1)
    if kind == 1 and text != text.lower():
        return text.lower()
    words = text.split(" ")
    place = int(rng.random() * len(words))
    return " ".join(words[: place + 1] + words[place:])


def write_caption(shown: dict[str, str], *, view: str, pose: str, rng: np.random.Generator) -> tuple[str, Stated]:
    """
    One caption of one image.

    Args:
        shown (`dict[str, str]`): what the image shows, from [`shown_attributes`].
        view (`str`): `"front"`, `"back"`, `"left"` or `"right"`.
        pose (`str`): `"walking"` or `"standing"`.
        rng (`np.random.Generator`): the caption's generator.

    Returns:
        `tuple[str, dict[str, list[str]]]`: the text, and what it states: attribute to the values that its words allow.

    Example:

    ```python
    >>> import numpy as np
    >>> from scmm.data.paperdoll import sample_identity, shown_attributes, write_caption
    >>> shown = shown_attributes(sample_identity(0, "train", 0), view="front")
    >>> text, stated = write_caption(shown, view="front", pose="walking", rng=np.random.default_rng(0))
    >>> all(shown.get(name, "front" if name == "view" else "walking") in values for name, values in stated.items())
    True

    ```
    """
    writer = Writer(shown, view, pose, rng)
    if rng.random() < TERSE_FRACTION:
        text = writer.terse() + writer.pick((".", ".", ""))
    else:
        writer.density = float(rng.uniform(0.1, 1.0))
        text = writer.description()
    text = text[0].upper() + text[1:]
    if rng.random() < SLIP_FRACTION:
        text = slip(text, rng)
    return text, writer.stated
