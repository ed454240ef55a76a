"""Shards: every row belongs to one part of one shard, whoever launches; files that do not go together are named."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scmm.retrieval.gallery.shards import Shard, ShardError, check_complete, shard_files


@given(st.integers(0, 200), st.integers(1, 20), st.integers(1, 50))
def test_parts_of_all_shards_cover_every_row_once_in_order(total: int, count: int, part_size: int) -> None:
    shards = [Shard(index, count).parts(total, part_size) for index in range(count)]
    rows = [row for parts in shards for part in parts for row in part.rows]
    assert rows == list(range(total))
    assert all(parts and len(parts) == parts[0].count for parts in shards)
    assert all(len(part.rows) <= part_size for parts in shards for part in parts)
    names = [part.file_name for parts in shards for part in parts]
    assert names == sorted(set(names))


@pytest.mark.parametrize(
    "environment, shard",
    [
        ({}, Shard(0, 1)),
        ({"RANK": "3", "WORLD_SIZE": "8"}, Shard(3, 8)),
        ({"SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(1, 2)),
        # torchrun started by srun on each of two nodes: its own numbers count.
        ({"RANK": "5", "WORLD_SIZE": "8", "SLURM_PROCID": "1", "SLURM_NTASKS": "2"}, Shard(5, 8)),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_TASK_MIN": "1"}, Shard(3, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "2",
            },
            Shard(3, 6),
        ),
    ],
)
def test_launchers_say_which_shard_it_is(environment: dict[str, str], shard: Shard) -> None:
    assert Shard.from_environment(environment) == shard


def test_an_array_with_gaps_is_refused() -> None:
    environment = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "0"}
    with pytest.raises(ShardError, match=r"SLURM_ARRAY_TASK_ID is 7 .* give --shard"):
        Shard.from_environment(environment)


@pytest.mark.parametrize("text", ["", "1", "1/", "-1/4", "4/4", "0/0", "a/b", "1/4/2"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ShardError, match="shard"):
        Shard.parse(text)


def write(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).touch()


def test_other_files_are_not_shards(tmp_path: Path) -> None:
    write(tmp_path, "crop.png", ".shard-00000-of-00001-part-00000-of-00001.parquet.7.partial", "shard-1.parquet")
    assert shard_files(tmp_path) == []


def test_missing_parts_and_shards_are_named(tmp_path: Path) -> None:
    write(tmp_path, "shard-00000-of-00002-part-00000-of-00002.parquet")
    with pytest.raises(ShardError, match="holds 1 of 2 parts of shard 0/2"):
        check_complete(tmp_path, shard_files(tmp_path))
    write(tmp_path, "shard-00000-of-00002-part-00001-of-00002.parquet")
    with pytest.raises(ShardError, match="no part of shard 1/2"):
        check_complete(tmp_path, shard_files(tmp_path))
    write(tmp_path, "shard-00001-of-00002-part-00000-of-00001.parquet")
    files = shard_files(tmp_path)
    check_complete(tmp_path, files)
    assert len(files) == 3


@pytest.mark.parametrize(
    "other", ["shard-00000-of-00003-part-00000-of-00001", "shard-00000-of-00002-part-00000-of-00004"]
)
def test_two_divisions_in_one_folder_are_refused(tmp_path: Path, other: str) -> None:
    write(tmp_path, "shard-00000-of-00002-part-00000-of-00002.parquet", f"{other}.parquet")
    with pytest.raises(ShardError, match="several divisions"):
        shard_files(tmp_path)
