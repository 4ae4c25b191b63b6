"""Model files: networks are read back unchanged, and damaged or malicious files are refused with an error."""

import json
import struct
from pathlib import Path
from typing import Any

import array_api_strict
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import deepnotes as dn
from deepnotes.network.formats import containers

STRICT = dn.Backend("strict", array_api_strict)


def network(**settings: Any) -> dn.Network:
    layers = [
        dn.Dense(5, dn.Activation("leaky_relu", slope=0.2), "he_uniform"),
        dn.Dropout(0.25),
        dn.Dense(2, "softmax"),
    ]
    return dn.Network(layers, inputs=3, **{"seed": 7} | settings)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    net = network(standardizer=dn.Standardizer.fit(np.arange(12.0).reshape(3, 4)))
    net.metadata = {"classes": ["no", "yes"], "features": ["a", "b", "ç"]}
    net.save(tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def split(content: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the JSON header of a safetensors file, and the data after it."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def build(header: dict[str, Any], data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def rewrite(path: Path, change: Any, sign: bool = True) -> None:
    """Apply `change` to the deepnotes header of a model file; if `sign` is true, update the digest of the header."""
    header, data = split(path.read_bytes())
    inner = json.loads(header["__metadata__"]["deepnotes"])
    changed = change(inner)
    if sign:
        inner["digest"] = containers.digest_of_header(inner)
    header["__metadata__"]["deepnotes"] = changed if isinstance(changed, str) else json.dumps(inner)
    path.write_bytes(build(header, data))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", ["numpy", STRICT], ids=["numpy", "strict"])
def test_a_network_is_read_back_bit_for_bit(tmp_path: Path, dtype: str, backend: Any) -> None:
    net = network(dtype=dtype, backend=backend)
    net.metadata = {"note": "x"}
    net.save(tmp_path / "a")
    loaded = dn.load(tmp_path / "a", backend="numpy")
    np.testing.assert_array_equal(loaded.flat(), net.flat())
    assert (loaded.layers, loaded.inputs, loaded.dtype, loaded.seed) == (net.layers, net.inputs, net.dtype, net.seed)
    assert loaded.metadata == net.metadata
    assert loaded.backend.name == "numpy"
    assert dn.load(tmp_path / "a", backend=STRICT).backend is STRICT


def test_the_standardizer_and_metadata_are_read_back(path: Path) -> None:
    net = dn.load(str(path))
    assert net.standardizer is not None
    np.testing.assert_array_equal(net.standardizer.mean.ravel(), [1.5, 5.5, 9.5])
    assert net.metadata["features"] == ["a", "b", "ç"]


def test_the_same_network_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        network().save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_other_tools_can_read_the_tensors(path: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(path)
    assert {n: t.shape for n, t in tensors.items()} == {
        "W1": (5, 3), "b1": (5, 1), "W2": (2, 5), "b2": (2, 1), "input_mean": (3, 1), "input_scale": (3, 1),
    }  # fmt: skip


def test_user_defined_layers_and_functions_cannot_be_saved(tmp_path: Path) -> None:
    class Custom(dn.ActivationFunction):
        pass

    with pytest.raises(dn.ModelFileError, match="fails while it is traced"):
        dn.Network([dn.Dense(2, Custom()), dn.Dense(1)], inputs=2).save(tmp_path / "a")
    for layer in (dn.Dense(2, initializer=lambda rng, shape: np.ones(shape)), dn.Layer()):
        with pytest.raises(dn.ModelFileError, match="is or has a user-defined class or function"):
            dn.Network([layer, dn.Dense(1)], inputs=2).save(tmp_path / "a")
    net = network()
    net.metadata = {"x": object()}
    with pytest.raises(dn.ModelFileError, match="metadata: wanted only JSON values"):
        net.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_metadata_are_converted_to_json_values(tmp_path: Path) -> None:
    net = network()
    net.metadata = {2: "a", 10: ("b", None)}  # type: ignore[dict-item]
    net.save(tmp_path / "a")
    assert dn.load(tmp_path / "a").metadata == {"2": "a", "10": ["b", None]}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [(None, "metadata is None, wanted a dict"), ([1], "a dict"), ({"x": "y" * 9_000_000}, "wanted at most 8,388,608")],
    ids=["none", "list", "long"],
)
def test_metadata_that_cannot_be_read_back_are_refused(tmp_path: Path, metadata: Any, message: str) -> None:
    net = network()
    net.metadata = metadata
    with pytest.raises(dn.ModelFileError, match=message):
        net.save(tmp_path / "a")
    assert not list(tmp_path.iterdir())


def test_invalid_paths_are_refused() -> None:
    for call in (network().save, dn.load):
        with pytest.raises(dn.ArgumentError, match="path=None, wanted a path, as a string"):
            call(None)
        with pytest.raises(dn.ModelFileError, match="null byte"):
            call("a\0b")


def test_a_failed_write_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def raise_disk_full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", raise_disk_full)
    with pytest.raises(dn.ModelFileError, match=r"cannot write .*model.safetensors: No space left on device"):
        network().save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_missing_directories_and_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(dn.ModelFileError, match="No such file or directory"):
        network().save(tmp_path / "none" / "a")
    with pytest.raises(dn.ModelFileError, match=r"cannot read .*: No such file"):
        dn.load(tmp_path / "a")
    with pytest.raises(dn.ModelFileError, match=r"cannot read .*: Is a directory"):
        dn.load(tmp_path)


@pytest.mark.slow
def test_every_truncation_is_refused(path: Path) -> None:
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(dn.ModelFileError, match=r"truncated|damaged|altered|not a model file"):
            dn.load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(dn.ModelFileError):
        dn.load(path)


@pytest.mark.slow
def test_every_altered_byte_is_refused_or_harmless(path: Path) -> None:
    """Changes are harmless only in white space and escapes of the JSON header, where they do not alter its meaning."""
    content = path.read_bytes()
    original = dn.load(path)
    harmless = 0
    for i in range(len(content)):
        path.write_bytes(content[:i] + bytes([content[i] ^ (1 << i % 8)]) + content[i + 1 :])
        try:
            loaded = dn.load(path)
        except dn.ModelFileError:
            continue
        harmless += 1
        np.testing.assert_array_equal(loaded.flat(), original.flat())
        assert (loaded.layers, loaded.metadata, loaded.seed) == (original.layers, original.metadata, original.seed)
    assert harmless <= 8  # the padding of the header


def test_the_error_for_a_newer_format_suggests_an_upgrade(path: Path) -> None:
    rewrite(path, lambda header: header.update(format=3))
    with pytest.raises(
        dn.ModelFileError,
        match=r"has format 3, but this version of deepnotes reads formats up to 2; pip install --upgrade",
    ):
        dn.load(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: h.update(digest="0"),
        lambda h: h["metadata"].update(classes=["yes", "no"]),
        lambda h: h["network"].update(seed=8),
    ],
)
def test_an_altered_header_is_refused(path: Path, change: Any) -> None:
    rewrite(path, change, sign=False)
    with pytest.raises(dn.ModelFileError, match="was altered after it was written"):
        dn.load(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda h: h["digests"].update(W1="0"), "was altered after it was written: the digest of W1"),
        (lambda h: h.update(digests=7), "was altered after it was written"),
        (lambda h: h["network"]["layers"][0].update(activation="os.system"), "header is invalid .*unknown activation"),
        (lambda h: h["network"]["layers"][0].update(initializer="__import__"), "unknown initializer '__import__'"),
        (lambda h: h["network"]["layers"][0].update(type="pickle"), "unknown layer type 'pickle'"),
        (lambda h: h["network"]["layers"][0].update(units=2**62), "W1 has shape .*, wanted"),
        (lambda h: h["network"]["layers"][0].update(units=-1), "header is invalid .*units=-1"),
        (lambda h: h["network"]["layers"][0].update(units="5"), "header is invalid .*units='5'"),
        (lambda h: h["network"]["layers"][0].update(options={"slope": "x"}), "header is invalid .*slope='x'"),
        (lambda h: h["network"]["layers"][0].update(options={"ops": 1}), "header is invalid .*no option 'ops'"),
        (lambda h: h["network"]["layers"].append({"type": "dropout", "rate": 2}), "header is invalid .*rate=2"),
        (lambda h: h["network"].update(layers=[]), "header is invalid"),
        (lambda h: h["network"].update(layers=7), "header is invalid"),
        (lambda h: h["network"].update(inputs=4), "W1 has shape .5, 3., wanted .5, 4."),
        (lambda h: h["network"].update(inputs=True), "header is invalid"),
        (lambda h: h["network"].update(seed=1e300), "header is invalid"),
        (lambda h: h["network"].update(dtype="float64"), "has the dtype float32, wanted float64|altered"),
        (lambda h: h["network"].update(dtype="object"), "header is invalid"),
        (lambda h: h.update(metadata=[]), "header is invalid"),
        (lambda h: h.pop("network"), "header is invalid"),
        (lambda h: h.update(format="1"), "unknown format '1', wanted a number from 1 to 2"),
        (lambda h: h.pop("format"), "its header is damaged"),
        (lambda h: "{" * 100_000, "its header is damaged"),
        (lambda h: "[" * 100_000 + "]" * 100_000, "its header is damaged"),
        (lambda h: "[]", "its header is damaged"),
        (lambda h: "7", "its header is damaged"),
        (lambda h: "NaN", "its header is damaged"),
    ],
)
def test_a_header_with_invalid_values_is_refused(path: Path, change: Any, message: str) -> None:
    rewrite(path, change)
    with pytest.raises(dn.ModelFileError, match=message) as caught:
        dn.load(path)
    assert str(path) in str(caught.value)


def update(header: dict[str, Any], name: str, **changes: Any) -> None:
    header[name].update(changes)


@pytest.mark.parametrize(
    "change",
    [
        lambda h: update(h, "W1", data_offsets=[0, 2**62]),
        lambda h: update(h, "W1", shape=[2**31, 2**31]),
        lambda h: update(h, "W1", shape=[2**62]),
        lambda h: update(h, "W1", shape=[5, -3]),
        lambda h: update(h, "W1", shape=[3, 5]),
        lambda h: update(h, "W1", dtype="I32"),
        lambda h: update(h, "W1", data_offsets=h["W2"]["data_offsets"]),
        lambda h: update(h, "W1", data_offsets=[-4, 56]),
        lambda h: update(h, "W1", data_offsets=[60, 0]),
        lambda h: h.pop("b2"),
        lambda h: h.update(extra=h["b2"]),
        lambda h: h["__metadata__"].pop("deepnotes"),
        lambda h: h.pop("__metadata__"),
    ],
)
def test_invalid_tensor_entries_in_the_header_are_refused(path: Path, change: Any) -> None:
    header, data = split(path.read_bytes())
    change(header)
    path.write_bytes(build(header, data))
    with pytest.raises(dn.ModelFileError):
        dn.load(path)


def test_a_header_of_excessive_length_is_refused(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(dn.ModelFileError, match="truncated or not a model file"):
        dn.load(path)
    onnx = path.rename(path.with_name("a.onnx"))
    with pytest.raises(dn.ModelFileError, match="not a model file: 10 bytes; from_onnx reads ONNX files"):
        dn.load(onnx)
    with path.open("wb") as file:  # a sparse file, which uses no disk space
        file.write(struct.pack("<Q", containers.HEADER_LIMIT + 1))
        file.truncate(containers.HEADER_LIMIT * 2)
    with pytest.raises(dn.ModelFileError, match="its header has 16,777,217 bytes"):
        dn.load(path)


@pytest.mark.parametrize("content", [b"", b"\x80\x04\x95", b"PK\x03\x04" + b"\0" * 100, b"a,b\n1,2\n" * 10])
def test_files_of_other_formats_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(dn.ModelFileError):
        dn.load(tmp_path / "x")


@pytest.mark.slow
@settings(max_examples=3 * settings().max_examples)
@given(st.data())
def test_noise_in_a_model_file_is_refused_or_harmless(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "noise.safetensors"
    network().save(path)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        start = data.draw(st.integers(0, len(content)))
        end = min(len(content), start + data.draw(st.integers(0, 40)))
        content[start:end] = data.draw(st.binary(max_size=40))
    path.write_bytes(content)
    try:
        loaded = dn.load(path)
    except dn.ModelFileError:
        return
    np.testing.assert_array_equal(loaded.flat(), network().flat())


def test_saving_to_a_link_writes_to_its_target(path: Path) -> None:
    link = path.with_name("link")
    link.symlink_to(path)
    network(seed=8).save(link)
    assert link.is_symlink()
    assert dn.load(path).seed == 8
