"""The base class of both estimators: scikit-learn's parameters, checks and attributes around the training loop."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Data, Program, State
from deepnotes.backends.registry import get_backend
from deepnotes.backends.samples import columns, spans
from deepnotes.estimators import architecture
from deepnotes.estimators.lbfgs import minimize
from deepnotes.estimators.live_network import LiveNetwork
from deepnotes.estimators.shared_rows import SharedRows, columns_of
from deepnotes.estimators.sklearn_rules import Order, Rules
from deepnotes.estimators.sparse import SparseSamples
from deepnotes.estimators.stochastic_fit import StochasticFit
from deepnotes.network.network import Network
from deepnotes.network.training.callbacks import as_callbacks
from deepnotes.network.training.state import Training, with_averages
from deepnotes.nn.averaging import Averaged
from deepnotes.nn.layers import Layer
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import SGD, Adam
from deepnotes.nn.plan import Plan
from deepnotes.nn.schedules import WHOLE_RUN, Schedule
from deepnotes.utils.array_checks import refuse_lost_nuls, refuse_masked
from deepnotes.utils.errors import ArgumentError, DataError, DTypeError, NonFiniteLossError, ShapeError

FIT_DTYPES = (np.float64, np.float32)
PARAMETERS = {"W": "coefs_", "b": "intercepts_", "gamma": "gammas_", "beta": "betas_"}
"""The attributes with the parameters of all layers, by the keys of the parameters in the layers."""
MIN_WEIGHT, MAX_WEIGHT = 1e-25, 1e25
"""The range of the largest sample weight: within it, sums of weights neither underflow nor overflow in float32."""


class Samples(NamedTuple):
    """Validated samples: X, shape (m, features), y, shape (m, k) or (m,) for class indices, and weights, shape (m,).

    X is an array, a sparse matrix, or the :class:`~deepnotes.estimators.shared_rows.SharedRows` of several estimators.
    """

    X: Any
    y: np.ndarray
    weights: np.ndarray | None


def store_arguments(estimator: BaseEstimator, arguments: dict[str, Any]) -> None:
    """Store the arguments of the constructor, its ``locals()``, unchanged, as scikit-learn requires."""
    for name, value in arguments.items():
        if name not in {"self", "__class__"}:
            setattr(estimator, name, value)


class DenseEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator, ABC):
    """The base class of :class:`DenseClassifier` and :class:`DenseRegressor`, which declare the parameters."""

    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    gammas_: list[np.ndarray]
    betas_: list[np.ndarray]
    out_activation_: str
    n_outputs_: int
    loss_curve_: list[float]

    target_checks: ClassVar[dict[str, bool]]
    """The arguments of scikit-learn's ``validate_data`` that concern y."""

    def _validate(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, np.ndarray]:
        """Return validated samples, with targets of shape (m, k) or class indices of shape (m,)."""
        X, y = self._validate_arrays(X, y, reset)
        return X, self._encode(y, incremental)

    def _validate_arrays(self, X: Any, y: Any, reset: bool = True) -> tuple[Any, Any]:
        """Return samples and targets as scikit-learn validates and converts them."""
        dtype = self.dtype or FIT_DTYPES
        return cast(
            tuple[Any, Any],
            validate_data(self, X, y, accept_sparse=["csr", "csc"], dtype=dtype, reset=reset, **self.target_checks),
        )

    @abstractmethod
    def _encode(self, y: Any, incremental: bool) -> np.ndarray:
        """Return the targets, shape (m, k), or class indices, shape (m,), of a `y` that was validated."""

    def _outputs_for(self, y: np.ndarray) -> int:
        """Return the number of outputs that validated targets `y` need."""
        return int(y.shape[1])

    @abstractmethod
    def _out_activation(self) -> str:
        """Return the name of the last layer's activation."""

    @abstractmethod
    def _score_outputs(self, A: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        """Return the score of the outputs `A`, shape (m, k), for validated targets `y`."""

    def _weights(self, y: np.ndarray, sample_weight: Any, incremental: bool) -> np.ndarray | None:
        """Return the weights of the samples, shape (m,), or None; `y` are validated targets."""
        weights = None
        if sample_weight is not None:
            refuse_masked(sample_weight, "sample_weight")
            weights = cast(np.ndarray, _check_sample_weight(sample_weight, y, ensure_non_negative=True))
            _check_largest(weights, "sample_weight")
        class_weights = self._class_weights(y, np.ones(len(y)) if weights is None else weights, incremental)
        if class_weights is not None:
            weights = class_weights if weights is None else weights * class_weights
            _check_largest(weights, "class_weight times sample_weight")
        return weights

    def _class_weights(self, y: np.ndarray, weights: np.ndarray, incremental: bool) -> np.ndarray | None:
        """Return the weight of each sample's class, shape (m,), or None."""
        return None

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train, starting from new parameters or, with ``warm_start``, from the current ones.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)
        y : array_like, shape (samples,) or (samples, outputs)
        sample_weight : array_like, shape (samples,), optional

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            In the same cases as scikit-learn's estimators, and if the parameters or the loss become NaN or infinite.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def to_network(self) -> Network:
        """Return a :class:`~deepnotes.Network` with copies of the layers and parameters, to save or export.

        In the network, samples are columns. Its ``metadata`` contains the names of the features and classes, if the
        estimator has them.

        Raises
        ------
        NotFittedError
        """
        check_is_fitted(self, "coefs_")
        net = self._network()
        copy = Network(net.layers, net.inputs, backend=net.backend, dtype=net.dtype, seed=net.seed, theta=net.flat())
        for name, key in (("features", "feature_names_in_"), ("classes", "classes_")):
            if hasattr(self, key):
                copy.metadata[name] = getattr(self, key).tolist()
        return copy

    def _check_solver(self) -> bool:
        """Return True if ``partial_fit`` is available; raise AttributeError if the solver is L-BFGS."""
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit: solver='lbfgs' needs all samples at once, wanted 'adam' or 'sgd'")
        return True

    def _check_numbers(self) -> None:
        """Raise ArgumentError if a numeric parameter is True or False, which scikit-learn would accept as 1 or 0."""
        for name, constraints in self._parameter_constraints.items():
            value = getattr(self, name)
            is_numeric = name == "random_state" or any(isinstance(c, Interval) for c in constraints)
            if isinstance(value, bool | np.bool_) and is_numeric:
                raise ArgumentError.of(name, value, "a number")

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        for name, argument in (("X", X), ("y", y)):
            refuse_masked(argument, name)
            refuse_lost_nuls(argument, name)
        callbacks = self._check_parameters(incremental)
        from_scratch = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._validate(X, y, incremental, reset=from_scratch)
        samples = Samples(X, y, self._weights(y, sample_weight, incremental))
        network = self._start(samples, from_scratch)
        if self.solver == "lbfgs":
            self._fit_lbfgs(network, samples)
        else:
            if not from_scratch:
                # These attributes are missing if the last solver was lbfgs, or if a user set coefs_ and intercepts_.
                self.loss_curve_ = getattr(self, "loss_curve_", [])
                self._no_improvement_count = getattr(self, "_no_improvement_count", 0)
                if getattr(self, "validation_scores_" if self.early_stopping else "best_loss_", None) is None:
                    self._reset_curves()
            self._fit_stochastic(network, samples, incremental, callbacks)
        self._expose()
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def _prepare_fit(self, rows: SharedRows, y: Any, sample_weight: Any) -> StochasticFit:
        """Return the training run of ``fit`` from scratch, on rows that other estimators train on as well.

        Parameters
        ----------
        rows : SharedRows
        y : array_like, shape (m,) or (m, k)
            The targets of these rows, as :meth:`_validate_arrays` returns them.
        sample_weight : array_like, shape (m,), optional
        """
        callbacks = self._check_parameters(incremental=False)
        targets = self._encode(y, incremental=False)
        samples = Samples(rows, targets, self._weights(targets, sample_weight, incremental=False))
        network = self._start(samples, from_scratch=True, private=True)
        return self._prepare_stochastic(network, samples, False, callbacks)

    def _check_parameters(self, incremental: bool) -> list[Any]:
        """Check what scikit-learn's constraints do not express, and return the callbacks."""
        self._check_numbers()
        architecture.hidden_sizes(self.hidden_layer_sizes)
        if self.solver == "lbfgs" and self.l1_ratio and self.alpha:
            raise ArgumentError(f"l1_ratio={self.l1_ratio}: solver='lbfgs' needs a cost without kinks, wanted 0")
        if incremental and self.early_stopping:
            raise ArgumentError(
                "partial_fit does not support early_stopping=True, which needs all samples at once to hold out some of "
                "them; wanted early_stopping=False"
            )
        return self._callbacks()

    def _start(self, samples: Samples, from_scratch: bool, private: bool = False) -> Network:
        """Return the network to train, with new parameters if `from_scratch`.

        If `private`, an estimator without a ``random_state`` draws a generator of its own from NumPy's global one,
        which other threads use at the same time.
        """
        units = [
            samples.X.shape[1],
            *architecture.hidden_sizes(self.hidden_layer_sizes),
            self._outputs_for(samples.y),
        ]
        backend = get_backend(self.backend)
        self.n_outputs_ = units[-1]
        self._random_state = check_random_state(self.random_state)
        if private and self._random_state is check_random_state(None):
            self._random_state = np.random.RandomState(self._random_state.randint(2**32, dtype=np.uint64))
        if from_scratch:
            self._initialize(units, samples.X.dtype)
        return self._network(units, backend)

    def _callbacks(self) -> list[Any]:
        """Return the callbacks; raise ArgumentError if one writes checkpoints."""
        callbacks = as_callbacks(self.callbacks or ())
        if any(callback.saves for callback in callbacks):
            raise ArgumentError("callbacks: an estimator cannot be resumed from checkpoints; train a Network instead")
        return callbacks

    def _initialize(self, units: list[int], dtype: Any) -> None:
        """Set the initial training state, and draw the same initial parameters as scikit-learn."""
        if self.solver == "lbfgs" and self.dtype is None:
            dtype = np.dtype(np.float64)  # SciPy computes in float64, whatever the dtype of X
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(units)
        self.out_activation_ = self._out_activation()
        layers = self._layers(units)
        loss, _ = architecture.loss_of(self.loss, self.out_activation_, self.n_outputs_)
        architecture.check_loss(loss, layers[-1])  # before any parameters are set
        self._set_parameters(
            architecture.initial_parameters(units, self.activation, self._random_state, dtype, self.normalization)
        )
        self._seed = int(self._random_state.randint(2**31)) if np.any(self.dropout) else 0
        self._live_network = LiveNetwork(self.learning_rate_init)
        if self.solver != "lbfgs":
            self.loss_curve_ = []
            self._no_improvement_count = 0
            self._reset_curves()

    def _reset_curves(self) -> None:
        """Reset the curves of losses and scores, and their best values."""
        validates = self.early_stopping
        self.validation_scores_: list[float] | None = [] if validates else None
        self.validation_loss_curve_: list[float] | None = [] if validates else None
        self.best_validation_score_: float | None = -np.inf if validates else None
        self.best_loss_: float | None = None if validates else np.inf

    def _network(self, units: list[int] | None = None, backend: Backend | None = None) -> Network:
        """Return the network with the parameters in ``coefs_``, ``intercepts_``, ``gammas_`` and ``betas_``.

        Raises
        ------
        ArgumentError
            If `units`, the required sizes of the layers, differ from the sizes of these parameters.
        """
        sizes = self._parameter_sizes()
        if units is not None and units != sizes:
            raise ArgumentError(f"the layers of the last fit have the sizes {sizes}, but this fit needs {units}")
        layers = self._layers(sizes)
        if not hasattr(self, "_live_network"):
            self._live_network = LiveNetwork(self.learning_rate_init)
        network = self._live_network.network(
            layers, backend or get_backend(self.backend), getattr(self, "_seed", 0), self._parameters()
        )
        self._expose()
        return network

    def _layers(self, units: list[int]) -> list[Layer]:
        """Return the layers for these sizes ``n[0], n[1], ..., n[L]``."""
        return architecture.layers(
            units, self.activation, self.dropout, self.out_activation_, self.normalization, self.residual
        )

    def _parameters(self) -> dict[str, list[np.ndarray]]:
        """Return the parameters in the attributes, by the keys of :data:`PARAMETERS`."""
        return {key: getattr(self, name, []) for key, name in PARAMETERS.items()}

    def _set_parameters(self, parameters: dict[str, list[np.ndarray]]) -> None:
        """Set the attributes with the parameters."""
        for key, name in PARAMETERS.items():
            setattr(self, name, parameters.get(key, []))

    def _expose(self) -> None:
        """Set the attributes to the parameters of the network."""
        self._set_parameters(self._live_network.expose())

    def _parameter_sizes(self) -> list[int]:
        """Return the sizes ``n[0], n[1], ..., n[L]`` of ``coefs_`` and ``intercepts_``, which a user may have set.

        Raises
        ------
        ShapeError, DTypeError
        """
        if len(self.coefs_) != len(self.intercepts_) or not len(self.coefs_):
            raise ShapeError(
                f"coefs_ has {len(self.coefs_)} arrays and intercepts_ {len(self.intercepts_)}, wanted one per layer"
            )
        sizes = [getattr(self, "n_features_in_", None) or len(self.coefs_[0])]
        for i, parameters in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            W, b = map(np.asarray, parameters)
            last = i == len(self.coefs_) - 1
            n = getattr(self, "n_outputs_", None) if last else None
            n = n or (W.shape[1] if W.ndim == 2 else "n")
            for name, x, expected in (("coefs_", W, (sizes[-1], n)), ("intercepts_", b, (n,))):
                if x.shape != expected:
                    shape = f"({', '.join(map(str, expected))}{',' if len(expected) == 1 else ''})"
                    raise ShapeError(f"{name}[{i}] was set to an array of shape {x.shape}, wanted {shape}")
                if x.dtype.kind not in "biuf":
                    raise DTypeError(f"{name}[{i}] was set to an array of {x.dtype}, wanted real numbers")
            sizes.append(int(n))
        hidden = sizes[1:-1]
        self._check_normalization("gammas_", hidden if self.normalization is not None else [])
        self._check_normalization("betas_", hidden if self.normalization == "layer" else [])
        return sizes

    def _check_normalization(self, name: str, sizes: list[int]) -> None:
        """Raise ShapeError or DTypeError unless the attribute has an array of real numbers for each of the `sizes`."""
        arrays = [np.asarray(x) for x in getattr(self, name, [])]
        shapes, wanted = [x.shape for x in arrays], [(n,) for n in sizes]
        if shapes != wanted:
            raise ShapeError(
                f"{name} has arrays of the shapes {shapes}, wanted {wanted} for normalization={self.normalization!r}"
            )
        for i, x in enumerate(arrays):
            if x.dtype.kind not in "biuf":
                raise DTypeError(f"{name}[{i}] was set to an array of {x.dtype}, wanted real numbers")

    def _plan(self, network: Network, optimizer: Optimizer, exact: bool = False) -> Plan:
        """Return the plan; if `exact`, the reported loss is the loss that is minimized, which L-BFGS needs."""
        loss, objective = architecture.loss_of(self.loss, self.out_activation_, self.n_outputs_)
        if exact and objective.reported_scale != objective.scale:
            objective = replace(objective, reported_scale=objective.scale)
        class_indices = loss.targets == "simplex" and self.out_activation_ == "softmax"
        l1 = float(self.alpha) * float(self.l1_ratio)
        return Plan(
            network.inputs, network.layers, network.dtype, network.seed, loss, optimizer, float(self.alpha) - l1, None,
            class_indices, objective, l1,
        )  # fmt: skip

    def _optimizer(self, steps: int) -> Optimizer:
        """Return the optimizer; `steps` is the number of updates in ``max_iter`` epochs."""
        schedule = self._schedule(steps)
        optimizer: Optimizer
        if self.solver == "adam":
            optimizer = Adam(schedule, self.beta_1, self.beta_2, self.epsilon, epsilon_hat=True)
        else:
            nesterov = self.nesterovs_momentum and self.momentum > 0
            in_velocity = schedule is not self._live_network.rate  # whose changes rescale it, see Rules._set_rate
            optimizer = SGD(schedule, self.momentum, nesterov, rate_in_velocity=in_velocity)
        return optimizer if self.average is None else Averaged(optimizer, self.average)

    def _schedule(self, steps: int) -> Schedule:
        """Return the learning rate: by update if there is a schedule, or the rate that scikit-learn's rules change."""
        if isinstance(self.learning_rate, Schedule):
            return self.learning_rate
        if self.learning_rate in WHOLE_RUN:
            return WHOLE_RUN[self.learning_rate](float(self.learning_rate_init), steps)
        return self._live_network.rate

    def _data(self, network: Network, plan: Plan, samples: Samples) -> Data:
        """Return the samples on the network's backend, transposed so that samples are columns."""
        backend, dtype = network.backend, network.host_dtype
        rows, y, weights = samples
        with np.errstate(over="ignore"):  # values beyond the range of the dtype become infinite, which training refuses
            if plan.class_indices:
                Y = y[None]
            else:
                by_output = y.T if y.ndim == 2 else y == np.arange(self.n_outputs_)[:, None]
                if plan.loss.outputs_per_target > 1:
                    by_output = np.tile(by_output, (plan.loss.outputs_per_target, 1))
                Y = np.ascontiguousarray(by_output, dtype=dtype)
            w = None if weights is None else weights[None].astype(dtype)
        if isinstance(rows, SharedRows):
            return rows.data(backend, dtype, Y, w)
        X: Any = columns_of(rows, backend, dtype)
        return Data(X, backend.from_numpy(Y), None if w is None else backend.from_numpy(w))

    def _fit_lbfgs(self, network: Network, samples: Samples) -> None:
        """Minimize the cost of all samples with L-BFGS."""
        plan = self._plan(network, SGD(), exact=True)
        data = self._data(network, plan, samples)
        data = data._replace(X=columns(data.X, slice(0, len(samples.y))))  # each step needs all samples at once
        program, state = self._live_network.start(plan, resume=False)
        cost, self.n_iter_ = minimize(
            network, program, state, data, max_iter=self.max_iter, max_fun=self.max_fun,
            tol=self.tol, verbose=self.verbose,
        )  # fmt: skip
        _, objective = architecture.loss_of(self.loss, self.out_activation_, self.n_outputs_)
        total = len(samples.y) if samples.weights is None else samples.weights.sum()
        penalty = 0.5 * float(self.alpha) / total * sum(float(np.vdot(W, W)) for W in self._live_network.expose()["W"])
        self.loss_ = penalty + (cost - penalty) * objective.reported_scale / plan.objective.reported_scale
        if not np.isfinite(network.flat()).all():
            raise _not_finite("L-BFGS ended with parameters that are not finite")

    def _fit_stochastic(self, network: Network, samples: Samples, incremental: bool, callbacks: list[Any]) -> None:
        """Train with SGD or Adam: one epoch if `incremental`, else up to ``max_iter`` epochs."""
        fit = self._prepare_stochastic(network, samples, incremental, callbacks)
        fit.run()
        self._conclude(fit, incremental)

    def _prepare_stochastic(
        self, network: Network, samples: Samples, incremental: bool, callbacks: list[Any]
    ) -> StochasticFit:
        """Return the training run of :meth:`_fit_stochastic`."""
        if not incremental:
            self._live_network.rate.rate = float(self.learning_rate_init)
        validation: Samples | None = None
        if self.early_stopping:
            samples, validation = self._split(samples)
        batch_size = self._batch_size(len(samples.y))
        plan = self._plan(network, self._optimizer(self.max_iter * -(-len(samples.y) // batch_size)))
        held_out: Data | None = None
        evaluate: Callable[[], dict[str, float]] = dict
        columns: tuple[str, ...] = ("loss",)
        if validation is not None:
            held_out = self._data(network, plan, validation)
            evaluate = partial(self._evaluate, network, plan, held_out, validation)
            columns = ("loss", "val_loss", "val_score")
        data = self._data(network, plan, samples)
        epochs = 1 if incremental else self.max_iter
        order: Any = Order(self._random_state) if self.shuffle else None
        rules = Rules(self, self._live_network.rate, network.flat() if self.early_stopping else None)
        training = Training(
            network, plan, data, held_out, batch_size, epochs, order, [rules, *callbacks], columns
        )  # fmt: skip
        if self.average is not None and validation is not None:
            evaluate = partial(with_averages, training, evaluate)
        if incremental:
            self._live_network.recall(training)

        def start() -> tuple[Program, State]:
            started = self._live_network.start(plan, resume=incremental)
            self.n_iter_, self.history_ = 0, training.history
            return started

        return StochasticFit(network, training, evaluate, rules, self._live_network, start)

    def _conclude(self, fit: StochasticFit, incremental: bool) -> None:
        """Set the final parameters, and raise the error or give the warning that is the result of a training run."""
        error = fit.error
        if isinstance(error, KeyboardInterrupt):
            warnings.warn("training was interrupted; the estimator keeps the parameters reached so far", stacklevel=6)
        elif isinstance(error, NonFiniteLossError):
            if not self.early_stopping:
                raise _not_finite(str(error)) from error
            self._record_divergence(error)
        elif error is not None:
            raise error
        elif not incremental and not fit.training.stop and self.n_iter_ == self.max_iter:
            warnings.warn(
                f"training did not converge within max_iter={self.max_iter} epochs",
                ConvergenceWarning,
                stacklevel=6,
            )
        if fit.rules.best is not None:
            fit.network.set_flat(fit.rules.best)

    def _batch_size(self, samples: int) -> int:
        """Return the number of samples in a batch, at most `samples`."""
        if self.batch_size == "auto":
            return min(200, samples)
        if self.batch_size > samples:
            warnings.warn(
                f"batch_size={self.batch_size} is larger than the number of samples; {samples} is used instead",
                stacklevel=7,
            )
        return min(int(self.batch_size), samples)

    def _split(self, samples: Samples) -> tuple[Samples, Samples]:
        """Return the samples to train on and the samples to validate with, split in the same way as in scikit-learn."""
        X, y, weights = samples
        train, held_out = train_test_split(
            np.arange(len(y)),
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(y),
        )
        if len(held_out) < 2:
            raise ArgumentError(
                f"The validation set is too small: validation_fraction={self.validation_fraction} leaves "
                f"{len(held_out)} of {len(y)} samples to validate with, wanted at least 2"
            )
        X = X.tocsr() if issparse(X) else X
        w_train, w_val = (None, None) if weights is None else (weights[train], weights[held_out])
        for w, purpose in ((w_train, "to train on"), (w_val, "held out for early stopping")):
            if w is not None and not w.any():
                raise DataError(
                    f"all {len(w)} samples {purpose} have the weight 0; remove the samples with weight 0, or choose "
                    "another validation_fraction or random_state"
                )
        return Samples(X[train], y[train], w_train), Samples(X[held_out], y[held_out], w_val)

    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        """Return the labels by which to stratify the split, or None."""
        return None

    def _evaluate(self, network: Network, plan: Plan, held_out: Data, samples: Samples) -> dict[str, float]:
        """Return the loss and the score on held-out `samples`; `held_out` contains the same samples on the backend."""
        _, y, weights = samples
        X, Y = (columns(x, slice(0, len(y))) for x in (held_out.X, held_out.Y))
        A, losses = network.inference.losses(network.theta, X, Y, plan.loss)
        outputs, L = (network.backend.to_numpy(x) for x in (A, losses))
        loss = plan.objective.reported_scale * float(np.average(L[0].astype(np.float64), weights=weights))
        finite = bool(np.isfinite(outputs).all())
        return {"val_loss": loss, "val_score": self._score_outputs(outputs.T, y, weights) if finite else np.nan}

    def _record_divergence(self, error: NonFiniteLossError) -> None:
        """Record NaN as the loss and the score of the epoch in which training diverged, and warn."""
        self.loss_ = np.nan
        self.n_iter_ += 1
        for curve in (self.loss_curve_, self.validation_scores_, self.validation_loss_curve_):
            cast(list[float], curve).append(np.nan)
        warnings.warn(f"training ended before it converged: {error}", ConvergenceWarning, stacklevel=7)

    def transform(self, X: Any) -> np.ndarray:
        """Return the outputs of the last hidden layer, shape (samples, units), as features for another estimator.

        They are what the last layer reads: after the activation, the shortcut and the normalization, without dropout.

        Parameters
        ----------
        X : array_like or sparse matrix, shape (samples, features)

        Raises
        ------
        ArgumentError
            If there is no hidden layer.
        NotFittedError
        """
        X = self._validate_samples(X)
        if len(self.coefs_) == 1:
            raise ArgumentError.of("hidden_layer_sizes", self.hidden_layer_sizes, "a hidden layer, to transform by it")
        network = self._current_network()
        return _by_chunks(network, X, lambda samples: list(network.activations(samples).values())[-2])

    @property
    def _n_features_out(self) -> int:
        """The number of features that :meth:`transform` returns, which scikit-learn names."""
        return len(self.coefs_[-1])

    def _outputs(self, X: Any) -> np.ndarray:
        """Return the network's outputs, shape (samples, outputs)."""
        return self._outputs_of_valid(self._validate_samples(X))

    def _validate_samples(self, X: Any) -> Any:
        """Return samples to predict or transform after validating them; raise NotFittedError before a fit."""
        check_is_fitted(self, "coefs_")
        refuse_masked(X, "X")
        return validate_data(self, X, accept_sparse=["csr", "csc"], dtype=FIT_DTYPES, reset=False)

    def _outputs_of_valid(self, X: Any) -> np.ndarray:
        """Return the network's outputs for validated samples, shape (samples, outputs)."""
        network = self._current_network()
        return _by_chunks(network, X, network.predict)

    def _current_network(self) -> Network:
        """Return the network with the current parameters."""
        live = getattr(self, "_live_network", None)
        return (live and live.current(self._parameters())) or self._network()

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _by_chunks(network: Network, X: Any, function: Callable[[Any], Any]) -> np.ndarray:
    """Return a function of samples, transposed, shape (m, k); sparse X, shape (m, n), is converted chunk by chunk."""
    if not issparse(X):
        return cast(np.ndarray, function(X.T).T)
    samples = SparseSamples(network.backend, X.tocsr(), network.host_dtype)
    return np.concatenate([function(samples.read(span)).T for span in spans(samples)])


def _check_largest(weights: np.ndarray, name: str) -> None:
    """Raise DataError if the sum of the weights might underflow to 0 or overflow in float32."""
    largest = float(weights.max())
    if not MIN_WEIGHT <= largest <= MAX_WEIGHT:
        raise DataError.of(f"{name}: the largest weight", largest, f"between {MIN_WEIGHT:g} and {MAX_WEIGHT:g}")


def _not_finite(cause: str) -> DataError:
    """Return the error for parameters or a loss that are NaN or infinite; the message begins like scikit-learn's."""
    return DataError(
        "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
        f"preprocessed. {cause[:1].upper()}{cause[1:]}"
    )
