"""What knowledge costs: seconds as ratios within one run, operations and bytes. Each benchmark is one file."""

from diekae_research.bench.setting import Bench, Comparison
from diekae_research.bench.suite import BENCHMARKS, run_benchmark

__all__ = ["BENCHMARKS", "Bench", "Comparison", "run_benchmark"]
