"""What is known of each benchmark: its files, the fields of its records, and the figures of the official release."""

import re
from dataclasses import dataclass, field
from typing import NamedTuple


SPLITS = ("train", "val", "test")


class Counts(NamedTuple):
    """How much a split holds."""

    identities: int
    images: int
    captions: int


@dataclass(frozen=True)
class Fields:
    """Under which key a record keeps what. Without `camera_id`, the camera is unknown or read from the file's name."""

    image: str = "file_path"
    captions: str = "captions"
    person_id: str = "id"
    split: str = "split"
    camera_id: str | None = None


@dataclass(frozen=True)
class Layout:
    """A benchmark on disk: `folder` below the root, with `imgs/` and one of the files `annotations` in it."""

    folder: str
    annotations: tuple[str, ...]  # names under which the file is seen
    fields: Fields = Fields()
    camera_in_name: re.Pattern[str] | None = None  # its first group is the camera's number
    official: dict[str, Counts] = field(default_factory=dict)


LAYOUTS = {
    "cuhk-pedes": Layout(
        "CUHK-PEDES",
        ("reid_raw.json",),
        official={
            "train": Counts(11003, 34054, 68126),
            "val": Counts(1000, 3078, 6158),
            "test": Counts(1000, 3074, 6156),
        },
    ),
    "icfg-pedes": Layout(
        "ICFG-PEDES",
        ("ICFG-PEDES.json", "ICFG_PEDES.json"),
        camera_in_name=re.compile(r"[^_]*_[^_]*_([0-9]{1,9})_"),
        official={"train": Counts(3102, 34674, 34674), "test": Counts(1000, 19848, 19848)},
    ),
    "rstpreid": Layout(
        "RSTPReid",
        ("data_captions.json",),
        Fields(image="img_path"),
        camera_in_name=re.compile(r".*?_c([0-9]{1,9})_"),
        official={
            "train": Counts(3701, 18505, 37010),
            "val": Counts(200, 1000, 2000),
            "test": Counts(200, 1000, 2000),
        },
    ),
    "paperdoll": Layout("PaperDoll", ("paperdoll.json",), Fields(camera_id="camera")),
}

# Sets of a user's own, by the form of their annotations, with the keys of a record unless the user says otherwise.
GENERIC = {
    "json": Fields(),
    "folder": Fields(image="file_name", person_id="person_id", camera_id="camera_id"),
}
