"""What ``deepnotes bench`` and the benchmarks of the source tree measure with: clock, limits, runs, figures."""
