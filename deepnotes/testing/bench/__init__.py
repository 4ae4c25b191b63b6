"""Tools of ``deepnotes bench`` and of the benchmarks in the source tree: clock, limits, runs, figures."""
