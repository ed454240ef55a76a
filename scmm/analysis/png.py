"""Writing a picture so that its file is whole or absent."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_png(path: str | os.PathLike, save: Callable[[IO[bytes]], object]) -> Path:
    """
    Writes a file under a temporary name in the same folder, then renames it. The folder is made where it is missing.

    Args:
        path (`str` or `os.PathLike`): Where to; an existing file is replaced.
        save (`Callable[[IO[bytes]], object]`): Writes the picture, as PNG, into the binary file that it gets.

    Returns:
        `Path`: The path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            save(file)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
