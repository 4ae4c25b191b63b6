"""Training in shared memory, many steps in one launch, on a stand-in for the device: in one block and in a cluster."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import literature
import numpy as np
import pytest
from cuda_shim import ORDERS, Host, KernelFault
from host_device import backend
from plans import NETWORKS, OPTIMIZERS, blobs

import deepnotes as dn
from deepnotes.backends import ACTIVATIONS, LOSSES
from deepnotes.utils.errors import ArgumentError, NonFiniteLossError
from deepnotes_cupy import options, resident
from deepnotes_cupy.device import UNITS
from deepnotes_cupy.resident import BLOCKS, THREADS
from deepnotes_cupy.sources import Kernel, parse

pytestmark = pytest.mark.slow

LAYERS = [dn.Dropout(0.2), dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(7, "gelu"), dn.Dense(4, "softmax")]
FORMS = {"block": False, "cluster": True}
original_kernel: Callable[[int, str], Kernel] = resident.kernel.__wrapped__


def resident_backend(form: str, checked: bool = False, **settings: Any) -> Any:
    """Return a backend that trains in one block or in a cluster."""
    target = backend(driver="resident", **settings)
    target.device.clusters, target.device.checked = FORMS[form], checked
    return target


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use clusters for the smallest networks, too, and few threads, since each is simulated."""
    monkeypatch.setattr(resident, "CLUSTER_WORK", 0)
    monkeypatch.setattr(resident, "CLUSTER_SAMPLES", 1)
    monkeypatch.setattr(resident, "THREADS", {1: 64, BLOCKS: 64})
    monkeypatch.setattr(resident, "kernel", cache(original_kernel))


def train(target: Any, layers: Any = LAYERS, dtype: str = "float64", seed: int = 0, **settings: Any) -> Any:
    """Return a network that was trained on 90 samples, in batches of 20 and a last one of 10, and the losses."""
    X, y = blobs(90)
    Y = settings.pop("Y", y)
    net = dn.Network(layers, inputs=4, backend=target, seed=seed, dtype=dtype)
    history = net.fit(X, Y, **{"epochs": 2, "batch_size": 20} | settings)
    return net, history.loss


def launches(target: Any) -> list[str]:
    """Return the names of the kernels that a backend has launched."""
    return [entry[1] for entry in target.device.log if entry[0] == "launch"]


def assert_equal_trainings(form: str, dtype: str = "float64", **settings: Any) -> Any:
    """Assert that a training in shared memory gives the results of NumPy in float64; return its backend."""
    target = resident_backend(form)
    (net, losses), (expected, expected_losses) = train(target, dtype=dtype, **settings), train("numpy", **settings)
    assert set(launches(target)) - {"end_epoch"} == {"train_resident"}
    tolerance = 2000 * UNITS[dtype]  # type: ignore[index]
    np.testing.assert_allclose(losses, expected_losses, rtol=tolerance)
    np.testing.assert_allclose(net.flat(), expected.flat(), rtol=0, atol=tolerance)
    return target


# --- the same results as NumPy --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", FORMS)
def test_training_gives_the_results_of_numpy(form: str, dtype: str) -> None:
    """With dropout of inputs and outputs, L1, L2, clipping, class indices, and a last batch that is smaller."""
    assert_equal_trainings(form, dtype, l1=0.02, l2=0.01, clip_norm=0.2)


@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=str)
@pytest.mark.parametrize("form", FORMS)
def test_every_optimizer_gives_the_results_of_numpy(form: str, optimizer: Any) -> None:
    assert_equal_trainings(form, optimizer=optimizer, l2=0.1)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_gives_the_results_of_numpy(name: str, form: str) -> None:
    """In a hidden layer, with dropout after it unless that is refused, and in the last layer."""
    dropout = [] if name in ("softmax", "log_softmax") else [dn.Dropout(0.3)]
    layers = [dn.Dense(7, name), *dropout, dn.Dense(5, "tanh"), dn.Dense(4, name)]
    Y = np.random.default_rng(0).uniform(0.1, 1, (4, 90))
    assert_equal_trainings(form, layers=layers, Y=Y, loss="mean_squared_error")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_gives_the_results_of_numpy(loss: str, weighted: bool, form: str) -> None:
    rng = np.random.default_rng(1)
    last = "softmax" if loss in ("categorical_cross_entropy", "kl_divergence") else "sigmoid"
    w = {"sample_weight": rng.uniform(0.5, 2, 90)} if weighted else {}
    Y = rng.dirichlet(np.ones(4), 90).T
    assert_equal_trainings(form, layers=[dn.Dense(9, "tanh"), dn.Dense(4, last)], Y=Y, loss=loss, **w)
    if loss == "half_poisson_deviance":  # from the logits, too
        assert_equal_trainings(form, layers=[dn.Dense(9, "tanh"), dn.Dense(4, "exp")], Y=Y, loss=loss, **w)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "part", [literature.Mish(), literature.LogSoftmax(), literature.LogCosh(), literature.AMSGrad()], ids=str
)
def test_user_defined_parts_give_the_results_of_numpy(part: Any, form: str) -> None:
    """With layers of one activation whose options differ, so that they share its code."""
    settings: dict[str, Any] = {"loss": "mean_squared_error", "optimizer": dn.SGD(0.001)}
    hidden: Any = part if isinstance(part, dn.ActivationFunction) else "gelu"
    settings |= {"loss": part} if isinstance(part, dn.LossFunction) else {}
    settings |= {"optimizer": part} if isinstance(part, dn.Optimizer) else {}
    leaky = [dn.Dense(6, dn.Activation("leaky_relu", slope=slope)) for slope in (0.1, 0.3)]
    Y = np.random.default_rng(2).normal(size=(3, 90))
    assert_equal_trainings(form, layers=[dn.Dense(5, hidden), *leaky, dn.Dense(3)], Y=Y, **settings)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_other_networks_give_the_results_of_numpy(name: str, form: str) -> None:
    layers, loss = NETWORKS[name]
    X, y = blobs(90)
    Y = {"binary": (y > 1).reshape(1, -1), "regression": X[:2], "unfused": np.eye(4)[:, y]}.get(name, y)
    assert_equal_trainings(form, layers=layers, loss=loss, Y=Y)


@pytest.mark.parametrize("form", FORMS)
def test_large_layers_and_batches_give_the_results_of_numpy(form: str) -> None:
    """Large enough for tiles of all sizes, and for sums that several lanes share."""
    layers = [dn.Dense(70, "relu"), dn.Dense(33, "tanh"), dn.Dense(4, "softmax")]
    for m in (1, 3, 90):
        assert_equal_trainings(form, "float32", layers=layers, batch_size=m, epochs=1 if m < 4 else 3)


@pytest.mark.parametrize("form", FORMS)
def test_batches_that_do_not_fit_are_processed_in_parts(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target = resident_backend(form)
    plan_capacity: list[int] = []
    original = resident.fit

    def fit(*arguments: Any) -> Any:
        found = original(*arguments)
        plan_capacity.append(found.capacity)
        return found

    monkeypatch.setattr("deepnotes_cupy.trainers.fit", fit)
    target.device.shared_bytes = resident.STATIC_BYTES + 12000
    (net, losses), (expected, expected_losses) = train(target), train("numpy")
    if form == "block":
        assert 1 < max(plan_capacity) < 20
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-12)
    np.testing.assert_allclose(net.flat(), expected.flat(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_streamed_samples_give_the_bits_of_resident_ones(form: str) -> None:
    streamed = resident_backend(form, resident_bytes=0)
    streamed.stage_bytes = 2000
    assert np.array_equal(train(streamed)[0].flat(), train(resident_backend(form))[0].flat())


# --- no result depends on the order of threads, blocks or launches ----------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_no_result_depends_on_the_order_of_threads_and_blocks(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every access is checked as well: its bounds, and a barrier between any two that conflict."""
    results = []
    for order in ORDERS:
        target = resident_backend(form, checked=True)
        monkeypatch.setattr(Host, "order", order)
        results.append(train(target, dtype="float32", epochs=1, l2=0.01, clip_norm=0.2)[0].flat())
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


@pytest.mark.parametrize("form", FORMS)
def test_launches_are_short_and_their_number_does_not_change_the_bits(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So Ctrl-C, which ends a training after the current chunk, never waits for a long launch."""
    one, several = resident_backend(form), resident_backend(form)
    expected = train(one)[0].flat()
    monkeypatch.setattr(resident, "LAUNCH_SECONDS", 0.0)
    assert np.array_equal(train(several)[0].flat(), expected)
    assert len(launches(one)) < len(launches(several)) == 10  # a step each


@pytest.mark.parametrize("form", FORMS)
def test_a_training_that_is_resumed_gives_the_same_bits(form: str, tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    train(resident_backend(form), epochs=1, checkpoint=path)
    resumed = train(resident_backend(form), epochs=3, checkpoint=path, resume=True)[0]
    assert np.array_equal(train(resident_backend(form), epochs=3)[0].flat(), resumed.flat())


# --- when training stops -------------------------------------------------------------------------------------------


def train_chunk(target: Any, X: np.ndarray, dtype: str = "float64", layers: Any = LAYERS[1:]) -> tuple[Any, Any, int]:
    """Make five updates in one chunk, the last one with a smaller batch; return the Chunk, θ, and the last step."""
    y = blobs(90)[1]
    net = dn.Network(layers, inputs=4, backend=target, seed=0, dtype=dtype)
    plan = net._plan(net._loss(None), "adam", 0.01, 0.2, True)
    program = target.compile(plan)
    theta, *slots = (target.from_numpy(x) for x in (net.flat(), *np.zeros((2, net.layout.size), dtype)))
    state = dn.backends.program.State(theta, tuple(slots))
    data = dn.backends.program.Data(*(target.from_samples(x.astype(dtype)) for x in (X, y.reshape(1, -1))))
    with np.errstate(invalid="ignore"):
        chunk = program.train(state, dn.backends.Batches(data, np.arange(90), 20, np.full(5, 1e-2)))
    return chunk, target.to_numpy(state.theta), state.step


@pytest.mark.parametrize("form", FORMS)
def test_training_stops_as_by_graphs(form: str) -> None:
    """An infinite sample ends it; the parameters are those before the batch."""
    X = blobs(90)[0]
    X[2, 61] = np.inf
    (chunk, theta, step), (expected, expected_theta, expected_step) = (
        train_chunk(target, X) for target in (resident_backend(form), backend())
    )
    assert chunk.steps == step == expected.steps == expected_step == 3
    np.testing.assert_allclose(chunk.loss_sum, expected.loss_sum, rtol=1e-12)
    assert chunk.weight_sum == expected.weight_sum
    assert not np.isfinite(chunk.cost)
    np.testing.assert_allclose(theta, expected_theta, rtol=0, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_an_update_that_may_overflow_is_left_to_the_host(form: str) -> None:
    """The gradient's norm is so large that the device leaves the decision to the host, which finds it finite."""
    X, _ = blobs(90)
    for rate in (1e290, 1e-300):
        results = []
        for target in (resident_backend(form), "numpy"):
            net = dn.Network([dn.Dense(2)], inputs=4, backend=target, seed=0, dtype="float64")
            try:
                net.fit(X, 1e150 * X[:2], optimizer=dn.SGD(rate), epochs=1, batch_size=20)
            except NonFiniteLossError as error:
                results.append(type(error))
            results.append(net.flat())
        half = len(results) // 2
        for ours, theirs in zip(results[:half], results[half:], strict=True):
            if isinstance(ours, type):
                assert ours is theirs
            else:
                np.testing.assert_allclose(ours, theirs, rtol=1e-12)


# --- which plans are taken ---------------------------------------------------------------------------------------


def test_small_networks_are_trained_in_shared_memory_and_large_ones_by_graphs() -> None:
    for width, batch_size, expected in ((16, 20, True), (400, 20, False)):
        target = backend(driver="auto")
        train(target, [dn.Dense(width, "relu"), dn.Dense(width, "relu"), dn.Dense(4, "softmax")], batch_size=batch_size)
        assert ("train_resident" in launches(target)) == expected


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [dn.Dense(400, "relu"), dn.Dense(400, "relu"), dn.Dense(4)],
            "164,004 parameters do not fit",
        ),
        ([dn.Dense(4, "relu"), dn.Dropout(0.1), dn.Dropout(0.1), dn.Dense(4)], "a dropout layer follows another one"),
        (
            [dn.Dense(4, "softmax"), dn.Dropout(0.1), dn.Dense(4)],
            "follows another one or a layer like softmax",
        ),
        ([dn.Dense(4, "relu"), dn.Dense(4), dn.Dropout(0.1)], "the last layer is dropout"),
        ([dn.Dense(4)] * 17, "17 dense layers"),
    ],
)
def test_plans_that_do_not_fit_are_refused(layers: Any, message: str) -> None:
    settings = {"layers": layers, "Y": np.ones((4, 90)), "loss": "mean_squared_error", "epochs": 1}
    with pytest.raises(ArgumentError, match=f"driver='resident' cannot train this network: .*{message}"):
        train(backend(driver="resident"), **settings)
    target = backend(driver="auto")
    train(target, **settings)
    assert "train_resident" not in launches(target)


def test_the_driver_is_checked() -> None:
    with pytest.raises(ArgumentError, match="driver='fast', wanted one of auto, graph, resident"):
        options.check_options(0, "highest", None, None, "fast")
    with pytest.raises(ArgumentError, match="driver='resident' with matmul_precision='high'"):
        options.check_options(0, "high", None, None, "resident")


def test_blocks_have_whole_warps() -> None:
    assert all(threads % 32 == 0 for threads in THREADS.values())


# --- faults in the kernel are found --------------------------------------------------------------------------------

RACE, SYNC, SYNC_ALL = "without a barrier between", "__syncthreads();", "sync_all();"
STEP_END = "slots));\n        @\n    }\n\n    sync_all();"
SHARE = "        }\n        @\n\n        // The gradient of this"
PARTIAL = "= largest;\n        @"
MASKED = "store_some(A + j * row.stride, i, row.n, a);\n        }\n        @"
AWAITED = "            @\n            __syncthreads();\n            trainer.differentiate"
MUTANTS = [  # form, message, text with a place, what is there, and what replaces it
    ("block", RACE, "@\n\n    for (int step = 0;", SYNC, ""),
    ("block", "", "@\n    __syncthreads();\n    fetch(pass);", "await_copies();", ""),
    ("block", "", AWAITED, "await_copies();", ""),
    ("block", RACE, "@\n        activate_outputs(row, samples);", SYNC, ""),
    ("block", RACE, "@\n        }\n        if (row.mask) drop(row, samples, pool", SYNC, ""),
    ("block", RACE, MASKED, SYNC, ""),
    ("block", RACE, "if (l > 1 || part + 1 < per_step) @", SYNC, ";"),
    ("block", RACE, SHARE, SYNC_ALL, ""),
    ("cluster", "may not have started", SHARE, SYNC_ALL, SYNC),
    ("cluster", "", PARTIAL, "sync_cluster();", SYNC),
    ("cluster", RACE, STEP_END, SYNC_ALL, SYNC),
    ("stop", "has ended", "@  // no block ends while", SYNC_ALL, ""),
    ("cluster", "never reaches", "if (@) return;", "control->stopped", "rank_in_cluster() == 3"),
    ("cluster", "not equal", "x[v] += parts[@][v];", "r", "r & ~1"),
    ("cluster", "not equal", "for (int rank = @; rank < BLOCKS;", "0", "1"),
    ("cluster", "not equal", "@ * row.n", "(samples.position + j)", "j"),
    ("parts", "not equal", "@load(g, x);", "if (adds) ", "if (false) "),
    ("block", "not equal", "trainer.step = @;", "state.step", "0"),
    ("block", "not equal", "if (@) A[at]", "A != out", "false"),
    ("block", "not equal", "out[at] = @;", "z[0]", "Z[at]"),
]
"""Faults of the kernel, each found in one form, by a message or by results that are not equal."""


@cache
def mutant(text: str, old: str, new: str, blocks: int, parts: str) -> Kernel:
    """Return the kernel with a fault."""
    source, place = original_kernel(blocks, parts).source, text.replace("@", old)
    assert place in source, f"the source has changed: {place}"
    return parse(source.replace(place, text.replace("@", new)))["train_resident"]


@pytest.mark.thinned(4)
@pytest.mark.parametrize(("form", "message", "text", "old", "new"), MUTANTS)
def test_each_fault_of_the_kernel_is_found(
    form: str, message: str, text: str, old: str, new: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the checks of the stand-in or, if the message is "not equal", by the results."""
    target = resident_backend({"parts": "block", "stop": "cluster"}.get(form, form), checked=True)
    X, layers = blobs(90)[0], [*LAYERS[1:3], dn.Dense(7), *LAYERS[3:]]
    if form == "parts":
        target.device.shared_bytes = resident.STATIC_BYTES + 7000
    if form == "stop":
        X[2, 61] = np.inf
    expected = train_chunk(backend(), X, "float32", layers)[1]
    monkeypatch.setattr(resident, "kernel", lambda blocks, parts: mutant(text, old, new, blocks, parts))
    fault = ""
    try:
        chunk, theta, _ = train_chunk(target, X, "float32", layers)
        fault = "not equal" if chunk.steps < 5 or abs(theta - expected).max() > 1e-4 else ""
    except KernelFault as error:
        fault = str(error)
    assert fault
    assert message in fault
