"""A backend whose library has no float64 and no int64 trains, draws the same dropout masks, and passes conformance."""

from typing import Any

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn
from deepnotes import equations as eq
from deepnotes.testing import run


class Narrow:
    """NumPy without 64-bit dtypes: like JAX's default, it replaces them by those of 32 bits."""

    __name__ = "narrow"

    def __getattr__(self, name: str) -> Any:
        value = getattr(np, name)
        if not callable(value) or isinstance(value, type) or name == "finfo":
            return value

        def call(*arguments: Any, **options: Any) -> Any:
            if "dtype" in options and options["dtype"] is not None:
                options["dtype"] = self.narrow(options["dtype"])
            if name == "astype":
                arguments = (arguments[0], self.narrow(arguments[1]))
            found = value(*arguments, **options)
            return found.astype(self.narrow(found.dtype), copy=False) if hasattr(found, "dtype") else found

        return call

    def narrow(self, dtype: Any) -> Any:
        """Return the dtype that this library uses for `dtype`."""
        return {np.dtype("float64"): np.float32, np.dtype("int64"): np.int32}.get(np.dtype(dtype), dtype)


class NarrowBackend(dn.Backend):
    """NumPy's arrays, of 32 bits only."""

    determinism = "same threads"

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        wanted = self.xp.narrow(x.dtype if dtype is None else dtype)  # type: ignore[attr-defined]
        return np.array(x, dtype=wanted)


@pytest.fixture(scope="module")
def narrow() -> dn.Backend:
    return NarrowBackend("narrow", Narrow())


def test_the_dtypes_are_found_by_trial(narrow: dn.Backend) -> None:
    assert narrow.dtypes == ("float32",)
    assert narrow.integer is np.int32
    assert dn.Backend("strict", array_api_strict).dtypes == ("float32", "float64", "int64")
    assert dn.get_backend("numpy").dtypes == ("float32", "float64", "int64")


def test_float64_is_refused(narrow: dn.Backend) -> None:
    with pytest.raises(dn.ArgumentError, match="dtype='float64': backend 'narrow' has no float64, wanted float32"):
        dn.Network([dn.Dense(1)], inputs=2, dtype="float64", backend=narrow)


@pytest.mark.parametrize("xp", [np, array_api_strict], ids=["numpy", "strict"])
@pytest.mark.parametrize("rate", [0.0, 1e-12, 0.3, 0.999, 1 - 1e-12])
@pytest.mark.parametrize("seed", [0, 2**63 + 5, 2**64 - 1])
def test_masks_in_uint32_equal_those_in_int64(xp: Any, rate: float, seed: int) -> None:
    for step in (0, 7, 2**31 - 1):
        wide, narrow = (
            eq.dropout_mask(xp, (5, 7), rate, seed, xp.asarray(step, dtype=dtype), 3, xp.float32)
            for dtype in (xp.int64, xp.int32)
        )
        np.testing.assert_array_equal(np.asarray(narrow), np.asarray(wide))


def test_training_with_dropout_agrees_with_numpy(narrow: dn.Backend) -> None:
    X, y = np.random.default_rng(0).normal(size=(4, 64)), np.arange(64) % 3
    losses = []
    for backend in (narrow, "numpy"):
        layers = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(3, "softmax")]
        net = dn.Network(layers, inputs=4, seed=2**63 + 1, backend=backend)
        losses.append(net.fit(X, y, epochs=3).loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize(
    "group",
    ["namespace.*", "equations.*", "transfers.*", "errors.*", "inference.*", "programs.dropout*", "determinism.*"],
)
def test_conformance_checks_what_applies(narrow: dn.Backend, group: str) -> None:
    report = run(narrow, checks=[group], quick=True)
    failed = {result.check: result.message for result in report.results if result.verdict == "failed"}
    assert not failed
    skipped = {result.check for result in report.results if result.verdict == "not applicable"}
    assert skipped <= {"namespace.integers", "equations.philox"}
