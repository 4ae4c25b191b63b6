"""Fuzzing targets: model files, read by ``dn.load`` and by the command line."""

import io
import tempfile
from pathlib import Path
from typing import Any

import hostile
import numpy as np
from fuzzing import altered, damaged, target
from hypothesis import strategies as st

import deepnotes as dn
from deepnotes.cli.models import Model
from deepnotes.datasets.tables import write_table


def model_file() -> bytes:
    """Return a valid model file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        hostile.network().save(path)
        return path.read_bytes()


VALID = model_file()
HEADER, DATA = hostile.parts(VALID)
INNER, TENSORS = hostile.header_of(VALID), hostile.tensors(VALID)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-320, 1e-40, 3e38, 1e308, float("inf"), float("-inf"), float("nan")]


@st.composite
def wrong_safetensors_headers(draw: st.DrawFn) -> bytes:
    """Return a model file with wrong shapes, dtypes or offsets in its safetensors header."""
    header = draw(altered(HEADER))
    return hostile.build(header, DATA)


@st.composite
def sealed(draw: st.DrawFn) -> bytes:
    """Return a model file whose deepnotes header or tensors are invalid, but whose digests are correct."""
    arrays = {name: array.copy() for name, array in TENSORS.items()}
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), max_size=2, unique=True)):
        change = draw(st.sampled_from(["value", "dtype", "shape", "remove"]))
        if change == "value":
            with np.errstate(all="ignore"):
                arrays[name].flat[draw(st.integers(0, arrays[name].size - 1))] = draw(st.sampled_from(SPECIAL))
        elif change == "dtype":
            dtype = draw(st.sampled_from(["float16", "float32", "float64", "int64", "uint8", "bool"]))
            with np.errstate(all="ignore"):
                arrays[name] = np.nan_to_num(TENSORS[name]).astype(dtype)
        elif change == "shape":
            arrays[name] = TENSORS[name].reshape(draw(st.sampled_from([(-1,), (1, -1), (-1, 1, 1)])))
        else:
            del arrays[name]
    header = draw(st.just(INNER) | altered(INNER) | altered(INNER["metadata"]).map(with_metadata))
    return hostile.sealed(header, arrays)


def with_metadata(metadata: Any) -> dict[str, Any]:
    """Return the valid deepnotes header with `metadata` in place of its own."""
    return INNER | {"metadata": metadata}


def files() -> st.SearchStrategy[bytes]:
    """Return a strategy of valid, damaged and malicious model files."""
    return st.one_of(
        st.just(VALID),
        damaged(VALID),
        wrong_safetensors_headers(),
        sealed(),
        sealed().flatmap(damaged),
        st.binary(max_size=200),
    )


def network_in(path: Path) -> Any:
    """Return the network or the ensemble in a file, also if the metadata describe a model."""
    loaded = dn.load(path, backend="numpy")
    return loaded.network if isinstance(loaded, dn.Model) else loaded


@target("model", files(), ".safetensors")
def load(path: Path) -> None:
    """Load a network; it must predict, and must be unchanged after it is saved and loaded again."""
    net = network_in(path)
    if path.read_bytes() == VALID:
        np.testing.assert_array_equal(net.flat(), hostile.network().flat())
    assert net.flat().nbytes <= path.stat().st_size
    assert net.predict(np.ones((net.inputs, 2), np.float32)).shape == (net.outputs, 2)
    copy = path.with_suffix(".copy")
    net.save(copy)
    reloaded = network_in(copy)
    np.testing.assert_array_equal(reloaded.flat(), net.flat())
    assert (reloaded.layers, reloaded.metadata, reloaded.seed) == (net.layers, net.metadata, net.seed)


def ensemble_file() -> bytes:
    """Return a valid model file of an ensemble."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model"
        dn.Ensemble([hostile.network(seed=1), hostile.network(seed=2, standardizer=None)]).save(path)
        return path.read_bytes()


ENSEMBLE = ensemble_file()


@st.composite
def ensemble_files(draw: st.DrawFn) -> bytes:
    """Return a valid, damaged or malicious model file of an ensemble."""
    header = draw(st.just(hostile.header_of(ENSEMBLE)) | altered(hostile.header_of(ENSEMBLE)))
    content = hostile.sealed(header, hostile.tensors(ENSEMBLE))
    return draw(st.just(content) | damaged(content))


@target("model of an ensemble", ensemble_files(), ".safetensors")
def load_ensemble(path: Path) -> None:
    """Load an ensemble; it must predict, and must be unchanged after it is saved and loaded again."""
    ensemble = network_in(path)
    networks = list(ensemble) if isinstance(ensemble, dn.Ensemble) else [ensemble]
    assert sum(net.flat().nbytes for net in networks) <= path.stat().st_size
    assert ensemble.predict(np.ones((ensemble.inputs, 2), np.float32)).shape == (ensemble.outputs, 2)
    copy = path.with_suffix(".copy")
    ensemble.save(copy)
    reloaded = network_in(copy)
    assert repr(reloaded) == repr(ensemble)
    assert reloaded.metadata == ensemble.metadata


@target("model of the command line", files(), ".safetensors")
def load_model(path: Path) -> None:
    """Load a model with its metadata, describe it, and write predictions."""
    model = Model.load(str(path), dn.get_backend("numpy"))
    assert all("\n" not in value for _, value in model.facts("a path"))
    A = model.network.predict(np.ones((model.network.inputs, 2)))
    columns = model.task.columns(A)
    stream = io.StringIO()
    write_table(stream, list(columns), columns)
    stream.getvalue().encode()
