"""Reads the benchmarks of the field from the copies that users hold, into one normalized `datasets.DatasetDict`."""

from scmm.data.benchmarks.loading import BenchmarkSplits, load_benchmark
from scmm.data.benchmarks.sources import BenchmarkError, read_records


__all__ = ["BenchmarkError", "BenchmarkSplits", "load_benchmark", "read_records"]
