"""Weights in a second file beside an ONNX file, and files whose sizes or counts are meant to hurt."""

import os
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

onnx = pytest.importorskip("onnx", reason='the extra "onnx" is not installed')
graphs = pytest.importorskip("onnx_graphs")
helper, chain, model, saved = onnx.helper, graphs.chain, graphs.model, graphs.saved
FIXTURE = Path(__file__).parents[2] / "fixtures" / "external"
W = np.arange(12, dtype="float32").reshape(3, 4) / 7


def beside(folder: Path, length: str = "48", offset: str = "0", name: str = "weights.bin", **more: str) -> Path:
    """Write a model whose weights are in another file, and return its path."""
    content = chain(("Gemm", W))
    tensor = content.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", name), ("offset", offset), ("length", length), *more.items()):
        if value:
            tensor.external_data.add(key=key, value=value)
    return Path(saved(content, folder))


def test_a_file_that_pytorch_wrote() -> None:
    kept = np.load(FIXTURE / "external.npz")
    net = dn.from_onnx(FIXTURE / "torch.onnx", backend="numpy")
    assert net.layers == (dn.Dense(40, "gelu"), dn.Dense(3, "softmax"))
    np.testing.assert_allclose(net.predict(kept["X"].T).T, kept["A"], rtol=1e-5, atol=1e-7)


def test_a_file_that_pytorch_writes_now(tmp_path: Path) -> None:
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
    read = dn.from_onnx(tmp_path / "n.onnx", backend="numpy")
    np.testing.assert_array_equal(read.parameters["W1"], net[0].weight.detach().numpy())
    np.testing.assert_allclose(read.predict(x.numpy().T).T, net(x).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_offsets_defaults_and_overlaps(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"\0" * 16 + W.tobytes() + b"\0" * 5)
    net = dn.from_onnx(beside(tmp_path, offset="16"))
    np.testing.assert_array_equal(net.parameters["W1"], W.T)
    assert dn.from_onnx(beside(tmp_path, offset="16", length="", checksum="ab")).inputs == 3
    content = onnx.load(beside(tmp_path, offset="16"), load_external_data=False)
    square = content.graph.initializer.add()
    square.CopyFrom(content.graph.initializer[0])
    square.name, square.dims[:] = "again", [4, 3]  # the same bytes in another shape
    content.graph.node.append(helper.make_node("MatMul", ["v0", "again"], ["out"]))
    content.graph.output[0].name = "out"
    net = dn.from_onnx(saved(content, tmp_path))
    np.testing.assert_array_equal(net.parameters["W2"], W.reshape(4, 3).T)


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("../weights.bin", "by its plain name, is read"),
        ("/etc/passwd", "by its plain name, is read"),
        ("a/weights.bin", "by its plain name, is read"),
        ("..\\weights.bin", "by its plain name, is read"),
        ("C:weights.bin", "by its plain name, is read"),
        ("..", "by its plain name, is read"),
        ("", "by its plain name, is read"),
        ("none.bin", "cannot be read: No such file"),
        ("folder", "cannot be read|no regular file"),
    ],
)
def test_other_places_are_refused(location: str, told: str, tmp_path: Path) -> None:
    inner = tmp_path / "model"
    (inner / "folder").mkdir(parents=True)
    (inner / "a").mkdir()
    for folder in (tmp_path, inner / "a"):
        (folder / "weights.bin").write_bytes(W.tobytes())
    with pytest.raises(dn.ModelFileError, match=told) as caught:
        dn.from_onnx(beside(inner, name=location))
    assert "tensor 'c0_1' is in the file" in str(caught.value)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"length": "44"}, "has 44 bytes, and its shape wants 48"),
        ({"offset": "1"}, "from byte 1 to 49, and the file holds 48"),
        ({"offset": "9" * 19}, "and the file holds 48"),
        ({"offset": "9" * 5000}, "wanted a number of bytes"),
        ({"offset": "-4"}, "wanted a number of bytes"),
        ({"length": "4_8"}, "wanted a number of bytes"),
        ({"offset": "٠"}, "wanted a number of bytes"),
    ],
)
def test_places_in_the_file_are_checked(options: dict[str, str], told: str, tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(W.tobytes())
    with pytest.raises(dn.ModelFileError, match=told):
        dn.from_onnx(beside(tmp_path, **options))


def test_a_claimed_size_takes_no_memory(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(W.tobytes())
    content = onnx.load(beside(tmp_path, length=""), load_external_data=False)
    content.graph.initializer[0].dims[:] = [1 << 30, 1 << 20]
    with pytest.raises(dn.ModelFileError, match="and the file holds 48"):
        dn.from_onnx(saved(content, tmp_path))


if sys.platform != "win32":

    def test_links_and_special_files(tmp_path: Path) -> None:
        inner = tmp_path / "model"
        inner.mkdir()
        (tmp_path / "outside.bin").write_bytes(W.tobytes())
        (inner / "other.bin").write_bytes(W.tobytes())
        path = beside(inner)
        (inner / "weights.bin").symlink_to("../outside.bin")
        with pytest.raises(dn.ModelFileError, match="which is a link to another folder"):
            dn.from_onnx(path)
        (inner / "weights.bin").unlink()
        (inner / "weights.bin").symlink_to("other.bin")
        assert dn.from_onnx(path).inputs == 3
        (tmp_path / "by-link").symlink_to(inner)
        assert dn.from_onnx(tmp_path / "by-link" / "model.onnx").inputs == 3
        (inner / "weights.bin").unlink()
        os.mkfifo(inner / "weights.bin")
        with pytest.raises(dn.ModelFileError, match="which is no regular file"):
            dn.from_onnx(path)
        (inner / "weights.bin").unlink()
        (inner / "weights.bin").symlink_to("weights.bin")
        with pytest.raises(dn.ModelFileError, match="is in the file"):
            dn.from_onnx(path)


def test_one_file_that_many_tensors_share(tmp_path: Path) -> None:
    """A short model and one file of weights do not become a network of a thousand times its size."""
    n, many = 300, 400
    (tmp_path / "weights.bin").write_bytes(np.ones((n, n), "float32").tobytes())
    content = chain(("MatMul", np.ones((n, n))), shape=("m", n))
    tensor, node = content.graph.initializer[0], content.graph.node[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")
    for i in range(1, many):
        content.graph.initializer.add().CopyFrom(tensor)
        content.graph.initializer[-1].name = f"W{i}"
        content.graph.node.add().CopyFrom(node)
        content.graph.node[-1].input[:], content.graph.node[-1].output[:] = [f"v{i - 1}", f"W{i}"], [f"v{i}"]
    content.graph.output[0].name = f"v{many - 1}"
    with pytest.raises(dn.ModelFileError, match="compute with constants at too great a length"):
        dn.from_onnx(saved(content, tmp_path))
    for each in content.graph.node:
        each.input[1] = tensor.name
    with pytest.raises(dn.ModelFileError, match="compute with constants at too great a length"):
        dn.from_onnx(saved(content, tmp_path))


# --- counts that are meant to hurt ------------------------------------------------------------------------------------

MILLION = 1_000_000


def hostile(kind: str, n: int) -> Any:
    """Return a model with n of something."""
    gemm = ("Gemm", W)
    if kind == "axes of a constant":
        nodes = [helper.make_node("Unsqueeze", ["W"], ["V"], axes=list(range(n))),
                 helper.make_node("MatMul", ["in", "V"], ["out"])]  # fmt: skip
        return model(nodes, {"W": W}, "out", opset=11)
    if kind == "axes of a value":
        return chain(("Unsqueeze", {"axes": list(range(n))}), gemm, opset=11)
    if kind == "axes in an operand":
        return chain(("Squeeze", np.arange(n)), gemm)
    if kind == "sizes of a Reshape":
        return chain(("Reshape", np.ones(n, np.int64)), gemm)
    if kind == "order of axes":
        return chain(("Transpose", {"perm": list(range(n))}), gemm)
    if kind == "dimensions of a tensor":
        content = chain(gemm)
        content.graph.initializer[0].dims[:] = [1 << 40] * n
        return content
    if kind == "dimensions of the input":
        return chain(gemm, shape=[1 << 40] * n)
    if kind == "tensors":
        content = chain(gemm)
        for i in range(n // 10):
            content.graph.initializer.add(name=f"t{i}", dims=[1], data_type=1, float_data=[1.0])
        return content
    if kind == "operands":
        content = chain(gemm, ("Max", 0.0))
        content.graph.node[1].input.extend(["v0"] * n)
        return content
    if kind == "letters of a name":
        content = chain(gemm, ("Mish",))
        content.graph.node[1].name = "a/" * n
        return content
    if kind == "nodes":
        return chain(gemm, *[("Identity",)] * (n // 10))
    raise ValueError(kind)


KINDS = [
    "axes of a constant", "axes of a value", "axes in an operand", "sizes of a Reshape", "order of axes",
    "dimensions of a tensor", "dimensions of the input", "tensors", "operands", "letters of a name", "nodes",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_million_of_something(kind: str, tmp_path: Path) -> None:
    """Refused, or read, in seconds, and with a message that can be read; quadratic ways took minutes or hours."""
    path, began = saved(hostile(kind, MILLION), tmp_path), time.process_time()
    told = ""
    try:
        dn.from_onnx(path)
    except dn.ModelFileError as error:
        told = str(error)
    assert len(told) < 2500
    assert time.process_time() - began < 60


CHAINS = {
    "affine functions": lambda i: ("Add", [f"v{i}", "one"]),
    "affine functions of vectors": lambda i: ("Mul", [f"v{i}", "each"]),
    "other activations": lambda i: ("LeakyRelu", [f"v{i}"]),
    "Reshapes": lambda i: ("Reshape", [f"v{i}", "sizes"]),
    "sums of two values": lambda i: ("Add", [f"v{i}", f"v{max(0, i - 1)}"]),
}


@pytest.mark.thinned(3)
@pytest.mark.parametrize("kind", CHAINS)
def test_long_chains(kind: str, tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["in", "W"], ["v0"])]
    for i in range(2_990):
        op, inputs = CHAINS[kind](i)
        more = {"alpha": 0.5 + i / 100_000} if op == "LeakyRelu" else {}
        nodes.append(helper.make_node(op, inputs, [f"v{i + 1}"], **more))
    constants = {"W": W, "one": np.float32(1e-3), "each": np.ones(4, "float32"), "sizes": np.array([-1, 4])}
    path, began = saved(model(nodes, constants, "v2990"), tmp_path), time.process_time()
    if kind in {"affine functions", "affine functions of vectors", "Reshapes"}:
        assert dn.from_onnx(path).layers == (dn.Dense(4),)
    else:
        with pytest.raises(dn.ModelFileError, match="is no part of a dense chain"):
            dn.from_onnx(path)
    assert time.process_time() - began < 60


def test_the_fixture_is_whole(tmp_path: Path) -> None:
    """Cut short by a byte, it is refused."""
    for name in ("torch.onnx", "torch.onnx.data"):
        shutil.copy(FIXTURE / name, tmp_path)
    data = tmp_path / "torch.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(dn.ModelFileError, match=r"tensor '2.weight' is in the file 'torch.onnx.data' from byte 960"):
        dn.from_onnx(tmp_path / "torch.onnx")
