"""How much a caption tells about a person: the quality in [0, 1] that sets its margin in the sew calibration loss.

The paper measures caption quality as textual information density; the measures here are a reconstruction. Their
statistics come from the training captions and are saved beside the processor, so that a checkpoint reproduces its
margins.
"""

import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args


CAPTION_QUALITY_NAME = "caption_quality.json"

Measure = Literal["information", "length", "distinct", "constant"]

MIN_CAPTIONS = 3  # a word in fewer captions carries nothing: typos and stray code would otherwise look rich
REFERENCE_PERCENTILE = 0.95

WORD = re.compile(r"[^\W_]+")

# Articles, pronouns, auxiliaries, prepositions and conjunctions; the last line is what splitting contractions leaves.
STOP_WORDS = frozenset(
    (
        "a an the this that these those some any each both all another other also very "
        "i me my you your he him his himself she her hers herself it its itself we our they them their "
        "who whom whose which am is are was were be been being have has had having do does did "
        "can could may might must will would shall should about across after against along around as at before behind "
        "below between beside by down during for from in into of off on onto out over through to toward towards under "
        "up upon with within without and but if nor not or so than then there when where while "
        "d ll m re s t ve"
    ).split()
)


class CaptionQuality:
    """
    Scores captions by how much they tell, from 0 (nothing) to 1 (as much as the richest 5 % of training captions).

    What a caption tells is divided by the 95th percentile of what the training captions tell, and clipped to 1. It is,
    by `measure`:

    - `"information"`: the sum of the self-information `-log2 p(w)` of its distinct content words, where `p(w)` is the
      add-one-smoothed fraction `(n + 1) / (N + 2)` of the training captions that contain the word. Stop words carry
      nothing, and neither does a word in fewer than 3 training captions.
    - `"length"`: the number of its words.
    - `"distinct"`: the number of its distinct content words.
    - `"constant"`: every caption scores 1, the fixed-margin ablation. It needs no fitting.

    Args:
        measure (`str`): `"information"`, `"length"`, `"distinct"` or `"constant"`.

    Raises:
        ValueError: for an unknown measure.

    Example:

    ```python
    >>> from scmm.caption_quality import CaptionQuality

    >>> captions = ["A man in a red coat.", "A man in a red hat.", "A man in a red scarf.", "The man walks."]
    >>> quality = CaptionQuality().fit(captions)
    >>> quality(["He wears red.", "The man walks.", ""])  # "red" tells more than "man": fewer captions say it
    [0.689..., 0.310..., 0.0]

    ```
    """

    def __init__(self, measure: Measure = "information"):
        if measure not in get_args(Measure):
            raise ValueError(f"measure must be one of {', '.join(map(repr, get_args(Measure)))}, got {measure!r}.")
        self.measure = measure
        self.num_captions = 0
        self.caption_counts: dict[str, int] = {}
        self.reference: float | None = None

    @property
    def is_fitted(self) -> bool:
        """`bool`: whether captions can be scored."""
        return self.measure == "constant" or self.reference is not None

    def fit(self, captions: Iterable[str]) -> "CaptionQuality":
        """
        Collects the statistics of the training captions.

        Args:
            captions (`Iterable[str]`): All captions of the training split.

        Returns:
            `CaptionQuality`: itself.

        Raises:
            TypeError: if a caption is no string.
            ValueError: if the captions leave nothing to measure, such as none at all.
        """
        if isinstance(captions, str):
            raise TypeError("fit needs the training captions as a list of strings, got one string.")
        tokens = [_words(caption, index) for index, caption in enumerate(captions)]
        self.num_captions = len(tokens)
        self.reference = None
        if self.measure == "information":
            counts = Counter(word for words in tokens for word in set(words) - STOP_WORDS)
            self.caption_counts = {word: count for word, count in sorted(counts.items()) if count >= MIN_CAPTIONS}
        if self.measure != "constant":
            reference = _percentile([self._amount(words) for words in tokens], REFERENCE_PERCENTILE)
            if not reference > 0:
                raise ValueError(
                    f"The {len(tokens)} training captions leave nothing to measure {self.measure!r} by; fit on more "
                    f"captions, or use measure='constant'."
                )
            self.reference = reference
        return self

    def __call__(self, captions: str | Iterable[str]) -> list[float]:
        """
        Args:
            captions (`str` or `Iterable[str]`): One caption or several.

        Returns:
            `list[float]`: the quality of each caption in [0, 1]; a list of one for a single string. A caption without
            a (content) word scores 0, except under `"constant"`.

        Raises:
            RuntimeError: if the scorer is not fitted.
            TypeError: if a caption is no string.
        """
        tokens = [
            _words(caption, i) for i, caption in enumerate([captions] if isinstance(captions, str) else captions)
        ]
        if self.measure == "constant":
            return [1.0] * len(tokens)
        if self.reference is None:
            raise RuntimeError(_UNFITTED.format(measure=self.measure))
        return [min(1.0, self._amount(words) / self.reference) for words in tokens]

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """
        Writes `caption_quality.json` into a folder, which is made if it is missing.

        Args:
            save_directory (`str` or `PathLike`): The folder, usually the processor's.

        Raises:
            RuntimeError: if the scorer is not fitted.
        """
        if not self.is_fitted:
            raise RuntimeError(_UNFITTED.format(measure=self.measure))
        statistics = {
            "measure": self.measure,
            "num_captions": self.num_captions,
            "reference": self.reference,
            "caption_counts": self.caption_counts,
        }
        path = Path(save_directory) / CAPTION_QUALITY_NAME
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            temporary.write_text(json.dumps(statistics, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike) -> "CaptionQuality":
        """
        Reads `caption_quality.json` from a folder.

        Args:
            directory (`str` or `PathLike`): A local folder that [`~CaptionQuality.save_pretrained`] wrote into.

        Returns:
            `CaptionQuality`: scores exactly as the one that was saved.

        Raises:
            FileNotFoundError: if the folder has no such file.
            ValueError: if the file is not what `save_pretrained` writes; it names the file and what is wrong.
        """
        path = Path(directory) / CAPTION_QUALITY_NAME
        if not path.is_file():
            raise FileNotFoundError(f"There is no {CAPTION_QUALITY_NAME} in {directory}.")
        try:
            statistics = json.loads(path.read_text(encoding="utf-8"))
            quality = cls(statistics["measure"])
            quality.num_captions = statistics["num_captions"]
            quality.caption_counts = statistics["caption_counts"]
            quality.reference = statistics["reference"]
            quality._check_statistics()
        except KeyError as error:
            raise ValueError(f"{path} lacks {error}; fit the caption quality again and save it.") from error
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path} is broken; fit the caption quality again and save it. {error}") from error
        return quality

    def _check_statistics(self) -> None:
        counts = self.caption_counts
        if type(self.num_captions) is not int or self.num_captions < 0:
            raise ValueError(f"num_captions must be a number of captions, got {self.num_captions!r}.")
        if not isinstance(counts, dict):
            raise ValueError(f"caption_counts must map words to numbers of captions, got {counts!r}.")
        for word, count in counts.items():
            if type(count) is not int or not MIN_CAPTIONS <= count <= self.num_captions:
                raise ValueError(
                    f"caption_counts of {word!r} must lie between {MIN_CAPTIONS} and num_captions, got {count!r}."
                )
        if self.measure == "constant":
            return
        if not isinstance(self.reference, int | float) or not 0 < self.reference < math.inf:
            raise ValueError(f"reference must be a positive number, got {self.reference!r}.")

    def _amount(self, words: list[str]) -> float:
        if self.measure == "length":
            return len(words)
        content = set(words) - STOP_WORDS
        if self.measure == "distinct":
            return len(content)
        return math.fsum(self._self_information(word) for word in content)  # exact, hence in any order the same

    def _self_information(self, word: str) -> float:
        count = self.caption_counts.get(word)
        return 0.0 if count is None else -math.log2((count + 1) / (self.num_captions + 2))


_UNFITTED = (
    "This caption quality scorer ({measure!r}) is not fitted: call .fit(captions) with the training captions, "
    "load one with .from_pretrained, or use measure='constant'."
)


def _words(caption: str, index: int) -> list[str]:
    if not isinstance(caption, str):
        raise TypeError(f"Caption {index} must be a string, got {type(caption).__name__}: {caption!r}.")
    return WORD.findall(caption.lower())


def _percentile(values: list[float], fraction: float) -> float:
    """Linear interpolation between the closest ranks; 0 for no values."""
    if not values:
        return 0.0
    values = sorted(values)
    position = fraction * (len(values) - 1)
    lower = math.floor(position)
    upper = min(lower + 1, len(values) - 1)
    return values[lower] + (values[upper] - values[lower]) * (position - lower)
