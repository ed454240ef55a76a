"""PaperDoll in the on-disk layouts of CUHK-PEDES, ICFG-PEDES and RSTPReid: the same pictures and captions, so that
everything that reads those benchmarks can be tried without a copy of them."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from scmm.data.paperdoll.benchmark import ANNOTATIONS, FOLDER, check_empty, write_json


CUHK_FOLDERS = ("cam_a", "train_query", "CUHK01", "test_query", "Market", "cam_b", "CUHK03")


def read_paperdoll(root: str | os.PathLike) -> list[dict]:
    """
    Read the records of a rendered benchmark.

    Args:
        root (`str` or `os.PathLike`): the common root that holds `PaperDoll/`.

    Returns:
        `list[dict]`: as from [`paperdoll_records`].

    Raises:
        FileNotFoundError: if there is no `paperdoll.json`: nothing was rendered there, or the render was interrupted.
    """
    path = Path(root) / FOLDER / ANNOTATIONS
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {FOLDER} was not rendered here, or its render was interrupted (the file is "
            f"written last). Remove {path.parent} if it exists and call render_paperdoll again"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def export_paperdoll(root: str | os.PathLike, out_root: str | os.PathLike, layout: str) -> Path:
    """
    Write a rendered PaperDoll in the layout of a public benchmark.

    As in the originals, the image folders name the source of a picture and not its split: in `cuhk-pedes` test records
    also live under `train_query/`, in `icfg-pedes` training records also live under `test/`. The annotation file is
    written last and atomically.

    Args:
        root (`str` or `os.PathLike`): the common root that holds `PaperDoll/`.
        out_root (`str` or `os.PathLike`): the common root to write to; may be the same.
        layout (`str`): `"cuhk-pedes"`, `"icfg-pedes"` (one caption an image, no validation split: its people go to the
            training split) or `"rstpreid"` (two captions an image).

    Returns:
        `Path`: the written folder, for instance `out_root/CUHK-PEDES`.

    Raises:
        FileExistsError: if that folder exists and is not empty.
        FileNotFoundError: if nothing was rendered under `root`.
        ValueError: for an unknown layout, or fewer captions an image than the layout has.

    Example:

    ```python
    >>> import tempfile
    >>> from scmm.data.paperdoll import export_paperdoll, render_paperdoll
    >>> with tempfile.TemporaryDirectory() as root:
    ...     _ = render_paperdoll(
    ...         root, train_identities=1, val_identities=0, test_identities=1, num_workers=1, progress=False
    ...     )
    ...     folder = export_paperdoll(root, root, "rstpreid")
    ...     sorted(path.name for path in folder.iterdir())
    ['data_captions.json', 'imgs']

    ```
    """
    if layout not in _LAYOUTS:
        raise ValueError(f"layout={layout!r} is unknown: choose one of {', '.join(map(repr, _LAYOUTS))}")
    name, annotations, path_key, convert = _LAYOUTS[layout]
    source, folder = Path(root) / FOLDER / "imgs", Path(out_root) / name
    records = read_paperdoll(root)
    check_empty(folder)
    exported = [convert(record, number) for number, record in enumerate(records)]
    for record, original in zip(exported, records, strict=True):
        _copy_image(source / original["file_path"], folder / "imgs" / record[path_key])
    (folder / "imgs").mkdir(parents=True, exist_ok=True)
    write_json(folder / annotations, exported)
    return folder


def tokens(caption: str) -> list[str]:
    """The lower-cased words of a caption, as in the `processed_tokens` of CUHK-PEDES."""
    return re.findall(r"[a-z0-9]+", caption.lower())


def _captions(record: dict, count: int, layout: str) -> list[str]:
    captions = record["captions"][:count]
    if len(captions) < count:
        raise ValueError(
            f"{record['file_path']} has {len(captions)} caption(s), but {layout} needs {count}: render with "
            f"captions_per_image={count}"
        )
    return captions


def _cuhk_pedes(record: dict, number: int) -> dict:
    person_id, captions = record["id"] + 1, _captions(record, 2, "cuhk-pedes")
    source = CUHK_FOLDERS[number % len(CUHK_FOLDERS)]
    name = {
        "cam_a": f"{person_id:03d}_{number % 360}.png",
        "cam_b": f"{person_id:03d}_{number % 360}.png",
        "CUHK01": f"{person_id:04d}{number:03d}.png",
        "CUHK03": f"{record['camera'] + 1}_{person_id:03d}_{number}.png",
        "Market": f"{person_id:04d}_c{record['camera'] + 1}s1_{number:06d}_00.jpg",
        "test_query": f"p{person_id}_s{number}.jpg",
        "train_query": f"p{person_id}_s{number}.jpg",
    }[source]
    return {
        "split": record["split"],
        "captions": captions,
        "file_path": f"{source}/{name}",
        "processed_tokens": [tokens(caption) for caption in captions],
        "id": person_id,
    }


def _icfg_pedes(record: dict, number: int) -> dict:
    person_id, captions = record["id"], _captions(record, 1, "icfg-pedes")
    split = "test" if record["split"] == "test" else "train"
    # Every third person lives under the other folder's name.
    source = split if person_id % 3 != 1 else {"train": "test", "test": "train"}[split]
    name = f"{person_id:04d}_{number % 1000:03d}_{record['camera'] + 1:02d}_0303afternoon_{number:04d}_0.jpg"
    return {
        "split": split,
        "captions": captions,
        "file_path": f"{source}/{person_id:04d}/{name}",
        "processed_tokens": [tokens(caption) for caption in captions],
        "id": person_id,
    }


def _rstpreid(record: dict, number: int) -> dict:
    return {
        "id": record["id"],
        "img_path": f"{record['id']:04d}_c{record['camera'] + 1}_{number:04d}.jpg",
        "captions": _captions(record, 2, "rstpreid"),
        "split": record["split"],
    }


_LAYOUTS: dict[str, tuple[str, str, str, Callable[[dict, int], dict]]] = {
    "cuhk-pedes": ("CUHK-PEDES", "reid_raw.json", "file_path", _cuhk_pedes),
    "icfg-pedes": ("ICFG-PEDES", "ICFG-PEDES.json", "file_path", _icfg_pedes),
    "rstpreid": ("RSTPReid", "data_captions.json", "img_path", _rstpreid),
}


def _copy_image(source: Path, target: Path) -> None:
    """Copy a JPEG, or re-encode it without loss where the target is a PNG."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".png":
        with Image.open(source) as image:
            image.save(target)
    else:
        shutil.copyfile(source, target)
