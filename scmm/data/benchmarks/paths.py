"""Images on disk: no path leaves the image folder, and folders are listed to find which files are missing."""

import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from scmm.data.benchmarks.sources import BenchmarkError


def image_path(images: Path, file_name: str) -> str:
    """
    The path of an image below its folder, without looking at the disk.

    Args:
        images (`Path`): the image folder, absolute.
        file_name (`str`): as a record names the image.

    Returns:
        `str`: the absolute path.

    Raises:
        BenchmarkError: if the name is absolute, is none, or leaves the folder; the message goes on after "record N".
    """
    folder = str(images)
    if os.path.isabs(file_name):
        raise BenchmarkError(f"has the absolute path {file_name!r}: write it relative to {folder}.")
    path = os.path.normpath(f"{folder}/{file_name}")
    if not path.startswith(f"{folder.rstrip('/')}/"):
        reason = "names no file" if path == folder else f"leaves {folder}"
        raise BenchmarkError(f"has the path {file_name!r}, which {reason}.")
    return path


@dataclass
class ImageFiles:
    """What [`find_images`] found of the images that records name."""

    missing: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)  # links that lead out of the image folder
    named: Counter[str] = field(default_factory=Counter)  # by sub-folder
    missing_in: Counter[str] = field(default_factory=Counter)

    def messages(self, images: Path, annotations: Path) -> list[str]:
        """What is wrong, with the missing files of each sub-folder counted."""
        messages = []
        if self.outside:
            messages.append(
                f"{images}: {len(self.outside):,} image(s), such as {self.outside[0]!r}, are links that lead out of "
                f"the folder, which are not followed: copy or mount the images there."
            )
        if self.missing:
            folders = [
                f"{folder} lacks {'all ' if count == self.named[folder] else ''}{count:,}"
                + (f" of {self.named[folder]:,}" if count < self.named[folder] else "")
                for folder, count in self.missing_in.most_common(10)
            ]
            if len(self.missing_in) > 10:
                folders.append(f"{len(self.missing_in) - 10:,} more folders lack some")
            messages.append(
                f"{images} lacks {len(self.missing):,} of the {self.named.total():,} images that {annotations.name} "
                f"names ({', '.join(folders)}), for example {self.missing[0]!r}: unpack the archive again, or "
                f"remove their records."
            )
        return messages


def find_images(images: Path, file_names: Iterable[str]) -> ImageFiles:
    """
    Looks for the images of a data set, one listing per folder.

    Args:
        images (`Path`): the image folder, links resolved.
        file_names (`Iterable[str]`): names that [`image_path`] accepts.

    Returns:
        `ImageFiles`: which are missing and which are links that lead out of the folder.
    """
    found = ImageFiles()
    names_in: dict[str, list[tuple[str, str]]] = {}
    for file_name in file_names:
        folder, _, name = os.path.normpath(file_name).rpartition("/")
        names_in.setdefault(folder, []).append((name, file_name))
    for folder, names in names_in.items():
        sub_folder = f"{images.name}/{folder.partition('/')[0]}".rstrip("/")  # ICFG-PEDES has a folder for each person
        found.named[sub_folder] += len(names)
        path = images / folder
        if not _inside(images, path):
            found.outside += [file_name for _, file_name in names]
            continue
        entries = _list(path)
        for name, file_name in names:
            entry = entries.get(name)
            if entry is not None and entry.is_symlink() and not _inside(images, entry.path):
                found.outside.append(file_name)
            elif entry is None or not entry.is_file():
                found.missing.append(file_name)
                found.missing_in[sub_folder] += 1
    return found


def _list(folder: Path) -> dict[str, os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return {}


def _inside(images: Path, path: str | os.PathLike) -> bool:
    """Whether a path still lies below the image folder when its links are followed."""
    real = os.path.realpath(path)
    return real == str(images) or real.startswith(f"{str(images).rstrip('/')}/")
