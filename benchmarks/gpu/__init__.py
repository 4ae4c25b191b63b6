"""The CuPy backend on a GPU, held to the equations and measured beside others: ``python -m benchmarks.gpu``."""
