"""The command that runs ablations: how it reads its seeds."""

import pytest
import typer
from typer.testing import CliRunner

from scmm import cli


def parsed(*args: str) -> dict:
    return typer.main.get_command(cli.app).commands["ablate"].make_context("ablate", list(args)).params


@pytest.mark.parametrize(
    "args",
    [
        "components --recipe r.yaml --seeds 0 1 2",
        "--seeds 0 1 2 components --recipe r.yaml",
        "components --seeds 0 1 2 --recipe r.yaml",
        "components --seeds 0 --recipe r.yaml --seeds 1 --seeds 2",
        "components --seeds 0 --seeds 1 2 --recipe r.yaml",
        "components --recipe r.yaml",
    ],
)
def test_seeds_may_stand_in_a_row(args):
    params = parsed(*args.split())
    assert list(params["seeds"]) == [0, 1, 2]
    assert params["study"] == "components" and str(params["recipe"]) == "r.yaml"


def test_a_number_elsewhere_is_no_seed():
    params = parsed("margin", "--seeds", "5", "--output-dir", "7", "--recipe", "8")
    assert (list(params["seeds"]), str(params["output_dir"]), str(params["recipe"])) == ([5], "7", "8")


@pytest.mark.parametrize("seeds", ["one", "", "1 x"])
def test_what_is_no_seed_is_refused(seeds):
    result = CliRunner().invoke(cli.app, ["ablate", "margin", "--recipe", "r.yaml", "--seeds", *seeds.split()])
    assert result.exit_code == 2
