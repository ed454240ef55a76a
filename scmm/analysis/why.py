"""Why an image was found: how much each word of the sentence adds to the score, and which regions answer it."""

import unicodedata
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ..data.transforms import load_pixels, normalize_pixels
from ..modeling_scmm import SCMMForPreTraining, SCMMModel
from ..processing import ImageSource, SCMMProcessor


@dataclass(frozen=True)
class Explanation:
    """
    What [`explain`] returns.

    Args:
        words (`list[str]`): the sentence's words as they were written, without punctuation; those that were cut off
            because the sentence is too long are missing.
        shares (`torch.Tensor` of shape `(words,)`): by how much the cosine falls where the word is left out.
        maps (`torch.Tensor` of shape `(words, rows, columns)`): how much each patch of the image answers each word,
            from 0 to 1, which the best patch has; all 0 where none does.
        score (`float`): the cosine of the sentence and the image.
        method (`str`): `"attention"` or `"gradient"`.
    """

    words: list[str]
    shares: Tensor
    maps: Tensor
    score: float
    method: Literal["attention", "gradient"]


def explain(
    model: SCMMModel | SCMMForPreTraining, processor: SCMMProcessor, sentence: str, image: ImageSource
) -> Explanation:
    """
    Explains the score of a sentence and an image, word by word.

    The regions come from the cross-modal decoder where the model has one: each word is hidden in turn, as in training,
    and the map is where the decoder looks to guess it ([`attention_maps`]). The dual encoder alone is asked which
    patches speak for what the word adds to the sentence's embedding ([`gradient_maps`]). Both are reconstructions:
    they say where the model looks, not that it is right, and a patch of the background in which the model keeps
    something about the whole image may stand out.

    Args:
        model ([`SCMMModel`] or [`SCMMForPreTraining`]): in evaluation mode.
        processor ([`SCMMProcessor`]): the processor saved with it.
        sentence (`str`): the query.
        image (path, `bytes`, binary file or `PIL.Image.Image`): the image.

    Returns:
        [`Explanation`]: on the CPU.

    Raises:
        ValueError: if the sentence has no words, or the image cannot be read
            ([`~scmm.processing.ImageError`]).
        OSError: if the image does not exist.

    Example:

    ```python
    >>> from PIL import Image
    >>> from scmm import SCMMConfig, SCMMModel, SCMMProcessor
    >>> from scmm.analysis.why import explain
    >>> processor = SCMMProcessor.from_captions(["a man in a red coat"] * 3)
    >>> model = SCMMModel(SCMMConfig.from_preset("tiny", text_config=processor.text_config_fields())).eval()
    >>> found = explain(model, processor, "A man, in red", Image.new("RGB", (32, 64)))
    >>> found.words, found.maps.shape, found.method
    (['A', 'man', 'in', 'red'], torch.Size([4, 8, 4]), 'gradient')

    ```
    """
    encoder = model.scmm if isinstance(model, SCMMForPreTraining) else model
    encoded = processor.tokenizer(sentence, truncation=True, return_offsets_mapping=True)
    words = _words(sentence, encoded)
    if not words:
        raise ValueError("The sentence has no words to explain.")
    vision_config: Any = encoder.config.vision_config
    input_ids = torch.tensor(encoded["input_ids"], device=encoder.device)
    pixels = load_pixels(image, processor.image_processor)[None].to(encoder.device)
    pixel_values = normalize_pixels(pixels, processor.image_processor)

    positions = [places for _, places in words]
    with torch.no_grad():
        text = _text_embeds(encoder, [input_ids])
        without = _text_embeds(encoder, [_without(input_ids, places) for places in positions])
    vision: Any = encoder.get_image_features(pixel_values, output_hidden_states=True)
    image_embed = F.normalize(vision.pooler_output[0], dim=-1)
    directions = text - without
    if isinstance(model, SCMMForPreTraining):
        maps = attention_maps(model, input_ids, positions, vision.last_hidden_state)
    else:
        # What the last layer receives: its output at the patches reaches the embedding no more.
        maps = gradient_maps(directions @ image_embed, vision.hidden_states[-2])
    return Explanation(
        words=[word for word, _ in words],
        shares=(directions @ image_embed).detach().cpu(),
        maps=_scaled(maps).reshape(-1, *vision_config.grid_size).cpu(),
        score=float((text @ image_embed).detach()),
        method="attention" if isinstance(model, SCMMForPreTraining) else "gradient",
    )


def gradient_maps(scores: Tensor, states: Tensor) -> Tensor:
    """
    Gradient times activation: how much each patch's state speaks for each score, to first order.

    Args:
        scores (`torch.Tensor` of shape `(words,)`): scores of one image that were computed from `states`.
        states (`torch.Tensor` of shape `(1, 1 + patches, width)`): states of the class token and the patches.

    Returns:
        `torch.Tensor` of shape `(words, patches)`: what speaks against a word counts as 0.
    """
    maps = []
    for score in scores:
        (gradient,) = torch.autograd.grad(score, states, retain_graph=True)
        maps.append((gradient * states.detach()).sum(dim=-1)[0, 1:])
    return torch.stack(maps).relu()


@torch.no_grad()
def attention_maps(
    model: SCMMForPreTraining, input_ids: Tensor, positions: list[list[int]], image_states: Tensor
) -> Tensor:
    """
    Where the decoder looks to guess each word: the cross-attention of the word's masked tokens, averaged over its
    tokens, the heads and the layers.

    Args:
        model ([`SCMMForPreTraining`]): in evaluation mode; its decoder is left with eager attention.
        input_ids (`torch.LongTensor` of shape `(tokens,)`): the sentence.
        positions (`list[list[int]]`): the places of each word's tokens.
        image_states (`torch.Tensor` of shape `(1, 1 + patches, width)`): the vision tower's states.

    Returns:
        `torch.Tensor` of shape `(words, patches)`.
    """
    text_config: Any = model.config.text_config
    masked = input_ids.repeat(len(positions), 1)
    for row, places in enumerate(positions):
        masked[row, places] = text_config.mask_token_id
    text_states = model.scmm.get_text_features(masked).last_hidden_state
    model.decoder.set_attn_implementation("eager")  # the others do not say where they look
    decoded = model.decoder(text_states, image_states.expand(len(positions), -1, -1), output_attentions=True)
    attention = torch.stack(decoded.cross_attentions).mean(dim=(0, 2))  # (words, tokens, 1 + patches)
    return torch.stack([attention[row, places].mean(dim=0)[1:] for row, places in enumerate(positions)])


def _words(sentence: str, encoded: Any) -> list[tuple[str, list[int]]]:
    """The words with the places of their tokens. What the tokenizer splits without a space is put together again."""
    words: list[tuple[int, int, list[int]]] = []
    for place, (word, (start, end)) in enumerate(zip(encoded.word_ids(), encoded["offset_mapping"], strict=True)):
        if word is None or end == start:
            continue
        if words and start <= words[-1][1]:
            first, last, places = words.pop()
            words.append((first, max(last, end), [*places, place]))
        else:
            words.append((start, end, [place]))
    found = []
    for start, end, places in words:
        text = sentence[start:end]
        stripped = text.strip("".join({letter for letter in text if unicodedata.category(letter)[0] == "P"}))
        if stripped:
            found.append((stripped, places))
    return found


def _without(input_ids: Tensor, places: list[int]) -> Tensor:
    kept = torch.ones_like(input_ids, dtype=torch.bool)
    kept[places] = False
    return input_ids[kept]


def _text_embeds(encoder: SCMMModel, sentences: list[Tensor]) -> Tensor:
    """Sentences of different lengths, padded to one batch: `(sentences, projection_dim)`, normalized."""
    config: Any = encoder.config.text_config
    input_ids = torch.nn.utils.rnn.pad_sequence(sentences, batch_first=True, padding_value=config.pad_token_id)
    lengths = torch.tensor([len(sentence) for sentence in sentences], device=input_ids.device)
    mask = (torch.arange(input_ids.shape[1], device=input_ids.device) < lengths[:, None]).long()
    return F.normalize(encoder.get_text_features(input_ids, mask).pooler_output, dim=-1)


def _scaled(maps: Tensor) -> Tensor:
    peaks = maps.amax(dim=1, keepdim=True)
    return torch.where(peaks > 0, maps / peaks, torch.zeros_like(maps))
