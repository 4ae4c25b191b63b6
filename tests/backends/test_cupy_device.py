"""The real device class, on a CuPy of NumPy's arrays that holds callers to CUDA's rules; tests/fake_cupy.py."""

import inspect
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import fake_cupy
import numpy as np
import pytest
from fake_cupy import CUDA
from host_device import HostDevice
from host_device import backend as host_backend
from plans import blobs

import deepnotes as dn
from deepnotes.utils.errors import DeviceMemoryError, ForkedProcessError
from deepnotes_cupy import cublas
from deepnotes_cupy.backend import CupyBackend
from deepnotes_cupy.device import CaptureRefused, Device

LAYERS = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(4, "softmax")]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_cupy.Cublas]:
    """Put the fake CuPy in place, and return its cuBLAS."""
    fake_cupy.forget()
    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    made = fake_cupy.Cublas()
    monkeypatch.setattr(cublas, "load", lambda major: made)
    yield made
    fake_cupy.forget()


def device(index: int = 0) -> Any:
    from deepnotes_cupy.cuda import CudaDevice

    return CudaDevice(index)


def test_both_devices_are_what_the_seam_says(library: fake_cupy.Cublas) -> None:
    made = device()
    methods = {name: of for name, of in vars(Device).items() if inspect.isfunction(of) and name[0] != "_"}
    assert len(methods) > 15
    for found in (type(made), HostDevice):
        for name, method in methods.items():
            assert list(inspect.signature(getattr(found, name)).parameters) == list(
                inspect.signature(method).parameters
            ), (found, name)
        assert {"xp", "processors", "keeps_subnormals"} <= set(dir(made if found is type(made) else HostDevice()))


def test_it_trains_predicts_and_streams_to_the_bits_of_the_other_stand_in(library: fake_cupy.Cublas) -> None:
    X, y = blobs(150)
    for resident in (None, 0):
        results = []
        for on in (CupyBackend(device(), resident_bytes=resident), host_backend()):
            on.device.processors = 3
            on.stage_bytes = 1000
            net = dn.Network(LAYERS, 4, backend=on, seed=0)
            net.fit(X, y, epochs=2, batch_size=8, l2=0.01, metrics="accuracy", class_weight="balanced")
            results.append((net.flat(), net.predict(X), net.evaluate(X, y)["loss"], net.gradients(X, y)["b1"]))
        for ours, theirs in zip(*results, strict=True):
            assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert any(entry[0] == "graph" for entry in CUDA.log)


def test_what_we_enqueue_goes_to_our_stream_after_what_was_there_and_before_what_comes(
    library: fake_cupy.Cublas,
) -> None:
    made = device()
    CUDA.log.clear()
    with made.section(), made.section():  # within itself: nothing
        made.upload(np.zeros(4, "float32"), made.empty(4, "float32"))
    ours = made._stream.ptr
    assert CUDA.log == [("record", 0), ("wait", ours), ("memcpy", 1, 16, ours), ("record", ours), ("wait", 0)]


def test_the_workspace_is_set_after_the_stream_and_stays(library: fake_cupy.Cublas) -> None:
    made = device()
    X, y = blobs()
    dn.Network(LAYERS, 4, backend=CupyBackend(made), seed=0).fit(X, y, epochs=1, batch_size=8)
    own = made._cublas.handle.value
    setting = [call for call in library.calls if call[:2] in (("stream", own), ("workspace", own))]
    assert setting == [("stream", own, made._stream.ptr), ("workspace", own, cublas.WORKSPACE)]
    assert ("math", own, cublas.DEFAULT_MATH) in library.calls
    assert {call[1] for call in library.calls if call[0] == "gemm"} == {own}


@pytest.mark.parametrize(("precision", "compute"), [("highest", 68), ("high", 77)])
def test_no_setting_of_the_process_changes_the_precision(
    library: fake_cupy.Cublas, monkeypatch: pytest.MonkeyPatch, precision: str, compute: int
) -> None:
    """Every product names its compute type: 68 is float32 arithmetic, 77 rounds factors to TF32."""
    for tf32 in ("0", "1"):
        monkeypatch.setenv("CUPY_TF32", tf32)
        on = CupyBackend(device(), precision)
        net = dn.Network(LAYERS, 4, backend=on, seed=0)
        net.fit(*blobs(16), epochs=1, batch_size=8)
        net.gradients(*blobs(16))
        net.predict(blobs(16)[0])
    assert {call[2] for call in library.calls if call[0] == "gemm"} == {compute}


def test_an_equation_by_itself_runs_in_the_stream_that_is_current_on_a_handle_of_its_own(
    library: fake_cupy.Cublas,
) -> None:
    on = CupyBackend(device())
    W, A, b = (on.from_numpy(np.ones(shape, "float32")) for shape in ((2, 3), (3, 4), (2, 1)))
    CUDA.log.clear()
    Z = on.ops.linear(W, A, b)
    assert [entry[-1] for entry in CUDA.log if entry[0] in ("gemm", "launch")] == [0, 0]
    assert np.array_equal(on.to_numpy(Z), np.full((2, 4), 4))
    assert library.calls[-1][1] == on.device._elsewhere.handle.value  # type: ignore[attr-defined]


@pytest.mark.parametrize("what", ["gemm", "launch"])
def test_a_capture_that_fails_leaves_a_stream_that_works(
    library: fake_cupy.Cublas, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    CUDA.failing = what
    X, y = blobs()
    with caplog.at_level(logging.WARNING):
        net = dn.Network(LAYERS, 4, backend=CupyBackend(device()), seed=0)
        net.fit(X, y, epochs=1, batch_size=8)
    assert CUDA.capturing is None
    assert not any(entry[0] == "graph" for entry in CUDA.log)
    (record,) = caplog.records
    assert "it cannot be captured" in record.message
    wanted = "cublasGemmEx: not supported (15)" if what == "gemm" else "not permitted when stream is capturing"
    assert wanted in record.message


def test_an_interrupt_within_a_capture_ends_it(library: fake_cupy.Cublas) -> None:
    made = device()

    def interrupted() -> None:
        raise KeyboardInterrupt

    with made.section():
        with pytest.raises(KeyboardInterrupt):
            made.capture(interrupted)
        assert CUDA.capturing is None
        with pytest.raises(CaptureRefused, match="cudaMalloc while a stream is captured"):
            made.capture(lambda: made.empty(3, "float32"))
        assert CUDA.capturing is None


def test_memory_that_is_not_there(library: fake_cupy.Cublas) -> None:
    made = device()
    CUDA.memory = 1000
    with pytest.raises(DeviceMemoryError) as caught:
        made.empty(1000, "float64")
    assert (caught.value.requested, caught.value.free) == (8000, 1000)
    assert caught.value.__cause__ is None
    assert made.empty(100, "float64").size == 100


def test_a_forked_process_is_refused(library: fake_cupy.Cublas, monkeypatch: pytest.MonkeyPatch) -> None:
    on = CupyBackend(device())
    net = dn.Network(LAYERS, 4, backend=on, seed=0)
    import os

    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    for use in (lambda: net.predict(np.zeros((4, 1))), lambda: on.from_numpy(np.zeros(3)), lambda: net.flat()):
        with pytest.raises(ForkedProcessError, match="spawn"):
            use()


def test_the_device_is_described_with_all_that_there_are(library: fake_cupy.Cublas) -> None:
    CUDA.devices = 2
    words = CupyBackend(device(1)).describe()
    assert words == (
        "cupy 14.2.0, CUDA 12.9, driver for CUDA 13.0, cuBLAS 12.9; device 0: NVIDIA H100 80GB HBM3, 80.0 GiB; "
        "device 1: NVIDIA H100 80GB HBM3, 80.0 GiB (selected)"
    )
    assert ("use", 1) in CUDA.log


def test_threads_take_turns(library: fake_cupy.Cublas) -> None:
    made = device()
    inside, left = threading.Event(), threading.Event()
    order = []

    def other() -> None:
        inside.wait(30)
        with made.section():
            order.append("other")
        left.set()

    thread = threading.Thread(target=other)
    thread.start()
    with made.section():
        inside.set()
        assert not left.wait(0.1)
        order.append("first")
    thread.join(30)
    assert order == ["first", "other"]


def test_a_library_of_another_cuda_is_not_taken_for_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(cublas.CublasMissing, match=r"CUDA 99 is found neither .* nor as libcublas.so.99"):
        cublas.load(99)


def test_what_cublas_says_is_told(library: fake_cupy.Cublas) -> None:
    on = CupyBackend(device())
    library.refuses = 13
    ones = on.from_numpy(np.ones((2, 2), "float32"))
    with pytest.raises(cublas.CublasError, match=r"cublasGemmEx: execution failed \(13\)"):
        on.ops.input_gradient(ones, ones)
