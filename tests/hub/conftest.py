"""A Hub on 127.0.0.1, and interpreters that use it: with `scmm` and clean, with the newest and oldest transformers."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from hub_client import HubClient
from hub_server import HubServer


REPOSITORY_ROOT = Path(__file__).parents[2]

if not hasattr(os, "fork"):
    collect_ignore_glob = ["*"]  # the clients fork


@pytest.fixture(scope="session")
def hub() -> Iterator[HubServer]:
    """The Hub. Tests share it, so each names its own repositories."""
    with HubServer() as server:
        yield server


@pytest.fixture(scope="session")
def _clients(hub: HubServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[HubClient, HubClient]]:
    home = tmp_path_factory.mktemp("hub")
    with_scmm = HubClient(hub.url, home / "with_scmm", import_scmm_from=REPOSITORY_ROOT)
    clean = HubClient(hub.url, home / "clean")  # both import torch at the same time
    yield with_scmm, clean
    with_scmm.close()
    clean.close()


@pytest.fixture(scope="session")
def client(_clients: tuple[HubClient, HubClient]) -> HubClient:
    """An interpreter with `scmm`, whose user has a token."""
    return _clients[0]


@pytest.fixture(scope="session")
def clean(_clients: tuple[HubClient, HubClient]) -> HubClient:
    """An interpreter with the newest transformers, where `import scmm` fails."""
    return _clients[1]


@pytest.fixture(scope="session")
def oldest_python(pytestconfig: pytest.Config) -> str:
    """An interpreter with the oldest transformers and huggingface_hub that pyproject.toml allows, else as this one."""
    project = tomllib.loads((REPOSITORY_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lowest = dict(re.findall(r"'(\w+)>=([\d.]+)", str(project["dependencies"])))
    pins = [f"{name}=={lowest[name]}" for name in ("transformers", "huggingface_hub")]
    folder = Path(pytestconfig.cache.mkdir("-".join(pins).replace("==", "-")))
    python, done = folder / "bin" / "python", folder / "installed"
    if not done.exists():
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--clear", folder], check=True)
        packages = Path(next(folder.glob("lib/*/site-packages")))
        (packages / "project.pth").write_text(sysconfig.get_path("purelib"))  # torch and the rest come from here
        install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *pins]
        installed = subprocess.run(install, capture_output=True, text=True, timeout=300)
        if installed.returncode:
            pytest.skip(f"{' and '.join(pins)} cannot be installed: {installed.stderr.strip().splitlines()[-1]}")
        done.touch()
    return str(python)


@pytest.fixture(scope="session")
def clean_oldest(hub: HubServer, oldest_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    """An interpreter with the oldest transformers, where `import scmm` fails."""
    client = HubClient(hub.url, tmp_path_factory.mktemp("hub") / "clean_oldest", oldest_python)
    yield client
    client.close()


@pytest.fixture(scope="session")
def client_oldest(hub: HubServer, oldest_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubClient]:
    """An interpreter with `scmm` and the oldest transformers."""
    home = tmp_path_factory.mktemp("hub") / "client_oldest"
    client = HubClient(hub.url, home, oldest_python, import_scmm_from=REPOSITORY_ROOT)
    yield client
    client.close()
