"""What other processes do in the gallery's tests. They are forked from one that has imported what is imported here."""

import sys
from pathlib import Path

import torch

import scmm.cli
import scmm.data.benchmarks
import scmm.retrieval.gallery


def build(checkpoint: Path, source: Path, gallery: Path) -> None:
    """`scmm index build`, with one thread."""
    torch.set_num_threads(1)
    sys.argv = ["scmm", "index", "build", str(source), "--model", str(checkpoint), "--gallery", str(gallery)]
    scmm.cli.main()
