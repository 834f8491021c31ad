"""Data sets, baselines, the paper's tables, benchmarks and experiments behind diekae."""
