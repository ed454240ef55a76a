"""What the page and the API have in common: a search, the image of a result, and why it was found."""

import io
import logging
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from scmm.analysis.why import Explanation, explain
from scmm.modeling_scmm import SCMMForPreTraining, SCMMModel
from scmm.processing import load_image
from scmm.retrieval.gallery import Filter, Gallery, GalleryError, Hit, Query


logger = logging.getLogger(__name__)

MAX_SENTENCE = 1000  # characters; a model takes about 300
MAX_RESULTS = 100
# The longer side of the images that are shown: enough for a crop, and a bound for what is sent.
SHOWN_SIDE = 640


class NoSuchImageError(ValueError):
    """The gallery has no image with an id that was asked for."""


@dataclass(frozen=True)
class Search:
    """
    What a user asks for, as it stands in a link.

    Args:
        q (`str`, defaults to `""`): a sentence.
        like (`str`, defaults to `""`): the id of an image of the gallery to search with.
        camera (`tuple[str, ...]`, defaults to `()`): one of these cameras.
        after (`str`, defaults to `""`): taken then or later, in the form of ISO 8601; without a zone it is UTC.
        before (`str`, defaults to `""`): taken before this time.
        top_k (`int`, defaults to 20): how many images.
        group_by (`str`, defaults to `""`): `"person"`, `"near-duplicates"` or a column, as for [`Gallery.search`].
        picture (`bytes`, *optional*): an encoded image to search with. No link holds it.
    """

    q: str = ""
    like: str = ""
    camera: tuple[str, ...] = ()
    after: str = ""
    before: str = ""
    top_k: int = 20
    group_by: str = ""
    picture: bytes | None = field(default=None, repr=False)

    def link(self) -> str:
        """
        The query string that reproduces the search.

        Example:

        ```python
        >>> from scmm.app.service import Search
        >>> Search("a man & a dog", camera=("4", "5")).link()
        '?q=a+man+%26+a+dog&camera=4&camera=5'

        ```
        """
        names = ("q", "like", "camera", "after", "before", "top_k", "group_by")
        values = {name: getattr(self, name) for name in names}
        if self.top_k == Search.top_k:
            del values["top_k"]
        return "?" + urlencode({name: value for name, value in values.items() if value}, doseq=True)


@dataclass(frozen=True)
class Found:
    """
    The results of a search.

    Args:
        search ([`Search`]): what was asked for.
        hits (`list[Hit]`): the images, best first.
        notes (`list[str]`): what the user should know, such as a sentence that was cut.
    """

    search: Search
    hits: list[Hit]
    notes: list[str] = field(default_factory=list)


class SearchService:
    """
    Searches in a gallery for the page and the API. Its methods are called from several threads.

    Args:
        gallery ([`Gallery`]): the gallery.
        explainer ([`SCMMForPreTraining`] or [`SCMMModel`], *optional*):
            What explains results, the gallery's model with its decoder if it has one; by default the gallery's model.
        log_queries (`bool`, defaults to `False`): whether to log what is searched for.
    """

    def __init__(
        self, gallery: Gallery, explainer: SCMMForPreTraining | SCMMModel | None = None, log_queries: bool = False
    ):
        self.gallery = gallery
        self.explainer = explainer
        self.log_queries = log_queries

    def search(self, search: Search) -> Found:
        """
        Finds images.

        Raises:
            ValueError: if there is nothing to search for, or a value cannot be used; the message is for the user.
        """
        sentence = search.q.strip()
        if not sentence and not search.like and search.picture is None:
            raise ValueError("Describe the person in a sentence.")
        if len(sentence) > MAX_SENTENCE:
            raise ValueError(f"The sentence has {len(sentence)} characters; {MAX_SENTENCE} are the most.")
        if not 1 <= search.top_k <= MAX_RESULTS:
            raise ValueError(f"top_k must be from 1 to {MAX_RESULTS}, got {search.top_k}.")
        if search.like:
            self.get(search.like)
        if self.log_queries:
            logger.info("search %s", search.link())
        where = Filter(cameras=search.camera or None, after=search.after or None, before=search.before or None)
        image = None if search.picture is None else load_image(search.picture)
        query = Query(sentence or None, image=image, like=search.like or None)
        notes = []
        if sentence and self.gallery.processor.count_truncated([sentence]):
            notes.append("The sentence is longer than the model takes: only its beginning counts.")
        hits = self.gallery.search(query, top_k=search.top_k, where=where, group_by=search.group_by or None)
        return Found(search, hits, notes)

    def image(self, id: str) -> bytes:
        """
        An image of the gallery as a JPEG file, made small and without the camera's notes.

        Raises:
            NoSuchImageError: if the gallery has no such image.
            ImageError, OSError: if its file is gone, has changed since it was indexed, or cannot be read.
        """
        image = load_image(self._content(id))
        image.thumbnail((SHOWN_SIDE, SHOWN_SIDE))
        file = io.BytesIO()
        image.save(file, format="JPEG", quality=90)
        return file.getvalue()

    def why(self, id: str, sentence: str) -> Explanation:
        """
        Why a sentence finds an image.

        Raises:
            ValueError: if there is no such image, it cannot be read, or the sentence has no words.
            OSError: if its file is gone.
        """
        if not sentence.strip() or len(sentence) > MAX_SENTENCE:
            raise ValueError(f"An explanation needs a sentence of 1 to {MAX_SENTENCE} characters.")
        model = self.explainer or self.gallery.model
        if not isinstance(model, SCMMModel | SCMMForPreTraining):
            raise ValueError("The gallery's model runs in onnxruntime alone, which gives no reasons.")
        return explain(model, self.gallery.processor, sentence, self._content(id))

    def facets(self) -> dict[str, Any]:
        """How many images and persons, the cameras, the oldest and the newest time, and the model's name."""
        stats = self.gallery.stats()
        return {
            "images": stats["images"],
            "cameras": stats["cameras"],
            "oldest": stats["oldest"],
            "newest": stats["newest"],
            "persons": stats["persons"],
            "model": Path(self.gallery.identity.name).name,
        }

    def get(self, id: str) -> Hit:
        """
        What is known of an image.

        Raises:
            NoSuchImageError: if the gallery has no such image.
        """
        try:
            return self.gallery.get(id)
        except GalleryError:
            raise NoSuchImageError("The gallery has no such image.") from None

    def _content(self, id: str) -> bytes:
        try:
            return self.gallery.read_image(id)
        except GalleryError:
            raise NoSuchImageError("The gallery has no such image.") from None
        except FileNotFoundError:
            raise FileNotFoundError("The image's file is no longer there.") from None


def is_there(hit: Hit) -> bool:
    """Whether a result's image is a file that still exists."""
    return hit.path is not None and Path(hit.path).is_file()


def to_record(hit: Hit) -> dict[str, Any]:
    """A result for JSON."""
    record = {
        "id": hit.id,
        "score": hit.score,
        "camera": hit.camera,
        "time": hit.time,
        "person_id": hit.person_id,
        **hit.columns,
    }
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in record.items()}
