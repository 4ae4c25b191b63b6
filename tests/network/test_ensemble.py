"""An ensemble predicts the mean of its networks' outputs, and is saved in one file."""

import copy
import json
import pickle
from pathlib import Path
from typing import Any

import array_api_strict
import hostile
import numpy as np
import pytest
from checkpointed import BACKENDS

import deepnotes as dn
from deepnotes.datasets import load_digits
from deepnotes.network.formats import containers

STRICT = dn.Backend("strict", array_api_strict)
HIDDEN: list[list[dn.Layer]] = [[dn.Dense(5, "relu")], [dn.Dense(7, "tanh"), dn.Dropout(0.2), dn.Dense(4, "gelu")], []]


def ensemble(last: Any = "softmax", outputs: int = 3, **settings: Any) -> dn.Ensemble:
    """Return an ensemble of three networks with different hidden layers; the second has a standardizer."""
    standardizer = dn.Standardizer.fit(np.random.default_rng(1).normal(2, 3, size=(4, 50)))
    return dn.Ensemble(
        [
            dn.Network(
                [*hidden, dn.Dense(outputs, last)], 4, seed=i, standardizer=standardizer if i == 1 else None, **settings
            )
            for i, hidden in enumerate(HIDDEN)
        ]
    )


def data(m: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Return X, shape (4, m), and class indices, shape (m,)."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(4, m)), rng.integers(0, 3, m)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("backend", [*BACKENDS, STRICT], ids=[*BACKENDS, "strict"])
@pytest.mark.parametrize(("last", "outputs"), [("softmax", 3), ("sigmoid", 1), ("identity", 2)])
def test_the_prediction_is_the_mean_of_the_outputs(last: str, outputs: int, backend: Any, dtype: str) -> None:
    members, X = ensemble(last, outputs, backend=backend, dtype=dtype), data()[0].astype(dtype)
    A, std = members.predict(X, return_std=True)
    each = np.array([net.predict(X) for net in members], np.float64)
    assert A.shape == std.shape == (outputs, 60)
    assert A.dtype == std.dtype == dtype
    assert (abs(A - each.mean(axis=0)) <= 4 * np.finfo(dtype).eps * abs(each).mean(axis=0)).all()
    np.testing.assert_allclose(std, each.std(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(members.predict(X), A)


def test_arrays_of_the_backend_give_arrays_of_the_backend() -> None:
    members, X = ensemble(backend=STRICT), data()[0]
    A, std = members.predict(array_api_strict.asarray(X), return_std=True)
    assert STRICT.is_array(A)
    assert STRICT.is_array(std)
    np.testing.assert_allclose(STRICT.to_numpy(A), members.predict(X), rtol=1e-6)


def test_an_ensemble_is_a_sequence_of_its_networks() -> None:
    members = ensemble()
    assert len(members) == 3
    assert list(members) == list(members.networks)
    assert members[-1] is members.networks[2]
    assert isinstance(members[1:], dn.Ensemble)
    assert members[1:].networks == members.networks[1:]
    assert (members.inputs, members.outputs, members.dtype, members.backend.name) == (4, 3, "float32", "numpy")
    assert repr(members) == "Ensemble(3 networks, inputs=4, outputs=3, backend='numpy', dtype='float32')"
    X, y = data()
    results = dn.fit_many(members, X, y, epochs=2)
    assert [result.network for result in results] == list(members)


@pytest.mark.parametrize("backend", [*BACKENDS, STRICT], ids=[*BACKENDS, "strict"])
def test_evaluate_is_of_the_mean_output(backend: Any) -> None:
    members, (X, y) = ensemble(backend=backend), data()
    w = np.arange(60.0)
    scores = members.evaluate(X, y, metrics="accuracy", sample_weight=w)
    A = members.predict(X).astype(np.float64)
    losses = -np.log(A[y, np.arange(60)])
    assert scores == {
        "loss": pytest.approx(np.average(losses, weights=w), rel=1e-5),
        "accuracy": pytest.approx(np.average(A.argmax(axis=0) == y, weights=w)),
    }
    assert members.evaluate(X, np.eye(3)[:, y])["loss"] == pytest.approx(losses.mean(), rel=1e-5)


def test_one_network_has_the_scores_of_the_network() -> None:
    (X, y), net = data(), ensemble()[1]
    alone = net.evaluate(X, y, metrics=["accuracy", "mean_squared_error"])
    assert dn.Ensemble([net]).evaluate(X, y, metrics=["accuracy", "mean_squared_error"]) == pytest.approx(alone)


def test_the_default_loss_follows_the_last_layer() -> None:
    X, _ = data()
    Y = np.random.default_rng(2).integers(0, 2, (1, 60))
    binary = ensemble("sigmoid", 1)
    assert binary.evaluate(X, Y) == binary.evaluate(X, Y, loss="binary_cross_entropy")
    linear = ensemble("identity", 1)
    error = np.mean((linear.predict(X) - Y) ** 2)
    assert linear.evaluate(X, Y)["loss"] == pytest.approx(error, rel=1e-5)
    with pytest.raises(dn.ArgumentError, match="binary_cross_entropy"):
        linear.evaluate(X, Y, loss="binary_cross_entropy")


def test_samples_on_disk_are_predicted(tmp_path: Path) -> None:
    X, y = data()
    members = ensemble()
    on_disk = dn.OnDisk(np.ascontiguousarray(X.T))
    np.testing.assert_allclose(members.predict(on_disk), members.predict(X), rtol=1e-6)
    assert members.evaluate(on_disk, y) == pytest.approx(members.evaluate(X, y))


def net(inputs: int = 4, outputs: int = 3, last: str = "softmax", **settings: Any) -> dn.Network:
    return dn.Network([dn.Dense(outputs, last)], inputs, **settings)


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([], "at least one Network"),
        (None, "at least one Network"),
        (net(), "at least one Network"),
        ([net(), "x"], r"networks\[1\]='x', wanted a Network"),
        ([net(), net(inputs=5)], r"networks\[1\]: inputs 5, wanted 4"),
        ([net(), net(), net(outputs=2)], r"networks\[2\]: outputs 2, wanted 3"),
        ([net(), net(dtype="float64")], r"networks\[1\]: dtype float64, wanted float32"),
        ([net(), net(backend=STRICT)], r"networks\[1\]: backend strict, wanted numpy"),
        ([net(), net(last="sigmoid")], r"networks\[1\]: range of outputs unit, wanted simplex"),
    ],
)
def test_networks_that_do_not_fit_together_are_refused(networks: Any, message: str) -> None:
    with pytest.raises(dn.ArgumentError, match=message):
        dn.Ensemble(networks)


def test_bad_samples_are_refused() -> None:
    with pytest.raises(dn.ShapeError, match=r"X has shape \(3, 5\)"):
        ensemble().predict(np.zeros((3, 5)))
    with pytest.raises(dn.DataError, match="Y"):
        ensemble().evaluate(data()[0], np.full(60, 3))


def test_the_summary_has_one_line_for_each_kind_of_network() -> None:
    members = dn.Ensemble([ensemble()[0], *(net(seed=i) for i in range(2)), ensemble()[1]])
    lines = members.summary().splitlines()
    assert [line.split("  ")[0] for line in lines[2:-2]] == ["0", "1 to 2", "3"]
    assert "4 inputs, 7 tanh, dropout 0.2, 4 gelu, 3 softmax" in lines[4]
    assert lines[-1] == "the mean of 4 networks, 155 parameters, float32, 0.6 kB, backend numpy"
    assert len({len(line) for line in lines[:-1]}) == 1


def test_it_can_be_copied_and_pickled() -> None:
    members, X = ensemble(), data()[0]
    members.metadata = {"note": "x"}
    for twin in (copy.deepcopy(members), pickle.loads(pickle.dumps(members))):
        np.testing.assert_array_equal(twin.predict(X), members.predict(X))
        assert twin.metadata == members.metadata


@pytest.mark.parametrize("data_set", ["digits", "breast cancer"])
def test_eight_networks_beat_their_mean_accuracy_and_loss(data_set: str) -> None:
    if data_set == "digits":
        digits = load_digits()
        X, y = digits.X.T, digits.y
    else:
        sets = pytest.importorskip("sklearn.datasets", reason='the extra "sklearn" is not installed')
        rows, y = sets.load_breast_cancer(return_X_y=True)
        X = rows.T
    order = np.random.default_rng(0).permutation(X.shape[1])
    train, test = np.split(order, [len(order) // 2])
    standardizer, k = dn.Standardizer.fit(X[:, train]), int(y.max()) + 1
    members = dn.Ensemble(
        [
            dn.Network([dn.Dense(16, "relu"), dn.Dense(k, "softmax")], len(X), seed=i, standardizer=standardizer)
            for i in range(8)
        ]
    )
    bootstrap = np.random.default_rng(1)
    dn.fit_many(members, X, y, epochs=15, samples=[bootstrap.choice(train, len(train)) for _ in members])
    together = members.evaluate(X[:, test], y[test], metrics="accuracy")
    alone = [net.evaluate(X[:, test], y[test], metrics="accuracy") for net in members]
    assert together["accuracy"] > np.mean([scores["accuracy"] for scores in alone])
    assert together["loss"] < np.mean([scores["loss"] for scores in alone])


# --- model files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_ensemble_is_read_back_bit_for_bit(tmp_path: Path, dtype: str) -> None:
    members = ensemble(dtype=dtype)
    members.metadata, members[1].metadata = {"classes": ["a", "b", "ç"]}, {"note": "second"}
    members.save(tmp_path / "model")
    loaded = dn.load(tmp_path / "model", backend="numpy")
    assert isinstance(loaded, dn.Ensemble)
    assert loaded.metadata == members.metadata
    for ours, theirs in zip(loaded, members, strict=True):
        np.testing.assert_array_equal(ours.flat(), theirs.flat())
        assert (ours.layers, ours.seed, ours.metadata) == (theirs.layers, theirs.seed, theirs.metadata)
    X = data()[0]
    np.testing.assert_array_equal(loaded.predict(X), members.predict(X))
    assert dn.load(tmp_path / "model", backend=STRICT).backend is STRICT
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "model").read_bytes()


def test_files_of_one_network_keep_format_1_and_ensembles_need_a_version_that_reads_format_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = ensemble()
    members.save(tmp_path / "ensemble")
    members[0].save(tmp_path / "network")
    assert hostile.header_of((tmp_path / "network").read_bytes())["format"] == 1
    assert hostile.header_of((tmp_path / "ensemble").read_bytes())["format"] == 2
    monkeypatch.setattr(containers, "FORMAT", 1)  # as in the versions before ensembles
    assert isinstance(dn.load(tmp_path / "network"), dn.Network)
    with pytest.raises(dn.ModelFileError, match="has format 2, but this version of deepnotes reads formats up to 1"):
        dn.load(tmp_path / "ensemble")


def test_metadata_must_be_json_values(tmp_path: Path) -> None:
    members = ensemble()
    members.metadata = []  # type: ignore[assignment]
    with pytest.raises(dn.ModelFileError, match="wanted a dict"):
        members.save(tmp_path / "model")
    members.metadata = {"x": {1, 2}}
    with pytest.raises(dn.ModelFileError, match="only JSON values"):
        members.save(tmp_path / "model")
    assert not list(tmp_path.iterdir())


def changed(header: dict[str, Any], change: Any) -> dict[str, Any]:
    header = json.loads(json.dumps(header))
    change(header)
    return header


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.update(ensemble=[]),
        lambda header: header.update(ensemble=None),
        lambda header: header.update(ensemble={"0": 1}),
        lambda header: header.update(ensemble=[1, 2, 3]),
        lambda header: header.update(ensemble=[[]] * 3),
        lambda header: header.update(ensemble=[{}] * 3),
        lambda header: header.update(metadata=None),
        lambda header: header.pop("metadata"),
        lambda header: header.update(network=header["ensemble"][0]["network"]),
        lambda header: header["ensemble"].pop(),
        lambda header: header["ensemble"].append(header["ensemble"][0]),
        lambda header: header["ensemble"].reverse(),
        lambda header: header["ensemble"][1].pop("metadata"),
        lambda header: header["ensemble"][0]["network"].update(inputs=5),
        lambda header: header["ensemble"][0]["network"].update(inputs=10**15),
        lambda header: header["ensemble"][0]["network"].update(dtype="float64"),
        lambda header: header["ensemble"][0]["network"]["layers"][-1].update(activation="sigmoid"),
        lambda header: header["ensemble"].extend([header["ensemble"][0]] * 10_000),
    ],
)
def test_an_invalid_header_is_refused(tmp_path: Path, change: Any) -> None:
    members = ensemble()
    members.save(tmp_path / "model")
    content = (tmp_path / "model").read_bytes()
    header, tensors = hostile.header_of(content), hostile.tensors(content)
    (tmp_path / "same").write_bytes(hostile.sealed(header, tensors))
    assert len(dn.load(tmp_path / "same")) == 3
    (tmp_path / "changed").write_bytes(hostile.sealed(changed(header, change), tensors))
    with pytest.raises(dn.ModelFileError, match="changed"):
        dn.load(tmp_path / "changed")


def test_a_changed_tensor_is_refused(tmp_path: Path) -> None:
    ensemble().save(tmp_path / "model")
    content = bytearray((tmp_path / "model").read_bytes())
    content[-1] ^= 1
    (tmp_path / "model").write_bytes(content)
    with pytest.raises(dn.ModelFileError, match=r"the digest of networks\.\d\."):
        dn.load(tmp_path / "model")
