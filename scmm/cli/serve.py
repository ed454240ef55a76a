"""`scmm serve`: a page and a JSON API to search in a gallery."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer


if TYPE_CHECKING:
    from scmm.app.service import SearchService


app = typer.Typer()


@app.command(epilog="Example:  scmm serve runs/gallery --port 7860")
def serve(
    gallery: Annotated[Path, typer.Argument(metavar="GALLERY", help="The gallery's folder.")],
    model: Annotated[
        str | None,
        typer.Option(help="The gallery's model, if it is no longer where it was: folder or Hub id."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="The address to listen at; 0.0.0.0 lets every machine in, so set a password.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 7860,
    auth: Annotated[
        str | None,
        typer.Option(
            envvar="SCMM_AUTH",
            show_envvar=True,
            metavar="USER:PASSWORD",
            help="Ask for this user and password. Other users of the machine can read a command's options, so better "
            "set the variable. Beyond this machine, put a proxy with TLS before it: passwords are sent readable.",
        ),
    ] = None,
    log_queries: Annotated[
        bool, typer.Option("--log-queries", help="Log what is searched for. By default no query is logged.")
    ] = False,
) -> None:
    """Serve a page to search in a gallery, and a JSON API (/api/openapi.json)."""
    from scmm.extras import import_extra

    credentials = _credentials(auth)
    # Before Gradio is imported: it reads these then.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import_extra("gradio", "app")
    from scmm.app.server import run_server

    if log_queries:
        logging.basicConfig(format="%(asctime)s %(message)s")
        logging.getLogger("scmm.app").setLevel(logging.INFO)
    if credentials is None and host not in ("127.0.0.1", "::1", "localhost"):
        typer.echo(f"Anybody who reaches {host} can search: there is no password (--auth).", err=True)
    run_server(_service(gallery, model, log_queries), host=host, port=port, auth=credentials)


def _credentials(auth: str | None) -> tuple[str, str] | None:
    if auth is None:
        return None
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise ValueError("The user and the password are given as USER:PASSWORD.")
    return user, password


def _service(path: Path, checkpoint: str | None, log_queries: bool) -> "SearchService":
    """The gallery with its model; with the decoder too where the checkpoint has one."""
    from transformers.utils import logging

    from scmm.app.service import SearchService
    from scmm.retrieval.checkpoints import load_decoder, load_dual_encoder
    from scmm.retrieval.gallery import Gallery

    logging.disable_progress_bar()
    identity = Gallery.open(path).identity
    name, revision = (identity.name, identity.revision) if checkpoint is None else (checkpoint, None)
    model, processor = load_dual_encoder(name, revision, identity.backend)
    gallery = Gallery.open(path, model=model, processor=processor)
    if identity.backend != "torch":  # an explanation needs gradients or the decoder
        try:
            model, _ = load_dual_encoder(name, revision)
        except ValueError as error:
            typer.echo(f"No result will be explained: {error}", err=True)
            return SearchService(gallery, log_queries=log_queries)
    return SearchService(gallery, load_decoder(name, model, revision) or model, log_queries)
