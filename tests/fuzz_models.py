"""Targets: model files, as ``dn.load`` reads them and as the command line does."""

import io
from functools import cache
from pathlib import Path
from typing import Any

import hostile
import numpy as np
from fuzzing import altered, damaged, target
from hypothesis import strategies as st

import deepnotes as dn
from deepnotes.cli.models import Model
from deepnotes.datasets.tables import write_table


@cache
def good(path: Path) -> bytes:
    """Return a model file; `path` is where it may lie for a moment."""
    hostile.network().save(path)
    return path.read_bytes()


def content() -> bytes:
    """Return a model file."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return good(Path(folder) / "good")


GOOD = content()
HEADER, DATA = hostile.parts(GOOD)
INNER, TENSORS = hostile.header_of(GOOD), hostile.tensors(GOOD)
SPECIAL = [0.0, -0.0, 1.0, -1.0, 1e-320, 1e-40, 3e38, 1e308, float("inf"), float("-inf"), float("nan")]


@st.composite
def outer(draw: st.DrawFn) -> bytes:
    """Return a file whose header of safetensors lies, about shapes, dtypes and places."""
    header = draw(altered(HEADER))
    return hostile.build(header, DATA)


@st.composite
def sealed(draw: st.DrawFn) -> bytes:
    """Return a file whose header or tensors of deepnotes lie, and whose digests are right all the same."""
    arrays = {name: array.copy() for name, array in TENSORS.items()}
    for name in draw(st.lists(st.sampled_from(sorted(arrays)), max_size=2, unique=True)):
        do = draw(st.sampled_from(["value", "dtype", "shape", "gone"]))
        if do == "value":
            with np.errstate(all="ignore"):
                arrays[name].flat[draw(st.integers(0, arrays[name].size - 1))] = draw(st.sampled_from(SPECIAL))
        elif do == "dtype":
            dtype = draw(st.sampled_from(["float16", "float32", "float64", "int64", "uint8", "bool"]))
            with np.errstate(all="ignore"):
                arrays[name] = np.nan_to_num(TENSORS[name]).astype(dtype)
        elif do == "shape":
            arrays[name] = TENSORS[name].reshape(draw(st.sampled_from([(-1,), (1, -1), (-1, 1, 1)])))
        else:
            del arrays[name]
    header = draw(st.just(INNER) | altered(INNER) | altered(INNER["metadata"]).map(with_metadata))
    return hostile.sealed(header, arrays)


def with_metadata(metadata: Any) -> dict[str, Any]:
    return INNER | {"metadata": metadata}


def files() -> st.SearchStrategy[bytes]:
    """Return a strategy of everything that may be handed in for a model file."""
    return st.one_of(
        st.just(GOOD), damaged(GOOD), outer(), sealed(), sealed().flatmap(damaged), st.binary(max_size=200)
    )


@target("model", files(), ".safetensors")
def load(path: Path) -> None:
    """Load a network: the original one, if its digest is; in any case one that predicts, and that can be saved."""
    net = dn.load(path, backend="numpy")
    if path.read_bytes() == GOOD:
        np.testing.assert_array_equal(net.flat(), hostile.network().flat())
    assert net.flat().nbytes <= path.stat().st_size
    assert net.predict(np.ones((net.inputs, 2), np.float32)).shape == (net.outputs, 2)
    copy = path.with_suffix(".copy")
    net.save(copy)
    again = dn.load(copy, backend="numpy")
    np.testing.assert_array_equal(again.flat(), net.flat())
    assert (again.layers, again.metadata, again.seed) == (net.layers, net.metadata, net.seed)


@target("model of the command line", files(), ".safetensors")
def load_model(path: Path) -> None:
    """Load a network with what its inputs and outputs mean, say what that is, and write predictions."""
    model = Model.load(str(path), dn.get_backend("numpy"))
    assert all("\n" not in told for _, told in model.facts("a path"))
    A = model.network.predict(np.ones((model.network.inputs, 2)))
    columns = model.task.columns(A)
    stream = io.StringIO()
    write_table(stream, list(columns), columns)
    stream.getvalue().encode()
