"""A contact sheet: dolls with their captions, to look at the data."""

import os
import textwrap
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont


def contact_sheet(
    records: list[dict],
    images_root: str | os.PathLike,
    *,
    columns: int = 6,
    cell_width: int = 220,
    image_height: int = 256,
) -> Image.Image:
    """
    Draw images with their captions below.

    Args:
        records (`list[dict]`): records with `file_path` and `captions`, for instance from [`read_paperdoll`].
        images_root (`str` or `os.PathLike`): the `imgs/` folder.
        columns (`int`, *optional*, defaults to 6): images in a row.
        cell_width (`int`, *optional*, defaults to 220): width of a cell in pixels.
        image_height (`int`, *optional*, defaults to 256): height of the enlarged image in pixels.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        ValueError: if there are no records.
    """
    if not records:
        raise ValueError("contact_sheet needs at least one record")
    font = ImageFont.load_default(size=13)
    texts = ["\n".join(textwrap.fill("- " + caption, cell_width // 7) for caption in r["captions"]) for r in records]
    rows = [texts[start : start + columns] for start in range(0, len(texts), columns)]
    heights = [image_height + 16 + 17 * max(text.count("\n") + 1 for text in row) for row in rows]
    sheet = Image.new("RGB", (cell_width * min(columns, len(records)), sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for row, height in enumerate(heights):
        for column, text in enumerate(rows[row]):
            record, left = records[row * columns + column], column * cell_width
            with Image.open(Path(images_root) / record["file_path"]) as image:
                width = round(image.width * image_height / image.height)
                doll = image.convert("RGB").resize((width, image_height), Image.Resampling.BICUBIC)
            sheet.paste(doll, (left + (cell_width - width) // 2, top + 4))
            draw.multiline_text((left + 6, top + image_height + 8), text, fill="black", font=font, spacing=3)
        top += height
    return sheet
