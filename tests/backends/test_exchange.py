"""Arrays of other libraries are read without a copy if possible, and refused with a clear message otherwise."""

import tracemalloc
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends.dlpack import device_of
from deepnotes.backends.foreign_arrays import as_host
from deepnotes.network.inputs import as_data, as_samples
from deepnotes.nn.losses import Loss

RNG = np.random.default_rng(0)
X = RNG.normal(size=(4, 6)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])
BACKENDS = ["numpy", "numba"]


@pytest.fixture
def torch() -> ModuleType:
    return pytest.importorskip("torch", reason="reading PyTorch's arrays needs deepnotes[peers]")


@pytest.fixture
def jnp() -> Any:
    jax = pytest.importorskip("jax", reason="reading JAX's arrays needs deepnotes[peers]")
    return jax.numpy


def network(backend: Any = "numpy", dtype: str = "float32") -> dn.Network:
    if backend == "numba":
        pytest.importorskip("numba", reason="the Numba backend needs deepnotes[numba]")
    layers = [dn.Dense(5, "tanh"), dn.Dense(3, "softmax")]
    return dn.Network(layers, inputs=4, backend=backend, dtype=dtype, seed=0)


def check_same_results(net: dn.Network, X_foreign: Any, Y_foreign: Any) -> None:
    """Check that training, evaluation and prediction give the same bits for these arrays as for X and Y."""
    reference = network(net.backend, net.dtype)
    assert isinstance(net.predict(X_foreign), np.ndarray)
    assert np.array_equal(net.predict(X_foreign), reference.predict(X))
    assert net.evaluate(X_foreign, Y_foreign) == reference.evaluate(X, Y)
    history = net.fit(X_foreign, Y_foreign, epochs=2, validation=(X_foreign, Y_foreign), sample_weight=Y_foreign)
    expected_history = reference.fit(X, Y, epochs=2, validation=(X, Y), sample_weight=Y)
    assert history.loss == expected_history.loss
    assert history.val_loss == expected_history.val_loss
    assert net.partial_fit(X_foreign, Y_foreign) == reference.partial_fit(X, Y)
    assert np.array_equal(net.flat(), reference.flat())


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_methods_accept_pytorch_tensors(torch: ModuleType, backend: str) -> None:
    check_same_results(network(backend), torch.tensor(X), torch.tensor(Y))


@pytest.mark.parametrize("backend", BACKENDS)
def test_all_methods_accept_jax_arrays(jnp: Any, backend: str) -> None:
    """NumPy reads JAX's arrays as read-only arrays."""
    array = jnp.asarray(X)
    assert not as_host(network().backend, array, "X").flags.writeable
    check_same_results(network(backend), array, jnp.asarray(Y))


def test_pytorch_tensors_are_read_without_a_copy(torch: ModuleType) -> None:
    net, array = network(), torch.tensor(X)
    samples = as_samples(net, array)
    assert isinstance(samples, np.ndarray)
    assert np.asarray(samples).ctypes.data == array.data_ptr()
    array[1, 2] = 7.0
    assert samples[1, 2] == 7.0


def test_jax_arrays_are_read_without_a_copy(jnp: Any) -> None:
    array = jnp.asarray(X)
    samples = as_samples(network(), array)
    assert np.asarray(samples).ctypes.data == array.unsafe_buffer_pointer()


class OnlyDLPack:
    """An array that supports only DLPack."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (1, 0)) -> None:
        self._array, self._device, self.shape = array, device, array.shape

    def __dlpack__(self, **options: Any) -> Any:
        return self._array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device


def test_arrays_that_support_only_dlpack_are_read_without_a_copy() -> None:
    check_same_results(network(), OnlyDLPack(X), OnlyDLPack(Y))
    assert np.shares_memory(as_samples(network(), OnlyDLPack(X)), X)


def test_pinned_memory_counts_as_host_memory() -> None:
    assert np.array_equal(network().predict(OnlyDLPack(X, (3, 0))), network().predict(X))


def test_reading_an_array_does_not_allocate_a_copy() -> None:
    net = network()
    many = OnlyDLPack(np.zeros((4, 500_000), np.float32))
    as_data(net, OnlyDLPack(X), Y, Loss("categorical_cross_entropy"))  # imports modules that are loaded on first use
    tracemalloc.start()
    try:
        as_samples(net, many)
        assert tracemalloc.get_traced_memory()[1] < 20_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "expression",
    ["X.T.contiguous().T", "torch.stack([X, -X], 2)[:, :, 0]", "X.double()", "X[:1].expand(4, 6)", "X.half()"],
)
def test_pytorch_tensors_of_any_strides_and_float_dtype_are_read(torch: ModuleType, expression: str) -> None:
    array = eval(expression, {"torch": torch, "X": torch.tensor(X)})
    expected = network().predict(np.array(array.tolist(), dtype=np.float32))
    assert np.array_equal(network().predict(array), expected)


def test_pytorch_integers_and_booleans_are_read(torch: ModuleType) -> None:
    positive = torch.tensor(X) > 0
    for array in (positive, positive.to(torch.uint8), positive.long()):
        assert np.array_equal(network().predict(array), network().predict((X > 0).astype(np.float32)))


REFUSED = [
    ("X.requires_grad_()", dn.DTypeError, r"X: got a Tensor that requires a gradient, .*; pass X\.detach\(\)"),
    ("torch.nn.Parameter(X)", dn.DTypeError, r"X: got a Parameter that requires a gradient, .*; pass X\.detach\(\)"),
    (
        "X.bfloat16()",
        dn.DTypeError,
        r"X: got an array of torch\.bfloat16, which NumPy cannot read; convert it, for example to",
    ),
    (
        "X.to(torch.float8_e5m2)",
        dn.DTypeError,
        r"X: got an array of torch\.float8_e5m2, .* convert it, for example to float32",
    ),
    ("torch.complex(X, X)", dn.DTypeError, "X: got an array of complex64, wanted real numbers"),
    ("torch.complex(X, X).conj().imag", dn.DTypeError, r"X: got Tensor, .* negative bit .*resolve_neg"),
    ("X.to_sparse()", dn.DTypeError, r"X: got Tensor, wanted an array of real numbers \("),
    (
        "X.to('meta')",
        dn.ForeignArrayError,
        r"X is a torch\.Tensor on another device, .*: copy it with X\.cpu\(\), or create",
    ),
    ("X.T", dn.ShapeError, r"samples are columns here: X\.T"),
]


@pytest.mark.parametrize(("expression", "error", "message"), REFUSED, ids=[case[0] for case in REFUSED])
def test_a_pytorch_tensor_that_cannot_be_read_is_an_error_with_the_reason(
    torch: ModuleType, expression: str, error: type[Exception], message: str
) -> None:
    net = network()
    before = net.flat()
    array = eval(expression, {"torch": torch, "X": torch.tensor(X)})
    for call in (net.predict, lambda x: net.fit(x, Y), lambda x: net.partial_fit(x, Y), lambda x: net.evaluate(x, Y)):
        with pytest.raises(error, match=message):
            call(array)
    assert np.array_equal(net.flat(), before)


def test_jax_bfloat16_is_refused(jnp: Any) -> None:
    with pytest.raises(dn.DTypeError, match="X: got an array of bfloat16, which NumPy cannot read; convert it"):
        network().predict(jnp.asarray(X).astype("bfloat16"))
    with pytest.raises(dn.DTypeError, match="Y: got an array of bfloat16"):
        network().fit(X, jnp.zeros((3, 6), "bfloat16"))


def test_a_jax_array_that_is_being_traced_is_refused(jnp: Any) -> None:
    jax = pytest.importorskip("jax", reason="reading JAX's arrays needs deepnotes[peers]")
    with pytest.raises(dn.DTypeError, match=r"X: got .*Tracer, wanted an array of real numbers"):
        jax.jit(network().predict)(X)


def test_results_and_parameters_are_shared_with_pytorch(torch: ModuleType) -> None:
    net = network()
    A = net.predict(torch.tensor(X))
    assert torch.from_dlpack(A).data_ptr() == A.ctypes.data
    W = torch.from_dlpack(net.parameters["W1"])
    W[0, 0] = 5.0
    assert net.parameters["W1"][0, 0] == 5.0
    net.parameters["W1"] = torch.ones(5, 4)
    assert W[0].tolist() == [1.0] * 4


def test_jax_reads_results_and_parameters(jnp: Any) -> None:
    net = network()
    A = net.predict(jnp.asarray(X))
    assert np.array_equal(np.asarray(jnp.from_dlpack(A)), A)
    W = net.parameters["W2"]
    assert np.array_equal(np.asarray(jnp.from_dlpack(W)), W)
    net.parameters["W2"] = jnp.ones((3, 5))
    assert np.all(np.asarray(net.parameters["W2"]) == 1)


GPU = (2, 0)


@pytest.mark.parametrize(
    ("library", "copy"),
    [
        ("torch", r"X\.cpu\(\), or create"),
        ("jaxlib.xla", r"jax\.device_get\(X\), or create"),
        ("cupy", r"X\.get\(\) or deepnotes\.get_backend\('cupy'\)\.to_numpy\(X\), or create"),
        ("other", r"numpy\.from_dlpack\(X, device='cpu', copy=True\)"),
    ],
)
def test_an_array_on_a_gpu_is_refused_with_the_call_that_copies_it(library: str, copy: str) -> None:
    net = network()
    array = type("Array", (OnlyDLPack,), {"__module__": library})(X, GPU)
    with pytest.raises(dn.ForeignArrayError, match=f"X is a .*Array on another device, .*: copy it with {copy}"):
        net.predict(array)
    array = type("Array", (OnlyDLPack,), {"__module__": library})(Y, GPU)
    for arguments in ({"Y": array}, {"Y": Y, "sample_weight": array}, {"Y": Y, "validation": (X, array)}):
        with pytest.raises(dn.ForeignArrayError, match="on another device"):
            net.fit(X, **arguments)
    with pytest.raises(dn.ForeignArrayError, match="b2 is a"):
        net.parameters["b2"] = array


class OnGPU(dn.Backend):
    """A backend on array_api_strict that claims to be on a GPU."""

    def __init__(self) -> None:
        strict = pytest.importorskip("array_api_strict", reason="array_api_strict comes with deepnotes[test]")
        super().__init__("gpu", strict)
        self.dlpack_device = GPU


def test_an_array_on_the_same_gpu_is_used_without_a_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = OnGPU()
    sources = []

    def from_dlpack(x: OnlyDLPack) -> Any:
        sources.append(x)
        return backend.xp.asarray(x._array)

    monkeypatch.setattr(backend.xp, "from_dlpack", from_dlpack)
    net, reference = network(backend), network(dn.Backend("eager", np))
    array = OnlyDLPack(X, GPU)
    A = net.predict(array)
    assert sources == [array]
    assert backend.is_array(A)
    assert np.array_equal(backend.to_numpy(A), reference.predict(X))
    history = net.fit(array, OnlyDLPack(Y, GPU), epochs=2, shuffle=False, sample_weight=OnlyDLPack(Y, GPU))
    assert history.loss == reference.fit(X, Y, epochs=2, shuffle=False, sample_weight=Y).loss
    with pytest.raises(dn.ForeignArrayError, match=r"X is a .*OnlyDLPack on another device"):
        net.predict(OnlyDLPack(X, (2, 1)))  # the next GPU

    def refuse(x: OnlyDLPack) -> Any:
        raise BufferError("no gradients")

    monkeypatch.setattr(backend.xp, "from_dlpack", refuse)
    with pytest.raises(dn.DTypeError, match=r"X: got OnlyDLPack, .* \(no gradients\)"):
        net.predict(array)
    with pytest.raises(dn.DTypeError, match=r"Y: got OnlyDLPack, .* \(no gradients\)"):
        net.fit(backend.xp.asarray(X), array)


def test_the_dlpack_device_of_numpy_arrays_is_the_cpu() -> None:
    assert dn.get_backend("numpy").dlpack_device == device_of(X) == (1, 0)
    assert device_of("text") is None
