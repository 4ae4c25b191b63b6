"""Benchmarks: each time is reported next to another one that was measured in the same run."""
