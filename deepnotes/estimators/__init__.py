"""Drop-in replacements for scikit-learn's multilayer perceptrons, on any backend; needs the extra ``sklearn``.

Samples are rows, as in scikit-learn; the rest of the package gets a transposed view.
"""

from deepnotes.utils.errors import MissingExtraError

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise MissingExtraError("deepnotes.estimators", "sklearn", error) from error

from deepnotes.estimators.classifier import DenseClassifier
from deepnotes.estimators.cross_validation import cross_validate
from deepnotes.estimators.ensembles import DenseEnsembleClassifier, DenseEnsembleRegressor
from deepnotes.estimators.regressor import DenseRegressor
from deepnotes.estimators.search import DenseSearchCV

__all__ = [
    "DenseClassifier",
    "DenseEnsembleClassifier",
    "DenseEnsembleRegressor",
    "DenseRegressor",
    "DenseSearchCV",
    "cross_validate",
]
