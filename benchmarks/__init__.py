"""Benchmarks. Every reported time comes with another time from the same run, for comparison."""
