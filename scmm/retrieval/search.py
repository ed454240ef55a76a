"""Searches a folder of images with sentences, embedding on the fly."""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from scmm.modeling_scmm import SCMMModel
from scmm.processing import SCMMProcessor
from scmm.retrieval.encode import encode_captions, encode_images


IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".jp2", ".avif"}
)


@dataclass
class SearchResults:
    """
    What [`search_folder`] found.

    Args:
        ranked (`list[list[tuple[Path, float]]]`): for each query the best images with their cosine, best first.
        skipped (`list[tuple[Path, str]]`): images that could not be read, and why.
        num_images (`int`): images that were searched.
    """

    ranked: list[list[tuple[Path, float]]]
    skipped: list[tuple[Path, str]]
    num_images: int


def find_images(folder: str | os.PathLike) -> list[Path]:
    """
    All image files in a folder and below, by their suffix, in sorted order.

    Raises:
        NotADirectoryError: if the folder does not exist or is none.
        FileNotFoundError: if there are no images in it.

    Example:

    ```python
    >>> import tempfile
    >>> from PIL import Image
    >>> from scmm.retrieval.search import find_images
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 16)).save(f"{folder}/crop.png")
    ...     [path.name for path in find_images(folder)]
    ['crop.png']

    ```
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder of images.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())
    if not paths:
        raise FileNotFoundError(f"{folder} holds no images ({', '.join(sorted(IMAGE_SUFFIXES))}).")
    return paths


def search_folder(
    model: SCMMModel,
    processor: SCMMProcessor,
    folder: str | os.PathLike,
    queries: list[str],
    *,
    top_k: int = 10,
    batch_size: int = 64,
    progress: bool = False,
) -> SearchResults:
    """
    Ranks the images of a folder by their similarity to each sentence. Equal scores rank by the images' names.

    Args:
        model ([`SCMMModel`]): the dual encoder.
        processor ([`SCMMProcessor`]): the processor saved with it.
        folder (`str` or `os.PathLike`): the images, also in sub-folders.
        queries (`list[str]`): sentences.
        top_k (`int`, defaults to 10): images for each query.
        batch_size (`int`, defaults to 64): images embedded at once.
        progress (`bool`, defaults to `False`): whether to show a progress bar.

    Returns:
        [`SearchResults`]: unreadable images are skipped and named there.

    Raises:
        OSError: if there is no such folder or no image in it.
        ValueError: if a query is empty, `top_k` is below 1, or none of the images can be read.

    Example:

    ```python
    >>> import tempfile
    >>> from PIL import Image
    >>> from scmm import SCMMConfig, SCMMModel, SCMMProcessor
    >>> from scmm.retrieval.search import search_folder
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3)
    >>> model = SCMMModel(SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields()))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (8, 16)).save(f"{folder}/crop.png")
    ...     found = search_folder(model, processor, folder, ["a red coat"])
    >>> found.ranked[0][0][0].name
    'crop.png'

    ```
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}.")
    for query in queries:
        if not query.strip():
            raise ValueError("A query is empty: describe the person in a sentence.")
    paths = find_images(folder)
    errors: dict[int, str] = {}
    image_embeds = encode_images(
        model,
        processor,
        paths,
        batch_size=batch_size,
        progress=progress,
        on_error=lambda index, error: errors.update({index: str(error)}),
    )
    readable = [path for index, path in enumerate(paths) if index not in errors]
    skipped = [(paths[index], reason) for index, reason in sorted(errors.items())]
    if not readable:
        raise ValueError(f"None of the {len(paths)} images in {folder} can be read; the first: {skipped[0][1]}")
    scores = encode_captions(model, processor, queries) @ image_embeds.T
    best, order = torch.sort(scores, dim=1, descending=True, stable=True)
    ranked = [
        [(readable[index], score) for index, score in zip(row[:top_k], row_scores[:top_k], strict=True)]
        for row, row_scores in zip(order.tolist(), best.tolist(), strict=True)
    ]
    return SearchResults(ranked=ranked, skipped=skipped, num_images=len(readable))
