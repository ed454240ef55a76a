"""Images and captions as they come: odd modes, broken files, images too large, captions that are not sentences."""

import gc
import io
import os
import pickle
import struct
import warnings
import zlib

import numpy as np
import PIL
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from scmm.processing import MAX_PIXELS, ImageError, SCMMProcessor, load_image


PIXELS = np.random.default_rng(0).integers(0, 256, (40, 20, 3), dtype=np.uint8)
COLOR = Image.fromarray(PIXELS)


@pytest.fixture(scope="module")
def processor():
    return SCMMProcessor.from_captions(["A man in a red shirt."] * 3, image_size=(32, 16), max_length=77)


def encoded(image, image_format="PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, image_format, **options)
    return stream.getvalue()


def gray_16() -> Image.Image:
    return Image.fromarray(np.linspace(0, 65535, 800).reshape(40, 20).astype(np.uint16))


def with_orientation(orientation) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def png_header(width, height) -> bytes:
    """A PNG of 41 bytes: it announces pixels and has none."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    checked_header = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + checked_header + struct.pack(">I", 1000) + b"IDAT"


def odd_images() -> dict[str, bytes]:
    """Encoded images of every kind that has gone wrong somewhere."""
    transparent = COLOR.convert("RGBA")
    transparent.putalpha(Image.fromarray(np.linspace(0, 255, 800).reshape(40, 20).astype(np.uint8)))
    return {
        "bilevel": encoded(COLOR.convert("1")),
        "gray": encoded(COLOR.convert("L")),
        "gray with alpha": encoded(transparent.convert("LA")),
        "16-bit gray": encoded(gray_16()),
        "16-bit gray TIFF": encoded(gray_16(), "TIFF"),
        "32-bit gray TIFF": encoded(gray_16().convert("I"), "TIFF"),
        "palette": encoded(COLOR.quantize(16)),
        "palette with transparent color": encoded(COLOR.quantize(16), transparency=3),
        "palette with transparency in bytes": encoded(COLOR.quantize(16), transparency=bytes(range(0, 256, 16))),
        "GIF": encoded(COLOR.quantize(16), "GIF", transparency=3),
        "RGB with transparent color": encoded(COLOR, transparency=tuple(map(int, PIXELS[0, 0]))),
        "RGBA": encoded(transparent),
        "RGBA WebP": encoded(transparent, "WEBP", lossless=True),
        "CMYK": encoded(COLOR.convert("CMYK"), "JPEG"),
        "YCbCr TIFF": encoded(COLOR.convert("YCbCr"), "TIFF"),
        "compressed YCbCr TIFF": encoded(COLOR.convert("YCbCr"), "TIFF", compression="tiff_lzw"),
        "rotated JPEG": encoded(COLOR, "JPEG", exif=with_orientation(6)),
        "rotated TIFF": encoded(COLOR, "TIFF", exif=with_orientation(6)),
        "one pixel": encoded(COLOR.crop((0, 0, 1, 1))),
        "three rows": encoded(COLOR.crop((0, 0, 1, 3))),
        "three columns": encoded(COLOR.crop((0, 0, 3, 1))),
    }


class TestLoadImage:
    @pytest.mark.parametrize("kind", odd_images())
    def test_any_kind_becomes_rgb_by_any_way_in(self, kind, processor, tmp_path):
        if kind == "YCbCr TIFF" and int(PIL.__version__.split(".")[0]) < 13:
            pytest.skip("Pillow before 13 calls the YCbCr TIFF that it wrote itself truncated")
        data = odd_images()[kind]
        path = tmp_path / "image"
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            image = load_image(data)
            assert image.mode == "RGB"
            assert image.size == {
                "rotated JPEG": (40, 20),
                "rotated TIFF": (40, 20),
                "one pixel": (1, 1),
                "three rows": (1, 3),
                "three columns": (3, 1),
            }.get(kind, (20, 40))
            with Image.open(path) as opened:
                for source in (path, str(path), io.BytesIO(data), opened, image):
                    assert load_image(source) == image
                pixel_values = processor(images=[image, opened, path], return_tensors="np")["pixel_values"]
        reference = np.asarray(image.resize((16, 32), Image.Resampling.BICUBIC)) / 255
        mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
        for pixels in pixel_values:
            np.testing.assert_allclose(pixels, ((reference - mean) / std).transpose(2, 0, 1), atol=1e-5)

    def test_rgb_comes_back_as_it_is(self):
        assert np.array_equal(np.asarray(load_image(encoded(COLOR))), PIXELS)
        assert load_image(COLOR) is not COLOR

    def test_transparency_is_composited_on_white(self):
        alpha = np.array([[0, 51, 255]], dtype=np.uint8)
        image = Image.fromarray(np.dstack([np.full((1, 3, 3), 100, dtype=np.uint8), alpha]), "RGBA")
        # 255 + (100 - 255) * alpha / 255
        assert np.asarray(load_image(image))[0, :, 0].tolist() == [255, 224, 100]

    def test_a_transparent_palette_color_is_white(self):
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        pixels = np.asarray(load_image(encoded(image, transparency=0)))[0].tolist()
        assert pixels == [[255, 255, 255], [40, 50, 60]]

    @pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
    def test_16_bit_gray_is_scaled_and_not_clipped(self, mode):
        image = Image.new(mode, (3, 1))
        for x, value in enumerate([0, 32768, 65535]):
            image.putpixel((x, 0), value)
        assert np.asarray(load_image(image))[0].tolist() == [[0] * 3, [128] * 3, [255] * 3]

    def test_32_bit_gray_is_scaled_by_its_own_depth(self):
        image = Image.fromarray(np.array([[-5, 2**30, 2**31 - 1]], dtype=np.int32))
        assert np.asarray(load_image(image))[0, :, 0].tolist() == [0, 128, 255]

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_rotation_is_applied(self, orientation):
        turns = [np.array, np.fliplr, lambda a: np.rot90(a, 2), np.flipud, lambda a: np.swapaxes(a, 0, 1)]
        turns += [lambda a: np.rot90(a, -1), lambda a: np.swapaxes(np.rot90(a, 2), 0, 1), np.rot90]
        image = load_image(encoded(COLOR, exif=with_orientation(orientation)))
        assert np.array_equal(np.asarray(image), turns[orientation - 1](PIXELS))

    def test_an_open_file_is_read_from_its_start_and_stays_open(self, tmp_path):
        path = tmp_path / "person.png"
        COLOR.save(path)
        with path.open("rb") as file:
            file.read(5)
            assert load_image(file) == COLOR
            assert not file.closed

    def test_a_pipe_can_be_read(self):
        reading, writing = os.pipe()
        os.write(writing, encoded(COLOR))
        os.close(writing)
        with open(reading, "rb") as pipe:
            assert load_image(pipe) == COLOR

    def test_the_file_is_closed(self, tmp_path):
        path = tmp_path / "person.jpg"
        COLOR.save(path)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", ResourceWarning)
            load_image(path)
            gc.collect()
        assert [str(one.message) for one in said] == []


class TestBrokenImages:
    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", "empty"),
            (b"not an image", "known format"),
            (encoded(COLOR)[:100], "truncated"),
            (encoded(COLOR, "JPEG")[:-200], "truncated"),
            (encoded(COLOR, "BMP")[:20], "broken|cannot be read"),
            (png_header(20, 40), "cannot be decoded"),
            (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "known format"),
        ],
        ids=["empty", "text", "truncated PNG", "truncated JPEG", "truncated header", "no pixels", "EPS"],
    )
    def test_the_error_names_file_and_reason(self, data, reason, processor, tmp_path):
        path = tmp_path / "person 1.jpg"
        path.write_bytes(data)
        with pytest.raises(ImageError, match=f"person 1.jpg: .*({reason})"):
            load_image(path)
        with pytest.raises(ImageError, match=f"person 1.jpg: .*({reason})"):
            processor(images=[COLOR, str(path)])
        with pytest.raises(ImageError, match=f"image of {len(data)} bytes: .*({reason})"):
            load_image(data)
        with pytest.raises(ImageError, match=f"person 1.jpg: .*({reason})"), path.open("rb") as file:
            load_image(file)

    def test_an_opened_image_whose_pixels_are_broken_is_named(self, tmp_path):
        path = tmp_path / "half.png"
        path.write_bytes(encoded(COLOR)[:500])
        with pytest.raises(ImageError, match=r"half\.png: .*truncated"), Image.open(path) as image:
            load_image(image)

    @given(data=st.data())
    def test_damaged_images_load_or_raise_image_error(self, data):
        original = data.draw(st.sampled_from(list(odd_images().values())))
        damaged = bytearray(original[: data.draw(st.integers(0, len(original)))])
        for position in data.draw(st.lists(st.integers(0, max(0, len(damaged) - 1)), max_size=4)):
            if damaged:
                damaged[position] = data.draw(st.integers(0, 255))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # Pillow's remarks on broken metadata
            try:
                assert load_image(bytes(damaged)).mode == "RGB"
            except ImageError as error:
                assert "bytes: " in str(error)

    def test_a_missing_file_is_file_not_found(self, processor, tmp_path):
        for load in (load_image, lambda path: processor(images=path)):
            with pytest.raises(FileNotFoundError, match=r"nobody\.jpg"):
                load(tmp_path / "nobody.jpg")

    @pytest.mark.parametrize(
        "url", ["https://example.org/a.jpg", "HTTP://example.org/a", "file:///a", "data:image/png;b"]
    )
    def test_urls_are_refused(self, url):
        with pytest.raises(ImageError, match="URL"):
            load_image(url)

    def test_other_types_are_refused(self):
        with pytest.raises(TypeError, match="ndarray"):
            load_image(PIXELS)

    def test_the_error_survives_a_worker_process(self):
        error = pickle.loads(pickle.dumps(ImageError("a.jpg: broken")))
        assert isinstance(error, ValueError)
        assert str(error) == "a.jpg: broken"


class TestPixelLimit:
    @pytest.fixture(autouse=True)
    def every_warning_is_an_error(self):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield

    def test_a_large_image_in_a_small_file_is_refused_before_decoding(self, tmp_path):
        path = tmp_path / "bomb.png"
        path.write_bytes(png_header(9000, 9000))  # it has no pixels to decode, so only its header can be at fault
        with pytest.raises(ImageError, match=r"bomb\.png: 9000 x 9000 pixels .* 64,000,000"):
            load_image(path)

    @pytest.mark.parametrize("side", [9_600, 14_000, 2**31 - 1])
    def test_beyond_pillows_own_limits_there_is_our_error_and_no_warning(self, side, tmp_path):
        with pytest.raises(ImageError, match=f"{side} x {side} pixels"):
            load_image(png_header(side, side))

    def test_the_limit_is_inclusive_and_can_be_set(self):
        assert load_image(encoded(COLOR), max_pixels=800) == COLOR
        for source in (encoded(COLOR), COLOR):
            with pytest.raises(ImageError, match="20 x 40 pixels are more than the limit of 799"):
                load_image(source, max_pixels=799)
        assert MAX_PIXELS == 64_000_000

    def test_our_limit_counts_and_not_pillows(self, monkeypatch):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
        assert load_image(encoded(COLOR)) == COLOR

    def test_pil_images_given_to_the_processor_are_checked(self, processor):
        image = Image.open(io.BytesIO(png_header(9000, 9000)))
        with pytest.raises(ImageError, match="9000 x 9000"):
            processor(images=image)


class TestCaptions:
    @pytest.mark.parametrize("caption", ["", " ", "\n\t  \u3000"])
    def test_an_empty_caption_is_its_two_ends(self, processor, caption):
        ids = processor(text=caption)["input_ids"]
        assert ids == [processor.tokenizer.bos_token_id, processor.tokenizer.eos_token_id]
        assert processor.caption_quality(caption) == [0.0]

    @pytest.mark.parametrize("caption", ["👩🏽‍🦰🧥👖", "穿红色上衣的男人", "رجل", "Ünïcödé", "\x00\x07"])
    def test_scripts_never_seen_are_spelled_in_bytes(self, processor, caption):
        tokenizer = processor.tokenizer
        ids = processor(text=caption)["input_ids"]
        assert not set(ids[1:-1]) & set(tokenizer.all_special_ids)
        assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == caption.lower()

    def test_ten_thousand_words_are_cut_keep_their_end_and_are_counted(self, processor):
        captions = ["a man", "word " * 10_000, ""]
        batch = processor(text=captions, return_tensors="pt")
        assert batch["input_ids"].shape == (3, 77)
        assert batch["input_ids"][1, -1] == processor.tokenizer.eos_token_id
        assert batch["attention_mask"].sum(dim=1).tolist() == [4, 77, 2]
        assert processor.count_truncated(captions) == 1

    def test_no_caption_and_no_image_is_an_error(self, processor):
        with pytest.raises(ValueError, match="at least one input"):
            processor()


class TestFromCaptions:
    def test_one_string_instead_of_a_list(self):
        with pytest.raises(TypeError, match="list of strings"):
            SCMMProcessor.from_captions("a man in a red shirt")

    def test_no_captions(self):
        with pytest.raises(ValueError, match="0 training captions"):
            SCMMProcessor.from_captions([])

    def test_something_that_is_no_caption(self):
        with pytest.raises(TypeError, match=r"Caption 1 .* None"):
            SCMMProcessor.from_captions(["a man", None])

    def test_a_vocabulary_too_small_for_all_bytes(self):
        with pytest.raises(ValueError, match=r"vocab_size=514 .* 515"):
            SCMMProcessor.from_captions(["a man"] * 3, vocab_size=514)
        smallest = SCMMProcessor.from_captions(["a man"] * 3, vocab_size=515)
        assert len(smallest.tokenizer) == 515

    def test_parts_in_the_wrong_order_or_missing(self, processor):
        with pytest.raises(TypeError, match="image_processor"):
            SCMMProcessor(processor.tokenizer, processor.image_processor)
        with pytest.raises(TypeError, match="image_processor"):
            SCMMProcessor()
