"""Constraints on weights: compared with PyTorch, averaged, saved, resumed, shown, and refused if they are not valid."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from literature_cases import by_name
from test_regularized_training import BACKENDS, BATCHES, STORED, X, Y

import deepnotes as dn
from deepnotes.equations import max_norm
from deepnotes.network.formats import containers
from deepnotes.network.formats.model_files import content

CASES: dict[str, tuple[dn.Constraint, dn.Optimizer]] = {
    "non_negative": (dn.NonNegative(), dn.Adam(0.01)),
    "max_norm": (dn.MaxNorm(0.8), dn.SGD(0.1, momentum=0.9)),
}


def network(constraint: dn.Constraint | None, backend: Any = "numpy") -> dn.Network:
    layers = [dn.Dense(n, g, constraint=constraint) for n, g in [(7, "tanh"), (6, "tanh"), (3, "identity")]]
    net = dn.Network(layers, 5, backend=backend, dtype="float64", seed=0)
    net.parameters.update(by_name(net, STORED["start"]))
    return net


@dataclass(frozen=True)
class Doubled(dn.Constraint):
    """Wrong: it returns twice as many rows."""

    def apply(self, ops: Any, W: Any) -> Any:
        return ops.xp.concat([W, W], axis=0)


@dataclass(frozen=True)
class Clipped(dn.Constraint):
    """Weights between two limits."""

    limit: float

    def apply(self, ops: Any, W: Any) -> Any:
        return ops.xp.minimum(ops.xp.maximum(W, 0 * W - self.limit), 0 * W + self.limit)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CASES)
def test_losses_and_parameters_are_those_of_projected_descent_in_pytorch(name: str, backend: str) -> None:
    constraint, optimizer = CASES[name]
    net = network(constraint, BACKENDS[backend]())
    losses = [net.partial_fit(X[:, batch], Y[:, batch], optimizer=optimizer) for batch in 10 * BATCHES]
    np.testing.assert_allclose(losses, STORED[f"{name}/losses"], rtol=1e-10, atol=0)
    for key, expected in by_name(net, STORED[f"{name}/parameters"]).items():
        result = net.backend.to_numpy(net.parameters[key])
        np.testing.assert_allclose(result, expected, rtol=0, atol=1e-10 * abs(expected).max())


def test_max_norm_scales_only_rows_with_a_larger_norm() -> None:
    W = np.array([[3.0, 4.0], [0.3, 0.4], [0.0, 0.0]])
    np.testing.assert_allclose(max_norm(np, W, 2.5), [[1.5, 2.0], [0.3, 0.4], [0.0, 0.0]], rtol=1e-15)


@pytest.mark.parametrize("name", CASES)
def test_averages_obey_the_constraint(name: str) -> None:
    constraint, optimizer = CASES[name]
    net = network(constraint)
    net.fit(X, Y, optimizer=optimizer, epochs=3, batch_size=8, average=dn.EMA(0.9))
    for key in ("W1", "W2", "W3"):
        W = np.asarray(net.parameters[key])
        if name == "non_negative":
            assert W.min() >= 0
        else:
            assert np.sqrt((W * W).sum(axis=1)).max() <= 0.8 + 1e-12
    assert np.asarray(net.parameters["b1"]).min() < 0  # biases are free


def test_a_user_defined_constraint_and_layer_are_trained() -> None:
    class Scale(dn.Layer):
        def parameters(self, inputs: int) -> dict[str, dn.Parameter]:
            return {"s": dn.Parameter((inputs, 1), lambda rng, shape: np.ones(shape), False, constraint=Clipped(0.5))}

        def forward(self, ops: Any, parameters: Any, A_prev: Any, context: Any) -> Any:
            return parameters["s"] * A_prev, A_prev

        def backward(self, ops: Any, parameters: Any, cache: Any, dA: Any) -> Any:
            return parameters["s"] * dA, {"s": ops.bias_gradient(dA * cache)}

    net = dn.Network([dn.Dense(4, "tanh", constraint=Clipped(0.1)), Scale(), dn.Dense(3)], 5, seed=0, backend="numpy")
    net.fit(X, Y, epochs=20)
    assert abs(np.asarray(net.parameters["W1"])).max() == np.float32(0.1)
    assert abs(np.asarray(net.parameters["s2"])).max() <= 0.5
    assert abs(np.asarray(net.parameters["W3"])).max() > 0.1


def test_statistics_are_updated_beside_constraints() -> None:
    free, bounded = (
        dn.Network([dn.Dense(6, constraint=c), dn.BatchNorm(), dn.Dense(3)], 5, seed=0, backend=dn.Backend("eager", np))
        for c in (None, dn.MaxNorm(1e6))
    )
    for net in (free, bounded):
        net.fit(X, Y, epochs=2, batch_size=8, average=dn.EMA(0.9))
    np.testing.assert_array_equal(bounded.flat(), free.flat())


def test_training_is_resumed_with_the_same_bits_and_not_with_another_constraint(tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_size": 8, "average": dn.EMA(0.9)}
    whole = network(dn.MaxNorm(0.8))
    whole.fit(X, Y, epochs=4, **options)
    network(dn.MaxNorm(0.8)).fit(X, Y, epochs=2, checkpoint=tmp_path, every=1, **options)
    with pytest.raises(dn.CheckpointError, match=r"layers was .*limit=0.8.* and is .*limit=0.9"):
        network(dn.MaxNorm(0.9)).fit(X, Y, epochs=4, checkpoint=tmp_path, every=1, resume=True, **options)
    resumed = network(dn.MaxNorm(0.8))
    resumed.fit(X, Y, epochs=4, checkpoint=tmp_path, every=1, resume=True, **options)
    np.testing.assert_array_equal(resumed.flat(), whole.flat())


def test_a_layer_without_constraint_has_the_fingerprint_of_earlier_checkpoints() -> None:
    from deepnotes.network.training.object_fingerprint import fingerprint

    assert fingerprint(dn.Dense(3)) == (
        "Dense(units=3, activation=Activation(name='identity', options=()), initializer=None, bias_initializer=None)"
    )
    assert fingerprint(dn.Dense(3, constraint=dn.NonNegative())).endswith("constraint=NonNegative())")


@pytest.mark.parametrize("constraint", [dn.NonNegative(), dn.MaxNorm(0.5)])
def test_a_model_file_has_the_constraint(constraint: dn.Constraint, tmp_path: Path) -> None:
    net = network(constraint)
    net.save(tmp_path / "net.safetensors")
    loaded = dn.load(tmp_path / "net.safetensors")
    assert loaded.layers == net.layers
    assert loaded.layers[0].constraint == constraint


def test_a_user_defined_constraint_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(dn.ModelFileError, match=r"constraint=Clipped\(limit=1\)\) has a user-defined constraint"):
        network(Clipped(1)).save(tmp_path / "net.safetensors")


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ({"type": "unit_norm"}, "unknown constraint 'unit_norm'; the file may need a newer deepnotes"),
        ({"type": "max_norm", "limit": -1}, "its header is invalid .*limit=-1"),
        ({"type": "max_norm"}, "its header is invalid"),
        ([], "its header is invalid"),
    ],
)
def test_a_file_with_an_invalid_constraint_is_refused(constraint: Any, message: str, tmp_path: Path) -> None:
    header, tensors = content(dn.Network([dn.Dense(2)], inputs=3))
    header["network"]["layers"][0]["constraint"] = constraint
    containers.write(tmp_path / "net.safetensors", header, tensors)
    with pytest.raises(dn.ModelFileError, match=message):
        dn.load(tmp_path / "net.safetensors")


def test_the_summary_shows_the_constraint() -> None:
    net = dn.Network([dn.Dense(4, "relu", constraint=dn.MaxNorm(3)), dn.Dense(1)], 2, seed=0)
    assert "dense  (4, m)  relu with MaxNorm(limit=3.0)          12" in str(net.summary())


def test_invalid_constraints_are_refused_before_anything_changes() -> None:
    with pytest.raises(dn.ArgumentError, match="constraint='max_norm', wanted a Constraint, such as NonNegative"):
        dn.Dense(3, constraint="max_norm")
    with pytest.raises(dn.ArgumentError, match="limit=0, wanted a finite number above 0"):
        dn.MaxNorm(0)
    net = network(Doubled())
    before = net.flat()
    with pytest.raises(dn.ArgumentError, match=r"Doubled.apply of W1 returned shape \(14, 5\), wanted shape \(7, 5\)"):
        net.fit(X, Y, epochs=1)
    np.testing.assert_array_equal(net.flat(), before)
