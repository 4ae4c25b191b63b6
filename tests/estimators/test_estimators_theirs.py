"""scikit-learn's own tests of its multilayer perceptrons, run on ours: only the names of the classes are replaced.

The tests are those of the installed scikit-learn, read from its file and never written anywhere.
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
    "test_gradient": "calls _loss_grad_lbfgs, scikit-learn's cost and gradient; ours are in tests/nn/test_gradients.py",
    "test_learning_rate_warmstart": "reads _optimizer.learning_rate; test_estimators_parity.py compares rates",
    "test_adaptive_learning_rate": "reads _optimizer.learning_rate; test_estimators_parity.py compares rates",
}
"""The tests that cannot be passed, since they ask for what only scikit-learn's own classes have, and which that is."""


def theirs() -> ModuleType:
    """Return scikit-learn's module of tests, on our classes."""
    spec = find_spec("sklearn.neural_network.tests.test_mlp")
    if spec is None or spec.origin is None:
        pytest.skip("scikit-learn is installed without its tests", allow_module_level=True)
    source = Path(spec.origin).read_text(encoding="utf-8")
    assert source.count(IMPORT) == 1, "scikit-learn imports its classes in another way now"
    source = source.replace(IMPORT, f"from deepnotes import {', '.join(NAMES.values())}")
    for name, ours in NAMES.items():
        source = re.sub(rf"\b{name}\b", ours, source)
    module = ModuleType("theirs")
    exec(compile(source, spec.origin, "exec"), module.__dict__)
    return module


@pytest.fixture
def global_random_seed() -> int:
    """The seed that scikit-learn's suite has by default."""
    return 42


def found() -> dict[str, Any]:
    """Return the tests, those of private attributes marked."""
    tests = {name: test for name, test in vars(theirs()).items() if name.startswith("test_")}
    for name, reason in PRIVATE.items():
        tests[name] = pytest.mark.xfail(reason=reason, strict=True)(tests[name])
    return tests


globals().update(found())
