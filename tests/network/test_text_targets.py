"""Names of classes as targets of a network: refused, with the ways to convert them."""

import re

import numpy as np
import pytest

import deepnotes as dn

NAMES = ["a", "b", "b", "a"]
X = np.array([[0.0, 1.0, 2.0, 3.0]])


def network() -> dn.Network:
    return dn.Network([dn.Dense(2, "softmax")], inputs=1, seed=0)


@pytest.mark.parametrize("convert", [list, np.array, lambda names: np.array(names, object), "Series", "Categorical"])
def test_names_of_classes_are_refused_with_advice(convert):
    Y = getattr(pytest.importorskip("pandas"), convert)(NAMES) if isinstance(convert, str) else convert(NAMES)
    net = network()
    before = net.flat()
    advice = re.escape("classes, indices = numpy.unique(Y, return_inverse=True), or use deepnotes.DenseClassifier")
    for use in (net.fit, net.evaluate):
        with pytest.raises(dn.DTypeError, match=advice):
            use(X, Y)
    with pytest.raises(dn.DTypeError, match=re.escape("numpy.unique(Y_val, return_inverse=True)")):
        net.fit(X, [0, 1, 1, 0], validation=(X, Y))
    np.testing.assert_array_equal(net.flat(), before)


def test_the_advice_works():
    classes, indices = np.unique(NAMES, return_inverse=True)
    net = network()
    net.fit(X, indices, epochs=1)
    assert set(classes[net.predict(X).argmax(axis=0)]) <= {"a", "b"}
