"""Networks in the formats of others: ONNX files, scikit-learn's estimators, one file of Python that needs only NumPy.

What goes out or comes in is a :class:`~deepnotes.network.formats.chain.Chain`: dense layers, and what is done to the
inputs before them. A format knows of a network what a Chain says, so there is one place where a network is asked for
its preprocessing and for parts that no file can name.
"""
