"""Reads the benchmarks of the field from the copies that users hold, into one normalized `datasets.DatasetDict`."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset, DatasetDict

from scmm.data.schema import FEATURES


SPLITS = ("train", "val", "test")


class BenchmarkError(ValueError):
    """A benchmark's folder or annotations are not as they should be; the message says what to do."""


def _no_camera(path: str, record: dict) -> int:
    return -1


def _icfg_camera(path: str, record: dict) -> int:
    fields = Path(path).name.split("_")
    return int(fields[2]) if len(fields) > 2 and fields[2].isdigit() else -1


def _rstp_camera(path: str, record: dict) -> int:
    match = re.search(r"_c(\d+)_", Path(path).name)
    return int(match[1]) if match else -1


def _paperdoll_camera(path: str, record: dict) -> int:
    return int(record["camera"])


@dataclass(frozen=True)
class _Layout:
    folder: str
    annotations: tuple[str, ...]  # names under which the file is seen
    path_key: str
    camera: Callable[[str, dict], int]


_LAYOUTS = {
    "cuhk-pedes": _Layout("CUHK-PEDES", ("reid_raw.json",), "file_path", _no_camera),
    "icfg-pedes": _Layout("ICFG-PEDES", ("ICFG-PEDES.json", "ICFG_PEDES.json"), "file_path", _icfg_camera),
    "rstpreid": _Layout("RSTPReid", ("data_captions.json",), "img_path", _rstp_camera),
    "paperdoll": _Layout("PaperDoll", ("paperdoll.json",), "file_path", _paperdoll_camera),
}


def read_records(name: str, root: str | os.PathLike) -> tuple[Path, list[dict]]:
    """
    Reads a benchmark's annotations as they are.

    Args:
        name (`str`): `"cuhk-pedes"`, `"icfg-pedes"`, `"rstpreid"` or `"paperdoll"`.
        root (`str` or `os.PathLike`): the folder that contains the benchmark's own folder.

    Returns:
        `tuple[Path, list[dict]]`: the annotation file and its records.

    Raises:
        BenchmarkError: if the name is unknown, a folder or file is missing, or the file is not a JSON list of records.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.data.benchmarks import read_records
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=1, val_identities=0, test_identities=0, progress=False)
    ...     path, records = read_records("paperdoll", root)
    >>> path.name, len(records)
    ('paperdoll.json', 4)

    ```
    """
    if name not in _LAYOUTS:
        raise BenchmarkError(f"There is no benchmark {name!r}; choose one of {sorted(_LAYOUTS)}.")
    layout = _LAYOUTS[name]
    folder = Path(root) / layout.folder
    if not folder.is_dir():
        raise BenchmarkError(f"{folder} is not a folder: the root must contain {layout.folder}/ with imgs/ in it.")
    path = next((folder / file for file in layout.annotations if (folder / file).is_file()), None)
    if path is None:
        raise BenchmarkError(f"{folder} has no {' or '.join(layout.annotations)}, which holds captions and splits.")
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise BenchmarkError(f"{path} is broken at line {error.lineno}, column {error.colno}: {error.msg}.") from None
    except UnicodeDecodeError as error:
        raise BenchmarkError(f"{path} is not UTF-8 (byte {error.start}): save it as UTF-8.") from None
    if not isinstance(records, list):
        raise BenchmarkError(f"{path} holds a {type(records).__name__}; expected a list with one record per image.")
    return path, records


def load_benchmark(name: str, root: str | os.PathLike) -> DatasetDict:
    """
    Loads a benchmark from disk, one row per image, images by reference.

    Args:
        name (`str`): `"cuhk-pedes"`, `"icfg-pedes"`, `"rstpreid"` or `"paperdoll"`.
        root (`str` or `os.PathLike`):
            The folder that contains the benchmark's own folder (`CUHK-PEDES`, `ICFG-PEDES`, `RSTPReid`, `PaperDoll`),
            with `imgs/` and the annotation file in it.

    Returns:
        `datasets.DatasetDict`: the splits that the annotations name, among `"train"`, `"val"` and `"test"`, with the
        columns `image`, `captions`, `person_id`, `image_id`, `camera_id` (-1: unknown) and `file_name`.

    Raises:
        BenchmarkError: if a folder or file is missing, a record lacks a field, or a path leaves `imgs/`; the message
            names the file, the record and the value.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm import load_benchmark
    >>> from scmm.data.paperdoll import render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(root, train_identities=2, val_identities=0, test_identities=1, progress=False)
    ...     splits = load_benchmark("paperdoll", root)
    >>> splits["train"].num_rows, splits["test"].num_rows
    (8, 4)

    ```
    """
    annotations, records = read_records(name, root)
    layout = _LAYOUTS[name]
    images = (annotations.parent / "imgs").resolve()
    if not images.is_dir():
        raise BenchmarkError(f"{images} is not a folder: the images of {name} belong there.")
    columns: dict[str, dict[str, list]] = {}
    for number, record in enumerate(records):
        try:
            split, captions, file_name = record["split"], record["captions"], record[layout.path_key]
            person_id = int(str(record["id"]))  # 7 and "7", but not 7.5
            if split not in SPLITS:
                raise ValueError(f"its split is {split!a}, not one of {SPLITS}")
            if not isinstance(captions, list) or not all(map(_is_text, captions)):
                raise ValueError(f"its captions are no list of texts: {captions!a}")
            if not _is_text(file_name):
                raise ValueError(f"its {layout.path_key} is no text: {file_name!a}")
            camera = layout.camera(file_name, record)
        except (KeyError, TypeError, ValueError) as error:
            reason = f"has no {error}" if isinstance(error, KeyError) else f"is not a record of {name}: {error}"
            raise BenchmarkError(f"{annotations}: record {number} {reason}.") from None
        path = Path(os.path.normpath(images / file_name))
        if not path.is_relative_to(images):
            raise BenchmarkError(f"{annotations}: record {number} has the path {file_name!r}, which leaves {images}.")
        rows = columns.setdefault(split, {column: [] for column in FEATURES})
        values = (str(path), captions, person_id, number, camera, file_name)
        for column, value in zip(FEATURES, values, strict=True):
            rows[column].append(value)
    return DatasetDict({split: Dataset.from_dict(rows, features=FEATURES) for split, rows in columns.items()})


def _is_text(value: object) -> bool:
    """Whether a value can be stored as text: JSON can write halves of characters, which Arrow refuses."""
    return isinstance(value, str) and not re.search(r"[\ud800-\udfff]", value)
