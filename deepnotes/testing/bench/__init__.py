"""Tools for ``deepnotes bench`` and for the benchmarks in the source tree: timing, limits, measurements, figures."""
