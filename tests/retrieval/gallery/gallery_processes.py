"""What other processes do in the gallery's tests. They are forked from one that has imported what is imported here."""

from pathlib import Path

import lance_namespace  # noqa: F401  most of what importing lancedb takes, and without its threads
import torch

import scmm.cli
import scmm.data.benchmarks
import scmm.retrieval.gallery


def build(checkpoint: Path, source: Path, gallery: Path) -> None:
    """`scmm index build`, with one thread."""
    torch.set_num_threads(1)
    command = ["index", "build", str(source), "--model", str(checkpoint), "--gallery", str(gallery)]
    scmm.cli.app(command, standalone_mode=False)
