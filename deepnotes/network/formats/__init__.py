"""File formats: model files, ONNX files, and Python files that need only NumPy.

ONNX, Python files and scikit-learn's estimators go through a :class:`~deepnotes.network.formats.chain.Chain`: dense
layers and the preprocessing before them. These formats see of a network only what its Chain holds, so only one place
reads a network's preprocessing and refuses parts that a file cannot describe.
"""
