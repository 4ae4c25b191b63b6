"""Equations, layers and training on array_api_strict, which implements the array API standard and nothing else.

It refuses what NumPy accepts beyond the standard: other functions, mixed dtypes and implicit conversions. It computes
with NumPy, so the same calls give the same bits.
"""

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.equations import EQUATIONS
from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.nn.losses import Loss

STRICT = dn.Backend("strict", array_api_strict)
EAGER = dn.Backend("eager", np)  # NumPy's namespace without the kernels of the numpy backend


BOUND = 9 * 1000 * 2.0**-53
"""The largest allowed difference from training on the numpy backend. The batches of that backend have another memory
layout, so matrix products may be summed in another order. There are 9 updates at a rate of at most 1/10; each has about
100 roundings, of terms that are up to 100 times as large as their sum."""


@pytest.fixture(autouse=True)
def _strict():
    """Select the version of the standard that ``deepnotes.equations.array`` requires, without optional functions."""
    with (
        array_api_strict.ArrayAPIStrictFlags(
            api_version="2023.12", boolean_indexing=False, data_dependent_shapes=False, enabled_extensions=()
        ),
        np.errstate(all="ignore"),
    ):
        yield


def numbers(seed, *shape, low=-4.0, high=4.0):
    return np.random.default_rng(seed).uniform(low, high, shape)


Z, DA, Y = numbers(0, 4, 6), numbers(1, 4, 6), numbers(2, 4, 6, low=0.1, high=0.9)
A = numbers(3, 4, 6, low=0.1, high=0.9)
FLAT, G, SLOT, SLOT2 = (numbers(seed, 9, low=0.1) for seed in range(4))
DECAYS = np.array([1.0] * 6 + [0.0] * 3)

CALLS = {
    **dict.fromkeys(ACTIVATIONS, (Z,)),
    **{f"{name}_backward": (DA, Z, A) for name in ACTIVATIONS},
    "normal_cdf": (Z,),
    "linear": (numbers(4, 3, 4), Z, numbers(5, 3, 1)),
    "weight_gradient": (DA, Z),
    "bias_gradient": (DA,),
    "input_gradient": (numbers(4, 4, 3), DA),
    "gather": (Z, np.array([5, 0, 0, 2])),
    "standardize": (Z, numbers(5, 4, 1), numbers(6, 4, 1, low=0.5)),
    **dict.fromkeys(("feature_mean", "center"), (Z,)),
    "inverse_rms": (Z, 1e-5),
    **dict.fromkeys(("layer_norm_backward", "rms_norm_backward"), (DA, Z, numbers(7, 1, 6, low=0.1))),
    **dict.fromkeys(("sample_mean", "sample_variance"), (Z,)),
    "inverse_std": (numbers(7, 4, 1, low=0.1), 1e-5),
    "batch_norm_backward": (DA, Z, numbers(7, 4, 1, low=0.1)),
    "embedding": (numbers(4, 5, 3), np.array([[2.0, 0.0, 4.0, 4.0, 1.0, 2.0]])),
    "embedding_gradient": (DA, np.array([[2.0, 0.0, 4.0, 4.0, 1.0, 2.0]]), 5),
    "prelu": (Z, numbers(5, 4, 1)),
    "prelu_backward": (DA, Z, numbers(5, 4, 1)),
    **dict.fromkeys(LOSSES, (A, Y)),
    **{f"{name}_derivative": (A, Y) for name in LOSSES},
    **dict.fromkeys(("quantile_loss", "quantile_loss_derivative"), (A, Y, (0.2, 0.4, 0.6, 0.8))),
    **dict.fromkeys(("gaussian_nll", "gaussian_nll_derivative"), (A, Y)),
    "sigmoid_cross_entropy": (Z, Y),
    "sigmoid_cross_entropy_delta": (A, Y),
    "softmax_cross_entropy": (Z, Y / Y.sum(axis=0)),
    "softmax_cross_entropy_delta": (A, Y),
    "softmax_kl_divergence": (Z, Y / Y.sum(axis=0)),
    "softmax_kl_divergence_delta": (A, Y),
    "sigmoid_focal": (Z, Y),
    "sigmoid_focal_delta": (A, Y),
    "exp_poisson": (Z, A),
    "exp_poisson_delta": (A, Y),
    "exp_half_poisson_deviance": (Z, A),
    "exp_half_poisson_deviance_delta": (A, Y),
    "one_hot": (np.array([[2, 0, 1]]), 4, "float64"),
    "total_weight": (numbers(7, 1, 6, low=0.0),),
    "sample_scale": (numbers(7, 1, 6, low=0.0),),
    "mean_loss": (numbers(8, 1, 6),),
    "gradient_descent": (FLAT, G, 0.1),
    "momentum": (FLAT, G, SLOT, 0.1, 0.9, True),
    "rmsprop": (FLAT, G, SLOT, 0.1, 0.9, 1e-7),
    "rmsprop_inside": (FLAT, G, SLOT, 0.1, 0.9, 1e-7),
    "adam": (FLAT, G, SLOT, SLOT2, 0.1, 1e-8, 0.9, 0.999),
    "amsgrad": (FLAT, G, SLOT, SLOT2, SLOT2, 0.1, 1e-8, 0.9, 0.999),
    "nadam": (FLAT, G, SLOT, SLOT2, 0.1, 0.05, 1e-8, 0.9, 0.999),
    "radam": (FLAT, G, SLOT, SLOT2, 0.1, 0.05, 1e-8, 0.9, 0.999),
    "adamax": (FLAT, G, SLOT, SLOT2, 0.1, 1e-8, 0.9, 0.999),
    "adagrad": (FLAT, G, SLOT, 0.1, 1e-10),
    "adadelta": (FLAT, G, SLOT, SLOT2, 1.0, 0.9, 1e-6),
    "lion": (FLAT, G, SLOT, 0.1, 0.9, 0.99),
    "lbfgs_direction": (G, (FLAT, SLOT, 0.0 * G), (FLAT * SLOT2, SLOT2, 0.0 * G)),
    "orthogonalize": (A, 5, 1e-7),
    "weight_average": (SLOT, FLAT, 0.3),
    "scaled_step": (FLAT, SLOT, SLOT2 * DECAYS),
    "weight_decay": (FLAT, DECAYS, 0.01),
    "l1_penalty": (FLAT, DECAYS, 0.1),
    "l1_gradient": (G, FLAT, DECAYS, 0.1),
    "l2_penalty": (FLAT, DECAYS, 0.1),
    "l2_gradient": (G, FLAT, DECAYS, 0.1),
    "clip_by_global_norm": (G, 0.5),
    "max_norm": (A, 0.5),
    "dropout": (A, np.array([[1.0, 0.0, 1.0, 1.0, 0.0, 1.0]] * 4), 0.3),
    "dropout_mask": ((4, 6), 0.3, 2**63 + 5, np.array(2**33 + 7), 2, "float64"),
    "noise": ((4, 6), 2**63 + 5, np.array(2**33 + 7), 2, "float64"),
    "noise_from": ((4, 6), 2**63 + 5, np.array(2**33 + 7), 2, "float64", 5),
    "dropout_mask_from": ((4, 6), 0.3, 2**63 + 5, np.array(2**33 + 7), 2, "float64", 5),
    "philox": ((np.arange(5), 1, np.array(7), np.array(2)), 2**63 + 5),
}


def convert(xp, value, dtype):
    """Return an argument converted to the namespace `xp`; floating-point arrays and dtypes become `dtype`."""
    if isinstance(value, tuple):
        return tuple(convert(xp, v, dtype) for v in value)
    if isinstance(value, np.ndarray):
        return xp.asarray(value.astype(dtype) if value.dtype.kind == "f" else value)
    return getattr(xp, dtype) if value == "float64" else value


def as_lists(result):
    """Return results as nested lists, together with their dtypes."""
    if isinstance(result, tuple):
        return [as_lists(r) for r in result]
    host = STRICT.to_numpy(result) if STRICT.is_array(result) else np.asarray(result)
    return str(host.dtype), host.tolist()


def test_every_equation_has_a_test_case():
    assert set(CALLS) == set(EQUATIONS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", CALLS)
def test_equations_match_numpy_bit_for_bit(name, dtype):
    """N2 to N15 and variants: the results have the same bits as NumPy's, and the dtype of the arguments."""
    strict, numpy = (EQUATIONS[name](xp, *convert(xp, CALLS[name], dtype)) for xp in (array_api_strict, np))
    for array in strict if isinstance(strict, tuple) else (strict,):
        assert STRICT.is_array(array)
        assert array.dtype == getattr(array_api_strict, "int64" if name == "philox" else dtype)
    assert as_lists(strict) == as_lists(numpy)


def networks(*layers, inputs=3, **options):
    return [dn.Network(layers, inputs, backend=b, dtype="float64", seed=1, **options) for b in (STRICT, EAGER, "numpy")]


def data(k, m=22, indices=False):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(3, m)), rng.integers(0, k, m)
    return X, y if indices else np.eye(k)[:, y]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictions_match_numpy_and_stay_in_the_namespace(activation):
    """N2, N3: NumPy inputs give NumPy predictions; inputs in the namespace give predictions in the namespace."""
    X, _ = data(2)
    standardizer = dn.Standardizer.fit(X)
    strict, *others = networks(dn.Dense(4, activation), dn.Dense(2, activation), standardizer=standardizer)
    A = strict.predict(X)
    assert isinstance(A, np.ndarray)
    for other in others:
        assert A.tolist() == other.predict(X).tolist()
    native = strict.predict(array_api_strict.asarray(X))
    assert STRICT.is_array(native)
    assert np.from_dlpack(native).shape == (2, 22)


PAIRS = [(a, loss) for a in ACTIVATIONS for loss in LOSSES if dn.Activation(a).range in Loss(loss).outputs]


@pytest.mark.parametrize(("activation", "loss"), PAIRS)
def test_gradients_match_numpy(activation, loss):
    """N11 to N15, with dropout, L2 and sample weights."""
    X, Y = data(2)
    nets = networks(dn.Dense(4, activation), dn.Dropout(0.25), dn.Dense(2, activation))
    strict, *others = (net.gradients(X, Y, loss=loss, sample_weight=np.arange(22), l2=0.1) for net in nets)
    assert all(STRICT.is_array(g) for g in strict.values())
    for other in others:
        assert {k: np.from_dlpack(g).tolist() for k, g in strict.items()} == {k: g.tolist() for k, g in other.items()}


OPTIMIZERS = [
    dn.SGD(0.1),
    dn.SGD(0.1, momentum=0.9),
    dn.SGD(dn.StepDecay(0.1, every=2), momentum=0.9, nesterov=True),
    dn.RMSProp(),
    dn.Adam(),
    dn.AdamW(weight_decay=0.1),
]


@pytest.mark.parametrize("indices", [True, False], ids=["indices", "columns"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS, ids=repr)
def test_training_matches_numpy(optimizer, indices):
    """Train with dropout, L2, clipping, weights, validation data, metrics and a smaller last batch."""
    X, Y = data(3, indices=indices)
    nets = networks(dn.Dense(5, "gelu"), dn.Dropout(0.3), dn.Dense(3, "softmax"))
    start = nets[0].flat()
    strict, *others = (
        net.fit(
            X,
            Y,
            optimizer=optimizer,
            epochs=3,
            batch_size=8,
            l2=0.01,
            clip_norm=0.5,
            sample_weight=np.arange(22) % 4,
            validation=(X, Y),
            metrics="accuracy",
        )
        for net in nets
    )
    assert abs(nets[0].flat() - start).max() > 1e-3
    eager, numpy_history = others
    assert (strict.loss, strict.val_loss, strict.metrics) == (eager.loss, eager.val_loss, eager.metrics)
    assert nets[0].flat().tolist() == nets[1].flat().tolist()
    assert abs(nets[0].flat() - nets[2].flat()).max() <= BOUND
    assert abs(np.subtract(strict.loss + strict.val_loss, numpy_history.loss + numpy_history.val_loss)).max() <= BOUND
    assert strict.metrics == numpy_history.metrics


def test_training_accepts_arrays_of_the_namespace():
    X, Y = data(3)
    native, host, _ = networks(dn.Dense(5, "tanh"), dn.Dense(3, "softmax"))
    options = {"epochs": 2, "batch_size": 8}
    history = native.fit(*map(array_api_strict.asarray, (X, Y)), sample_weight=np.ones(22), **options)
    assert history.loss == host.fit(X, Y, sample_weight=np.ones(22), **options).loss
    assert native.flat().tolist() == host.flat().tolist()
