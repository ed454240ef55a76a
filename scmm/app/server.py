"""Runs the web application until it is interrupted."""

import contextlib
import os
import signal
import socket
import sys
import tempfile
from ipaddress import ip_address
from pathlib import Path

import uvicorn

from scmm.app.service import SearchService


# Each open page holds a few connections. Beyond this, the server answers 503 at once.
_MAX_CONNECTIONS = 256


def run_server(service: SearchService, *, host: str, port: int, auth: tuple[str, str] | None = None) -> None:
    """
    Serves until it is interrupted. Uploaded pictures lie in a folder of their own that is removed at the end.

    Args:
        service ([`SearchService`]): what is served.
        host (`str`): the address to listen at.
        port (`int`): the port; 0 takes a free one.
        auth (`tuple[str, str]`, *optional*): the user and the password that are asked for.
    """
    from scmm.app.api import create_app  # Gradio is slow to import and reads the environment then

    with tempfile.TemporaryDirectory(prefix="scmm-serve-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        app = create_app(service, Path(folder), auth=auth, local_only=_is_loopback(host))
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # it would hold the queries
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_graceful_shutdown=3,
        )
        with _listen(host, port) as listener:
            address = f"[{host}]" if ":" in host else host
            url = f"http://{address}:{listener.getsockname()[1]}"
            print(f"Searching {len(service.gallery):,} images at {url} (Ctrl+C ends it)", flush=True)
            # uvicorn ends by the signal that it got; the folder must be removed before the process ends.
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            with contextlib.suppress(KeyboardInterrupt):
                uvicorn.Server(config).run([listener])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else error
        raise OSError(f"{host} port {port}: {reason}. Choose another one with --port; 0 takes a free one.") from error


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
