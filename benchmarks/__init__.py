"""Benchmarks: how long things take, always beside something else that was timed in the same run."""
