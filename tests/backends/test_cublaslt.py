"""Products by the fastest of several algorithms: CublasLt on the stand-ins for CuPy and for its library."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cublaslt
import fake_cupy
import numpy as np
import pytest
from plans import blobs

import deepnotes as dn
from deepnotes_cupy import cublas, cublaslt
from deepnotes_cupy.backend import CupyBackend
from deepnotes_cupy.choices import Choices, choices_path
from deepnotes_cupy.device import Product

SHAPES = [
    ((False, False), 3, 4, 5, 1),
    ((True, False), 3, 4, 5, 1),
    ((False, True), 8, 2, 7, 1),
    ((False, True), 3, 4, 5, 6),
]


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[fake_cublaslt.CublasLt]:
    """Install the stand-ins, with a cache folder of its own, and return cuBLASLt."""
    fake_cupy.forget()
    monkeypatch.setenv("DEEPNOTES_CACHE_DIR", str(tmp_path))
    for name, module in fake_cupy.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    plain, tuned = fake_cupy.Cublas(), fake_cublaslt.CublasLt()
    monkeypatch.setattr(cublas, "load", lambda major, library="cublas": plain if library == "cublas" else tuned)
    yield tuned
    fake_cupy.forget()


def open_device() -> Any:
    from deepnotes_cupy.cuda import CudaDevice

    return CudaDevice(0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("transposed", "m", "n", "k", "parts"), SHAPES)
def test_a_tuned_product_uses_the_fastest_algorithm(
    library: fake_cublaslt.CublasLt, dtype: Any, transposed: tuple[bool, bool], m: int, n: int, k: int, parts: int
) -> None:
    device, rng = open_device(), np.random.default_rng(0)
    with device.section():
        a, b = rng.normal(size=(parts, m, k)).astype(dtype), rng.normal(size=(parts, k, n)).astype(dtype)
        A, B, C = (device.empty(size, dtype) for size in (a.size, b.size, parts * m * n))
        for matrix, target, flipped in ((a, A, transposed[0]), (b, B, transposed[1])):
            device.upload(np.ascontiguousarray(matrix if flipped else matrix.swapaxes(1, 2)).reshape(-1), target)
        multiply = device.multiplier(Product(transposed, m, n, k, 0.5, A, B, C, dtype, parts), tuned=True)
        library.products.clear()
        multiply()
        assert library.products == [(1, device._stream.ptr)]
        result = device.download(C).reshape(parts, n, m).swapaxes(1, 2)
    np.testing.assert_allclose(result, 0.5 * (a @ b), rtol=1e-5 if dtype == "float32" else 1e-14)


def test_the_alignment_and_the_workspace_are_stated(library: fake_cublaslt.CublasLt) -> None:
    device = open_device()
    with device.section():
        A, B, C = (device.empty(64, "float32") for _ in range(3))
        device.multiplier(Product((False, False), 4, 4, 4, 1.0, A[1:], B[2:], C, "float32"), tuned=True)
    addresses = [x.data.ptr for x in (A[1:], B[2:], C)]
    (preference,) = library.preferences
    assert preference[1] == cublas.WORKSPACE
    assert preference[3] == 2  # sums in the workspace, in a fixed order
    for attribute, address in zip((5, 6, 7, 8), [*addresses, addresses[-1]], strict=True):
        assert address % preference[attribute] == 0
        assert preference[attribute] == 256 or address % (2 * preference[attribute])


def test_algorithms_are_timed_once_and_kept_for_other_processes(
    library: fake_cublaslt.CublasLt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cublaslt, "_alignment", lambda address: 4)  # on the host, alignments are random

    def train() -> np.ndarray:
        X, y = blobs()
        net = dn.Network(
            [dn.Dense(8, "relu"), dn.Dense(4, "softmax")], 4, backend=CupyBackend(open_device(), driver="graph"), seed=0
        )
        net.fit(X, y, epochs=2, batch_size=8)
        return net.flat()

    first = train()
    asked = library.suggestions
    assert asked
    (path,) = tmp_path.glob("cupy-choices-*.json")
    kept = json.loads(path.read_text())
    assert [len(choice) for choice in kept.values()].count(8) == asked
    assert [key for key in kept if "stage" in key]
    times = fake_cupy.CUDA.log.count(("elapsed",))
    assert times
    assert np.array_equal(train(), first)  # a new device reads the file
    assert library.suggestions == asked
    assert fake_cupy.CUDA.log.count(("elapsed",)) == times


@pytest.mark.parametrize("content", ["", "[]", '{"x": 1}', '{"x": [1.5]}', '{"x": [-1, 0]}', "\x00" * 20])
def test_a_damaged_file_of_choices_is_replaced(tmp_path: Path, content: str) -> None:
    path = tmp_path / "choices.json"
    path.write_text(content)
    choices = Choices(path)
    assert choices.get("x") is None
    choices.add("x", (1, 2, 3, 4, 5, 6, 7, 2**64 - 1))
    assert Choices(path).get("x") == (1, 2, 3, 4, 5, 6, 7, 2**64 - 1)


def test_a_choice_that_was_no_use_is_replaced_but_that_of_another_process_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "choices.json"
    path.write_text('{"x": [7, 7], "y": [1]}')
    first, second = Choices(path), Choices(path)
    assert first.get("x") == (7, 7)
    first.add("x", (1,))
    second.add("x", (2,))
    assert (first.get("x"), second.get("x")) == ((1,), (1,))
    third = Choices(path)
    assert (third.get("x"), third.get("y")) == ((1,), (1,))


def test_a_kept_algorithm_that_no_longer_works_is_chosen_anew(
    library: fake_cublaslt.CublasLt, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Choices, "get", lambda self, key: (9, 0, 0, 0, 0, 0, 0, 0))
    test_a_tuned_product_uses_the_fastest_algorithm(library, "float32", *SHAPES[0])


def test_an_algorithm_that_fails_is_not_chosen(library: fake_cublaslt.CublasLt) -> None:
    library.failing = {1}
    device = open_device()
    with device.section():
        A, B, C = (device.empty(16, "float32") for _ in range(3))
        multiply = device.multiplier(Product((False, False), 4, 4, 4, 1.0, A, B, C, "float32"), tuned=True)
        library.products.clear()
        multiply()
    assert [number for number, _ in library.products] == [2]


def test_cublas_computes_products_if_no_algorithm_works(
    library: fake_cublaslt.CublasLt, caplog: pytest.LogCaptureFixture
) -> None:
    library.failing = {0, 1, 2}
    device = open_device()
    with device.section(), caplog.at_level(logging.DEBUG, "deepnotes"):
        A, B, C = (device.empty(16, "float32") for _ in range(3))
        device.multiplier(Product((False, False), 4, 4, 4, 1.0, A, B, C, "float32"), tuned=True)()
    assert not library.products
    assert "products are not tuned" in caplog.text


def test_a_folder_that_cannot_be_written_to_keeps_choices_in_memory(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    choices = Choices(blocked / "choices.json")
    choices.add("x", (1,) * 8)
    assert choices.get("x") == (1,) * 8


def test_choices_are_kept_in_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPNOTES_CACHE_DIR", str(tmp_path))
    assert choices_path("NVIDIA H200, 13.1") == tmp_path / "cupy-choices-NVIDIA-H200--13-1.json"


def test_without_a_working_directory_a_relative_folder_keeps_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deleted = tmp_path / "deleted"
    deleted.mkdir()
    monkeypatch.chdir(deleted)
    monkeypatch.setenv("DEEPNOTES_CACHE_DIR", "near/here")
    deleted.rmdir()
    assert choices_path("a device") is None
