"""One image: background, doll, occluder, then the camera's color, blur and noise."""

import math

import numpy as np
from PIL import Image, ImageFilter

from scmm.data.paperdoll.attributes import sample_identity, shown_attributes
from scmm.data.paperdoll.figure import Figure
from scmm.data.paperdoll.pen import COVER_HEIGHTS, GROUND, Pen, shade
from scmm.data.paperdoll.scenes import CAMERAS, Scene, sample_scene


MAX_IMAGE_SIZE = (384, 128)


def check_image_size(image_size: tuple[int, int]) -> None:
    """Refuse image sizes that PaperDoll is not drawn for."""
    height, width = image_size
    if not (16 <= height <= MAX_IMAGE_SIZE[0] and 8 <= width <= MAX_IMAGE_SIZE[1]):
        raise ValueError(
            f"PaperDoll draws images from 16x8 up to {MAX_IMAGE_SIZE[0]}x{MAX_IMAGE_SIZE[1]} (height x width); "
            f"got image_size={tuple(image_size)}"
        )


def draw_image(shown: dict[str, str], scene: Scene, image_size: tuple[int, int] = (128, 64)) -> Image.Image:
    """
    Draw one image: a pure function of what it shows and of its scene.

    Args:
        shown (`dict[str, str]`): from [`shown_attributes`].
        scene ([`Scene`]): everything but the person.
        image_size (`tuple[int, int]`, *optional*, defaults to `(128, 64)`): height and width in pixels.

    Returns:
        `PIL.Image.Image`: RGB.

    Raises:
        ValueError: for an image size below 16x8 or above 384x128.
    """
    check_image_size(image_size)
    height, width = image_size
    factor = max(2, math.ceil(256 / height))  # drawn larger and averaged down, for smooth edges
    rng = np.random.Generator(np.random.PCG64(scene.seed))
    canvas = Image.new("RGB", (width * factor, height * factor))
    _background(canvas, scene, rng)
    crop = COVER_HEIGHTS[scene.covered] if scene.occluder == "crop" else None
    pen = Pen(canvas, scene.scale, scene.shift, bottom=crop)
    ground = shade(CAMERAS[scene.camera].floor, 0.72)
    pen.ellipse(0, GROUND, 27, 4.5, ground)
    Figure(pen, shown, scene).draw()
    if scene.occluder in ("bush", "wall", "car"):
        _occluder(pen, scene, rng)
    image = canvas.reduce(factor)
    if scene.blur > 0:
        image = image.filter(ImageFilter.GaussianBlur(scene.blur * height / 128))
    camera = CAMERAS[scene.camera]
    light = scene.brightness * np.asarray(camera.gains, dtype=np.float32)
    slope = np.linspace(1 - scene.slope / 2, 1 + scene.slope / 2, width, dtype=np.float32)
    pixels = np.asarray(image, dtype=np.float32) * (slope[:, None] * light)
    pixels += rng.standard_normal(pixels.shape, dtype=np.float32) * np.float32(scene.noise)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def render_image(
    seed: int, split: str, identity: int, image: int, image_size: tuple[int, int] = (128, 64)
) -> Image.Image:
    """
    Draw one image of the benchmark, without writing it and before its JPEG compression.

    Args:
        seed (`int`): the benchmark's seed.
        split (`str`): `"train"`, `"val"` or `"test"`.
        identity (`int`): the person's number within the split.
        image (`int`): the image's number among those of the person.
        image_size (`tuple[int, int]`, *optional*, defaults to `(128, 64)`): height and width in pixels.

    Returns:
        `PIL.Image.Image`: RGB.

    Example:

    ```python
    >>> from scmm.data.paperdoll import render_image
    >>> render_image(0, "train", 0, 0, image_size=(128, 64)).size
    (64, 128)

    ```
    """
    scene = sample_scene(seed, split, identity, image)
    shown = shown_attributes(sample_identity(seed, split, identity), view=scene.view, covered=scene.covered)
    return draw_image(shown, scene, image_size)


def _jitter(color: tuple[int, int, int], rng: np.random.Generator, amount: int = 14) -> tuple[int, int, int]:
    offsets = rng.integers(-amount, amount + 1, size=4)
    red, green, blue = (
        min(255, max(0, c + int(offsets[0] + o // 2))) for c, o in zip(color, offsets[1:], strict=True)
    )
    return red, green, blue


def _background(canvas: Image.Image, scene: Scene, rng: np.random.Generator) -> None:
    camera = CAMERAS[scene.camera]
    pen = Pen(canvas, 1.0, (0.0, 0.0))
    wall, floor = _jitter(camera.wall, rng), _jitter(camera.floor, rng)
    horizon = 200 * camera.horizon + rng.uniform(-8, 8)
    pen.box(0, 100, 51, 101, wall)
    pen.box(0, (horizon + 200) / 2, 51, (200 - horizon) / 2 + 1, floor)
    offsets = rng.uniform(-1, 1, size=8)
    dark, light = shade(wall, 0.82), shade(wall, 1.2)
    if camera.scenery == "doors":
        x = offsets[0] * 45
        pen.box(x, horizon - 42, 14, 42, dark)
        pen.box(x, horizon - 40, 11, 38, shade(wall, 0.9))
        pen.box(0, horizon - 1, 51, 1.5, shade(wall, 0.7))
    elif camera.scenery == "trees":
        for offset in offsets[:3]:
            x = offset * 50
            pen.box(x, horizon - 25, 2.5, 25, (96, 78, 58))
            pen.ellipse(x, horizon - 62, 16, 26, _jitter((96, 128, 84), rng, 10))
    elif camera.scenery == "shelves":
        for level in range(3):
            y = horizon - 15 - 32 * level
            pen.box(0, y, 51, 1.2, shade(wall, 0.7))
            for offset in offsets[level : level + 4]:
                pen.box(offset * 50, y - 9, 6, 8, _jitter((168, 160, 158), rng, 40))
    elif camera.scenery == "cars":
        x = offsets[0] * 60
        pen.box(x, horizon + 2, 34, 11, _jitter((92, 92, 100), rng, 30), 4)
        pen.dome(x, horizon - 6, 22, 14, shade(wall, 0.6))
        pen.ellipse(x - 20, horizon + 13, 6, 6, (30, 30, 32))
        pen.ellipse(x + 20, horizon + 13, 6, 6, (30, 30, 32))
        pen.polygon(
            [(-51, 150), (-51, 146), (51, 150 + 8 * offsets[1]), (51, 154 + 8 * offsets[1])], shade(floor, 1.3)
        )
    elif camera.scenery == "tiles":
        for step in range(-3, 4):
            pen.line(
                [(step * 18 + offsets[0] * 9, horizon), (step * 40 + offsets[0] * 20, 200)], 0.8, shade(floor, 0.85)
            )
        for y in (horizon + 8, horizon + 24, horizon + 50):
            pen.line([(-51, y), (51, y)], 0.8, shade(floor, 0.85))
        pen.box(offsets[1] * 45, horizon - 60, 12, 16, light)
    else:
        for level in range(3):
            for column in (-2, -1, 0, 1, 2):
                pen.box(
                    column * 26 + offsets[0] * 13,
                    horizon - 22 - level * 36,
                    8,
                    12,
                    dark if (level + column) % 3 else light,
                )


def _occluder(pen: Pen, scene: Scene, rng: np.random.Generator) -> None:
    """Cover the frame's whole width from the covered body height down."""
    top = COVER_HEIGHTS[scene.covered]
    if scene.occluder == "bush":
        green = _jitter((58, 98, 50), rng, 16)
        pen.box(0, top + 64, 70, 60, green)
        for x in range(-60, 65, 12):
            pen.ellipse(x + rng.uniform(-3, 3), top + 3, 10, rng.uniform(5, 9), shade(green, rng.uniform(0.8, 1.1)))
    elif scene.occluder == "wall":
        stone = _jitter((150, 138, 128), rng, 22)
        pen.box(0, top + 60, 70, 62, stone)
        pen.box(0, top - 1, 70, 3, shade(stone, 1.25))
        for x in range(-60, 65, 20):
            pen.line([(x, top + 2), (x, top + 80)], 0.8, shade(stone, 0.82))
    else:
        paint = _jitter((120, 124, 136), rng, 50)
        pen.box(0, top + 60, 70, 62, paint, 8)
        pen.box(0, top + 3, 70, 1.5, shade(paint, 1.4))
        pen.ellipse(rng.uniform(-30, 30), top + 40, 16, 16, (28, 28, 30))
