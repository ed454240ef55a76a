"""From what a user describes to a vector: sentences, images, both, and what should not be there."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from scmm.modeling_scmm import SCMMModel
from scmm.processing import ImageSource, SCMMProcessor
from scmm.retrieval.encode import encode_captions, encode_images
from scmm.retrieval.gallery.identity import backend_of


@dataclass(frozen=True)
class Query:
    """
    What to search for: a sentence, an image, or a sentence about an image.

    With `t` the embedding of the sentence, `i` that of the image and `n` those of the sentences of `without`, all of
    norm 1, the query is `q = t`, `q = i` or `q = (1 - image_weight) t + image_weight i`; then
    `q - without_weight (n_1 + n_2 + ...)` of the normalized `q`; normalized again. So each negative sentence takes a
    share of its own cosine off an image's score. A model hardly understands "without a backpack" in a sentence. With
    the default weight, the demo's model shows what should not be there in 16 % of its ten best images instead of 27 %,
    and what should be there as often as before (five negative sentences, eight colors of two garments, 1000 images).

    Args:
        text (`str`, *optional*): a sentence.
        image (path, `bytes`, binary file or `PIL.Image.Image`, *optional*): an image.
        like (`str`, *optional*): the id of an image of the gallery, whose stored embedding stands for it.
        without (`str` or `Sequence[str]`, defaults to `()`): what should not be there, each as a sentence
            ("a person with a backpack").
        image_weight (`float`, defaults to 0.5): the image's share beside a sentence, from 0 to 1.
        without_weight (`float`, defaults to 0.75): how strongly to avoid what should not be there.

    Raises:
        ValueError: if there is nothing to search for, two images are given, a sentence is empty, or a weight is out of
            its range.

    Example:

    ```python
    >>> from scmm.retrieval.gallery import Query
    >>> Query("a woman in a red coat", without="a person with a backpack").without
    ('a person with a backpack',)

    ```
    """

    text: str | None = None
    image: ImageSource | None = None
    like: str | None = None
    without: str | Sequence[str] = ()
    image_weight: float = 0.5
    without_weight: float = 0.75

    def __post_init__(self):
        without = (self.without,) if isinstance(self.without, str) else tuple(self.without)
        object.__setattr__(self, "without", without)
        if self.text is None and self.image is None and self.like is None:
            raise ValueError("A query needs a sentence or an image.")
        if self.image is not None and self.like is not None:
            raise ValueError("A query takes one image: image or like.")
        for sentence in (*([] if self.text is None else [self.text]), *without):
            if not sentence.strip():
                raise ValueError("A query is empty: describe the person in a sentence.")
        if not 0 <= self.image_weight <= 1:
            raise ValueError(f"image_weight must be from 0 to 1, got {self.image_weight}.")
        if self.without_weight < 0:
            raise ValueError(f"without_weight must not be negative, got {self.without_weight}.")

    @property
    def sentences(self) -> tuple[str, ...]:
        """Every sentence of it."""
        return (*(() if self.text is None else (self.text,)), *self.without)


def embed_queries(
    model: SCMMModel, processor: SCMMProcessor, queries: Sequence[Query], embedding_of: Callable[[str], Tensor]
) -> Tensor:
    """
    The vectors of queries.

    Args:
        model ([`SCMMModel`]): the dual encoder.
        processor ([`SCMMProcessor`]): the processor saved with it.
        queries (`Sequence[Query]`): the queries.
        embedding_of (`Callable`): gives the embedding of an image of the gallery by its id.

    Returns:
        `torch.Tensor` of shape `(queries, projection_dim)`: float32, normalized, on the CPU.
    """
    sentences = list(dict.fromkeys(sentence for query in queries for sentence in query.sentences))
    # In int8 an embedding depends on what else is in its batch.
    size: dict[str, Any] = {"batch_size": 1} if backend_of(model) == "onnx-int8" else {}
    text_embeds = dict(zip(sentences, encode_captions(model, processor, sentences, **size), strict=True))
    images = [query.image for query in queries if query.image is not None]
    image_embeds = iter(encode_images(model, processor, images, **size))
    vectors = []
    for query in queries:
        image = next(image_embeds) if query.image is not None else None
        if query.like is not None:
            image = F.normalize(embedding_of(query.like).float(), dim=0)
        parts = []
        if query.text is not None:
            parts.append(text_embeds[query.text] * (1.0 if image is None else 1 - query.image_weight))
        if image is not None:
            parts.append(image * (1.0 if query.text is None else query.image_weight))
        vector = F.normalize(torch.stack(parts).sum(dim=0), dim=0)
        for sentence in query.without:
            vector = vector - query.without_weight * text_embeds[sentence]
        vectors.append(F.normalize(vector, dim=0))
    return torch.stack(vectors) if vectors else torch.empty(0, model.config.projection_dim)
