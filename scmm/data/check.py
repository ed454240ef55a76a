"""Checks a data set on disk before anything trains on it: all that is wrong at once, and what is odd."""

import dataclasses
import multiprocessing
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from tqdm import tqdm

from scmm.caption_quality import CaptionQuality
from scmm.data.benchmarks.layouts import LAYOUTS
from scmm.data.benchmarks.paths import find_images
from scmm.data.benchmarks.rules import Row, check_records, count, to_tables, warnings_of
from scmm.data.benchmarks.sources import BenchmarkError, find_source, parse_annotations
from scmm.data.footage import shared_footage
from scmm.processing import SCMMProcessor, load_image


CLIP_LENGTH = 77  # tokens, the two special ones included
QUALITY_BINS = 10

# What captions in Latin script are written with: ASCII, accented letters, dashes, quotes and the euro sign.
UNEXPECTED = re.compile("[^\t\n\r\x20-\x7e\xa0-\u024f\u1e00-\u1eff\u2010-\u2027\u2030-\u205e\u20ac]")
# How CLIP's tokenizer cuts a text before it looks words up: each piece becomes one token or more.
PIECE = re.compile(r"<\|\w+\|>|'(?:s|t|re|ve|m|ll|d)|[^\W\d_]+|\d|(?:[^\w\s]|_)+", re.IGNORECASE)


@dataclass
class CheckReport:
    """
    What [`check_benchmark`] found.

    Attributes:
        name, annotations, images (`str`): the data set, its annotation file and its image folder.
        problems (`list[str]`): for each of them training would fail.
        warnings (`list[str]`): what training bears, but the user should know.
        counts (`dict[str, dict[str, int]]`): of each split the identities, images and captions.
        official (`dict[str, dict[str, int]]`): the same of the official release, empty where there is none.
        missing_images (`dict[str, dict[str, int]]`): of each sub-folder that lacks images, how many of how many.
        unreadable_images (`dict[str, str]` or `None`): file name to reason; `None` if images were not decoded.
        single_image_identities (`dict[str, int]`): of each split the identities with one image.
        empty_captions (`int`): captions without a visible character.
        repeated_captions (`dict[str, int]`): texts that describe several identities, with the number of their uses.
        unexpected_captions (`int`): captions with a character outside Latin script and its punctuation.
        unexpected_characters (`dict[str, int]`): these characters, the frequent ones first.
        max_length (`int`): tokens that the model takes, special tokens included.
        long_captions (`int`): captions with more tokens.
        long_captions_exact (`bool`): whether tokens were counted; otherwise there are at least `long_captions`.
        caption_quality (`list[int]`): training captions by quality, in ten bins from 0 to 1.
    """

    name: str
    annotations: str
    images: str
    problems: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    official: dict[str, dict[str, int]] = field(default_factory=dict)
    missing_images: dict[str, dict[str, int]] = field(default_factory=dict)
    unreadable_images: dict[str, str] | None = None
    single_image_identities: dict[str, int] = field(default_factory=dict)
    empty_captions: int = 0
    repeated_captions: dict[str, int] = field(default_factory=dict)
    unexpected_captions: int = 0
    unexpected_characters: dict[str, int] = field(default_factory=dict)
    max_length: int = CLIP_LENGTH
    long_captions: int = 0
    long_captions_exact: bool = False
    caption_quality: list[int] = field(default_factory=list)

    @property
    def can_train(self) -> bool:
        """`bool`: whether nothing was found for which training would fail."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """`dict`: all of it, for JSON."""
        return {"can_train": self.can_train, **dataclasses.asdict(self)}


def check_benchmark(
    name: str,
    root: str | os.PathLike,
    *,
    fields: dict[str, str] | None = None,
    image_root: str | os.PathLike | None = None,
    processor: SCMMProcessor | None = None,
    decode_images: bool = False,
    num_workers: int | None = None,
    progress: bool = False,
) -> CheckReport:
    """
    Checks a data set by the rules of [`load_benchmark`], but goes on after a breach and collects all of them.

    Args:
        name, root, fields, image_root: as for [`load_benchmark`].
        processor (`SCMMProcessor`, *optional*):
            Counts the tokens of the captions. Without one, the pieces that CLIP's tokenizer cuts a text into are
            counted, which are never more than its tokens: the number of long captions is then a lower bound.
        decode_images (`bool`, *optional*, defaults to `False`): whether to decode each image, one at a time.
        num_workers (`int`, *optional*):
            Processes that decode; by default one for each available core, and this one alone for a small set.
        progress (`bool`, *optional*, defaults to `False`): whether to show a bar while decoding.

    Returns:
        `CheckReport`

    Raises:
        BenchmarkError: if there is no such data set: an unknown name, a missing folder or annotation file.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.data.check import check_benchmark
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=2, val_identities=0, test_identities=0, progress=False)
    ...     report = check_benchmark("paperdoll", root, decode_images=True)
    >>> report.can_train, report.counts, report.unreadable_images
    (True, {'train': {'identities': 2, 'images': 8, 'captions': 16}}, {})

    ```
    """
    source = find_source(name, root, fields=fields, image_root=image_root)
    report = CheckReport(name, str(source.annotations), str(source.images))
    try:
        records = parse_annotations(source.annotations, source.annotations.read_bytes())
    except BenchmarkError as error:
        report.problems.append(str(error))
        return report
    rows = check_records(source, records, report.problems.append)
    tables = to_tables(rows)
    report.counts = {split: count(table)._asdict() for split, table in tables.items()}
    if source.layout is not None:
        report.official = {split: counts._asdict() for split, counts in source.layout.official.items()}
    report.warnings += warnings_of(source, tables)
    report.warnings += [
        f"{name} and {other} are both cut from {footage}: training on one may show test identities of the other."
        for other in LAYOUTS
        if (footage := shared_footage(name, other)) is not None
    ]
    _check_identities(report, rows)
    _check_captions(report, rows, processor)

    files = find_images(source.images, (row.file_name for row in rows))
    report.problems += files.messages(source.images, source.annotations)
    report.missing_images = {
        folder: {"missing": missing, "named": files.named[folder]}
        for folder, missing in files.missing_in.most_common()
    }
    if decode_images:
        absent = {*files.missing, *files.outside}
        paths = {row.file_name: row.path for row in rows if row.file_name not in absent}
        report.unreadable_images = _unreadable(paths, num_workers, progress)
        if report.unreadable_images:
            file_name, reason = next(iter(report.unreadable_images.items()))
            report.problems.append(
                f"{source.images}: {len(report.unreadable_images):,} image(s) are unreadable, such as {file_name!r}: "
                f"{reason}."
            )
    return report


def _check_identities(report: CheckReport, rows: list[Row]) -> None:
    images_of = Counter((row.split, row.person_id) for row in rows)
    singles = Counter(split for (split, _), images in images_of.items() if images == 1)
    report.single_image_identities = {split: singles[split] for split in report.counts}
    shared = sum(splits > 1 for splits in Counter(person_id for _, person_id in images_of).values())
    if shared:
        report.warnings.append(
            f"{report.annotations}: {shared:,} person id(s) occur in more than one split: if they are the same "
            f"people, the results on held-out splits are too good."
        )


def _check_captions(report: CheckReport, rows: list[Row], processor: SCMMProcessor | None) -> None:
    captions = [caption for row in rows for caption in row.captions]
    report.empty_captions = sum(not caption.strip() for caption in captions)

    uses: Counter[str] = Counter()
    people_of: dict[str, set[tuple[str, int]]] = {}
    for row in rows:
        for caption in map(str.strip, row.captions):
            if caption:
                uses[caption] += 1
                people_of.setdefault(caption, set()).add((row.split, row.person_id))
    report.repeated_captions = {text: number for text, number in uses.most_common() if len(people_of[text]) > 1}

    unexpected = [found for caption in captions if (found := UNEXPECTED.findall(caption))]
    report.unexpected_captions = len(unexpected)
    report.unexpected_characters = dict(
        Counter(character for found in unexpected for character in found).most_common()
    )

    if processor is not None:
        report.max_length = processor.tokenizer.model_max_length
        report.long_captions = processor.count_truncated(captions)
    else:
        report.long_captions = sum(least_tokens(caption) > report.max_length for caption in captions)
    report.long_captions_exact = processor is not None

    training = [caption for row in rows if row.split == "train" for caption in row.captions]
    if not training:
        report.problems.append(f"{report.annotations} has no usable training record.")
        return
    try:
        qualities = CaptionQuality().fit(training)(training)
    except ValueError as error:
        report.problems.append(f"{report.annotations}: {error}")
        return
    bins = Counter(min(int(quality * QUALITY_BINS), QUALITY_BINS - 1) for quality in qualities)
    report.caption_quality = [bins[number] for number in range(QUALITY_BINS)]


def least_tokens(caption: str) -> int:
    """
    A lower bound of the tokens that CLIP's tokenizer makes of a caption, without its vocabulary.

    Args:
        caption (`str`): a caption.

    Returns:
        `int`: the words, digits and runs of punctuation, and the two special tokens.

    Example:

    ```python
    >>> from scmm.data.check import least_tokens
    >>> least_tokens("He's 25.")  # <start> he 's 2 5 . <end>
    7

    ```
    """
    return len(PIECE.findall(unicodedata.normalize("NFC", caption))) + 2


def _unreadable(paths: dict[str, str], num_workers: int | None, progress: bool) -> dict[str, str]:
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = num_workers if len(paths) >= 1000 else 1  # a process needs seconds to start
    items = list(paths.items())
    jobs = [items[start : start + 64] for start in range(0, len(items), 64)]
    unreadable: dict[str, str] = {}
    with tqdm(total=len(items), desc="Decoding", unit="image", mininterval=0.5, disable=not progress) as bar:

        def collect(results: Iterable[tuple[int, dict[str, str]]]) -> None:
            for number, found in results:
                unreadable.update(found)
                bar.update(number)

        if num_workers == 1:
            collect(map(_decode, jobs))
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
                collect(pool.map(_decode, jobs))
    return unreadable


def _decode(job: list[tuple[str, str]]) -> tuple[int, dict[str, str]]:
    """Loads some images, one at a time. Runs in a worker process."""
    unreadable = {}
    for file_name, path in job:
        try:
            load_image(path)
        except (OSError, ValueError) as error:
            unreadable[file_name] = str(error).removeprefix(f"{path}: ")
    return len(job), unreadable
