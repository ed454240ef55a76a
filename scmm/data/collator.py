"""From rows of images to training batches: one item per caption, and the collator that makes tensors of items."""

import hashlib
from typing import Any

import torch
from datasets import Dataset, Image
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from scmm.data.masking import mask_captions
from scmm.data.schema import image_source
from scmm.data.transforms import TrainingAugmentation, load_pixels, normalize_pixels
from scmm.processing import END_OF_WORD, SCMMProcessor


class CaptionItems(torch.utils.data.Dataset):
    """
    The training items of a data set: every caption with its image, so that an epoch visits each caption once.

    Captions are tokenized once, here. Each item carries a random seed that follows from the run's seed, the epoch and
    the item. Augmentation and masking draw from it alone, so they are the same with any number of workers and after a
    resumed run.

    Args:
        dataset (`datasets.Dataset`): rows of [`~scmm.data.schema.FEATURES`].
        processor ([`SCMMProcessor`]):
            Tokenizes the captions; its `caption_quality` scores them, without one each quality is 1.
        seed (`int`, defaults to 0): the run's seed.

    Example:

    ```python
    >>> from PIL import Image
    >>> from datasets import Dataset
    >>> from scmm import SCMMProcessor
    >>> from scmm.data.collator import CaptionItems
    >>> from scmm.data.schema import FEATURES
    >>> row = {"image": Image.new("RGB", (8, 16)), "captions": ["a man", "a man in red"], "person_id": 7}
    >>> rows = Dataset.from_list([{**row, "image_id": 0, "camera_id": -1, "file_name": "0.png"}], features=FEATURES)
    >>> items = CaptionItems(rows, SCMMProcessor.from_captions(row["captions"], quality_measure="constant"))
    >>> len(items), items[1]["caption"], items[1]["person_id"]
    (2, 'a man in red', 7)

    ```
    """

    def __init__(self, dataset: Dataset, processor: SCMMProcessor, seed: int = 0):
        self.images = dataset.select_columns(["image", "file_name"]).cast_column("image", Image(decode=False))
        captions_of_row = list(dataset["captions"])
        self.captions = [caption for captions in captions_of_row for caption in captions]
        encoding = processor.tokenizer(self.captions, truncation=True) if self.captions else None
        self.input_ids = encoding["input_ids"] if encoding else []
        self.num_truncated = sum(bool(one.overflowing) for one in encoding.encodings) if encoding else 0
        self.rows = [row for row, captions in enumerate(captions_of_row) for _ in captions]
        self.person_ids = list(dataset["person_id"])
        # Labels for the identity classifier: 0..N-1 whatever the ids in the file.
        self.label_of = {person_id: label for label, person_id in enumerate(sorted(set(self.person_ids)))}
        quality = processor.caption_quality
        self.caption_quality = quality(self.captions) if quality is not None else [1.0] * len(self.captions)
        self.seed = seed
        # In shared memory, so that workers which outlive an epoch see the next one too.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @property
    def epoch(self) -> int:
        """The epoch whose random choices the items have; [`set_epoch`] moves on to another."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Moves on to another epoch's random choices."""
        self._epoch.fill_(epoch)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = self.rows[index]
        person_id = self.person_ids[row]
        return {
            **self.images[row],
            "caption": self.captions[index],
            "input_ids": self.input_ids[index],
            "caption_quality": self.caption_quality[index],
            "person_id": person_id,
            "identity_label": self.label_of[person_id],
            "seed": mixed_seed(self.seed, self.epoch, index),
        }


class SCMMDataCollator:
    """
    Makes a training batch of [`CaptionItems`]: loads and augments the images, pads and masks the captions.

    Args:
        processor ([`SCMMProcessor`]): sizes, normalization and tokenizer.
        augmentation ([`~scmm.data.transforms.TrainingAugmentation`], *optional*): `None` leaves images as they are.
        mask_probability (`float`, defaults to 0.15): share of tokens to mask; 0 leaves masked caption modeling out.
        whole_word_masking (`bool`, defaults to `False`): masks all tokens of a word or none.
        mask_global_branch (`bool`, defaults to `False`):
            Gives the masked caption to the global branch too, which separates masking as augmentation from the
            masked caption modeling loss.
        cache_images (`bool`, defaults to `False`):
            Keeps resized images in memory (3 bytes a pixel, in each loading process), so that later epochs do not
            decode them again.

    Example:

    ```python
    >>> from PIL import Image
    >>> from scmm import SCMMDataCollator, SCMMProcessor
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3, image_size=(16, 8))
    >>> input_ids = processor.tokenizer("a man in red")["input_ids"]
    >>> item = {"image": Image.new("RGB", (8, 16)), "input_ids": input_ids, "caption_quality": 0.5, "seed": 1}
    >>> batch = SCMMDataCollator(processor)([{**item, "person_id": 7, "identity_label": 0}])
    >>> sorted(batch)
    ['attention_mask', 'caption_quality', 'identity_labels', 'input_ids', 'mcm_input_ids', 'mcm_labels',
     'person_ids', 'pixel_values']

    ```
    """

    def __init__(
        self,
        processor: SCMMProcessor,
        augmentation: TrainingAugmentation | None = None,
        mask_probability: float = 0.15,
        whole_word_masking: bool = False,
        mask_global_branch: bool = False,
        cache_images: bool = False,
    ):
        self.processor = processor
        self.augmentation = augmentation
        self.mask_probability = mask_probability
        self.whole_word_masking = whole_word_masking
        self.mask_global_branch = mask_global_branch
        self.cache: dict[str, torch.Tensor] | None = {} if cache_images else None
        tokenizer = processor.tokenizer
        is_special = torch.zeros(len(tokenizer), dtype=torch.bool)
        is_special[tokenizer.all_special_ids] = True
        self.is_special = is_special
        self.ordinary_ids = (~is_special).nonzero().flatten()
        tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.ends_word = is_special | torch.tensor([token.endswith(END_OF_WORD) for token in tokens])

    def __call__(self, items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns the arguments of [`SCMMForPreTraining`] and what the losses need beside them."""
        captions = [torch.tensor(item["input_ids"]) for item in items]
        input_ids = pad_sequence(captions, batch_first=True, padding_value=self.processor.tokenizer.pad_token_id)
        lengths = torch.tensor([len(caption) for caption in captions])
        attention_mask = (torch.arange(input_ids.shape[1]) < lengths[:, None]).long()
        batch = {
            "pixel_values": normalize_pixels(
                torch.stack([self._pixels(item) for item in items]), self.processor.image_processor
            ),
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "person_ids": torch.tensor([item["person_id"] for item in items]),
            "identity_labels": torch.tensor([item["identity_label"] for item in items]),
            "caption_quality": torch.tensor([item["caption_quality"] for item in items]),
        }
        if self.mask_probability > 0:
            masked_ids, labels = mask_captions(
                input_ids,
                ~self.is_special[input_ids],  # padding is a special token too
                mask_token_id=self.processor.tokenizer.mask_token_id,
                ordinary_ids=self.ordinary_ids,
                probability=self.mask_probability,
                word_ids=F.pad(self.ends_word[input_ids], (1, -1)).cumsum(1) if self.whole_word_masking else None,
                generator=torch.Generator().manual_seed(mixed_seed("mask", *(item["seed"] for item in items))),
            )
            batch["input_ids" if self.mask_global_branch else "mcm_input_ids"] = masked_ids
            batch["mcm_labels"] = labels
        return batch

    def _pixels(self, item: dict[str, Any]) -> torch.Tensor:
        source = image_source(item) if isinstance(item["image"], dict) else item["image"]
        if self.cache is None or not isinstance(source, str):
            pixels = load_pixels(source, self.processor.image_processor)
        else:
            if source not in self.cache:
                self.cache[source] = load_pixels(source, self.processor.image_processor)
            pixels = self.cache[source]
        if self.augmentation is None:
            return pixels
        return self.augmentation(pixels, torch.Generator().manual_seed(mixed_seed("image", item["seed"])))


def mixed_seed(*parts: int | str) -> int:
    """A 63-bit seed that mixes all parts, the same in every process (unlike `hash`)."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
