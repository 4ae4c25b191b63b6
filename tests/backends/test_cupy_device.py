"""CudaDevice on tests/fake_cupy.py, a stand-in for CuPy that enforces CUDA's rules."""

import inspect
import json
import logging
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cupy
import literature
import numpy as np
import pytest
from fake_cupy import CUDA
from host_device import HostDevice
from host_device import backend as host_backend
from plans import blobs

import deepnotes as dn
from deepnotes.utils.errors import DeviceMemoryError, ForkedProcessError
from deepnotes_cupy import cublas, inference, resident
from deepnotes_cupy.backend import CupyBackend
from deepnotes_cupy.device import CaptureRefused, Device

LAYERS = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(4, "softmax")]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fake_cupy.Cublas]:
    """Install the stand-in for CuPy, with a cache folder of its own, and return its cuBLAS."""
    fake_cupy.forget()
    monkeypatch.setenv("DEEPNOTES_CACHE_DIR", str(tmp_path))
    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    stand_in = fake_cupy.Cublas()
    monkeypatch.setattr(cublas, "load", lambda major, library="cublas": stand_in)
    yield stand_in
    fake_cupy.forget()


def open_device(index: int = 0) -> Any:
    from deepnotes_cupy.cuda import CudaDevice

    return CudaDevice(index)


def test_both_devices_implement_the_protocol(library: fake_cupy.Cublas) -> None:
    device = open_device()
    methods = {name: value for name, value in vars(Device).items() if inspect.isfunction(value) and name[0] != "_"}
    assert len(methods) > 15
    for device_class in (type(device), HostDevice):
        for name, method in methods.items():
            assert list(inspect.signature(getattr(device_class, name)).parameters) == list(
                inspect.signature(method).parameters
            ), (device_class, name)
        assert {"xp", "processors", "keeps_subnormals"} <= set(
            dir(device if device_class is type(device) else HostDevice())
        )


def test_both_stand_ins_give_the_same_bits(library: fake_cupy.Cublas) -> None:
    X, y = blobs(150)
    for limit in (None, 0):
        results = []
        for target in (CupyBackend(open_device(), resident_bytes=limit, driver="graph"), host_backend()):
            target.device.processors = 3
            target.stage_bytes = 1000
            net = dn.Network(LAYERS, 4, backend=target, seed=0)
            net.fit(X, y, epochs=2, batch_size=8, l2=0.01, metrics="accuracy", class_weight="balanced")
            results.append((net.flat(), net.predict(X), net.evaluate(X, y)["loss"], net.gradients(X, y)["b1"]))
        for first, second in zip(*results, strict=True):
            assert np.array_equal(np.asarray(first), np.asarray(second))
    assert any(entry[0] == "graph" for entry in CUDA.log)


@pytest.mark.parametrize("faster", ["graph", "resident"])
def test_the_faster_of_graphs_and_shared_memory_is_kept(
    library: fake_cupy.Cublas, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faster: str
) -> None:
    """The clock counts the launches of one kernel, so that the faster way takes no time."""
    monkeypatch.setattr(resident, "MOST_WORK", {1: 1200, resident.BLOCKS: 1200})  # a batch takes 608 multiply-adds
    slow, enqueue = {"graph": "train_resident", "resident": "loss"}[faster], CUDA.enqueue

    def enqueue_on_clock(entry: tuple[Any, ...], stream: int, work: Any) -> None:
        def timed() -> None:
            CUDA.clock += entry[:2] == ("launch", slow)
            work()

        enqueue(entry, stream, timed)

    monkeypatch.setattr(CUDA, "enqueue", enqueue_on_clock)
    X, y = blobs(40)
    bits = []
    for driver in ("auto", "auto", faster):
        net = dn.Network(LAYERS, 4, backend=CupyBackend(open_device(), driver=driver), seed=0)
        CUDA.log.clear()
        net.fit(X, y, epochs=2, batch_size=8)
        bits.append(net.flat().tobytes())
        assert (("elapsed",) in CUDA.log) == (len(bits) == 1)
    assert bits[0] == bits[1] == bits[2]
    (path,) = tmp_path.glob("cupy-choices-*.json")
    (choice,) = [value for key, value in json.loads(path.read_text()).items() if "'resident', 'graph'" in key]
    assert choice == [["resident", "graph"].index(faster)]


@pytest.mark.parametrize(("times", "index"), [((1.01, 1.0), 0), ((1.1, 1.0), 1), ((1.0, 1.1), 0)])
def test_a_way_that_takes_nearly_as_little_time_as_the_fastest_is_taken_if_it_is_the_first(
    library: fake_cupy.Cublas, times: tuple[float, ...], index: int
) -> None:
    def way(milliseconds: float) -> Any:
        def work() -> None:
            CUDA.clock += milliseconds

        return [lambda: CUDA.enqueue(("launch", "work"), CUDA.current, work)]

    device = open_device()
    with device.section():
        assert device.chosen("some work") is None
        assert device.fastest("some work", [way(milliseconds) for milliseconds in times]) == index
    assert open_device().chosen("some work") == index


def test_both_stand_ins_give_the_same_bits_by_generated_kernels(library: fake_cupy.Cublas) -> None:
    X, y = blobs(100)
    layers = [dn.Dense(8, literature.Mish()), dn.Dense(6, literature.LogSoftmax()), dn.Dense(4)]
    results = []
    for target in (CupyBackend(open_device(), driver="graph"), host_backend()):
        target.device.processors = 3
        net = dn.Network(layers, 4, backend=target, seed=0)
        net.fit(X, np.eye(4)[y].T, epochs=2, batch_size=8, loss=literature.LogCosh(), optimizer=literature.AMSGrad())
        results.append(net.flat())
    assert np.array_equal(*results)
    assert ("launch", "row_backward") in {entry[:2] for entry in CUDA.log}


def test_work_in_a_section_runs_after_earlier_and_before_later_work_of_the_outer_stream(
    library: fake_cupy.Cublas,
) -> None:
    device = open_device()
    CUDA.log.clear()
    with device.section(), device.section():  # a nested section does nothing
        device.upload(np.zeros(4, "float32"), device.empty(4, "float32"))
    stream = device._stream.ptr
    expected = [("record", 0), ("wait", stream), ("memcpy", 1, 16, stream), ("record", stream), ("wait", 0)]
    assert CUDA.log == expected


def test_samples_of_predictions_are_sent_and_received_in_streams_of_their_own(
    library: fake_cupy.Cublas, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, _ = blobs(50)
    device = open_device()
    net = dn.Network(LAYERS, 4, backend=CupyBackend(device), seed=0)
    expected = net.predict(X)
    monkeypatch.setattr(inference, "HOST_PART_BYTES", 20 * 16)
    CUDA.log.clear()
    assert np.array_equal(net.predict(X), expected)
    streams = {kind: [entry[-1] for entry in CUDA.log if entry[:2] == ("memcpy", kind)] for kind in (1, 2)}
    assert streams == {1: [device._copy_stream.ptr] * 3, 2: [device._receive_stream.ptr] * 3}
    assert len({device._stream.ptr, device._copy_stream.ptr, device._receive_stream.ptr}) == 3


def test_the_workspace_is_set_once_after_the_stream(library: fake_cupy.Cublas) -> None:
    device = open_device()
    X, y = blobs()
    dn.Network(LAYERS, 4, backend=CupyBackend(device, driver="graph"), seed=0).fit(X, y, epochs=1, batch_size=8)
    handles = []
    for blas, stream in ((device._cublas, device._stream), (device._second_cublas, device._second_stream)):
        handles.append(handle := blas.handle.value)
        settings = [call for call in library.calls if call[:2] in (("stream", handle), ("workspace", handle))]
        assert settings == [("stream", handle, stream.ptr), ("workspace", handle, cublas.WORKSPACE)]
        assert ("math", handle, cublas.DEFAULT_MATH) in library.calls
    assert {call[1] for call in library.calls if call[0] == "gemm"} == set(handles)
    assert device._workspace.data.ptr != device._second_workspace.data.ptr


@pytest.mark.parametrize(("precision", "compute"), [("highest", 68), ("high", 77)])
def test_the_environment_does_not_change_the_precision(
    library: fake_cupy.Cublas, monkeypatch: pytest.MonkeyPatch, precision: str, compute: int
) -> None:
    """Every product states its compute type: 68 is float32 arithmetic, 77 rounds factors to TF32."""
    for tf32 in ("0", "1"):
        monkeypatch.setenv("CUPY_TF32", tf32)
        target = CupyBackend(open_device(), precision, driver="graph")
        net = dn.Network(LAYERS, 4, backend=target, seed=0)
        net.fit(*blobs(16), epochs=1, batch_size=8)
        net.gradients(*blobs(16))
        net.predict(blobs(16)[0])
    assert {call[2] for call in library.calls if call[0] == "gemm"} == {compute}


def test_an_eager_equation_runs_in_the_current_stream_on_another_handle(
    library: fake_cupy.Cublas,
) -> None:
    target = CupyBackend(open_device(), driver="graph")
    W, A, b = (target.from_numpy(np.ones(shape, "float32")) for shape in ((2, 3), (3, 4), (2, 1)))
    CUDA.log.clear()
    Z = target.ops.linear(W, A, b)
    assert [entry[-1] for entry in CUDA.log if entry[0] in ("gemm", "launch")] == [0, 0]
    assert np.array_equal(target.to_numpy(Z), np.full((2, 4), 4))
    assert library.calls[-1][1] == target.device._foreign_cublas.handle.value  # type: ignore[attr-defined]


@pytest.mark.parametrize("failing", ["gemm", "launch"])
def test_the_stream_still_works_after_a_capture_fails(
    library: fake_cupy.Cublas, failing: str, caplog: pytest.LogCaptureFixture
) -> None:
    CUDA.failing = failing
    X, y = blobs()
    with caplog.at_level(logging.WARNING):
        net = dn.Network(LAYERS, 4, backend=CupyBackend(open_device(), driver="graph"), seed=0)
        net.fit(X, y, epochs=1, batch_size=8)
    assert CUDA.capturing is None
    (replay,) = net._training[1]._trainers._replays.values()  # type: ignore[index, union-attr]
    assert not replay._graphs
    (record,) = caplog.records
    assert "the steps cannot be captured" in record.message
    message = "cublasGemmEx: not supported (15)" if failing == "gemm" else "not permitted when stream is capturing"
    assert message in record.message


def test_an_interrupt_during_a_capture_ends_the_capture(library: fake_cupy.Cublas) -> None:
    device = open_device()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with device.section():
        with pytest.raises(KeyboardInterrupt):
            device.capture(interrupt)
        assert CUDA.capturing is None
        with pytest.raises(CaptureRefused, match="cudaMalloc while a stream is captured"):
            device.capture(lambda: device.empty(3, "float32"))
        assert CUDA.capturing is None


def test_an_array_that_is_too_large_is_a_device_memory_error(library: fake_cupy.Cublas) -> None:
    device = open_device()
    CUDA.memory = 1000
    with pytest.raises(DeviceMemoryError) as caught:
        device.empty(1000, "float64")
    assert (caught.value.requested, caught.value.free) == (8000, 1000)
    assert caught.value.__cause__ is None
    assert device.empty(100, "float64").size == 100


def test_a_forked_process_is_refused(library: fake_cupy.Cublas, monkeypatch: pytest.MonkeyPatch) -> None:
    target = CupyBackend(open_device(), driver="graph")
    net = dn.Network(LAYERS, 4, backend=target, seed=0)
    import os

    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    for use in (lambda: net.predict(np.zeros((4, 1))), lambda: target.from_numpy(np.zeros(3)), lambda: net.flat()):
        with pytest.raises(ForkedProcessError, match="spawn"):
            use()


def test_the_description_lists_all_devices(library: fake_cupy.Cublas) -> None:
    CUDA.devices = 2
    description = CupyBackend(open_device(1)).describe()
    assert description == (
        "cupy 14.2.0, CUDA 12.9, driver for CUDA 13.0, cuBLAS 12.9; device 0: NVIDIA H100 80GB HBM3, 80.0 GiB; "
        "device 1: NVIDIA H100 80GB HBM3, 80.0 GiB (selected)"
    )
    assert ("use", 1) in CUDA.log


def test_only_one_thread_at_a_time_enters_a_section(library: fake_cupy.Cublas) -> None:
    device = open_device()
    entered, left = threading.Event(), threading.Event()
    order = []

    def other() -> None:
        entered.wait(30)
        with device.section():
            order.append("other")
        left.set()

    thread = threading.Thread(target=other)
    thread.start()
    with device.section():
        entered.set()
        assert not left.wait(0.1)
        order.append("first")
    thread.join(30)
    assert order == ["first", "other"]


def test_cublas_for_another_cuda_version_is_not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.pathfinder", None)
    with pytest.raises(
        cublas.CublasMissing, match=r"CUDA 99 was found neither in a Python package nor as libcublas.so.99"
    ):
        cublas.load(99)


def test_an_error_of_cublas_is_reported(library: fake_cupy.Cublas) -> None:
    target = CupyBackend(open_device(), driver="graph")
    library.product_status = 13
    ones = target.from_numpy(np.ones((2, 2), "float32"))
    with pytest.raises(cublas.CublasError, match=r"cublasGemmEx: execution failed \(13\)"):
        target.ops.input_gradient(ones, ones)


def test_nccl_is_given_the_stream_and_the_memory_of_the_device(library: fake_cupy.Cublas) -> None:
    """The ranks of tests/network/training/test_shared_training.py are threads, with HostDevice instead."""
    import fake_nccl

    device = open_device(1)
    assert device.nccl() is fake_nccl
    assert device.identity() == "0000:01:00.0"
    with device.section():
        assert device.stream_address() == CUDA.current != 0
        assert device.has_occurred(device.record_event())
        x, total = device.empty(5, "float64"), device.empty(5, "float64")
        x[...] = np.arange(5.0)
        communicator = fake_nccl.NcclCommunicator(1, fake_nccl.get_unique_id(), 0)
        communicator.allReduce(device.address(x), device.address(total), 5, fake_nccl.NCCL_FLOAT64, fake_nccl.NCCL_SUM,
                               device.stream_address())  # fmt: skip
        assert total.tolist() == x.tolist()


def test_without_the_library_nccl_is_missing(library: fake_cupy.Cublas, monkeypatch: pytest.MonkeyPatch) -> None:
    device = open_device()
    monkeypatch.setattr(sys.modules["cupy.cuda"], "nccl", object())
    assert device.nccl() is None
    monkeypatch.delattr(sys.modules["cupy.cuda"], "nccl")
    assert device.nccl() is None
