"""What other processes do in the gallery's tests."""

import sys
from pathlib import Path


def build(checkpoint: Path, source: Path, gallery: Path) -> None:
    """`scmm index build`, with one thread."""
    import torch

    from scmm.cli import main

    torch.set_num_threads(1)
    sys.argv = ["scmm", "index", "build", str(source), "--model", str(checkpoint), "--gallery", str(gallery)]
    main()
