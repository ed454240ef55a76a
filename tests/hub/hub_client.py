"""
A client of the Hub in an interpreter of its own: with its own environment, with or without `scmm`, and with the
transformers of choice. It imports torch and transformers once and forks for every job, so that a job costs a blink.
"""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hub_server import TOKEN


PRELOADED = "torch, transformers, transformers.models.auto.modeling_auto, transformers.models.auto.processing_auto"


@dataclass
class Result:
    """What a job printed, and whether it came to its end."""

    ok: bool
    output: str
    errors: str


class HubClient:
    """
    Runs Python code against a Hub.

    Args:
        endpoint (`str`): the server's URL.
        home (`Path`): an empty folder for caches; also the working directory.
        python (`str`): the interpreter.
        import_scmm_from (`Path`, *optional*): the folder that holds the package; without it, `import scmm` fails.
    """

    def __init__(self, endpoint: str, home: Path, python: str = sys.executable, import_scmm_from: Path | None = None):
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
        environment |= {
            "HF_ENDPOINT": endpoint,
            "HF_HOME": str(home / "hf"),
            "HF_TOKEN": TOKEN,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
            "NO_PROXY": "127.0.0.1",
        }
        if import_scmm_from is not None:
            environment["PYTHONPATH"] = str(import_scmm_from)
        command = [python, __file__, "with scmm" if import_scmm_from else "without scmm"]
        home.mkdir(parents=True, exist_ok=True)
        self.process = subprocess.Popen(
            command, env=environment, cwd=home, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, code: str, token: str | None = TOKEN, **values: Any) -> Result:
        """Runs `code`, which finds `values` as variables; `token` is the user's, `None` for nobody."""
        self.process.stdin.write(json.dumps({"code": code, "token": token, "values": values}) + "\n")
        self.process.stdin.flush()
        return Result(**json.loads(self.process.stdout.readline()))

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def _serve() -> None:
    """The other side: reads jobs, runs each in a fork, answers with what it printed."""
    if sys.argv[1] == "without scmm":
        sys.modules["scmm"] = None  # whatever is installed, `import scmm` raises ModuleNotFoundError
    exec(f"import {PRELOADED}")
    for line in sys.stdin:
        job = json.loads(line)
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            process = os.fork()
            if process == 0:
                os.dup2(output.fileno(), 1)
                os.dup2(errors.fileno(), 2)
                status = 1
                try:
                    os.environ.pop("HF_TOKEN")
                    if job["token"] is not None:
                        os.environ["HF_TOKEN"] = job["token"]
                    exec(compile(job["code"], "job", "exec"), {"__name__": "job", **job["values"]})
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stdout.flush()
                    sys.stderr.flush()
                    os._exit(status)
            _, status = os.waitpid(process, 0)
            output.seek(0)
            errors.seek(0)
            answer = {"ok": status == 0, "output": output.read(), "errors": errors.read()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    _serve()
