"""How one image shows its person: camera, viewpoint, pose, framing, light, background, occluder and image quality."""

from dataclasses import dataclass

from scmm.data.paperdoll.attributes import generator, weighted


VIEWS = {"front": 0.36, "back": 0.28, "left": 0.18, "right": 0.18}
OCCLUDERS = {"none": 0.82, "bush": 0.05, "wall": 0.06, "car": 0.04, "crop": 0.03}


@dataclass(frozen=True)
class Camera:
    """
    A fixed camera: its color cast, brightness and noise, and the place that it looks at.

    Attributes:
        gains (`tuple[float, float, float]`): factors of red, green and blue.
        noise (`float`): standard deviation of the sensor noise, in 8-bit levels.
        wall (`tuple[int, int, int]`): color of the background's upper part.
        floor (`tuple[int, int, int]`): color of its lower part.
        horizon (`float`): where the floor begins, as a fraction of the image height.
        scenery (`str`): `"doors"`, `"trees"`, `"shelves"`, `"cars"`, `"tiles"` or `"windows"`.
    """

    gains: tuple[float, float, float]
    noise: float
    wall: tuple[int, int, int]
    floor: tuple[int, int, int]
    horizon: float
    scenery: str


CAMERAS = (
    Camera((1.00, 1.00, 1.00), 3.0, (176, 178, 172), (142, 140, 136), 0.58, "doors"),
    Camera((1.07, 1.00, 0.88), 4.0, (150, 168, 138), (164, 156, 128), 0.50, "trees"),
    Camera((0.91, 0.98, 1.08), 5.0, (196, 198, 204), (120, 124, 130), 0.62, "shelves"),
    Camera((0.86, 0.88, 0.92), 7.0, (104, 106, 118), (84, 84, 88), 0.46, "cars"),
    Camera((1.04, 0.98, 0.94), 4.0, (206, 196, 178), (188, 178, 162), 0.66, "tiles"),
    Camera((0.96, 1.05, 0.98), 5.0, (138, 148, 156), (158, 160, 154), 0.54, "windows"),
)


@dataclass(frozen=True)
class Scene:
    """
    Everything about an image that is not its person.

    Attributes:
        camera (`int`): index into [`CAMERAS`].
        view (`str`): `"front"`, `"back"`, `"left"` (walking to the left) or `"right"`.
        pose (`str`): `"walking"` or `"standing"`.
        stride (`float`): phase and size of the step, in [-1, 1]; near 0 when standing.
        occluder (`str`): `"none"`, `"bush"`, `"wall"`, `"car"` or `"crop"` (the frame ends above the feet).
        covered (`str`): what that hides: `"none"`, `"feet"` or `"shins"`.
        scale (`float`): size of the person, 1 fills the frame.
        shift (`tuple[float, float]`): horizontal and vertical offset, in 1/100 of the image width and 1/200 of
            its height.
        brightness (`float`): factor of all channels.
        slope (`float`): how much brighter the right side is than the left, relative.
        blur (`float`): standard deviation of the Gaussian blur, in 1/128 of the image height.
        noise (`float`): standard deviation in 8-bit levels.
        jpeg_quality (`int`): 1 to 95.
        seed (`int`): seeds the background and the noise.
    """

    camera: int
    view: str
    pose: str
    stride: float
    occluder: str
    covered: str
    scale: float
    shift: tuple[float, float]
    brightness: float
    slope: float
    blur: float
    noise: float
    jpeg_quality: int
    seed: int


def sample_scene(seed: int, split: str, identity: int, image: int) -> Scene:
    """
    The scene of one image.

    Args:
        seed (`int`): the benchmark's seed.
        split (`str`): `"train"`, `"val"` or `"test"`.
        identity (`int`): the person's number within the split.
        image (`int`): the image's number among those of the person.

    Returns:
        [`Scene`]

    Example:

    ```python
    >>> from scmm.data.paperdoll import sample_scene
    >>> sample_scene(0, "train", 0, 0).view in ("front", "back", "left", "right")
    True

    ```
    """
    rng = generator(seed, split, identity, 1, image)
    camera = int(rng.integers(len(CAMERAS)))
    pose = "walking" if rng.random() < 0.75 else "standing"
    stride = (
        rng.uniform(0.45, 1.0) * (1 if rng.random() < 0.5 else -1) if pose == "walking" else rng.uniform(-0.1, 0.1)
    )
    occluder = weighted(rng, OCCLUDERS)
    covered = "none" if occluder == "none" else ("feet" if rng.random() < 0.6 else "shins")
    return Scene(
        camera=camera,
        view=weighted(rng, VIEWS),
        pose=pose,
        stride=float(stride),
        occluder=occluder,
        covered=covered,
        scale=float(rng.uniform(0.94, 1.02)),
        shift=(float(rng.uniform(-3, 3)), float(rng.uniform(-2, 2))),
        brightness=float(rng.uniform(0.82, 1.12)),
        slope=float(rng.uniform(-0.25, 0.25)),
        blur=float(max(0.0, rng.uniform(-0.6, 0.75))),
        noise=float(CAMERAS[camera].noise * rng.uniform(0.5, 1.3)),
        jpeg_quality=int(rng.integers(55, 96)),
        seed=int(rng.integers(2**32)),
    )
