"""Checks of the CuPy backend on a GPU, and comparisons with other libraries: ``python -m benchmarks.gpu``."""
