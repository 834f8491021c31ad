"""What knowledge costs: seconds as ratios within one run, operations and bytes; one file a benchmark."""

from diekae_research.bench.setting import Bench, Row
from diekae_research.bench.suite import BENCHMARKS, run_benchmark

__all__ = ["BENCHMARKS", "Bench", "Row", "run_benchmark"]
