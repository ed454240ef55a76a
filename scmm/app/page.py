"""The Gradio page: sentence, conditions, ranked crops, and the dialog that says why."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.datastructures import QueryParams

from scmm.app.guard import BusyError, Gate
from scmm.app.markup import detail_html, escape, message_html, results_html
from scmm.app.service import MAX_RESULTS, MAX_SENTENCE, Search, SearchService, is_there
from scmm.retrieval.gallery import NEAR_DUPLICATES


EXAMPLES = [
    "a woman in a red coat with a black backpack",
    "a man wearing a blue jacket and gray trousers",
    "a person with a hat and a striped shirt",
]

CSS = (Path(__file__).parent / "page.css").read_text(encoding="utf-8")
_JS = (Path(__file__).parent / "page.js").read_text(encoding="utf-8")

_WELCOME = message_html("Describe a person, or choose one of the examples.", kind="status")

# Uploaded pictures are deleted after ten minutes; looked for every minute.
_DELETE_CACHE = (60, 600)


def build_page(service: SearchService, gate: Gate) -> gr.Blocks:
    """
    Builds the page.

    Args:
        service ([`SearchService`]): what is searched.
        gate ([`Gate`]): lets a few computations run at once.

    Returns:
        `gradio.Blocks`: to be mounted.
    """
    facets = service.facets()
    groups = [
        ("Every image", ""),
        ("The best image of each person", "person"),
        ("No near-duplicates", NEAR_DUPLICATES),
    ]
    if not facets["persons"]:
        del groups[1]
    with gr.Blocks(title="scmm: person search", analytics_enabled=False, delete_cache=_DELETE_CACHE) as page:
        like = gr.State("")
        gr.HTML(
            "<h1>Find a person from a sentence</h1>"
            f"<p>{facets['images']:,} images in {escape(str(service.gallery.path).rpartition('/')[2])} · "
            f"model {escape(facets['model'])}</p>",
            elem_classes="scmm-head",
        )
        with gr.Row(elem_classes="scmm-ask"):
            sentence = gr.Textbox(
                label="Describe the person",
                placeholder=EXAMPLES[0],
                max_length=MAX_SENTENCE,
                max_lines=4,
                scale=5,
                min_width=280,
                elem_id="sentence",
            )
            button = gr.Button("Search", variant="primary", scale=1, min_width=120, elem_id="search")
        link = gr.Textbox(visible=False)  # the page's own address, which a script reads
        examples = gr.Examples(EXAMPLES, sentence, label="For example", cache_examples=False, elem_id="examples")
        with gr.Accordion("Conditions, and search with a picture", open=False, elem_id="conditions"), gr.Row():
            with gr.Column():
                cameras = gr.Dropdown(
                    facets["cameras"],
                    label="Cameras",
                    multiselect=True,
                    allow_custom_value=True,  # a camera in a link may be gone
                    visible=bool(facets["cameras"]),
                    elem_id="cameras",
                )
                with gr.Row(visible=facets["newest"] is not None):
                    after, before = (
                        gr.Textbox(label=label, placeholder=_example_time(facets[key]), max_length=40, elem_id=name)
                        for label, key, name in (
                            ("Taken from, UTC", "oldest", "after"),
                            ("Taken before, UTC", "newest", "before"),
                        )
                    )
                top_k = gr.Slider(1, MAX_RESULTS, Search.top_k, step=1, label="Number of results", elem_id="top_k")
                group_by = gr.Dropdown(groups, value="", label="Show", elem_id="group_by")
            picture = gr.Image(
                label="A picture to search with",
                type="filepath",
                image_mode=None,  # nothing is decoded before its size is checked
                sources=["upload", "clipboard"],
                height=220,
                elem_id="picture",
            )
        results = gr.HTML(_WELCOME, js_on_load=_JS, elem_id="results")
        detail = gr.HTML(js_on_load=_JS, elem_id="detail")

        asked = [sentence, cameras, after, before, top_k, group_by, picture]
        # Each event is one request with one answer. Gradio's queue answers over a stream that it closes when nothing
        # is pending; what is sent in that moment stays without an answer. The gate bounds what computes and waits.
        options: dict[str, Any] = {"show_progress": "minimal", "queue": False, "api_visibility": "private"}

        async def find(make_search: Callable[[], Search]) -> str:
            return await _answer(lambda: results_html(service.search(make_search())), gate)

        async def search(like_id: str, *values: Any) -> tuple[str, str]:
            """A new sentence or picture takes the place of the image that was searched with."""
            text, uploaded = values[0] or "", values[-1]
            like_id = "" if text.strip() or uploaded else like_id
            return like_id, await find(lambda: _to_search(like_id, *values))

        async def more_like_this(
            cameras: list, after: str, before: str, top_k: int, group_by: str, event: gr.EventData
        ) -> tuple[Any, ...]:
            """An image takes the place of the sentence and the picture."""
            found = await find(lambda: _to_search(event.id, "", cameras, after, before, top_k, group_by, None))
            return event.id, "", None, found, ""

        async def open_image(event: gr.EventData) -> str:
            return await _answer(lambda: _detail(service, event.id, event.sentence), gate)

        async def follow_link(address: str) -> Any:
            """What the page's address asks for: in the fields, and searched for."""
            params = QueryParams(address.removeprefix("?"))
            if not (params.get("q") or params.get("like")):
                return gr.skip()  # somebody may be typing already
            shown = [params.get(name, "") for name in ("q", "after", "before", "like")]
            text, since, until, like_id = (value[:MAX_SENTENCE] for value in shown)
            count = params.get("top_k", "")
            values: list[Any] = [
                text,
                params.getlist("camera"),
                since,
                until,
                min(max(int(count), 1), MAX_RESULTS) if count.isdecimal() else Search.top_k,
                params.get("group_by") if params.get("group_by") in dict(groups).values() else "",
            ]
            return [like_id, *values, await find(lambda: _to_search(like_id, *values, None))]

        gr.on([sentence.submit, button.click], search, [like, *asked], [like, results], **options)
        examples.load_input_event.then(search, [like, *asked], [like, results], **options)
        conditions = asked[1:-1]
        for place in (results, detail):
            place.more_like_this(more_like_this, conditions, [like, sentence, picture, results, detail], **options)
        results.open_image(open_image, None, detail, **options)
        page.load(follow_link, link, [like, *asked[:-1], results], js="() => window.location.search", **options)
    return page


def _to_search(
    like: str,
    sentence: str | None,
    cameras: list[str] | None,
    after: str | None,
    before: str | None,
    top_k: float,
    group_by: str | None,
    picture: str | None,
) -> Search:
    """What the fields say."""
    return Search(
        q=sentence or "",
        like=like,
        camera=tuple(map(str, cameras or ())),
        after=(after or "").strip(),
        before=(before or "").strip(),
        top_k=int(top_k),
        group_by=group_by or "",
        picture=None if picture is None else Path(picture).read_bytes(),
    )


def _detail(service: SearchService, id: str, sentence: str) -> str:
    """One image; if it was found by a sentence, with its score and the reasons."""
    hit, explanation, problem = service.get(id), None, ""
    if sentence and is_there(hit):
        try:
            explanation = service.why(id, sentence)
        except (ValueError, OSError) as error:
            problem = str(error)
    return detail_html(hit, sentence, explanation, problem)


async def _answer(work: Callable[[], str], gate: Gate) -> str:
    """HTML, or the message that says why there is none."""
    try:
        return await gate.run(work)
    except (ValueError, OSError, BusyError) as error:
        return message_html(str(error))


def _example_time(value: datetime | None) -> str:
    return "" if value is None else f"{value:%Y-%m-%d %H:%M}"
