"""Embeddings of categorical columns: training, files, and refused indices."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host_device import backend as cupy_backend
from literature_cases import by_name

import deepnotes as dn
from deepnotes.backends import Data, Shard, State
from deepnotes.network.formats import containers, model_files, onnx_writing, python_writing
from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.check_vectors import vectors_of, worst

with np.load(Path(__file__).parents[1] / "fixtures" / "embedding.npz") as file:
    STORED = dict(file)

BACKENDS: dict[str, Any] = {"numpy": lambda: "numpy", "numba": lambda: "numba", "cupy": cupy_backend}
PROGRAMS = {"numpy": "NumpyProgram", "numba": "NumbaProgram", "cupy": "CupyProgram"}
X, Y = STORED["X"], STORED["Y"]


def network(backend: Any = "numpy", dtype: str = "float64", **settings: Any) -> dn.Network:
    layers = [dn.Embedding({1: (12, 4), 3: (30, 5)}), dn.Dense(7, "tanh"), dn.Dense(3)]
    return dn.Network(layers, inputs=5, backend=backend, dtype=dtype, seed=0, **settings)


@pytest.mark.parametrize("backend", BACKENDS)
def test_training_matches_that_of_pytorch(backend: str) -> None:
    net = network(BACKENDS[backend]())
    net.parameters.update(by_name(net, STORED["start"]))
    losses = []
    for step in range(50):
        batch = slice(step * 8 % 40, step * 8 % 40 + 8)
        losses.append(net.partial_fit(X[:, batch], Y[:, batch], optimizer=dn.Adam(0.01)))
    np.testing.assert_allclose(losses, STORED["losses"], rtol=1e-10)
    assert type(net._training[1]).__name__ == PROGRAMS[backend]  # type: ignore[index]
    for key, wanted in by_name(net, STORED["parameters"]).items():
        found = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-10 * abs(wanted).max())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_outputs_are_the_numeric_columns_and_the_vectors(backend: str) -> None:
    net = network(BACKENDS[backend]())
    E1, E3 = (net.backend.to_numpy(net.parameters[name]) for name in ("E1_1", "E3_1"))
    wanted = np.vstack([X[[0, 2, 4]], E1[X[1].astype(int)].T, E3[X[3].astype(int)].T])
    np.testing.assert_array_equal(net.activations(X, layer=1), wanted)


def test_a_dense_layer_after_one_hot_columns_has_the_same_products() -> None:
    net = network()
    one_hot = np.vstack([X[[0, 2, 4]], *(np.equal(np.arange(k)[:, None], X[c]) for c, k in ((1, 12), (3, 30)))])
    dense = dn.Network([dn.Dense(7, "tanh"), dn.Dense(3)], inputs=45, backend="numpy", dtype="float64", seed=0)
    parameters: Any = net.parameters
    W = parameters["W2"]
    dense.parameters["W1"] = np.hstack([W[:, :3], W[:, 3:7] @ parameters["E1_1"].T, W[:, 7:] @ parameters["E3_1"].T])
    dense.parameters.update({"b1": parameters["b2"], "W2": parameters["W3"], "b2": parameters["b3"]})
    np.testing.assert_allclose(net.predict(X), dense.predict(one_hot), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_gradients_agree_with_central_differences(backend: str) -> None:
    report = dn.check_gradients(network(backend), X, Y)
    assert report.passed, report


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [100, 1100])
def test_numba_trains_as_the_equations_do_on_any_number_of_threads(size: int, dtype: str) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(5, 2300)).astype(dtype)
    samples[[0, 2]] = rng.integers(0, [[40], [300]], (2, 2300))
    layers = [dn.Embedding({0: (40, 6), 2: (300, 19)}), dn.Residual([dn.Dense(28, "tanh")]), dn.Dense(3)]
    flats = []
    for backend in (*(dn.get_backend("numba", threads=threads) for threads in (1, 2)), "numpy"):
        net = dn.Network(layers, inputs=5, backend=backend, dtype=dtype, seed=0)
        net.fit(samples, samples[[1, 3, 4]], epochs=2, batch_size=size, l2=0.1, optimizer="sgd")
        flats.append(net.flat())
    np.testing.assert_array_equal(flats[0], flats[1])
    np.testing.assert_allclose(flats[0], flats[2], rtol=0, atol=1e-4 if dtype == "float32" else 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_cupy_trains_as_the_equations_do_if_the_samples_of_a_batch_are_added_in_chunks(dtype: str) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(5, 1300)).astype(dtype)
    samples[[0, 2]] = rng.integers(0, [[40], [300]], (2, 1300))
    flats = []
    for backend in (cupy_backend(), "numpy"):
        layers = [dn.Embedding({0: (40, 6), 2: (300, 19)}), dn.Dense(3)]
        net = dn.Network(layers, inputs=5, backend=backend, dtype=dtype, seed=0)
        net.fit(samples, samples[[1, 3, 4]], epochs=2, batch_size=1000, l2=0.1, optimizer="sgd")
        flats.append(net.flat())
    np.testing.assert_allclose(*flats, rtol=0, atol=1e-5 if dtype == "float32" else 1e-13)


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("parts", [{"ranks": dn.distributed.single()}, {"accumulate": 5, "batch_size": 8}])
def test_the_parts_of_a_batch_are_added_on_numba(parts: dict[str, Any], l2: float) -> None:
    whole, net = network(), network("numba")
    options: Any = {"optimizer": dn.SGD(0.1), "epochs": 3, "batch_size": 40, "shuffle": False, "l2": l2}
    whole.fit(X, Y, **options)
    net.fit(X, Y, **(options | parts))
    np.testing.assert_allclose(net.flat(), whole.flat(), rtol=1e-10, atol=1e-13)


def test_the_gradient_of_a_shard_writes_no_squares() -> None:
    net, written = network("numba"), np.full(64, -1.0)
    plan = net._plan(net._loss(None), "sgd", 0.0, None, False)
    program: Any = net.backend.compile(plan)
    program._no_squares = written[:0]
    shard = Shard(np.arange(8), 0, 40)
    g = program.shard_gradient(State(net.theta), Data(net.from_host(X), net.from_host(Y)), shard)
    assert g.shape == (net.layout.size + 1,)
    assert set(written) == {-1.0}


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_predictions_for_one_sample_are_those_for_many(backend: str) -> None:
    net = network(backend)
    together = net.predict(X)
    np.testing.assert_allclose(
        np.hstack([net.predict(X[:, [i]]) for i in range(X.shape[1])]), together, rtol=1e-12, atol=1e-13
    )


def test_the_derivative_by_an_index_is_zero() -> None:
    net = network()
    assert not net.input_gradient(X, Y)[[1, 3]].any()
    assert not net.jacobian(X)[:, [1, 3]].any()
    assert net.input_gradient(X, Y)[[0, 2, 4]].all()


def test_tables_decay_as_weights_do() -> None:
    entries = network().layout.entries.values()
    assert {entry.key for entry in entries if entry.parameter.decays} == {"E1_", "E3_", "W"}


def test_the_vector_of_unknown_categories_stays_zero() -> None:
    net = dn.Network([dn.Embedding({1: 13, 3: 31}, unknown=True), dn.Dense(3)], inputs=5, backend="numpy", seed=0)
    shifted = X + np.array([[0], [1], [0], [1], [0]])
    net.fit(shifted, Y, epochs=2, optimizer=dn.AdamW())
    for name in ("E1_1", "E3_1"):
        E: Any = net.parameters[name]
        assert not E[0].any()
        assert E[1:].all()


def test_the_columns_may_be_all_or_one() -> None:
    indices = np.zeros((2, 3))
    for tables in ({0: 1, 1: 2}, {0: 2}, {1: 2}):
        net = dn.Network([dn.Embedding(tables)], inputs=2, backend="numpy", seed=0)
        assert net.predict(indices).shape == (net.outputs, 3)
        net.fit(indices, np.zeros((net.outputs, 3)), epochs=1)


def test_a_column_has_vectors_of_a_default_size() -> None:
    assert dn.Embedding({0: 10}) == dn.Embedding({0: (10, 6)}) == dn.Embedding([[0, 10, 6]])  # type: ignore[list-item]
    layer = dn.Embedding({0: 3}, "zeros", unknown=True)
    assert repr(layer) == "Embedding({0: (3, 3)}, initializer='zeros', unknown=True)"


@pytest.mark.parametrize("backend", ["numpy", "numba"])
def test_files_and_resumed_training(backend: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"optimizer": dn.Adam(0.01), "batch_size": 8}
    whole, half, resumed = (network(backend) for _ in range(3))
    whole.fit(X, Y, epochs=6, **settings)
    half.fit(X, Y, epochs=3, checkpoint=tmp_path / "run", every=1, **settings)
    resumed.fit(X, Y, epochs=6, resume=True, checkpoint=tmp_path / "run", every=1, **settings)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())
    whole.save(tmp_path / "net.dn")
    loaded = dn.load(tmp_path / "net.dn", backend=backend)
    assert loaded.layers == whole.layers
    np.testing.assert_array_equal(loaded.predict(X), whole.predict(X))


@pytest.mark.parametrize("tables", [[[9, 12, 4]], [[1, 12]], [[1, 12, "x"]], [], [[1, 12, 4], [1, 12, 4]]])
def test_a_file_with_impossible_tables_is_refused(tables: Any, tmp_path: Path) -> None:
    header, tensors = model_files.content(network())
    header["network"]["layers"][0]["tables"] = tables
    containers.write(tmp_path / "net.dn", header, tensors)
    with pytest.raises(dn.ModelFileError, match=r"net\.dn: "):
        dn.load(tmp_path / "net.dn", backend="numpy")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("wrong", [12, -1, 0.5, np.nan, np.inf])
def test_anything_but_an_index_is_refused_before_anything_changes(backend: str, wrong: float) -> None:
    net = network(BACKENDS[backend]())
    before, spoiled = net.flat(), X.copy()
    spoiled[1, 2] = wrong
    message = rf"X\[1, 2\] is {wrong:g}; column 1 holds categories, wanted a whole number from 0 to 11"
    for call in (
        lambda: net.predict(spoiled),
        lambda: net.fit(spoiled, Y),
        lambda: net.evaluate(spoiled, Y),
        lambda: net.gradients(spoiled, Y),
        lambda: net.predict(net.backend.from_numpy(spoiled)),
    ):
        with pytest.raises(dn.DataError, match=message):
            call()
    np.testing.assert_array_equal(net.flat(), before)


def test_the_message_has_the_name_of_the_column_and_the_count() -> None:
    net = network(dtype="float32")
    net.metadata["features"] = ["a", "city", "b", "shop", "c"]
    spoiled = X.copy()
    spoiled[3, 5:8] = 30
    with pytest.raises(dn.DataError, match=r"X\[3, 5\] is 30, the first of 3 wrong values; column 3 \(shop\) holds"):
        net.predict(spoiled)


def test_samples_on_disk_are_checked(tmp_path: Path) -> None:
    spoiled = X.T.copy()
    spoiled[30, 3] = -2
    np.save(tmp_path / "X.npy", spoiled)
    rows = np.load(tmp_path / "X.npy", mmap_mode="r")
    with pytest.raises(dn.DataError, match=r"X\[3, 30\] is -2; column 3 holds"):
        network().fit(dn.OnDisk(rows), Y)


def test_networks_with_other_tables_do_not_share_the_check() -> None:
    nets = [dn.Network([dn.Embedding({3: n}), dn.Dense(3)], inputs=5, backend="numpy", seed=0) for n in (30, 5)]
    with pytest.raises(dn.DataError, match="from 0 to 4"):
        dn.fit_many(nets, X, Y, epochs=1)


def test_a_standardizer_leaves_categories_as_they_are() -> None:
    standardizer = dn.Standardizer.fit(X, unchanged=[1, 3])
    np.testing.assert_array_equal(standardizer(X)[[1, 3]], X[[1, 3]])
    assert abs(standardizer(X)[[0, 2, 4]].mean(axis=1)).max() < 1e-12
    network(standardizer=standardizer).fit(X, Y, epochs=1)
    with pytest.raises(dn.ArgumentError, match=r"changes column 1, .*Standardizer.fit\(X, unchanged=\[1, 3\]\)"):
        network(standardizer=dn.Standardizer.fit(X))
    with pytest.raises(dn.ArgumentError, match="unchanged=5"):
        dn.Standardizer.fit(X, unchanged=[5])


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "tables"), (None, "tables"), ({-1: 3}, "column=-1"), ({1: 0}, "categories of column 1"),
        ({1: (3, 0)}, "size of the vectors of column 1"), ({1: 1 << 25}, "at most 16,777,216"), ({1: "ab"}, "'ab'"),
        ([(1, 2, 3), (1, 2, 3)], "two tables"),
    ],
)  # fmt: skip
def test_wrong_tables_are_refused(tables: Any, message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        dn.Embedding(tables)


def test_an_embedding_is_the_first_layer_of_a_network_that_has_its_columns() -> None:
    with pytest.raises(dn.ArgumentError, match=r"layers\[1\]: .* must be the first layer"):
        dn.Network([dn.Dense(5), dn.Embedding({1: 3}), dn.Dense(1)], inputs=5, backend="numpy")
    with pytest.raises(dn.ArgumentError, match="a table for column 5, but there are 5 inputs"):
        dn.Network([dn.Embedding({5: 3}), dn.Dense(1)], inputs=5, backend="numpy")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exports_compute_the_same_outputs(dtype: str) -> None:
    standardizer = dn.Standardizer.fit(X, unchanged=[1, 3])
    for net in (
        network(dtype=dtype, standardizer=standardizer),
        dn.Network([dn.Embedding(dict.fromkeys(range(5), (9, 1)))], inputs=5, backend="numpy", dtype=dtype, seed=0),
    ):
        chain = Chain.of(net)
        vectors = vectors_of(chain)
        outputs, _ = onnx_writing.run(onnx_writing.to_onnx(chain), vectors)
        assert worst(outputs, vectors) <= 1
        python_writing.check(python_writing.to_python(chain))


def test_an_exported_python_file_refuses_anything_but_an_index() -> None:
    module: dict[str, Any] = {"__name__": "exported"}
    exec(python_writing.to_python(Chain.of(network())), module)
    np.testing.assert_allclose(module["predict"](X.T), network().predict(X).T, rtol=1e-12)
    for wrong in (-1, 30, 0.5, np.nan):
        spoiled = X.T.copy()
        spoiled[2, 3] = wrong
        with pytest.raises(ValueError, match="column 3: wanted whole numbers from 0 to 29"):
            module["predict"](spoiled)


def test_the_trace_shows_the_tables() -> None:
    formulas = {event.name: event.formula for event in network().trace(X, Y)}
    assert formulas["A1"] == "A0 without the rows 1, 3, above E1_1[A0[1]]ᵀ above E3_1[A0[3]]ᵀ"
    assert formulas["dE3_1"] == "(1/m) one_hot(A0[3]) dA1[7:12]ᵀ"
