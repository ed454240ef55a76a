"""
Fetches transformers' own common tests, from the source distribution of the version that is installed.

    python tests/hf/fetch_transformers_tests.py .cache/transformers_tests

They are unpacked into `FOLDER/VERSION/transformers_tests`; nothing is fetched where they are there already.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


def fetch(cache: Path) -> Path:
    """Downloads with pip, so that the user's index and certificates count; returns the folder of the tests."""
    release = version("transformers")
    folder = cache / release / "transformers_tests"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        subprocess.run([*pip, "--dest", scratch, f"transformers=={release}"], check=True)
        (archive,) = Path(scratch).glob("transformers-*.tar.gz")
        root = f"transformers-{release}"
        with tarfile.open(archive) as tar:
            members = [member for member in tar if member.name.startswith(f"{root}/tests/")]
            tar.extractall(scratch, members=members, filter="data")
        tests = Path(scratch, root, "tests")
        (tests / "__init__.py").touch()
        tests.rename(folder)  # at once: an interrupted fetch leaves nothing that looks complete
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path, metavar="FOLDER")
    print(fetch(parser.parse_args().cache))
