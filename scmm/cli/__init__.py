"""The command line `scmm`. Heavy imports wait until a command runs, so that help is quick."""

import sys

import typer

from scmm.cli import analyze, data, experiments, export, hub, index, results, retrieval, search, serve, training


app = typer.Typer(
    name="scmm",
    help="Find the images of a person from a sentence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for group in (training, experiments, results, retrieval, index, search, serve, hub, export):
    app.add_typer(group.app)
app.add_typer(data.app, name="data")
app.add_typer(analyze.app, name="analyze")


def main() -> None:
    """Runs the command line; a user's mistake is one line and exit code 2."""
    try:
        app()
    except Exception as error:
        if not _is_users_mistake(error):
            raise
        message = str(error)
        if "Original Traceback" in message:  # what a data loader's worker sends; the error itself is the last line
            message = message.strip().splitlines()[-1].partition(": ")[2]
        typer.echo(f"scmm: error: {' '.join(message.split())}", err=True)
        sys.exit(2)


def _is_users_mistake(error: Exception) -> bool:
    """Files, values and checkpoints that a user gave; anything else is ours and keeps its traceback."""
    if isinstance(error, OSError | ValueError):
        return True
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    return isinstance(error, StrictDataclassError | SafetensorError)
