"""scikit-learn's own tests of its multilayer perceptrons, run on our estimators: only the class names are replaced.

The source of the tests is read from the installed scikit-learn and never written to a file.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

pytestmark = pytest.mark.slow

sklearn = pytest.importorskip("sklearn")

NAMES = {"MLPClassifier": "DenseClassifier", "MLPRegressor": "DenseRegressor"}
IMPORT = "from sklearn.neural_network import MLPClassifier, MLPRegressor"
PRIVATE = {
    "test_gradient": "calls _loss_grad_lbfgs; tests/nn/test_gradients.py has our tests of gradients",
    "test_learning_rate_warmstart": "reads _optimizer.learning_rate; test_estimators_parity.py compares rates",
    "test_adaptive_learning_rate": "reads _optimizer.learning_rate; test_estimators_parity.py compares rates",
}
"""Tests that fail because they use private attributes of scikit-learn's classes, with the reasons."""


def load_sklearn_tests() -> ModuleType:
    """Return scikit-learn's test module, with its estimator classes replaced by ours."""
    spec = find_spec("sklearn.neural_network.tests.test_mlp")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-learn is installed without its tests", allow_module_level=True)
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert source.count(IMPORT) == 1, "the import of the classes has changed in scikit-learn's tests"
    source = source.replace(IMPORT, f"from deepnotes import {', '.join(NAMES.values())}")
    for name, ours in NAMES.items():
        source = re.sub(rf"\b{name}\b", ours, source)
    module = ModuleType("theirs")
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return module


@pytest.fixture
def global_random_seed() -> int:
    """Return the default seed of scikit-learn's test suite."""
    return 42


def marked_tests() -> dict[str, Any]:
    """Return the tests by name; those that use private attributes are expected to fail."""
    tests = {name: test for name, test in vars(load_sklearn_tests()).items() if name.startswith("test_")}
    for name, reason in PRIVATE.items():
        tests[name] = pytest.mark.xfail(reason=reason, strict=True)(tests[name])
    return tests


globals().update(marked_tests())
