"""Which benchmarks share footage."""

import pytest

from scmm.data.footage import shared_footage


@pytest.mark.parametrize(
    "dataset, other, footage",
    [
        ("icfg-pedes", "rstpreid", "MSMT17"),
        ("rstpreid", "icfg-pedes", "MSMT17"),
        ("rstpreid", "rstpreid", None),  # its splits share nobody
        ("cuhk-pedes", "rstpreid", None),
        ("cuhk-pedes", "paperdoll", None),  # neither is known
    ],
)
def test_shared_footage(dataset, other, footage):
    assert shared_footage(dataset, other) == footage
