"""Training with stages: products and what follows them in one launch each, on the stand-in for a device."""

from typing import Any

import numpy as np
import pytest
from host_device import backend
from plans import blobs

import deepnotes as dn
from deepnotes_cupy import step, tape

NETWORKS: dict[str, list[Any]] = {
    "dense": [dn.Dense(37, "relu"), dn.Dense(20, "gelu"), dn.Dense(5, "identity"), dn.Dense(4, "softmax")],
    "outputs of each other": [dn.Dense(9, "silu"), dn.Dense(8, "softmax"), dn.Dense(6, "tanh"), dn.Dense(4)],
    "not fused": [dn.Dense(33, "sigmoid"), dn.Dense(4, "tanh")],
    "dropout": [
        dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(6, "elu"), dn.Dense(7, "silu"), dn.Dropout(0.2),
        dn.Dense(4, "softmax"),
    ],
    "blocks": [
        dn.Dense(8, "relu"), dn.Residual([dn.Dense(8, "silu"), dn.Dense(8, "tanh")]), dn.Dense(8, "mish"),
        dn.LayerNorm(), dn.Dense(4, "softmax"),
    ],
}  # fmt: skip


def fit(name: str, target: dn.Backend, dtype: str = "float32") -> tuple[dn.Network, list[float]]:
    """Train a network on batches of 40 samples and, last in an epoch, fewer; return it with its losses."""
    X, y = blobs(150)
    last = NETWORKS[name][-1]
    Y: Any = y if last.g.name == "softmax" else np.eye(4)[y].T
    net = dn.Network(NETWORKS[name], 4, backend=target, seed=0, dtype=dtype)
    weights = np.random.default_rng(0).uniform(0.5, 2.0, 150)
    settings: dict[str, Any] = {"optimizer": dn.Adam(0.01), "l2": 0.01, "clip_norm": 1.0, "sample_weight": weights}
    return net, net.fit(X, Y, epochs=2, batch_size=40, **settings).loss


def staged(**options: Any) -> Any:
    """Return a backend that finds stages faster."""
    target = backend(**options)
    target.device.way = 1
    return target


def launched(target: Any) -> set[str]:
    """Return the names of all kernels that were launched one by one."""
    return {entry[1] for entry in target.device.log if entry[0] == "launch"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_stages_train_like_the_equations(name: str, dtype: str) -> None:
    target = staged()
    (net, loss), (reference, expected) = fit(name, target, dtype), fit(name, dn.Backend("eager", np), dtype)
    assert launched(target) >= {"forward_stage", "backward_stage"}
    assert target.device.count("graph") > 0
    tolerance = {"float32": 5e-6, "float64": 1e-14}[dtype]
    np.testing.assert_allclose(loss, expected, rtol=tolerance)
    np.testing.assert_allclose(net.flat(), reference.flat(), rtol=0, atol=tolerance)


def test_a_step_with_stages_has_fewer_nodes() -> None:
    target = staged()
    net, _ = fit("dense", target)
    names = net._training[1]._trainers._replays[40, True].step.names  # type: ignore[index, union-attr]
    assert names == [
        "gather", "forward_stage", "forward_stage", "forward_stage", "forward_stage", "loss",
        "activation_backward", "product", "backward_stage", "sum_partials",
        "product", "backward_stage", "sum_partials",
        "product", "backward_stage", "sum_partials",
        "product", "gradient_norm", "check_update", "update",
    ]  # fmt: skip


def test_a_layer_with_its_bias_is_timed_even_if_the_same_product_without_it_was() -> None:
    """After a fused loss, the product of the last layer is all that a stage replaces."""
    target = staged()
    X, y = blobs(40)
    counts = []
    for last, loss in (("softmax", "categorical_cross_entropy"), ("identity", "mean_squared_error")):
        net = dn.Network([dn.Dense(8, "relu"), dn.Dense(4, last)], 4, backend=target, seed=0)
        net.fit(X, np.eye(4)[y].T, epochs=1, batch_size=20, loss=loss)
        counts.append(target.device.count("fastest"))
    assert counts[1] == counts[0] + 1


@pytest.mark.parametrize("name", NETWORKS)
def test_where_stages_are_slower_the_bits_are_those_without_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_choice, _ = fit(name, backend())
    monkeypatch.setattr(tape, "STAGE_OUTPUTS", 0)
    without, _ = fit(name, backend())
    assert with_choice.flat().tobytes() == without.flat().tobytes()


@pytest.mark.parametrize("late", [False, True])
def test_the_bits_do_not_depend_on_concurrency(monkeypatch: pytest.MonkeyPatch, late: bool) -> None:
    target = staged()
    target.device.late = late
    beside, _ = fit("dense", target)
    monkeypatch.setattr(step, "CONCURRENT", 0)
    one_by_one, _ = fit("dense", staged())
    assert beside.flat().tobytes() == one_by_one.flat().tobytes()


@pytest.mark.parametrize("name", NETWORKS)
def test_stages_access_no_memory_that_they_must_not(name: str) -> None:
    target = staged()
    target.device.checked = True
    net, _ = fit(name, target)
    assert np.isfinite(net.flat()).all()


def test_large_layers_and_rounded_factors_have_no_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    rounded = staged(precision="bfloat16")
    fit("dense", rounded)
    monkeypatch.setattr(tape, "STAGE_OUTPUTS", 40 * 37 - 1)
    large = staged()
    fit("dense", large)
    assert not rounded.device.count("fastest")
    keys = {entry[1] for entry in large.device.log if entry[0] == "fastest"}
    assert keys
    assert not any("37, 40" in key for key in keys)
