"""A pen that draws shapes in body coordinates: x from the body's axis, y downwards from the frame's top, in units of
1/100 of the image width and 1/200 of its height. Shapes thus keep their place at any image size."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw


Color = tuple[int, int, int]
Points = Sequence[tuple[float, float]]

INK = (30, 26, 28)
GROUND = 190.0  # where the soles are, when the person fills the frame
TOP = 10.0  # where the head begins
BREADTH = 1.1  # bodies are drawn this much broader than high, as tight pedestrian crops show them
COVER_HEIGHTS = {"feet": 170.0, "shins": 148.0}  # below this body height an occluder or the crop hides everything


def shade(color: Color, factor: float) -> Color:
    """A darker (factor below 1) or lighter (above 1, towards white) tone."""
    if factor <= 1:
        return (int(color[0] * factor), int(color[1] * factor), int(color[2] * factor))
    keep = 2 - factor
    return (int(255 - (255 - color[0]) * keep), int(255 - (255 - color[1]) * keep), int(255 - (255 - color[2]) * keep))


def darker_or_lighter(color: Color, amount: float = 0.3) -> Color:
    """A tone that stands out from the color: lighter for dark colors, darker for light ones."""
    return shade(color, 1 + amount) if sum(color) < 240 else shade(color, 1 - amount)


class Pen:
    """
    Draws on an image in body coordinates.

    Args:
        image (`PIL.Image.Image`): the RGB canvas.
        scale (`float`): size of the body, 1 fills the frame.
        shift (`tuple[float, float]`): offset of the body in units.
        bottom (`float`, *optional*): body height that the frame's lower edge cuts, for a crop; the body is then
            enlarged to fill the frame.
    """

    def __init__(self, image: Image.Image, scale: float, shift: tuple[float, float], bottom: float | None = None):
        self.image = image
        self.draw = ImageDraw.Draw(image)
        if bottom is None:
            origin_y = GROUND + shift[1] - GROUND * scale
        else:
            scale *= (GROUND - TOP) / (bottom - TOP)
            origin_y = 200 - bottom * scale
        self.kx, self.ky = image.width / 100 * scale * BREADTH, image.height / 200 * scale
        self.x0, self.y0 = image.width * (50 + shift[0]) / 100, image.height * origin_y / 200

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Body coordinates to pixels."""
        return self.x0 + x * self.kx, self.y0 + y * self.ky

    def polygon(self, points: Points, color: Color) -> None:
        self.draw.polygon([self.at(x, y) for x, y in points], fill=color)

    def ellipse(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        self.draw.ellipse((*self.at(x - rx, y - ry), *self.at(x + rx, y + ry)), fill=color)

    def dome(self, x: float, y: float, rx: float, ry: float, color: Color) -> None:
        """The upper half of an ellipse whose center is (x, y)."""
        self.draw.pieslice((*self.at(x - rx, y - ry), *self.at(x + rx, y + ry)), 180, 360, fill=color)

    def box(self, x: float, y: float, half_width: float, half_height: float, color: Color, radius: float = 0) -> None:
        corners = (*self.at(x - half_width, y - half_height), *self.at(x + half_width, y + half_height))
        self.draw.rounded_rectangle(corners, radius=radius * self.kx, fill=color)

    def line(self, points: Points, width: float, color: Color) -> None:
        thickness = max(1, round(width * math.sqrt(self.kx * self.ky)))
        self.draw.line([self.at(x, y) for x, y in points], fill=color, width=thickness, joint="curve")

    def limb(self, points: Points, widths: Sequence[float], color: Color) -> None:
        """A chain of tapered segments with round joints: `widths` are the diameters at the points."""
        for start, end, first, last in zip(points, points[1:], widths, widths[1:], strict=False):
            self.polygon(segment(start, end, first, last), color)
        for (x, y), width in zip(points, widths, strict=True):
            self.ellipse(x, y, width / 2, width / 2, color)

    def patterned(self, points: Points, color: Color, pattern: str, second: Color) -> None:
        """A polygon filled with `"horizontal stripes"`, `"vertical stripes"`, `"checks"` or `"dots"`; else plain."""
        if pattern not in ("horizontal stripes", "vertical stripes", "checks", "dots"):
            self.polygon(points, color)
            return
        pixels = [self.at(x, y) for x, y in points]
        left, top = int(min(x for x, _ in pixels)), int(min(y for _, y in pixels))
        size = (int(max(x for x, _ in pixels)) - left + 2, int(max(y for _, y in pixels)) - top + 2)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - left, y - top) for x, y in pixels], fill=255)
        cloth = Image.new("RGB", size, color)
        ink = ImageDraw.Draw(cloth)
        rows = [self.y0 - top + y * self.ky for y in range(40, 190, 10)]
        columns = [self.x0 - left + x * self.kx for x in range(-45, 50, 9)]
        if pattern == "horizontal stripes":
            for y in rows:
                ink.rectangle((0, y, size[0], y + 4.8 * self.ky), fill=second)
        elif pattern == "vertical stripes":
            for x in columns:
                ink.rectangle((x - 2 * self.kx, 0, x + 2 * self.kx, size[1]), fill=second)
        elif pattern == "checks":
            middle = tuple((a + b) // 2 for a, b in zip(color, second, strict=True))
            for y in rows:
                ink.rectangle((0, y, size[0], y + 4.6 * self.ky), fill=middle)
            for x in columns:
                ink.rectangle((x - 2.2 * self.kx, 0, x + 2.2 * self.kx, size[1]), fill=middle)
            for y in rows:
                for x in columns:
                    ink.rectangle((x - 2.2 * self.kx, y, x + 2.2 * self.kx, y + 4.6 * self.ky), fill=second)
        else:
            for row, y in enumerate(rows):
                for x in columns:
                    center = x + (row % 2) * 4.5 * self.kx
                    ink.ellipse((center - 2.6 * self.kx, y, center + 2.6 * self.kx, y + 5.2 * self.ky), fill=second)
        self.image.paste(cloth, (left, top), mask)


def segment(start: tuple[float, float], end: tuple[float, float], first: float, last: float) -> Points:
    """The outline of a straight tapered limb segment."""
    dx, dy = end[0] - start[0], end[1] - start[1]
    length = math.hypot(dx, dy) or 1.0
    nx, ny = -dy / length / 2, dx / length / 2
    return [
        (start[0] + nx * first, start[1] + ny * first),
        (end[0] + nx * last, end[1] + ny * last),
        (end[0] - nx * last, end[1] - ny * last),
        (start[0] - nx * first, start[1] - ny * first),
    ]
