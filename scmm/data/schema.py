"""The one normalized record that stands between every data set and everything else: one row per image."""

import io
from typing import IO

from datasets import Features, Image, List, Value


FEATURES = Features(
    {
        "image": Image(),  # lazy: the table holds the path
        "captions": List(Value("string")),
        "person_id": Value("int64"),  # as in the file: not contiguous, not always from 0
        "image_id": Value("int64"),  # position in the file
        "camera_id": Value("int64"),  # -1: unknown
        "file_name": Value("string"),  # relative to the image root, for messages and tables
    }
)


def image_source(row: dict) -> str | IO[bytes]:
    """
    What to load of a row whose image is undecoded: its path, or its embedded bytes under its file name.

    Args:
        row (`dict`): `image` as `{"path": ..., "bytes": ...}` and `file_name`.

    Returns:
        `str` or binary file: for [`~scmm.processing.load_image`], whose errors then name the file either way.

    Example:

    ```python
    >>> from scmm.data.schema import image_source
    >>> image_source({"image": {"path": None, "bytes": b"..."}, "file_name": "0.jpg"}).name
    '0.jpg'

    ```
    """
    if row["image"]["bytes"] is None:
        return row["image"]["path"]
    stream = io.BytesIO(row["image"]["bytes"])
    stream.name = row["file_name"]
    return stream
