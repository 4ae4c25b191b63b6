"""The measurements of iris flowers that come with the package."""

import csv
from importlib.resources import files

import numpy as np

from deepnotes.datasets.synthetic import Points

IRIS = files("deepnotes.datasets").joinpath("iris.csv")
"""The file that holds the measurements."""


def load_iris() -> Points:
    """Return the measurements of 150 iris flowers, 50 of each of three species.

    Source: R. A. Fisher, The use of multiple measurements in taxonomic problems, 1936; from the UCI repository, CC BY
    4.0. The licence and the origin of the data are in ``iris.LICENSE``, beside the data.

    Returns
    -------
    Points
        `X` of shape (150, 4), in centimetres, and `y`, the index of the species in `classes`.

    Examples
    --------
    >>> iris = load_iris()
    >>> iris.X.shape, iris.feature_names, iris.classes
    ((150, 4), ['sepal_length', 'sepal_width', 'petal_length', 'petal_width'], ['setosa', 'versicolor', 'virginica'])
    """
    header, *rows = csv.reader(IRIS.read_text(encoding="utf-8").splitlines())
    classes, y = np.unique([row[-1] for row in rows], return_inverse=True)
    X = np.array([row[:-1] for row in rows], dtype=np.float64)
    return Points(X, y.astype(np.int64), header[:-1], classes.tolist())
