"""The PaperDoll benchmark on disk: records for every image, and their rendering into a folder."""

import json
import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tqdm import tqdm

from scmm.data.paperdoll.attributes import SPLITS, generator, sample_identity, shown_attributes
from scmm.data.paperdoll.captions import write_caption
from scmm.data.paperdoll.drawing import check_image_size, draw_image
from scmm.data.paperdoll.scenes import sample_scene


FOLDER, ANNOTATIONS = "PaperDoll", "paperdoll.json"


def paperdoll_records(
    *,
    seed: int = 0,
    train_identities: int = 1200,
    val_identities: int = 100,
    test_identities: int = 250,
    images_per_identity: int = 4,
    captions_per_image: int = 2,
) -> list[dict]:
    """
    The annotations of the benchmark, one record per image, without drawing anything.

    Args:
        seed (`int`, *optional*, defaults to 0): everything is a function of it.
        train_identities (`int`, *optional*, defaults to 1200): people in the training split.
        val_identities (`int`, *optional*, defaults to 100): people in the validation split.
        test_identities (`int`, *optional*, defaults to 250): people in the test split.
        images_per_identity (`int`, *optional*, defaults to 4): images of each person.
        captions_per_image (`int`, *optional*, defaults to 2): captions of each image, of independent density.

    Returns:
        `list[dict]`: records with the keys `id` (`int`, unique over the splits), `file_path` (relative to `imgs/`),
        `captions`, `split`, `camera`, `attributes` (what the image shows) and `caption_attributes` (for each caption,
        attribute name to the list of values that its words allow).

    Raises:
        ValueError: for a negative number of people or less than one image or caption.

    Example:

    ```python
    >>> from scmm.data.paperdoll import paperdoll_records
    >>> records = paperdoll_records(train_identities=2, val_identities=0, test_identities=1)
    >>> len(records), records[-1]["split"], records[-1]["id"]
    (12, 'test', 2)

    ```
    """
    if min(train_identities, val_identities, test_identities) < 0 or min(images_per_identity, captions_per_image) < 1:
        raise ValueError(
            "the numbers of identities must not be negative, images and captions at least 1; got "
            f"{train_identities=}, {val_identities=}, {test_identities=}, {images_per_identity=}, "
            f"{captions_per_image=}"
        )
    records = []
    for person_id, split, identity in _people(train_identities, val_identities, test_identities):
        attributes = sample_identity(seed, split, identity)
        for image in range(images_per_identity):
            scene = sample_scene(seed, split, identity, image)
            shown = shown_attributes(attributes, view=scene.view, covered=scene.covered)
            written = [
                write_caption(
                    shown, view=scene.view, pose=scene.pose, rng=generator(seed, split, identity, 2, image, number)
                )
                for number in range(captions_per_image)
            ]
            records.append(
                {
                    "id": person_id,
                    "file_path": _file_path(person_id, scene.camera, image),
                    "captions": [text for text, _ in written],
                    "split": split,
                    "camera": scene.camera,
                    "attributes": {**shown, "view": scene.view, "pose": scene.pose},
                    "caption_attributes": [stated for _, stated in written],
                }
            )
    return records


def render_paperdoll(
    root: str | os.PathLike,
    *,
    seed: int = 0,
    image_size: tuple[int, int] = (128, 64),
    train_identities: int = 1200,
    val_identities: int = 100,
    test_identities: int = 250,
    images_per_identity: int = 4,
    captions_per_image: int = 2,
    num_workers: int | None = None,
    progress: bool = True,
) -> Path:
    """
    Render the benchmark into `root/PaperDoll/`: JPEG images under `imgs/` and `paperdoll.json` beside it.

    The files are the same bytes for any number of workers. `paperdoll.json` is written last and atomically: a folder
    without it is a render that did not finish. Workers are spawned, so a script that renders with more than one of
    them needs the usual `if __name__ == "__main__":` guard.

    Args:
        root (`str` or `os.PathLike`): the common root of the benchmarks.
        seed (`int`, *optional*, defaults to 0): see [`paperdoll_records`], as for the numbers of people and images.
        image_size (`tuple[int, int]`, *optional*, defaults to `(128, 64)`): height and width, at most 384x128.
        train_identities (`int`, *optional*, defaults to 1200): people in the training split.
        val_identities (`int`, *optional*, defaults to 100): people in the validation split.
        test_identities (`int`, *optional*, defaults to 250): people in the test split.
        images_per_identity (`int`, *optional*, defaults to 4): images of each person.
        captions_per_image (`int`, *optional*, defaults to 2): captions of each image.
        num_workers (`int`, *optional*): processes; by default one per available core, and one for a small set.
        progress (`bool`, *optional*, defaults to `True`): whether to show a progress bar.

    Returns:
        `Path`: `root/PaperDoll`.

    Raises:
        FileExistsError: if `root/PaperDoll` exists and is not empty.
        ValueError: for an image size out of range.
    """
    check_image_size(image_size)
    folder = Path(root) / FOLDER
    check_empty(folder)
    records = paperdoll_records(
        seed=seed,
        train_identities=train_identities,
        val_identities=val_identities,
        test_identities=test_identities,
        images_per_identity=images_per_identity,
        captions_per_image=captions_per_image,
    )
    images = folder / "imgs"
    for name in sorted({record["file_path"].split("/")[0] for record in records}):
        (images / name).mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)

    people = list(_people(train_identities, val_identities, test_identities))
    jobs = [(images, seed, image_size, images_per_identity, people[i : i + 8]) for i in range(0, len(people), 8)]
    if num_workers is None:
        num_workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_workers = num_workers if len(records) >= 400 else 1
    with tqdm(total=len(records), desc="PaperDoll", unit="image", mininterval=0.5, disable=not progress) as bar:
        if num_workers == 1:
            for job in jobs:
                bar.update(_render_people(job))
        else:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
                for count in pool.map(_render_people, jobs):
                    bar.update(count)
    write_json(folder / ANNOTATIONS, records)
    return folder


def check_empty(folder: Path) -> None:
    """Refuse to write into a folder that already holds something."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} exists and is not empty: remove it, or choose another root")


def write_json(path: Path, records: list[dict]) -> None:
    """Write a list of records, one a line, under a temporary name first, so that the file is whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    lines = ",\n".join(json.dumps(record, ensure_ascii=False) for record in records)
    temporary.write_text(f"[\n{lines}\n]\n" if records else "[]\n", encoding="utf-8")
    os.replace(temporary, path)


def _people(train: int, val: int, test: int) -> Iterator[tuple[int, str, int]]:
    """Person id, split and index within the split of everybody."""
    person_id = 0
    for split, count in zip(SPLITS, (train, val, test), strict=True):
        for identity in range(count):
            yield person_id, split, identity
            person_id += 1


def _file_path(person_id: int, camera: int, image: int) -> str:
    return f"camera_{camera}/{person_id:05d}_{image:02d}.jpg"


def _render_people(job: tuple[Path, int, tuple[int, int], int, list[tuple[int, str, int]]]) -> int:
    """Draw and write all images of some people. Runs in a worker process."""
    folder, seed, image_size, images_per_identity, people = job
    for person_id, split, identity in people:
        attributes = sample_identity(seed, split, identity)
        for number in range(images_per_identity):
            scene = sample_scene(seed, split, identity, number)
            shown = shown_attributes(attributes, view=scene.view, covered=scene.covered)
            image = draw_image(shown, scene, image_size)
            path = folder / _file_path(person_id, scene.camera, number)
            image.save(path, quality=scene.jpeg_quality, subsampling=0)
    return len(people) * images_per_identity
