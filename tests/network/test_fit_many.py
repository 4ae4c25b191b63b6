"""fit_many gives each network the bits of training alone, and goes on if one of them fails."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpointed import BACKENDS

import deepnotes as dn
from deepnotes.datasets import on_disk
from deepnotes.network import inputs
from deepnotes.network.fit_many import FitManyInterrupt, FitResult

FEATURES, SAMPLES, CLASSES = 4, 120, 3
SHAPES: list[list[dn.Layer]] = [
    [dn.Dense(7, "relu"), dn.Dense(3, "softmax")],
    [dn.Dense(3, "softmax")],
    [dn.Dense(20, "tanh"), dn.Dropout(0.3), dn.Dense(9, "gelu"), dn.Dense(3, "softmax")],
    [dn.Dense(64, "relu"), dn.Dense(3, "softmax")],
]


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> dn.Backend:
    """Return a backend; Numba trains two networks at a time."""
    return dn.get_backend(request.param, **({"threads": 2} if request.param == "numba" else {}))


def single_threaded(backend: dn.Backend) -> dn.Backend:
    return dn.get_backend(backend.name, **({"threads": 1} if backend.name == "numba" else {}))


def data() -> tuple[np.ndarray, np.ndarray]:
    """Return X, shape (4, 120), and class indices, shape (120,)."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, CLASSES, SAMPLES)
    return rng.normal(size=(FEATURES, SAMPLES)) + np.eye(FEATURES)[:, y], y


def networks(backend: dn.Backend, dtype: str = "float32") -> list[dn.Network]:
    return [dn.Network(layers, FEATURES, backend=backend, dtype=dtype, seed=i) for i, layers in enumerate(SHAPES)]


def folds() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the indices of the training and validation samples of four folds; the third is a bootstrap sample."""
    orders = [np.random.default_rng(i).permutation(SAMPLES) for i in range(4)]
    train, test = [order[:90] for order in orders], [order[90:] for order in orders]
    train[2] = np.random.default_rng(9).choice(train[2], 90)
    return train, test


def settings() -> dict[str, Any]:
    """Return settings of all four networks, some of them different for each."""
    train, test = folds()
    return {
        "optimizer": [dn.SGD(0.1), "adam", dn.Adam(dn.ReduceOnPlateau(0.02, patience=0)), dn.RMSProp(0.01)],
        "epochs": [3, 7, 9, 5],
        "batch_size": [8, 1, 32, 200],
        "samples": train,
        "validation": test,
        "metrics": ("accuracy", "mean_squared_error"),
        "early_stopping": dn.EarlyStopping(2),
        "class_weight": "balanced",
        "sample_weight": np.linspace(0.5, 2, SAMPLES),
        "l2": 0.001,
    }


def of_network(settings: dict[str, Any], i: int) -> dict[str, Any]:
    return {name: value[i] if isinstance(value, list) else value for name, value in settings.items()}


def outcome(network: dn.Network, history: dn.History) -> list[Any]:
    """Return all results that must have equal bits."""
    figures = history.as_dict() | {"best_epoch": history.best_epoch}
    del figures["seconds"]
    assert network._training is not None
    state = network._training[2]
    slots = [network.backend.to_numpy(slot).tobytes() for slot in state.slots]
    return [network.flat().tobytes(), slots, state.step, network._rng.bit_generator.state, figures]


# --- subsets of the samples -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("i", range(4))
def test_a_subset_has_the_bits_of_a_copy(backend: dn.Backend, i: int, dtype: str, order: Any) -> None:
    X, y = data()
    X = np.array(X, order=order)
    own = of_network(settings(), i)
    by_index, by_copy = networks(backend, dtype)[i], networks(backend, dtype)[i]
    train, test = own["samples"], own["validation"]
    weights = {"sample_weight": own["sample_weight"][train]}
    copied = own | {"samples": None, "validation": (np.array(X[:, test], order=order), y[test])} | weights
    expected = outcome(by_copy, by_copy.fit(np.array(X[:, train], order=order), y[train], **copied))
    assert outcome(by_index, by_index.fit(X, y, **own)) == expected


def test_metrics_of_a_training_subset_have_the_bits_of_a_copy(backend: dn.Backend) -> None:
    X, y = data()
    train = folds()[0][0]
    by_index, by_copy = networks(backend)[0], networks(backend)[0]
    expected = outcome(by_copy, by_copy.fit(X[:, train], y[train], epochs=2, metrics="accuracy"))
    assert outcome(by_index, by_index.fit(X, y, samples=train, epochs=2, metrics="accuracy")) == expected


def test_a_mask_stands_for_the_indices_of_its_true_elements(backend: dn.Backend) -> None:
    X, y = data()
    mask = np.arange(SAMPLES) % 3 != 0
    by_mask, by_index = networks(backend)[0], networks(backend)[0]
    history = by_mask.fit(X, y, samples=mask, validation=~mask, epochs=2)
    again = by_index.fit(X, y, samples=np.flatnonzero(mask), validation=np.flatnonzero(~mask), epochs=2)
    assert outcome(by_mask, history) == outcome(by_index, again)


@pytest.mark.parametrize("kind", [range, "Series", "Index"])
def test_series_and_ranges_are_indices(kind: Any) -> None:
    backend = dn.get_backend("numpy")
    convert: Any = kind if kind is range else lambda *ends: getattr(pytest.importorskip("pandas"), kind)(range(*ends))
    given, wanted = networks(backend)[0], networks(backend)[0]
    history = given.fit(*data(), samples=convert(5, 20), validation=convert(5), epochs=2)
    again = wanted.fit(*data(), samples=np.arange(5, 20), validation=np.arange(5), epochs=2)
    assert outcome(given, history) == outcome(wanted, again)


@pytest.mark.parametrize(
    ("samples", "error", "message"),
    [
        (np.array([0, SAMPLES]), dn.DataError, rf"samples\[1\] is {SAMPLES}, wanted an index of 0 .. {SAMPLES - 1}"),
        (np.array([-1]), dn.DataError, r"samples\[0\] is -1"),
        (np.array([], int), dn.DataError, "samples is empty"),
        (np.array([0.5]), dn.DTypeError, "samples: got an array of float64, wanted integers"),
        (np.array([[0]]), dn.ShapeError, r"samples has shape \(1, 1\)"),
        (np.zeros(SAMPLES, bool), dn.DataError, "samples is empty"),
        (np.ones(3, bool), dn.ShapeError, rf"samples has shape \(3,\), .* a boolean mask of shape \({SAMPLES},\)"),
    ],
)
def test_invalid_indices_are_refused(samples: np.ndarray, error: type[Exception], message: str) -> None:
    net = networks(dn.get_backend("numpy"))[0]
    before = net.flat()
    with pytest.raises(error, match=message):
        net.fit(*data(), samples=samples)
    assert np.array_equal(net.flat(), before)


def test_a_subset_whose_weights_are_all_zero_is_refused() -> None:
    X, y = data()
    weights = np.arange(SAMPLES) >= 10
    with pytest.raises(dn.DataError, match="sample_weight is 0 for each of the 10 samples"):
        networks(dn.get_backend("numpy"))[0].fit(X, y, sample_weight=weights, samples=np.arange(10))


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_subset_has_the_bits_of_a_copy_for_one_output(backend: dn.Backend, order: Any) -> None:
    """NumPy's product of a matrix and a vector has other bits for another memory layout."""
    X, y = data()
    X, Y = np.array(X, order=order), y.astype(float)[None]
    train, test = np.split(np.random.default_rng(1).permutation(SAMPLES), [75])
    by_index, by_copy = (dn.Network([dn.Dense(1)], FEATURES, backend=backend, seed=0) for _ in range(2))
    copies = [(np.array(X[:, part], order=order), np.array(Y[:, part], order=order)) for part in (train, test)]
    expected = outcome(by_copy, by_copy.fit(*copies[0], validation=copies[1], epochs=3))
    assert outcome(by_index, by_index.fit(X, Y, samples=train, validation=test, epochs=3)) == expected


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_subset_of_samples_on_disk_has_the_bits_of_one_in_memory(
    backend: dn.Backend, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_disk, "BYTES_IN_MEMORY", 1 << 12)
    rows = np.random.default_rng(0).integers(0, 200, (SAMPLES, FEATURES)).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    mapped = dn.OnDisk(np.load(tmp_path / "rows.npy", mmap_mode="r"))
    standardizer = dn.Standardizer.fit(rows.T)
    train, test = folds()
    from_disk, from_memory = (
        dn.Network(SHAPES[0], FEATURES, backend=backend, seed=0, standardizer=standardizer) for _ in range(2)
    )
    own = {"samples": train[2], "validation": test[2], "epochs": 3, "metrics": "accuracy"}
    expected = outcome(from_memory, from_memory.fit(rows.T, data()[1], **own))
    assert outcome(from_disk, from_disk.fit(mapped, data()[1], **own)) == expected


# --- many networks ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_each_network_gets_the_bits_of_training_alone(backend: dn.Backend, dtype: str) -> None:
    X, y = data()
    together = networks(backend, dtype)
    results = dn.fit_many(together, X, y, **settings())
    for i, alone in enumerate(networks(single_threaded(backend), dtype)):
        expected = outcome(alone, alone.fit(X, y, **of_network(settings(), i)))
        assert results[i].network is together[i]
        assert (results[i].index, results[i].error) == (i, None)
        assert outcome(together[i], results[i].history) == expected, i


def test_networks_of_several_backends_and_dtypes_are_trained_in_one_call() -> None:
    X, y = data()
    all_networks = [network for name in BACKENDS for dtype in ("float32", "float64")
                    for network in networks(dn.get_backend(name), dtype)[:2]]  # fmt: skip
    results = dn.fit_many(all_networks, X, y, epochs=2)
    for result in results:
        twin = networks(single_threaded(result.network.backend), result.network.dtype)[result.index % 2]
        assert outcome(result.network, result.history) == outcome(twin, twin.fit(X, y, epochs=2))


def test_numba_trains_two_networks_at_the_same_time() -> None:
    backend = dn.get_backend("numba", threads=2) if "numba" in BACKENDS else pytest.skip("needs Numba")
    barrier = threading.Barrier(2)

    class Meet(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            barrier.wait(60)

    dn.fit_many(networks(backend)[:2], *data(), epochs=3, callbacks=(Meet(),))
    assert not barrier.broken


def test_the_network_with_the_most_work_is_trained_first() -> None:
    done: list[int] = []
    dn.fit_many(
        networks(dn.get_backend("numpy")),
        *data(),
        epochs=[1, 1, 1, 9],
        on_network=lambda result: done.append(result.index),
    )
    assert done == [3, 2, 0, 1]


def test_the_data_are_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[object] = []
    convert = inputs.as_samples

    def count(*arguments: Any) -> Any:
        calls.append(arguments)
        return convert(*arguments)

    monkeypatch.setattr(inputs, "as_samples", count)
    dn.fit_many(networks(dn.get_backend("numpy")), *data(), **settings())
    assert len(calls) == 1


def test_progress_without_a_terminal_is_a_line_for_some_networks(capsys: pytest.CaptureFixture[str]) -> None:
    results = dn.fit_many(networks(dn.get_backend("numpy")), *data(), epochs=2, progress=True)
    lines = capsys.readouterr().err.splitlines()
    lowest = min(min(result.history.loss) for result in results)
    assert len(lines) == 4
    assert lines[-1] == f"networks 4/4  best loss {lowest:.4g}"


def test_progress_counts_only_networks_whose_training_has_ended(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupt(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            raise KeyboardInterrupt

    rates, callbacks = [dn.SGD(1e30), dn.SGD(0.1), dn.SGD(0.1), dn.SGD(0.1)], [[], [], [Interrupt()], []]
    with pytest.raises(FitManyInterrupt) as raised:
        dn.fit_many(
            networks(dn.get_backend("numpy")),
            *data(),
            epochs=[1000, 1000, 10, 1],  # those with the most work come first
            batch_size=300,
            optimizer=rates,
            callbacks=callbacks,
            progress=True,
        )
    assert [result.index for result in raised.value.results] == [0, 1]
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == ["1/4", "2/4"]


# --- failures ---------------------------------------------------------------------------------------------------------


def test_the_other_networks_go_on_after_one_becomes_non_finite(backend: dn.Backend) -> None:
    X, y = data()
    rates = [dn.SGD(0.1), dn.SGD(0.1), dn.SGD(1e30), dn.SGD(0.1)]
    results = dn.fit_many(networks(backend), X, y, epochs=3, optimizer=rates)
    for i, alone in enumerate(networks(single_threaded(backend))):
        if i == 2:
            with pytest.raises(dn.NonFiniteLossError) as raised:
                alone.fit(X, y, epochs=3, optimizer=rates[i])
            error = results[i].error
            assert isinstance(error, dn.NonFiniteLossError)
            assert error.step == raised.value.step
            assert np.isfinite(results[i].network.flat()).all()
        else:
            alone.fit(X, y, epochs=3, optimizer=rates[i])
            assert results[i].error is None
        assert results[i].network.flat().tobytes() == alone.flat().tobytes(), i


def test_an_error_in_a_metric_ends_all_training_runs_and_names_the_network(backend: dn.Backend) -> None:
    def fail(A: np.ndarray, Y: np.ndarray) -> float:
        raise RuntimeError("no such metric")

    with pytest.raises(RuntimeError, match="no such metric") as raised:
        dn.fit_many(networks(backend), *data(), metrics=[fail, (), (), ()], epochs=[10**6, 10**6, 1, 1])
    assert raised.value.__notes__ == ["in the training of networks[0]"]


def test_ctrl_c_raises_the_results_so_far_and_keeps_all_parameters(backend: dn.Backend) -> None:
    together = networks(backend)
    before = [network.flat() for network in together]

    def interrupt(result: FitResult) -> None:
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(FitManyInterrupt, match="of 4 networks were trained to the end") as raised:
        dn.fit_many(together, *data(), epochs=[1, 1, 4, 400], on_network=interrupt)
    results = raised.value.results
    assert results[0].history.epochs > 0
    assert len(results) < 4
    assert np.isfinite([np.abs(network.flat()).max() for network in together]).all()
    for result in results:
        assert not np.array_equal(result.network.flat(), before[result.index])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"epochs": [1, 2]}, dn.ArgumentError, "epochs is a list of length 2, wanted one value for each of the 4"),
        ({"epoch": 3}, dn.UnknownNameError, "epoch"),
        ({"batch_size": [1, 2, 0, 4]}, dn.ArgumentError, "batch_size=0"),
        (
            {"samples": [np.arange(9), np.arange(9), np.arange(9), np.array([999])]},
            dn.DataError,
            r"samples\[0\] is 999",
        ),
        ({"on_network": "print"}, dn.ArgumentError, "on_network='print', wanted a function"),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_trained(
    changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    all_networks = networks(dn.get_backend("numpy"))
    before = [network.flat() for network in all_networks]
    with pytest.raises(error, match=message):
        dn.fit_many(all_networks, *data(), **changes)
    assert all(np.array_equal(network.flat(), theta) for network, theta in zip(all_networks, before, strict=True))


@pytest.mark.parametrize("inputs", [3, 9])
def test_a_network_with_other_inputs_than_the_first_is_refused(backend: dn.Backend, inputs: int) -> None:
    X = np.ones((5, 20))
    own = [dn.Network([dn.Dense(1)], n, backend=backend, seed=0) for n in (5, inputs)]
    with pytest.raises(dn.ShapeError, match=rf"wanted \({inputs}, m\)") as raised:
        dn.fit_many(own, X, X[:1])
    assert raised.value.__notes__ == ["in the settings of networks[1]"]


def test_a_directory_for_the_files_of_two_networks_is_refused(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"checkpoint": [tmp_path, None, tmp_path / "other", tmp_path]},
        {"callbacks": (dn.Checkpoints(tmp_path),)},
        {"callbacks": (dn.TensorBoard(tmp_path),)},
    ]
    for setting in settings:
        all_networks = networks(dn.get_backend("numpy"))
        before = [network.flat() for network in all_networks]
        with pytest.raises(dn.ArgumentError, match=r"networks\[0\] and networks\[\d\] both have the directory"):
            dn.fit_many(all_networks, *data(), **setting)
        assert all(np.array_equal(net.flat(), theta) for net, theta in zip(all_networks, before, strict=True))
        assert list(tmp_path.iterdir()) == []


def test_a_network_that_occurs_twice_is_refused() -> None:
    net = networks(dn.get_backend("numpy"))[0]
    with pytest.raises(dn.ArgumentError, match="networks contains an object twice"):
        dn.fit_many([net, net], *data())


def test_a_single_network_is_refused() -> None:
    net: Any = networks(dn.get_backend("numpy"))[0]
    with pytest.raises(dn.ArgumentError, match="wanted a list of Network"):
        dn.fit_many(net, *data())


# --- checkpoints ------------------------------------------------------------------------------------------------------


def fit_with_checkpoints(backend: dn.Backend, directory: Path, **changes: Any) -> list[FitResult]:
    return dn.fit_many(networks(backend), *data(), checkpoint=directory, every=1, **settings() | changes)


def kill_at(backend: str, directory: str, chunks: str) -> None:
    """Train until a number of chunks is done, then end this process without any clean-up."""
    left = [int(chunks)]

    class Kill(dn.Callback):
        def on_chunk(self, training: Any) -> None:
            left[0] -= 1
            if left[0] == 0:
                os._exit(9)

    options = {"threads": 2} if backend == "numba" else {}
    fit_with_checkpoints(dn.get_backend(backend, **options), Path(directory), callbacks=(Kill(),))


@pytest.mark.parametrize("chunks", [4, 9, 17])
def test_killed_training_is_resumed_with_the_same_bits(backend: dn.Backend, chunks: int, tmp_path: Path) -> None:
    arguments = [backend.name, str(tmp_path), str(chunks)]
    tests = Path(__file__).parent
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tests), str(tests.parent), *sys.path])}
    code = "import sys, test_fit_many; test_fit_many.kill_at(*sys.argv[1:])"
    process = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, timeout=300, check=False)
    assert process.returncode == 9
    resumed = fit_with_checkpoints(backend, tmp_path, resume=True)
    expected = dn.fit_many(networks(backend), *data(), **settings())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0000", "0001", "0002", "0003"]
    for a, b in zip(resumed, expected, strict=True):
        assert outcome(a.network, a.history) == outcome(b.network, b.history)


def test_directories_with_checkpoints_are_refused_without_resume(tmp_path: Path) -> None:
    backend = dn.get_backend("numpy")
    fit_with_checkpoints(backend, tmp_path)
    with pytest.raises(dn.CheckpointError, match="of an earlier training run"):
        fit_with_checkpoints(backend, tmp_path)
