"""The web application: the JSON API, the images, and the page, in one process."""

from pathlib import Path
from typing import Annotated, Any

import gradio as gr
from fastapi import FastAPI, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.middleware.trustedhost import TrustedHostMiddleware

from scmm.app.guard import MAX_UPLOAD, BasicAuth, BodyLimit, BusyError, Gate, SafeHeaders
from scmm.app.page import CSS, build_page
from scmm.app.service import MAX_RESULTS, MAX_SENTENCE, Found, NoSuchImageError, Search, SearchService, to_record
from scmm.processing import ImageError


# The names under which a browser on this machine may ask: another name that leads here is another site's trick.
_LOCAL_NAMES = ["127.0.0.1", "localhost", "[::1]"]

Sentence = Annotated[str, Field(max_length=MAX_SENTENCE, description="A sentence.")]
ImageId = Annotated[str, Field(description="The id of an image of the gallery.")]
Time = Annotated[str, Field(description="A time in the form of ISO 8601; without a zone it is UTC.")]


class Conditions(BaseModel, extra="forbid"):  # what is misspelt must not be a condition that is dropped
    """The parameters of every search."""

    q: Sentence = ""
    camera: tuple[str, ...] = Field((), description="Of one of these cameras.")
    after: Time = ""
    before: Time = ""
    top_k: int = Field(Search.top_k, ge=1, le=MAX_RESULTS, description="How many images.")
    group_by: str = Field("", description="person, near-duplicates, or a column of which each value appears once.")


class Asked(Conditions):
    """The parameters of a search that sends no picture."""

    like: ImageId = ""


def create_app(
    service: SearchService,
    upload_folder: Path,
    *,
    auth: tuple[str, str] | None = None,
    local_only: bool = True,
    gate: Gate | None = None,
) -> FastAPI:
    """
    Builds the web application.

    Args:
        service ([`SearchService`]): what is served.
        upload_folder (`Path`): where pictures lie for some minutes that users search with; Gradio's `GRADIO_TEMP_DIR`.
        auth (`tuple[str, str]`, *optional*): the user and the password that are asked for.
        local_only (`bool`, defaults to `True`): whether requests have to name this machine as their host, so that no
            web site can lead a browser here under its own name.
        gate ([`Gate`], *optional*): how many computations at once.

    Returns:
        `FastAPI`: the application, for an ASGI server.
    """
    gate = gate or Gate()
    app = FastAPI(title="scmm", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json")
    _add_routes(app, service, gate)
    app = gr.mount_gradio_app(
        app,
        build_page(service, gate),
        path="/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=MAX_UPLOAD,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        css=CSS,
    )
    app.add_middleware(BodyLimit, upload_folder=upload_folder)
    if auth is not None:
        app.add_middleware(BasicAuth, user=auth[0], password=auth[1])
    elif local_only:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=_LOCAL_NAMES, www_redirect=False)
    app.add_middleware(SafeHeaders)
    return app


def _add_routes(app: FastAPI, service: SearchService, gate: Gate) -> None:
    @app.exception_handler(BusyError)
    async def busy(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 503, {"Retry-After": "2"})

    @app.exception_handler(NoSuchImageError)
    async def unknown(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 404)

    @app.exception_handler(OSError)
    @app.exception_handler(ImageError)
    async def gone(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 410)

    @app.exception_handler(ValueError)
    async def wrong(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    @app.get("/api/gallery")
    async def gallery() -> dict[str, Any]:
        """Figures of the gallery."""
        return await gate.run(service.facets)

    @app.get("/api/search")
    async def search(asked: Annotated[Asked, Query()]) -> dict[str, Any]:
        """Images for a sentence, or like an image of the gallery, or both."""
        return _to_json(await gate.run(service.search, Search(**asked.model_dump())))

    @app.post(
        "/api/search",
        openapi_extra={"requestBody": {"required": True, "content": {"image/*": {"schema": {"format": "binary"}}}}},
    )
    async def search_with_picture(request: Request, conditions: Annotated[Conditions, Query()]) -> dict[str, Any]:
        """Images like the picture that is the request's body, with a sentence or alone. It is not kept."""
        asked = Search(**conditions.model_dump(), picture=await request.body())
        try:
            return _to_json(await gate.run(service.search, asked))
        except ImageError as error:
            raise ValueError(str(error)) from error

    @app.get("/api/why")
    async def why(id: ImageId, q: Sentence) -> dict[str, Any]:
        """How much each word adds to an image's score, and how much each region answers it."""
        found = await gate.run(service.why, id, q)
        words = [
            {"word": word, "share": share, "map": values}
            for word, share, values in zip(found.words, found.shares.tolist(), found.maps.tolist(), strict=True)
        ]
        return {"score": found.score, "method": found.method, "words": words}

    @app.get("/image")
    async def image(id: ImageId) -> Response:
        """An image of the gallery as a small JPEG file."""
        return Response(await gate.run(service.image, id), media_type="image/jpeg")


def _to_json(found: Found) -> dict[str, Any]:
    return {"link": found.search.link(), "notes": found.notes, "results": [to_record(hit) for hit in found.hits]}
