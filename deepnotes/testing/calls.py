"""Random arguments of valid shapes for every equation, by name."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from deepnotes.nn.activations import LIBRARY as ACTIVATIONS
from deepnotes.nn.losses import LIBRARY as LOSSES
from deepnotes.testing.checks import DTYPE, Derived


class Draw:
    """Draws random host arrays in double precision.

    Parameters
    ----------
    rng : numpy.random.Generator
    special : bool, default True
        Whether to include zeros and numbers of large and small magnitude.
    """

    def __init__(self, rng: np.random.Generator, special: bool = True) -> None:
        self.rng, self.special = rng, special

    def real(self, *shape: int) -> np.ndarray:
        """Return numbers of both signs."""
        x = self.rng.normal(0, 3, shape)
        if self.special and x.size >= 8:
            values = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-6, -1e-6, 20.0, -20.0, 60.0, -60.0, 1e-30]
            positions = self.rng.permutation(x.size)[: min(len(values), x.size // 4)]
            x.reshape(-1)[positions] = self.rng.permutation(values)[: len(positions)]
        return x

    def weights(self, *shape: int) -> np.ndarray:
        """Return normally distributed numbers."""
        return self.rng.normal(0, 1, shape)

    def unit(self, *shape: int) -> np.ndarray:
        """Return numbers between 0 and 1; with `special`, both ends are among them."""
        x = self.rng.uniform(0.02, 0.98, shape)
        if self.special and x.size >= 8:
            x.reshape(-1)[self.rng.permutation(x.size)[:2]] = [0, 1]
        return x

    def positive(self, *shape: int) -> np.ndarray:
        """Return numbers above 0."""
        return self.rng.uniform(0.1, 4, shape)

    def bits(self, *shape: int) -> np.ndarray:
        """Return zeros and ones."""
        return self.rng.integers(0, 2, shape).astype(np.float64)

    def distributions(self, k: int, m: int) -> np.ndarray:
        """Return probability distributions, one in each column."""
        x = self.rng.uniform(0.05, 1, (k, m))
        return np.asarray(x / x.sum(axis=0))

    def indices(self, below: int, *shape: int) -> np.ndarray:
        """Return integers from 0 to ``below - 1``."""
        return self.rng.integers(0, below, shape)


Arguments: TypeAlias = Callable[[Draw, int, int, int], tuple[Any, ...]]
"""A function that draws an equation's arguments with a :class:`Draw`, for n rows, sums of k terms and m samples."""

OPTIONS = {name: traits.options for name, traits in ACTIVATIONS.items()}


def _draw_backward(name: str) -> Arguments:
    """Return a function that draws dA and Z for the backward form of an activation, and derives A from Z."""
    return lambda d, n, k, m: (d.weights(n, m), d.real(n, m), Derived(name, 1))


def _draw_flat(*hyperparameters: Any, slots: int = 0, decays: bool = False) -> Arguments:
    """Return a function that draws the arguments of an optimizer's equation.

    They are θ, the gradient (or, if `decays`, the mask of the parameters that decay), positive slots, and the given
    hyperparameters.
    """

    def arguments(d: Draw, n: int, k: int, m: int) -> tuple[Any, ...]:
        p = n * m
        second = d.bits(p) if decays else d.real(p)
        return (d.weights(p), second, *(d.positive(p) for _ in range(slots)), *hyperparameters)

    return arguments


def _draw_pairs(d: Draw, p: int, count: int) -> list[np.ndarray]:
    """Return the changes s of θ in `count` iterations, then those of the gradient, ``y``, with ``sᵀy > 0``."""
    S = [d.weights(p) for _ in range(count)]
    return S + [s * d.positive(p) for s in S]


CALLS: dict[str, Arguments] = {
    **dict.fromkeys(ACTIVATIONS, lambda d, n, k, m: (d.real(n, m),)),
    **{f"{name}_backward": _draw_backward(name) for name in ACTIVATIONS},
    "normal_cdf": lambda d, n, k, m: (d.real(n, m),),
    "linear": lambda d, n, k, m: (d.weights(n, k), d.weights(k, m), d.weights(n, 1)),
    "weight_gradient": lambda d, n, k, m: (d.weights(n, k), d.weights(m, k)),
    "bias_gradient": lambda d, n, k, m: (d.weights(n, k),),
    "input_gradient": lambda d, n, k, m: (d.weights(k, n), d.weights(k, m)),
    "gather": lambda d, n, k, m: (d.real(n, m), d.indices(m, k)),
    "embedding": lambda d, n, k, m: (d.weights(n, k), d.indices(n, 1, m).astype(np.float64)),
    "embedding_gradient": lambda d, n, k, m: (d.weights(n, m), d.indices(k, 1, m).astype(np.float64), k),
    "standardize": lambda d, n, k, m: (d.real(n, m), d.weights(n, 1), d.positive(n, 1)),
    **dict.fromkeys(("feature_mean", "center"), lambda d, n, k, m: (d.real(n, m),)),
    "prelu": lambda d, n, k, m: (d.real(n, m), d.weights(n, 1)),
    "prelu_backward": lambda d, n, k, m: (d.weights(n, m), d.real(n, m), d.weights(n, 1)),
    "inverse_rms": lambda d, n, k, m: (d.real(n, m), 1e-5),
    **dict.fromkeys(
        ("rms_norm_backward", "layer_norm_backward"),
        lambda d, n, k, m: (d.weights(n, m), d.real(n, m), d.positive(1, m)),
    ),
    "sample_mean": lambda d, n, k, m: (d.real(n, m),),
    "sample_variance": lambda d, n, k, m: (d.real(n, m),),
    "inverse_std": lambda d, n, k, m: (d.positive(n, 1), 1e-5),
    "batch_norm_backward": lambda d, n, k, m: (d.weights(n, m), d.real(n, m), d.positive(n, 1)),
    **{name: lambda d, n, k, m: (d.real(n, m), d.weights(n, m)) for name in LOSSES},
    **{f"{name}_derivative": lambda d, n, k, m: (d.real(n, m), d.weights(n, m)) for name in LOSSES},
    **{
        name + end: lambda d, n, k, m: (d.unit(n, m), d.bits(n, m))
        for name in ("binary_cross_entropy", "categorical_cross_entropy", "focal")
        for end in ("", "_derivative")
    },
    **{
        name + end: lambda d, n, k, m: (d.positive(n, m), d.bits(n, m))
        for name in ("poisson", "half_poisson_deviance")
        for end in ("", "_derivative")
    },
    **{
        f"quantile_loss{end}": lambda d, n, k, m: (d.real(3 * n, m), d.weights(3 * n, m), (0.05, 0.5, 0.95))
        for end in ("", "_derivative")
    },
    **{f"gaussian_nll{end}": lambda d, n, k, m: (d.real(2 * n, m), d.weights(2 * n, m)) for end in ("", "_derivative")},
    **{f"hinge{end}": lambda d, n, k, m: (d.real(n, m), d.bits(n, m)) for end in ("", "_derivative")},
    **{
        f"kl_divergence{end}": lambda d, n, k, m: (d.distributions(n, m), d.distributions(n, m) * d.bits(n, m))
        for end in ("", "_derivative")
    },
    "softmax_kl_divergence": lambda d, n, k, m: (d.real(n, m), d.distributions(n, m)),
    "softmax_kl_divergence_delta": lambda d, n, k, m: (d.distributions(n, m), d.distributions(n, m)),
    "sigmoid_focal": lambda d, n, k, m: (d.real(n, m), d.bits(n, m)),
    "sigmoid_focal_delta": lambda d, n, k, m: (d.unit(n, m), d.bits(n, m)),
    "exp_poisson": lambda d, n, k, m: (d.real(n, m), d.positive(n, m) * d.bits(n, m)),
    "exp_poisson_delta": lambda d, n, k, m: (d.positive(n, m), d.positive(n, m)),
    "half_poisson_deviance": lambda d, n, k, m: (d.positive(n, m), d.positive(n, m) * d.bits(n, m)),
    "exp_half_poisson_deviance": lambda d, n, k, m: (d.real(n, m), d.positive(n, m) * d.bits(n, m)),
    "exp_half_poisson_deviance_delta": lambda d, n, k, m: (d.positive(n, m), d.positive(n, m)),
    "sigmoid_cross_entropy": lambda d, n, k, m: (d.real(n, m), d.bits(n, m)),
    "sigmoid_cross_entropy_delta": lambda d, n, k, m: (d.unit(n, m), d.bits(n, m)),
    "softmax_cross_entropy": lambda d, n, k, m: (d.real(n, m), d.distributions(n, m)),
    "softmax_cross_entropy_delta": lambda d, n, k, m: (d.distributions(n, m), d.distributions(n, m)),
    "one_hot": lambda d, n, k, m: (d.indices(n, 1, m), n, DTYPE),
    "total_weight": lambda d, n, k, m: (d.positive(1, m),),
    "sample_scale": lambda d, n, k, m: (d.positive(1, m),),
    "mean_loss": lambda d, n, k, m: (d.real(1, m),),
    "gradient_descent": _draw_flat(0.1),
    "momentum": _draw_flat(0.1, 0.9, slots=1),
    "rmsprop": _draw_flat(0.1, 0.9, 1e-2, slots=1),
    "rmsprop_inside": _draw_flat(0.1, 0.9, 1e-2, slots=1),
    "adam": _draw_flat(0.1, 1e-2, 0.9, 0.99, slots=2),
    "amsgrad": _draw_flat(0.1, 1e-2, 0.9, 0.99, slots=3),
    "nadam": _draw_flat(0.1, 0.05, 1e-2, 0.9, 0.99, slots=2),
    "radam": _draw_flat(0.1, 0.05, 1e-2, 0.9, 0.99, slots=2),
    "adamax": _draw_flat(0.1, 1e-2, 0.9, 0.99, slots=2),
    "adagrad": _draw_flat(0.1, 1e-2, slots=1),
    "adadelta": _draw_flat(0.1, 0.9, 1e-2, slots=2),
    "lion": _draw_flat(0.1, 0.9, 0.99, slots=1),
    "lbfgs_direction": lambda d, n, k, m: (d.weights(n * m), *_draw_pairs(d, n * m, 3)),
    "orthogonalize": lambda d, n, k, m: (d.real(n, k), 2, 1e-7),
    "weight_average": _draw_flat(0.3),
    "scaled_step": lambda d, n, k, m: (d.real(n * m), d.real(n * m), d.positive(n * m) * d.bits(n * m)),
    "weight_decay": _draw_flat(0.01, decays=True),
    "l1_penalty": _draw_flat(0.1, decays=True),
    "l1_gradient": lambda d, n, k, m: (d.real(n * m), d.weights(n * m), d.bits(n * m), 0.1),
    "l2_penalty": _draw_flat(0.1, decays=True),
    "l2_gradient": lambda d, n, k, m: (d.real(n * m), d.weights(n * m), d.bits(n * m), 0.1),
    "clip_by_global_norm": lambda d, n, k, m: (d.weights(n * m), 0.5),
    "max_norm": lambda d, n, k, m: (d.weights(n, k), 0.5),
    "dropout": lambda d, n, k, m: (d.real(n, m), d.bits(n, m), 0.3),
    "dropout_mask": lambda d, n, k, m: ((n, m), 0.3, 2**63 + 5, np.asarray(2**33 + 7), 2, DTYPE),
    "noise": lambda d, n, k, m: ((n, m), 2**63 + 5, np.asarray(2**33 + 7), 2, DTYPE),
    "noise_from": lambda d, n, k, m: ((n, m), 2**63 + 5, np.asarray(2**33 + 7), 2, DTYPE, 5),
    "dropout_mask_from": lambda d, n, k, m: ((n, m), 0.3, 2**63 + 5, np.asarray(2**33 + 7), 2, DTYPE, 5),
    "philox": lambda d, n, k, m: (d.indices(2**32, n), d.indices(2**32, n), d.indices(2**32, n), d.indices(2**32, n)),
}
"""For each equation, a function that draws its arguments; :func:`call` packs some of them into tuples."""

VARIANTS: dict[str, list[dict[str, Any]]] = {
    "leaky_relu": [{"slope": 0.3}],
    "leaky_relu_backward": [{"slope": 0.3}],
    "elu": [{"alpha": 0.7}],
    "elu_backward": [{"alpha": 0.7}],
    "celu": [{"alpha": 0.7}],
    "celu_backward": [{"alpha": 0.7}],
    "huber": [{"delta": 0.4}],
    **{
        name: [{"label_smoothing": 0.1}]
        for loss in ("categorical_cross_entropy", "softmax_cross_entropy")
        for name in (loss, f"{loss}_{'delta' if loss.startswith('softmax') else 'derivative'}")
    },
    **{name: [{"gamma": 0.7}] for name in ("focal", "focal_derivative", "sigmoid_focal", "sigmoid_focal_delta")},
    **{name: [{"quantile": 0.9}] for name in ("pinball", "pinball_derivative")},
    **{name: [{"epsilon": 0.3}] for name in ("gaussian_nll", "gaussian_nll_derivative")},
    "huber_derivative": [{"delta": 0.4}],
    "momentum": [{"nesterov": True}],
}
"""Options with which an equation is checked in addition to its defaults."""


def call(name: str, options: dict[str, Any]) -> Callable[..., Any]:
    """Return a function that takes an :class:`Ops` and arguments, and calls the equation `name` with these options."""
    if name == "philox":
        return lambda ops, *counter: ops.philox(counter, 2**63 + 5)
    if name == "lbfgs_direction":
        return lambda ops, g, *pairs: ops.lbfgs_direction(g, pairs[: len(pairs) // 2], pairs[len(pairs) // 2 :])
    return lambda ops, *arguments: getattr(ops, name)(*arguments, **options)
