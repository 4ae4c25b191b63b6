"""File formats: model files, ONNX files, and Python files that need only NumPy.

Conversions between networks and ONNX files, Python files or scikit-learn's estimators go through a
:class:`~deepnotes.network.formats.chain.Chain`: dense layers and the preprocessing of their inputs. Only the class
Chain reads the attributes of a network, and it refuses networks that these formats cannot represent.
"""
