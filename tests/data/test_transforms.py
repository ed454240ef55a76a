"""Pixels: the same as the processor's, and augmented with the right probabilities and within the right bounds."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from transformers import CLIPImageProcessorPil

from scmm import SCMMProcessor
from scmm.data.transforms import (
    TrainingAugmentation,
    horizontal_flip,
    load_pixels,
    normalize_pixels,
    pad_and_crop,
    random_erasing,
)


DRAWS = 2000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def distinct_pixels(height: int = 32, width: int = 16) -> torch.Tensor:
    """Values from 1 to 250 in which neighbors differ, so that a shift by one shows and 0 and 255 are free."""
    values = torch.arange(3 * height * width) * 7 % 250 + 1
    return values.reshape(3, height, width).to(torch.uint8)


class TestPixels:
    @pytest.mark.parametrize("resample", [Image.Resampling.BILINEAR, Image.Resampling.BICUBIC])
    @pytest.mark.parametrize("mode, size", [("RGB", (37, 90)), ("L", (20, 11)), ("RGBA", (16, 32)), ("RGB", (16, 32))])
    def test_equal_to_the_processors(self, mode, size, resample, tmp_path):
        processor = SCMMProcessor(
            CLIPImageProcessorPil(
                size={"height": 32, "width": 16},
                do_center_crop=False,
                resample=resample,
                image_mean=[0.5, 0.4, 0.3],
                image_std=[0.2, 0.3, 0.4],
            ),
            SCMMProcessor.from_captions(["a man"] * 3).tokenizer,
        )
        noise = np.random.default_rng(0).integers(0, 256, (*size[::-1], len(mode)), dtype=np.uint8)
        image = Image.fromarray(noise.squeeze())
        assert image.mode == mode
        image.save(tmp_path / "image.png")
        expected = processor(images=[image], return_tensors="pt")["pixel_values"]
        for source in (image, tmp_path / "image.png", (tmp_path / "image.png").read_bytes()):
            pixels = load_pixels(source, processor.image_processor)
            assert pixels.shape == (3, 32, 16) and pixels.dtype == torch.uint8
            normalized = normalize_pixels(pixels[None], processor.image_processor)
            assert normalized.dtype == torch.float32
            assert (normalized - expected).abs().max() <= 1e-6

    def test_each_image_of_a_batch_is_normalized_alone(self):
        image_processor = CLIPImageProcessorPil()
        batch = torch.stack([distinct_pixels(), distinct_pixels().flip(0)])
        single = torch.cat([normalize_pixels(pixels[None], image_processor) for pixels in batch])
        assert torch.equal(normalize_pixels(batch, image_processor), single)


class TestHorizontalFlip:
    @pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
    def test_as_often_as_asked(self, probability):
        pixels, source = distinct_pixels(4, 2), generator()
        mirrored = torch.stack([pixels[..., 1], pixels[..., 0]], dim=-1)
        flips = 0
        for _ in range(DRAWS):
            flipped = horizontal_flip(pixels, source, probability)
            is_mirrored = torch.equal(flipped, mirrored)
            assert is_mirrored or torch.equal(flipped, pixels)
            flips += is_mirrored
        # Four standard deviations of a binomial share; none at 0 and 1.
        assert abs(flips / DRAWS - probability) <= 4 * (probability * (1 - probability) / DRAWS) ** 0.5


class TestPadAndCrop:
    def test_every_place_equally_often(self):
        pixels, source = distinct_pixels(6, 4), generator()
        padded = torch.zeros(3, 10, 8, dtype=torch.uint8)
        padded[:, 2:8, 2:6] = pixels
        places = {
            padded[:, top : top + 6, left : left + 4].numpy().tobytes(): (top, left)
            for top in range(5)
            for left in range(5)
        }
        counts = dict.fromkeys(places.values(), 0)
        for _ in range(DRAWS):
            cropped = pad_and_crop(pixels, source, padding=2)
            assert cropped.shape == pixels.shape and cropped.dtype == torch.uint8
            counts[places[cropped.contiguous().numpy().tobytes()]] += 1
        # 25 places: chi-squared has a mean of 24 and exceeds 52 once in a thousand seeds.
        expected = DRAWS / 25
        assert sum((count - expected) ** 2 / expected for count in counts.values()) < 52

    def test_fill(self):
        values = [pad_and_crop(distinct_pixels(), generator(seed), padding=8, fill=255) for seed in range(5)]
        assert any((pixels == 255).any() for pixels in values)
        assert not any((pixels == 0).any() for pixels in values)

    def test_no_padding_is_no_change(self):
        assert torch.equal(pad_and_crop(distinct_pixels(), generator(), padding=0), distinct_pixels())


class TestRandomErasing:
    def erased(self, pixels: torch.Tensor, result: torch.Tensor) -> tuple[int, int] | None:
        """Height and width of the erased rectangle, after a check that it is one and that the rest is untouched."""
        gone = (result == 0).all(0)
        assert torch.equal(result.masked_fill(gone, 0), pixels.masked_fill(gone, 0))
        if not gone.any():
            assert torch.equal(result, pixels)
            return None
        rows, columns = gone.any(1).nonzero(), gone.any(0).nonzero()
        height = int(rows[-1] - rows[0]) + 1
        width = int(columns[-1] - columns[0]) + 1
        assert gone.sum() == height * width
        return height, width

    def test_area_and_aspect_ratio(self):
        pixels, source = distinct_pixels(128, 64), generator()
        sizes = [self.erased(pixels, random_erasing(pixels, source, 1.0)) for _ in range(DRAWS)]
        sizes = np.array([size for size in sizes if size is not None])
        assert len(sizes) > 0.99 * DRAWS
        area = sizes.prod(1) / (128 * 64)
        ratio = sizes[:, 0] / sizes[:, 1]
        # The bounds, with what rounding a side to whole pixels may add.
        assert 0.02 * 0.9 <= area.min() < 0.03 and 0.37 < area.max() <= 0.4 * 1.05
        assert 0.3 * 0.9 <= ratio.min() < 0.4 and 3.0 < ratio.max() <= 3.3 * 1.1

    def test_sizes_and_places_are_distributed_as_the_fields(self):
        """Against numpy: a uniform area and a log-uniform ratio, drawn until they fit, and a uniform place."""
        height, width, rng = 128, 64, np.random.default_rng(0)
        areas, ratios = rng.uniform(0.02, 0.4, 10**6), np.exp(rng.uniform(np.log(0.3), np.log(3.3), 10**6))
        tall, wide = np.sqrt(height * width * areas * ratios), np.sqrt(height * width * areas / ratios)
        fits = (tall < height - 0.5) & (wide < width - 0.5)
        assert 0.5 < fits.mean() < 0.95, "some do not fit, which shifts the distribution of those that do"
        edges = [np.quantile(side[fits], np.linspace(0.2, 0.8, 4)) for side in (tall, wide)]

        def cells(tall: np.ndarray, wide: np.ndarray) -> np.ndarray:
            return np.bincount(5 * np.digitize(tall, edges[0]) + np.digitize(wide, edges[1]), minlength=25)

        expected = cells(tall[fits], wide[fits]) / fits.sum() * DRAWS
        pixels, source, sizes, places = distinct_pixels(height, width), generator(), [], []
        for _ in range(DRAWS):
            gone = (random_erasing(pixels, source, 1.0) == 0).all(0)
            rows, columns = gone.any(1).nonzero().flatten(), gone.any(0).nonzero().flatten()
            sizes.append((len(rows), len(columns)))
            places.append((int(rows[0]) / (height - len(rows) + 1), int(columns[0]) / (width - len(columns) + 1)))
        # Half a pixel, either way, is what rounding does to a drawn side.
        found = cells(*(np.array(sizes).T + rng.uniform(-0.5, 0.5, (2, DRAWS))))
        common = expected >= 5
        # At most 25 cells: chi-squared has a mean of 24 and exceeds 52 once in a thousand seeds.
        assert common.sum() > 12 and ((found - expected)[common] ** 2 / expected[common]).sum() < 52
        for place in np.array(places).T:  # uniform on the whole pixels that the rectangle can start at
            counts = np.histogram(place, bins=4, range=(0, 1))[0]
            assert abs(counts / DRAWS - 0.25).max() < 0.06

    @pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
    def test_as_often_as_asked(self, probability):
        pixels, source = distinct_pixels(), generator()
        share = sum(self.erased(pixels, random_erasing(pixels, source, probability)) is not None for _ in range(DRAWS))
        deviation = 4 * (probability * (1 - probability) / DRAWS) ** 0.5
        assert probability - deviation - 0.01 <= share / DRAWS <= probability + deviation

    def test_every_pixel_can_go(self):
        pixels, source = distinct_pixels(), generator()
        gone = sum((random_erasing(pixels, source, 1.0) == 0).all(0).int() for _ in range(300))
        assert gone.min() > 0 and gone[0, 0] < gone[16, 8]

    def test_fill(self):
        result = random_erasing(distinct_pixels(), generator(), 1.0, fill=255)
        assert (result == 255).any() and not (result == 0).any()

    @pytest.mark.parametrize("height, width", [(1, 1), (1, 16), (2, 2), (3, 90)])
    def test_small_images(self, height, width):
        pixels = distinct_pixels(height, width)
        for seed in range(50):
            size = self.erased(pixels, random_erasing(pixels, generator(seed), 1.0))
            assert size is None or (size[0] < height and size[1] < width)


class TestTrainingAugmentation:
    @given(
        seed=st.integers(0, 2**63 - 1),
        height=st.integers(1, 40),
        width=st.integers(1, 20),
        padding=st.integers(0, 12),
    )
    def test_deterministic_by_generator_and_leaves_its_input(self, seed, height, width, padding):
        pixels = distinct_pixels(height, width)
        augment = TrainingAugmentation(flip_probability=0.5, crop_padding=padding, erasing_probability=0.5)
        first = augment(pixels, generator(seed))
        assert first.shape == pixels.shape and first.dtype == torch.uint8
        torch.rand(3)  # the global generator has no say
        assert torch.equal(augment(pixels, generator(seed)), first)
        assert torch.equal(pixels, distinct_pixels(height, width))

    def test_successive_choices_are_independent(self):
        """Flips of successive images, and the flip and the place of one: no pair of outcomes is favored."""
        pixels, source = distinct_pixels(6, 4), generator()
        outcomes = []
        for _ in range(DRAWS):
            flipped = horizontal_flip(pixels, source, 0.5)
            cropped = pad_and_crop(pixels, source, padding=1)
            outcomes.append((not torch.equal(flipped, pixels), bool((cropped[:, 0] == 0).all())))
        pairs = np.array(outcomes)
        assert abs(np.corrcoef(pairs.T)[0, 1]) < 4 / DRAWS**0.5
        assert abs(np.corrcoef(pairs[1:, 0], pairs[:-1, 0])[0, 1]) < 4 / DRAWS**0.5

    def test_seeds_differ(self):
        augment = TrainingAugmentation(erasing_probability=0.5)
        results = {augment(distinct_pixels(), generator(seed)).numpy().tobytes() for seed in range(50)}
        assert len(results) > 45

    def test_all_off_is_no_change(self):
        augment = TrainingAugmentation(flip_probability=0, crop_padding=0, erasing_probability=0)
        assert torch.equal(augment(distinct_pixels(), generator()), distinct_pixels())

    def test_what_is_padded_is_about_clips_mean(self):
        result = TrainingAugmentation(crop_padding=40)(torch.zeros(3, 32, 16, dtype=torch.uint8), generator(3))
        filled = result[result > 0].unique().tolist()
        mean = 255 * np.mean(CLIPImageProcessorPil().image_mean)
        assert len(filled) == 1 and abs(filled[0] - mean) < 2
