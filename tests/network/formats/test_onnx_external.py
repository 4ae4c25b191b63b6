"""ONNX files whose weights are in a second file, and malicious files with excessive sizes or counts."""

import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
helper, chain, model, write = onnx.helper, graphs.chain, graphs.model, graphs.write
FIXTURE = Path(__file__).parents[2] / "fixtures" / "external"
W = np.arange(12, dtype="float32").reshape(3, 4) / 7


def write_external(folder: Path, length: str = "48", offset: str = "0", name: str = "weights.bin", **more: str) -> Path:
    """Write a model whose weights are in a second file, but not that second file; return the path of the model."""
    content = chain(("Gemm", W))
    tensor = content.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", offset), ("length", length), *more.items()):
        if value:
            tensor.external_data.add(key=key, value=value)
    return Path(write(content, folder))


def test_a_stored_file_written_by_pytorch_is_read() -> None:
    expected = np.load(FIXTURE / "external.npz")
    net = dn.from_onnx(FIXTURE / "torch.onnx", backend="numpy")
    assert net.layers == (dn.Dense(40, "gelu"), dn.Dense(3, "softmax"))
    np.testing.assert_allclose(net.predict(expected["X"].T).T, expected["A"], rtol=1e-5, atol=1e-7)


def test_a_file_written_by_the_installed_pytorch_is_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason='the extra "peers" is not installed')
    pytest.importorskip("onnxscript", reason="PyTorch's exporter needs onnxscript")
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 300), torch.nn.ReLU(), torch.nn.Linear(300, 3)).eval()
    x = torch.randn(5, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dynamic = ({0: torch.export.Dim("m")},)
        torch.onnx.export(net, (x,), str(tmp_path / "n.onnx"), dynamo=True, dynamic_shapes=dynamic, verbose=False)
    assert (tmp_path / "n.onnx.data").stat().st_size > 1000
    loaded = dn.from_onnx(tmp_path / "n.onnx", backend="numpy")
    np.testing.assert_array_equal(loaded.parameters["W1"], net[0].weight.detach().numpy())
    np.testing.assert_allclose(loaded.predict(x.numpy().T).T, net(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_offsets_default_lengths_and_overlapping_tensors_are_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16 + W.tobytes() + b"\0" * 5)
    net = dn.from_onnx(write_external(tmp_path, offset="16"))
    np.testing.assert_array_equal(net.parameters["W1"], W.T)
    assert dn.from_onnx(write_external(tmp_path, offset="16", length="", checksum="ab")).inputs == 3
    content = onnx.load(write_external(tmp_path, offset="16"), load_external_data=False)
    square = content.graph.initializer.add()
    square.CopyFrom(content.graph.initializer[0])
    square.name, square.dims[:] = "again", [4, 3]  # the same bytes in another shape
    content.graph.node.append(helper.make_node("MatMul", ["v0", "again"], ["out"]))
    content.graph.output[0].name = "out"
    net = dn.from_onnx(write(content, tmp_path))
    np.testing.assert_array_equal(net.parameters["W2"], W.reshape(4, 3).T)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("../weights.bin", "wanted the name of a file in the model's directory"),
        ("/etc/passwd", "wanted the name of a file in the model's directory"),
        ("a/weights.bin", "wanted the name of a file in the model's directory"),
        ("..\\weights.bin", "wanted the name of a file in the model's directory"),
        ("C:weights.bin", "wanted the name of a file in the model's directory"),
        ("..", "wanted the name of a file in the model's directory"),
        ("", "wanted the name of a file in the model's directory"),
        ("none.bin", "cannot be read: No such file"),
        ("folder", "cannot be read|not a regular file"),
    ],
)
def test_locations_that_are_not_files_in_the_directory_are_refused(location: str, message: str, tmp_path: Path) -> None:
    inner = tmp_path / "model"
    (inner / "folder").mkdir(parents=True)
    (inner / "a").mkdir()
    for folder in (tmp_path, inner / "a"):
        (folder / "weights.bin").write_bytes(W.tobytes())
    with pytest.raises(dn.ModelFileError, match=message) as caught:
        dn.from_onnx(write_external(inner, name=location))
    assert "tensor 'c0_1' is in the file" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": "44"}, "takes 44 bytes, but its shape needs 48"),
        ({"offset": "1"}, "from byte 1 to 49, but the file has 48 bytes"),
        ({"offset": "9" * 19}, "but the file has 48 bytes"),
        ({"offset": "9" * 5000}, "wanted a number of bytes"),
        ({"offset": "-4"}, "wanted a number of bytes"),
        ({"length": "4_8"}, "wanted a number of bytes"),
        ({"offset": "٠"}, "wanted a number of bytes"),
    ],
)
def test_offsets_and_lengths_are_checked(options: dict[str, str], message: str, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(W.tobytes())
    with pytest.raises(dn.ModelFileError, match=message):
        dn.from_onnx(write_external(tmp_path, **options))


def test_a_huge_declared_size_is_refused_without_allocating_it(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(W.tobytes())
    content = onnx.load(write_external(tmp_path, length=""), load_external_data=False)
    content.graph.initializer[0].dims[:] = [1 << 30, 1 << 20]
    with pytest.raises(dn.ModelFileError, match="but the file has 48 bytes"):
        dn.from_onnx(write(content, tmp_path))


if sys.platform != "win32":

    def test_links_to_other_directories_and_special_files_are_refused(tmp_path: Path) -> None:
        inner = tmp_path / "model"
        inner.mkdir()
        (tmp_path / "outside.bin").write_bytes(W.tobytes())
        (inner / "other.bin").write_bytes(W.tobytes())
        path = write_external(inner)
        (inner / "weights.bin").symlink_to("../outside.bin")
        with pytest.raises(dn.ModelFileError, match="which is a link to another directory"):
            dn.from_onnx(path)
        (inner / "weights.bin").unlink()
        (inner / "weights.bin").symlink_to("other.bin")
        assert dn.from_onnx(path).inputs == 3
        (tmp_path / "by-link").symlink_to(inner)
        assert dn.from_onnx(tmp_path / "by-link" / "model.onnx").inputs == 3
        (inner / "weights.bin").unlink()
        os.mkfifo(inner / "weights.bin")
        with pytest.raises(dn.ModelFileError, match="which is not a regular file"):
            dn.from_onnx(path)
        (inner / "weights.bin").unlink()
        (inner / "weights.bin").symlink_to("weights.bin")
        with pytest.raises(dn.ModelFileError, match="is in the file"):
            dn.from_onnx(path)


def test_many_tensors_that_share_the_same_bytes_are_refused(tmp_path: Path) -> None:
    """If they were read, a small model file and weight file could become a network hundreds of times as large."""
    n, tensors = 300, 400
    (tmp_path / "weights.bin").write_bytes(np.ones((n, n), "float32").tobytes())
    content = chain(("MatMul", np.ones((n, n))), shape=("m", n))
    tensor, node = content.graph.initializer[0], content.graph.node[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    for i in range(1, tensors):
        content.graph.initializer.add().CopyFrom(tensor)
        content.graph.initializer[-1].name = f"W{i}"
        content.graph.node.add().CopyFrom(node)
        content.graph.node[-1].input[:], content.graph.node[-1].output[:] = [f"v{i - 1}", f"W{i}"], [f"v{i}"]
    content.graph.output[0].name = f"v{tensors - 1}"
    with pytest.raises(dn.ModelFileError, match="compute too many constants for the file's size"):
        dn.from_onnx(write(content, tmp_path))
    for node in content.graph.node:
        node.input[1] = tensor.name
    with pytest.raises(dn.ModelFileError, match="compute too many constants for the file's size"):
        dn.from_onnx(write(content, tmp_path))


# --- excessive counts -------------------------------------------------------------------------------------------------

MILLION = 1_000_000


GEMM = ("Gemm", W)


def many_axes_of_a_constant(n: int) -> Any:
    unsqueeze = helper.make_node("Unsqueeze", ["W"], ["V"], axes=list(range(n)))
    return model([unsqueeze, helper.make_node("MatMul", ["in", "V"], ["out"])], {"W": W}, "out", opset=11)


def many_dimensions_of_a_tensor(n: int) -> Any:
    content = chain(GEMM)
    content.graph.initializer[0].dims[:] = [1 << 40] * n
    return content


def many_tensors(n: int) -> Any:
    content = chain(GEMM)
    for i in range(n // 10):
        content.graph.initializer.add(name=f"t{i}", dims=[1], data_type=1, float_data=[1.0])
    return content


def many_operands(n: int) -> Any:
    content = chain(GEMM, ("Max", 0.0))
    content.graph.node[1].input.extend(["v0"] * n)
    return content


def long_node_name(n: int) -> Any:
    content = chain(GEMM, ("Mish",))
    content.graph.node[1].name = "a/" * n
    return content


MODELS: dict[str, Callable[[int], Any]] = {
    "axes of a constant": many_axes_of_a_constant,
    "axes of a value": lambda n: chain(("Unsqueeze", {"axes": list(range(n))}), GEMM, opset=11),
    "axes in an operand": lambda n: chain(("Squeeze", np.arange(n)), GEMM),
    "sizes of a Reshape": lambda n: chain(("Reshape", np.ones(n, np.int64)), GEMM),
    "order of axes": lambda n: chain(("Transpose", {"perm": list(range(n))}), GEMM),
    "dimensions of a tensor": many_dimensions_of_a_tensor,
    "dimensions of the input": lambda n: chain(GEMM, shape=[1 << 40] * n),
    "tensors": many_tensors,
    "operands": many_operands,
    "letters of a name": long_node_name,
    "nodes": lambda n: chain(GEMM, *[("Identity",)] * (n // 10)),
}
"""For each kind of item, a function that returns a model with n such items (n / 10 for tensors and nodes)."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_a_million_items_are_read_or_refused_within_seconds(kind: str, tmp_path: Path) -> None:
    """An algorithm with quadratic complexity would take minutes or hours."""
    path, start = write(MODELS[kind](MILLION), tmp_path), time.process_time()
    message = ""
    try:
        dn.from_onnx(path)
    except dn.ModelFileError as error:
        message = str(error)
    assert len(message) < 2500
    assert time.process_time() - start < 60


CHAINS = {
    "affine functions": lambda i: ("Add", [f"v{i}", "one"]),
    "affine functions of vectors": lambda i: ("Mul", [f"v{i}", "each"]),
    "other activations": lambda i: ("LeakyRelu", [f"v{i}"]),
    "Reshapes": lambda i: ("Reshape", [f"v{i}", "sizes"]),
    "sums of two values": lambda i: ("Add", [f"v{i}", f"v{max(0, i - 1)}"]),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("kind", CHAINS)
def test_long_chains_are_read_or_refused_within_seconds(kind: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["in", "W"], ["v0"])]
    for i in range(2_990):
        op, inputs = CHAINS[kind](i)
        attributes = {"alpha": 0.5 + i / 100_000} if op == "LeakyRelu" else {}
        nodes.append(helper.make_node(op, inputs, [f"v{i + 1}"], **attributes))
    constants = {"W": W, "one": np.float32(1e-3), "each": np.ones(4, "float32"), "sizes": np.array([-1, 4])}
    path, start = write(model(nodes, constants, "v2990"), tmp_path), time.process_time()
    if kind in {"affine functions", "affine functions of vectors", "Reshapes"}:
        assert dn.from_onnx(path).layers == (dn.Dense(4),)
    else:
        with pytest.raises(dn.ModelFileError, match="cannot be part of a chain of layers"):
            dn.from_onnx(path)
    assert time.process_time() - start < 60


def test_a_data_file_without_its_last_byte_is_refused(tmp_path: Path) -> None:
    for name in ("torch.onnx", "torch.onnx.data"):
        shutil.copy(FIXTURE / name, tmp_path)
    data = tmp_path / "torch.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(dn.ModelFileError, match=r"tensor '2.weight' is in the file 'torch.onnx.data' from byte 960"):
        dn.from_onnx(tmp_path / "torch.onnx")
