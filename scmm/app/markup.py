"""The page's own HTML: results, one image with its explanation, messages. All text passes through `escape`."""

import base64
import html
import io
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

import numpy as np
from PIL import Image
from torch import Tensor

from scmm.analysis.why import Explanation
from scmm.app.service import Found, is_there
from scmm.retrieval.gallery import Hit


# Gradio's templates give these a meaning of their own.
_TEMPLATE_SIGNS = {ord(sign): f"&#{ord(sign)};" for sign in "{}$`@\\"}

_VEIL = (16, 18, 24)


def escape(text: Any) -> str:
    """
    Text that is shown as it is, in an element or an attribute.

    Example:

    ```python
    >>> from scmm.app.markup import escape
    >>> escape('<b onclick="x">${1}')
    '&lt;b onclick=&quot;x&quot;&gt;&#36;&#123;1&#125;'

    ```
    """
    return html.escape(str(text)).translate(_TEMPLATE_SIGNS)


def results_html(found: Found) -> str:
    """The ranked crops. `data-link` is the link that reproduces the search."""
    link = "" if found.search.picture is not None else found.search.link()
    count = len(found.hits)
    said = f"{count} image{'' if count == 1 else 's'}" if count else "No image meets the conditions"
    sentence = escape(found.search.q.strip())
    parts = [
        f'<div class="scmm-results" data-link="{escape(link)}" data-sentence="{sentence}">',
        '<p class="scmm-said" role="status">',
    ]
    parts.append(f"<span>{said} {_subject(found)}</span>")
    if link:
        parts.append(f' <a href="{escape(link)}">Link to this search</a>')
    parts.append("</p>")
    parts += [f'<p class="scmm-note" role="status">{escape(note)}</p>' for note in found.notes]
    has_words = bool(found.search.q.strip())
    parts.append('<ol class="scmm-crops">')
    parts += [_crop(rank, hit, has_words) for rank, hit in enumerate(found.hits, start=1)]
    parts.append("</ol></div>")
    return "".join(parts)


def message_html(message: str, kind: str = "alert") -> str:
    """A message instead of results."""
    return f'<p class="scmm-message" role="{kind}">{escape(message)}</p>'


def detail_html(hit: Hit, sentence: str, explanation: Explanation | None, problem: str = "") -> str:
    """A dialog with one image, what is known of it, and why it was found."""
    if explanation is not None:
        hit = replace(hit, score=explanation.score)
    parts = ['<dialog class="scmm-detail" aria-label="One image and why it was found">']
    parts.append('<form method="dialog"><button type="submit" class="scmm-close" aria-label="Close">✕</button></form>')
    parts.append(f'<div class="scmm-detail-top">{_picture(hit, "The image")}<div>')
    facts = _facts(hit) if explanation is not None else _facts(hit)[1:]  # without a sentence there is no score
    parts += ["<dl>", *(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts), "</dl>"]
    parts.append(_like_button(hit))
    parts.append("</div></div>")
    if problem:
        parts.append(f'<p class="scmm-note" role="alert">{escape(problem)}</p>')
    if explanation is not None:
        parts.append(_why(hit, sentence, explanation))
    parts.append("</dialog>")
    return "".join(parts)


def image_link(id: str) -> str:
    """Where the page finds an image: below its own address, whatever proxy stands before it."""
    return "image?" + urlencode({"id": id})


def _subject(found: Found) -> str:
    search = found.search
    subjects = []
    if search.q.strip():
        subjects.append(f"for “{escape(search.q.strip())}”")
    if search.like:
        alt = "the image that the results are like"
        subjects.append(f'like <img class="scmm-like" src="{escape(image_link(search.like))}" alt="{alt}">')
    if search.picture is not None:
        subjects.append("like your picture")
    return " and ".join(subjects)


def _crop(rank: int, hit: Hit, has_words: bool) -> str:
    facts = dict(_facts(hit)[:-1])
    about = [escape(f"{name} {facts[name]}") for name in ("camera", "person") if name in facts]
    if "time" in facts:
        about.append(escape(facts["time"].removesuffix(" UTC")))
    said = ", ".join([f"Result {rank}", *(f"{name} {value}" for name, value in facts.items())])
    opens = "Open it and see why." if has_words else "Open it."
    return (
        f'<li><button type="button" class="scmm-open" data-event="open_image" data-id="{escape(hit.id)}">'
        f"{_picture(hit, f'{said}. {opens}')}</button>"
        f'<p class="scmm-line"><b>{rank}</b><span>{hit.score:.3f}</span></p>'
        f'<p class="scmm-about">{"<br>".join(about)}</p>{_like_button(hit)}</li>'
    )


def _like_button(hit: Hit) -> str:
    return (
        f'<button type="button" class="scmm-button" data-event="more_like_this" data-id="{escape(hit.id)}">'
        "More like this</button>"
    )


def _picture(hit: Hit, alt: str) -> str:
    if not is_there(hit):
        return f'<span class="scmm-gone" role="img" aria-label="{escape(alt)}">The file is no longer there</span>'
    return f'<img src="{escape(image_link(hit.id))}" alt="{escape(alt)}" loading="lazy" decoding="async">'


def _facts(hit: Hit) -> list[tuple[str, str]]:
    """What is known of an image, named for people; the id last, because it is long."""
    facts: list[tuple[str, Any]] = [("score", f"{hit.score:.3f}"), ("camera", hit.camera), ("time", hit.time)]
    facts += [("person", hit.person_id), *hit.columns.items(), ("id", hit.id)]
    return [(name, _shown(value)) for name, value in facts if value is not None]


def _shown(value: Any) -> str:
    return value.strftime("%Y-%m-%d %H:%M:%S UTC") if isinstance(value, datetime) else str(value)


def _why(hit: Hit, sentence: str, explanation: Explanation) -> str:
    how = (
        "Bright is where the model looks to guess the word when it is hidden from it."
        if explanation.method == "attention"
        else "Bright is what speaks for the word, as far as the gradient tells."
    )
    parts = [
        "<h3>Which regions answer which word</h3>",
        f"<p>“{escape(sentence)}” scores {explanation.score:.3f}; below each word stands how much of it would be lost "
        f"without the word. {how}</p>",
        '<ul class="scmm-words">',
    ]
    for word, share, values in zip(explanation.words, explanation.shares.tolist(), explanation.maps, strict=True):
        parts.append(
            f'<li><span class="scmm-stack"><img src="{escape(image_link(hit.id))}" alt="">'
            f'<img class="scmm-veil" src="{_veil(values)}" alt="{escape(_place(values))}"></span>'
            f"<b>{escape(word)}</b><span>{share:+.3f}</span></li>"
        )
    parts.append("</ul>")
    return "".join(parts)


def _veil(values: Tensor) -> str:
    """A veil that covers what does not answer the word, as a PNG in a data URI; the browser smooths it."""
    alpha = np.rint(190 * (1 - values.numpy())).astype(np.uint8)
    image = np.empty((*alpha.shape, 4), np.uint8)
    image[..., :3], image[..., 3] = _VEIL, alpha
    file = io.BytesIO()
    grown = Image.fromarray(image).resize((alpha.shape[1] * 8, alpha.shape[0] * 8), Image.Resampling.BICUBIC)
    grown.save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def _place(values: Tensor) -> str:
    """Where the best region is, in words."""
    if not values.any():
        return "no region answers this word"
    row, column = divmod(int(values.argmax()), values.shape[1])
    vertical = ("top", "middle", "bottom")[3 * row // values.shape[0]]
    horizontal = ("left", "center", "right")[3 * column // values.shape[1]]
    return f"answered most at the {vertical} {horizontal}"
