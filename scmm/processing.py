"""SCMMProcessor: images and captions to tensors; `load_image`: the one safe way from an image file to RGB pixels."""

import io
import json
import os
import re
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import BatchFeature, CLIPImageProcessorPil, CLIPTokenizer
from transformers.processing_utils import ProcessingKwargs, ProcessorMixin, Unpack
from transformers.utils import cached_file

from .caption_quality import CAPTION_QUALITY_NAME, CaptionQuality, Measure


MASK_TOKEN = "<|mask|>"
SPECIAL_TOKENS = ("<|startoftext|>", "<|endoftext|>", MASK_TOKEN)
END_OF_WORD = "</w>"

# Photographs of 50 megapixels exist, crops of persons are a hundredth of one. 64 megapixels decode to 192 MB.
MAX_PIXELS = 64_000_000
# A fixed list, because some of Pillow's other decoders start external programs (EPS runs Ghostscript).
IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "JPEG2000", "AVIF")

_URL = re.compile(r"[a-z][a-z0-9+.-]+://|data:image/", re.IGNORECASE)

ImageSource = str | os.PathLike | bytes | IO[bytes] | Image.Image


class ImageError(ValueError):
    """An image that cannot be used. The message names the file and the reason."""


def load_image(source: ImageSource, *, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """
    Loads an image as upright 8-bit RGB, whatever its mode.

    Transparency is composited on white, gray of 16 bits is scaled to 8 bits, and a rotation stored in EXIF is applied.
    Of an animation the first frame is taken. The size is read from the header and checked before any pixel is decoded.

    Args:
        source (`str`, `os.PathLike`, `bytes`, binary file object or `PIL.Image.Image`):
            Path of a local file, an encoded image, or a PIL image. URLs are refused: nothing is ever downloaded.
        max_pixels (`int`, *optional*, defaults to 64,000,000):
            Largest accepted width times height.

    Returns:
        `PIL.Image.Image`: A new image of mode RGB.

    Raises:
        ImageError: If the image is empty, truncated, of an unknown format, or larger than `max_pixels`.
        OSError: If the file cannot be opened, for example because it does not exist.

    Example:

    ```python
    >>> from PIL import Image
    >>> from scmm.processing import load_image
    >>> load_image(Image.new("RGBA", (2, 4), (255, 0, 0, 0))).getpixel((0, 0))
    (255, 255, 255)

    ```
    """
    if isinstance(source, Image.Image):
        name = getattr(source, "filename", "") or f"PIL image of mode {source.mode}"
        return _to_rgb(source, name, max_pixels)
    if isinstance(source, bytes):
        return _load_stream(io.BytesIO(source), f"image of {len(source)} bytes", max_pixels)
    if isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        if _URL.match(name):
            raise ImageError(f"{name}: this is a URL; download the image and pass the path of the file")
        with open(name, "rb") as file:
            return _load_stream(file, name, max_pixels)
    if hasattr(source, "read"):
        stream = source if source.seekable() else io.BytesIO(source.read())
        return _load_stream(stream, str(getattr(source, "name", "file object")), max_pixels)
    raise TypeError(f"expected a path, bytes, a binary file or a PIL image, got {type(source).__name__}")


class SCMMProcessorKwargs(ProcessingKwargs, total=False):
    # Truncation without a `max_length` is truncation to the tokenizer's `model_max_length`.
    _defaults = {"text_kwargs": {"padding": True, "truncation": True}}  # ty: ignore[invalid-typed-dict-statement]


class SCMMProcessor(ProcessorMixin):
    """
    Turns images and captions into the tensors that SCMM's two encoders take.

    Every image passes through [`load_image`], so odd modes and rotations come out the same from a path and from a PIL
    image; arrays and tensors go to the image processor as they are. Captions are padded to the longest of the batch
    and cut at the model's length, the end token kept; [`~SCMMProcessor.count_truncated`] counts the cut ones.

    Args:
        image_processor (`CLIPImageProcessorPil`): Resizes to a rectangle and normalizes.
        tokenizer (`CLIPTokenizer`): CLIP's tokenizer with the mask token `<|mask|>`.

    Attributes:
        caption_quality (`CaptionQuality` or `None`):
            The scorer fitted on the training captions. It is saved and loaded beside the processor.

    Example:

    ```python
    >>> from PIL import Image
    >>> from scmm.processing import SCMMProcessor
    >>> processor = SCMMProcessor.from_captions(["a man in a red shirt"] * 3, image_size=(64, 32))
    >>> batch = processor(images=[Image.new("RGB", (50, 120))], text=["a man"], return_tensors="pt")
    >>> batch["pixel_values"].shape, batch["input_ids"].shape, batch["attention_mask"].shape
    (torch.Size([1, 3, 64, 32]), torch.Size([1, 4]), torch.Size([1, 4]))

    ```
    """

    valid_processor_kwargs = SCMMProcessorKwargs

    def __init__(self, image_processor=None, tokenizer=None, **kwargs):
        super().__init__(image_processor, tokenizer, **kwargs)
        # A tokenizer saved after use remembers the options of its last call; the base class would apply them to all.
        for option in ("max_length", "stride", "pad_to_multiple_of"):
            self.tokenizer.init_kwargs.pop(option, None)
        self.caption_quality: CaptionQuality | None = None

    def __call__(self, images=None, text=None, **kwargs: Unpack[SCMMProcessorKwargs]) -> BatchFeature:
        """
        Prepares images, captions or both.

        Args:
            images (path, `bytes`, `PIL.Image.Image`, `np.ndarray`, `torch.Tensor`, or a list of them, *optional*):
                One image or several. URLs are left to transformers, which downloads them.
            text (`str` or `list[str]`, *optional*):
                One caption or several.
            kwargs:
                Options of transformers' processors, such as `return_tensors="pt"`, `padding` or `max_length`.

        Returns:
            `BatchFeature`: `pixel_values` of shape `(images, 3, height, width)` in float32, `input_ids` and
            `attention_mask` of shape `(captions, length)` in int64.

        Raises:
            ImageError: If an image cannot be used.
        """
        if images is not None:
            images = _load_images(images)
        return super().__call__(images=images, text=text, **kwargs)

    def count_truncated(self, captions: list[str]) -> int:
        """
        Counts the captions that are longer than the model takes, special tokens included, and that `__call__` cuts.

        Args:
            captions (`list[str]`): Captions.

        Returns:
            `int`: How many of them are cut.

        Example:

        ```python
        >>> from scmm.processing import SCMMProcessor
        >>> processor = SCMMProcessor.from_captions(["a red shirt"] * 3, max_length=8)
        >>> processor.count_truncated(["a red shirt", "red " * 100])
        1

        ```
        """
        if not captions:
            return 0
        token_ids = self.tokenizer(captions, padding=False, truncation=False, verbose=False)["input_ids"]
        return sum(len(ids) > self.tokenizer.model_max_length for ids in token_ids)

    def text_config_fields(self) -> dict[str, int]:
        """
        The fields of a text tower's configuration that must agree with the tokenizer.

        Returns:
            `dict[str, int]`: size of the vocabulary, length, and the special tokens' ids, for `SCMMTextConfig`.

        Example:

        ```python
        >>> from scmm.processing import SCMMProcessor
        >>> SCMMProcessor.from_captions(["a red shirt"] * 3, max_length=32).text_config_fields()
        {'vocab_size': 521, 'max_position_embeddings': 32, 'bos_token_id': 518, 'eos_token_id': 519,
         'pad_token_id': 519, 'mask_token_id': 520}

        ```
        """
        tokenizer = self.tokenizer
        return {
            "vocab_size": len(tokenizer),
            "max_position_embeddings": tokenizer.model_max_length,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "mask_token_id": tokenizer.mask_token_id,
        }

    @classmethod
    def from_captions(
        cls,
        captions: Iterable[str],
        *,
        image_size: tuple[int, int] = (64, 32),
        vocab_size: int = 8192,
        max_length: int = 77,
        min_frequency: int = 2,
        quality_measure: Measure = "information",
    ) -> "SCMMProcessor":
        """
        Builds a processor from training captions alone, without a download.

        Trains a byte-level BPE in CLIP's form (lower case, `</w>` at the end of a word). Its vocabulary holds every
        byte, inside and at the end of a word, so that no text is unknown; then the merges, then the special tokens. A
        caption quality scorer is fitted on the same captions.

        Args:
            captions (iterable of `str`): The training captions.
            image_size (`tuple[int, int]`, *optional*, defaults to `(64, 32)`): Height and width in pixels.
            vocab_size (`int`, *optional*, defaults to 8192): Largest size of the vocabulary, special tokens included.
            max_length (`int`, *optional*, defaults to 77): Tokens at which a caption is cut, special tokens included.
            min_frequency (`int`, *optional*, defaults to 2): How often a pair has to occur to be merged.
            quality_measure (`str`, *optional*, defaults to `"information"`): The measure of [`CaptionQuality`].

        Returns:
            `SCMMProcessor`: With `caption_quality` fitted.

        Raises:
            TypeError: If a caption is not a string.
            ValueError: If `vocab_size` cannot hold all bytes, or the captions leave nothing to measure quality by.

        Example:

        ```python
        >>> from scmm.processing import SCMMProcessor
        >>> processor = SCMMProcessor.from_captions(["a man in a red shirt"] * 3)
        >>> processor.tokenizer.tokenize("Red shirt")
        ['red</w>', 'shirt</w>']

        ```
        """
        if isinstance(captions, str):
            raise TypeError("from_captions needs the training captions as a list of strings, got one string.")
        captions = list(captions)
        caption_quality = CaptionQuality(quality_measure).fit(captions)
        tokenizer = _train_tokenizer(captions, vocab_size, min_frequency, max_length)
        height, width = image_size
        image_processor = CLIPImageProcessorPil(size={"height": height, "width": width}, do_center_crop=False)
        processor = cls(image_processor, tokenizer)
        processor.caption_quality = caption_quality
        return processor

    @classmethod
    def from_clip_pretrained(
        cls,
        name_or_path: str | os.PathLike,
        image_size: tuple[int, int] = (384, 128),
        max_length: int | None = None,
        **hub_kwargs: Any,
    ) -> "SCMMProcessor":
        """
        Builds a processor from a CLIP checkpoint: its tokenizer, and its image processor with a rectangular size.

        The mask token `<|mask|>` is appended to the vocabulary, so its id is the old size of the vocabulary. Mean,
        standard deviation and resampling stay those of the checkpoint; the center crop is dropped. Images are always
        prepared by Pillow, also where the checkpoint names a torchvision image processor.

        Args:
            name_or_path (`str` or `os.PathLike`): Folder or Hub id of a Hugging Face CLIP checkpoint.
            image_size (`tuple[int, int]`, *optional*, defaults to `(384, 128)`): Height and width in pixels.
            max_length (`int`, *optional*):
                Tokens at which a caption is cut, special tokens included; by default the checkpoint's own (77).
            hub_kwargs: Options for the download, such as `revision`, `token` or `local_files_only`.

        Returns:
            `SCMMProcessor`: Without `caption_quality`, which is fitted on training captions.

        Raises:
            ValueError: If neither the checkpoint nor `max_length` says where to cut captions.
            OSError: If the checkpoint is not found.

        Example:

        ```python
        >>> from scmm.processing import SCMMProcessor
        >>> processor = SCMMProcessor.from_clip_pretrained("openai/clip-vit-base-patch16")  # doctest: +SKIP

        ```
        """
        height, width = image_size
        image_processor = CLIPImageProcessorPil.from_pretrained(
            name_or_path, size={"height": height, "width": width}, do_center_crop=False, **hub_kwargs
        )
        length_kwargs: dict[str, Any] = {} if max_length is None else {"model_max_length": max_length}
        tokenizer = CLIPTokenizer.from_pretrained(name_or_path, **length_kwargs, **hub_kwargs)
        if tokenizer.model_max_length > 1_000_000:  # transformers' stand-in for "not given" is 10^30
            raise ValueError(f"{name_or_path}: the tokenizer does not state its length; pass `max_length`")
        if tokenizer.mask_token is None:
            tokenizer.add_special_tokens({"mask_token": MASK_TOKEN})
        return cls(image_processor, tokenizer)

    def save_pretrained(
        self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any
    ) -> list[str]:
        """
        Saves the processor, and `caption_quality` beside it in `caption_quality.json`.

        Without `caption_quality`, that file is removed from the folder, since it would be loaded as this processor's.

        Args:
            save_directory (`str` or `os.PathLike`): Folder to write to; made if it does not exist.
            push_to_hub (`bool`, *optional*, defaults to `False`): Whether to upload the processor as well.
            kwargs: Options of `push_to_hub`, such as `repo_id` (by default the folder's name) or `private`.

        Returns:
            `list[str]`: The files that hold the processor's configuration.
        """
        files = super().save_pretrained(save_directory)
        if self.caption_quality is None:
            Path(save_directory, CAPTION_QUALITY_NAME).unlink(missing_ok=True)
        else:
            self.caption_quality.save_pretrained(save_directory)
        # The base class uploads before the quality is written, so the upload is asked for here.
        if push_to_hub:
            self.push_to_hub(kwargs.pop("repo_id", Path(save_directory).name), **kwargs)
        return files

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        cache_dir: str | os.PathLike | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
        revision: str = "main",
        **kwargs: Any,
    ) -> "SCMMProcessor":
        """
        Loads a processor, and its `caption_quality` where there is one.

        Args:
            pretrained_model_name_or_path (`str` or `os.PathLike`): Folder or Hub id.
            cache_dir, force_download, local_files_only, token, revision:
                Options of the download, as everywhere in transformers.
            kwargs: More of them (`subfolder`, `proxies`), and values that override the saved ones.

        Returns:
            `SCMMProcessor`: The processor. Images are prepared by Pillow, also where torchvision is installed.
        """
        hub_kwargs: dict[str, Any] = {
            "cache_dir": cache_dir,
            "force_download": force_download,
            "local_files_only": local_files_only,
            "token": token,
            "revision": revision,
        }
        processor = super().from_pretrained(pretrained_model_name_or_path, **hub_kwargs, **kwargs)
        if processor.image_processor.backend != "pil":
            processor.image_processor = CLIPImageProcessorPil.from_dict(processor.image_processor.to_dict())
        quality_file = cached_file(
            pretrained_model_name_or_path,
            CAPTION_QUALITY_NAME,
            subfolder=kwargs.get("subfolder", ""),
            proxies=kwargs.get("proxies"),
            _raise_exceptions_for_missing_entries=False,
            **hub_kwargs,
        )
        if quality_file is not None:
            processor.caption_quality = CaptionQuality.from_pretrained(Path(quality_file).parent)
        return processor


def _train_tokenizer(captions: list[str], vocab_size: int, min_frequency: int, max_length: int) -> CLIPTokenizer:
    """Trains CLIP's kind of byte-level BPE and lays its vocabulary out as CLIP does."""
    alphabet = sorted(ByteLevel.alphabet())
    alphabet += [letter + END_OF_WORD for letter in alphabet]
    num_merges = vocab_size - len(alphabet) - len(SPECIAL_TOKENS)
    if num_merges < 0:
        raise ValueError(
            f"vocab_size={vocab_size} is too small: all bytes and the special tokens take "
            f"{len(alphabet) + len(SPECIAL_TOKENS)}"
        )

    backend = CLIPTokenizer().backend_tokenizer  # with CLIP's normalizer and pre-tokenizer
    trainer = BpeTrainer(
        vocab_size=len(alphabet) + num_merges,
        min_frequency=min_frequency,
        end_of_word_suffix=END_OF_WORD,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(captions, trainer)

    # The trainer knows only the word endings it has seen, and fills their place with further merges: cut those off.
    merges: Any = [tuple(pair) for pair in json.loads(backend.to_str())["model"]["merges"]][:num_merges]
    tokens = dict.fromkeys([*alphabet, *("".join(pair) for pair in merges), *SPECIAL_TOKENS[:2]])
    vocab = {token: index for index, token in enumerate(tokens)}
    return CLIPTokenizer(vocab=vocab, merges=merges, mask_token=MASK_TOKEN, model_max_length=max_length)


def _load_images(images: Any) -> Any:
    """Applies `load_image` to all but URLs, arrays and tensors, which the image processor takes as they are."""
    if isinstance(images, list | tuple):
        return [_load_images(image) for image in images]
    if isinstance(images, str) and _URL.match(images):
        return images
    if isinstance(images, str | os.PathLike | bytes | Image.Image):
        return load_image(images)
    return images


def _load_stream(stream: IO[bytes], name: str, max_pixels: int) -> Image.Image:
    try:
        image = _read_header(stream)
    except Exception as error:
        raise ImageError(f"{name}: the image cannot be read: {error}") from error
    return _to_rgb(image, name, max_pixels)


def _read_header(stream: IO[bytes]) -> Image.Image:
    """
    Recognizes the format and parses the header, without the pixels.

    `Image.open` does so too, but warns about large images by a limit of its own. Silencing it with
    `warnings.catch_warnings` is unsafe in threads and makes every other once-only warning of the process appear again.
    """
    stream.seek(0)
    prefix = stream.read(16)
    if not prefix:
        raise ValueError("the file is empty")
    Image.init()
    for image_format in IMAGE_FORMATS:
        if image_format not in Image.OPEN:
            continue
        factory, accept = Image.OPEN[image_format]
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):  # recognized, but this build of Pillow has no decoder for it
            raise ValueError(accepted)
        if not accepted:
            continue
        stream.seek(0)
        try:
            return factory(stream, "")
        except (SyntaxError, IndexError, TypeError, struct.error) as error:
            raise ValueError(f"broken {image_format} header: {error}") from error
    raise ValueError(f"not an image of a known format ({', '.join(IMAGE_FORMATS)})")


def _to_rgb(image: Image.Image, name: str, max_pixels: int) -> Image.Image:
    if image.width * image.height > max_pixels:
        raise ImageError(
            f"{name}: {image.width} x {image.height} pixels are more than the limit of {max_pixels:,}; "
            "make the image smaller or raise `max_pixels`"
        )
    # Decoders raise whatever they stumble over: OSError, SyntaxError, struct.error, zlib.error and more.
    try:
        image = ImageOps.exif_transpose(image)
        if image.mode == "I" or image.mode.startswith("I;16"):
            image = _gray_to_8_bits(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return image.convert("RGB")
    except Exception as error:
        raise ImageError(f"{name}: the image cannot be decoded: {error}") from error


def _gray_to_8_bits(image: Image.Image) -> Image.Image:
    """Scales gray of 16 bits, or of 32 where a value needs them, to 8 bits; Pillow's own conversion clips at 255."""
    gray = np.asarray(image).astype(np.float64)
    white = 65535 if gray.max() <= 65535 else 2**31 - 1
    return Image.fromarray(np.rint(gray.clip(min=0) * (255 / white)).astype(np.uint8))


SCMMProcessor.register_for_auto_class()
