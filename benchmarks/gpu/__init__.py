"""The CuPy backend on a GPU, checked against the equations and measured beside others: ``python -m benchmarks.gpu``."""
