"""Measurements beside the library's own: curves, intervals, probes, the harness."""
