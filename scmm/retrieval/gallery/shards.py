"""A source in shards and parts: who embeds which images, and the Parquet files that the embeddings go to."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


# How a launcher tells a process its place: the name of its number, of the count, and of the first number.
_TORCHRUN = ("RANK", "WORLD_SIZE", None)
_SLURM_ARRAY = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN")
_SLURM_TASKS = ("SLURM_PROCID", "SLURM_NTASKS", None)
_FILE_NAME = re.compile(r"shard-(\d+)-of-(\d+)-part-(\d+)-of-(\d+)\.parquet")


class ShardError(ValueError):
    """A share of work that does not exist, or files of shards that do not belong together."""


@dataclass(frozen=True)
class Shard:
    """
    A share of a source: number `index` of `count`.

    Args:
        index (`int`): from 0 to `count - 1`.
        count (`int`): how many shards the source has.

    Example:

    ```python
    >>> from scmm.retrieval.gallery.shards import Shard
    >>> Shard.parse("1/4").rows(10), Shard.from_environment({"RANK": "2", "WORLD_SIZE": "4"})
    (range(2, 5), Shard(index=2, count=4))

    ```
    """

    index: int
    count: int

    def __post_init__(self):
        if not 0 <= self.index < self.count:
            raise ShardError(f"There is no shard {self}: with {self.count} shards they are 0 to {self.count - 1}.")

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """
        A shard from a text such as `0/4`.

        Raises:
            ShardError: if it is none.
        """
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if not found:
            raise ShardError(f"{text!r} is not a shard such as 0/4, the first one of four.")
        return cls(int(found[1]), int(found[2]))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Shard":
        """
        The share of this process, as its launcher says: torchrun, or SLURM with `srun`; in each task of a SLURM array
        its part of that task's share. Without a launcher it is everything.

        Args:
            environment (`Mapping[str, str]`, defaults to `os.environ`): the environment variables.

        Raises:
            ShardError: if the numbers of a SLURM array have gaps.
        """
        task = _place(environment, *_SLURM_ARRAY)
        process = _place(environment, *(_TORCHRUN if "RANK" in environment else _SLURM_TASKS))
        return cls(task.index * process.count + process.index, task.count * process.count)

    def rows(self, total: int) -> range:
        """The rows of a source of `total` rows."""
        return range(self.index * total // self.count, (self.index + 1) * total // self.count)

    def parts(self, total: int, part_size: int) -> list["Part"]:
        """The parts of this shard, of at most `part_size` rows of a source of `total` rows; at least one."""
        rows = self.rows(total)
        count = max(1, -(-len(rows) // part_size))
        return [Part(self, number, count, rows[number * part_size :][:part_size]) for number in range(count)]


@dataclass(frozen=True)
class Part:
    """Some rows of a shard, whose embeddings one file holds. It is written at once or not at all."""

    shard: Shard
    index: int
    count: int
    rows: range

    @property
    def file_name(self) -> str:
        return f"{self.prefix}{self.index:05d}-of-{self.count:05d}.parquet"

    @property
    def prefix(self) -> str:
        """What the names of all parts of the shard begin with."""
        return f"shard-{self.shard.index:05d}-of-{self.shard.count:05d}-part-"


def shard_files(folder: Path) -> list[Path]:
    """
    The files of a folder of shards, in the order of the source; none if it is no such folder.

    Raises:
        ShardError: if they are not of one division into shards.
    """
    found = sorted(path for path in folder.iterdir() if _FILE_NAME.fullmatch(path.name))
    counts = {(shards, "shards") for _, shards, _, _ in map(_numbers, found)}
    parts = {(shard, parts) for shard, _, _, parts in map(_numbers, found)}
    if len(counts) > 1 or len({shard for shard, _ in parts}) < len(parts):
        raise ShardError(f"{folder} holds shards of several divisions, such as {found[0].name} and {found[-1].name}.")
    return found


def check_complete(folder: Path, files: list[Path]) -> None:
    """
    Makes sure that every part of every shard is there.

    Raises:
        ShardError: if not; the message names what is missing.
    """
    numbers = [_numbers(file) for file in files]
    count = numbers[0][1]
    for index in range(count):
        here = [(part, parts) for shard, _, part, parts in numbers if shard == index]
        if not here or len(here) < here[0][1]:
            done = f"{len(here)} of {here[0][1]} parts" if here else "no part"
            raise ShardError(
                f"{folder} is not complete: it holds {done} of shard {index}/{count}. Run `scmm index embed` with "
                f"--shard {index}/{count} again; it goes on where it ended."
            )


def _numbers(file: Path) -> tuple[int, int, int, int]:
    """Shard, number of shards, part, number of parts."""
    found = _FILE_NAME.fullmatch(file.name)
    assert found is not None
    shard, shards, part, parts = map(int, found.groups())
    return shard, shards, part, parts


def _place(environment: Mapping[str, str], number: str, count: str, first: str | None) -> Shard:
    if number not in environment or count not in environment:
        return Shard(0, 1)
    index = int(environment[number]) - (int(environment.get(first, 0)) if first else 0)
    if index >= int(environment[count]):
        raise ShardError(
            f"{number} is {environment[number]} and {count} is {environment[count]}: give --shard, or number the "
            "tasks without gaps."
        )
    return Shard(index, int(environment[count]))
