"""File formats: model files, ONNX files, and Python files that need only NumPy.

Networks are converted to and from ONNX files, Python files and scikit-learn's estimators through a
:class:`~deepnotes.network.formats.chain.Chain`: dense layers and the preprocessing before them. Only the class Chain
reads the attributes of a network, and it refuses networks that these formats cannot represent.
"""
