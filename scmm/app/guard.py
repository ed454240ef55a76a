"""What stands before the page and the API: who may come in, how much at once, and what a browser may do with it."""

import base64
import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from anyio import CapacityLimiter, to_thread
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

# A picture to search with, and anything else: a few hundred bytes, were it not for a session's state.
MAX_UPLOAD = 16 * 2**20
MAX_BODY = 2**18
# Pictures that wait on the disk to be searched with, all users' together; they are deleted after some minutes.
MAX_UPLOADED = 256 * 2**20

# The page may load and ask nothing but this server. Gradio compiles its components in the browser: 'unsafe-eval'.
_HEADERS = {
    "content-security-policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; object-src 'none'; "
    "base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


class BusyError(RuntimeError):
    """Too many requests are waiting already."""


class Gate:
    """
    Lets a few computations run at once and some more wait, and turns the others away.

    Args:
        at_once (`int`, defaults to 2): computations at once; each has a thread.
        waiting (`int`, defaults to 64): how many may wait.
    """

    def __init__(self, at_once: int = 2, waiting: int = 64):
        self._limiter = CapacityLimiter(at_once)
        self._inside = 0
        self._most = at_once + waiting

    async def run(
        self, function: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """
        Runs a function in a thread.

        Raises:
            BusyError: if too many are waiting.
        """
        if self._inside >= self._most:
            raise BusyError("Too many people are searching at this moment. Try again in a few seconds.")
        self._inside += 1
        try:
            return await to_thread.run_sync(lambda: function(*args, **kwargs), limiter=self._limiter)
        finally:
            self._inside -= 1


class SafeHeaders:
    """Tells browsers to load nothing from elsewhere, to keep no image, and to stay out of other sites' frames."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self.app(scope, receive, send_with_headers if scope["type"] == "http" else send)


class BasicAuth:
    """
    Asks for a user and a password, by HTTP's own dialog.

    Args:
        app: what is protected.
        user, password (`str`): what is accepted. Without TLS before this server they can be read on the way.
    """

    def __init__(self, app: ASGIApp, user: str, password: str):
        self.app = app
        self._expected = f"{user}:{password}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket") and not self._is_known(Headers(scope=scope)):
            response = PlainTextResponse(
                "A user and a password are needed.", 401, {"WWW-Authenticate": 'Basic realm="scmm", charset="UTF-8"'}
            )
            await response(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_known(self, headers: Headers) -> bool:
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        try:
            given = base64.b64decode(credentials, validate=True)
        except ValueError:
            return False
        return scheme.lower() == "basic" and secrets.compare_digest(given, self._expected)


class BodyLimit:
    """
    Refuses requests that are too large, and uploads that would fill the disk.

    Args:
        app: what is protected.
        upload_folder (`Path`): where Gradio keeps uploaded pictures.
    """

    def __init__(self, app: ASGIApp, upload_folder: Path):
        self.app = app
        self._folder = upload_folder
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in ("GET", "HEAD", "OPTIONS"):
            await self.app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if not length.isdecimal():
            await PlainTextResponse("A request with a body needs its Content-Length.", 411)(scope, receive, send)
            return
        size = int(length)
        is_upload = scope["path"].endswith("/upload")
        limit = MAX_UPLOAD if is_upload or scope["path"].endswith("/api/search") else MAX_BODY
        if size > limit:
            message = f"{size:,} bytes are more than the limit of {limit:,}."
            await PlainTextResponse(message, 413)(scope, receive, send)
            return
        # The server's parser holds a body to its Content-Length, so that what was announced is what is written.
        if is_upload and self._on_disk() + self._under_way + size > MAX_UPLOADED:
            await PlainTextResponse("Too many pictures wait to be searched with. Try again in some minutes.", 503)(
                scope, receive, send
            )
            return
        self._under_way += size * is_upload
        try:
            await self.app(scope, receive, send)
        finally:
            self._under_way -= size * is_upload

    def _on_disk(self) -> int:
        total = 0
        for folder, _, names in os.walk(self._folder):
            for name in names:
                with contextlib.suppress(FileNotFoundError):  # Gradio deletes old ones meanwhile
                    total += os.path.getsize(os.path.join(folder, name))
        return total
