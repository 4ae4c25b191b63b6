"""The common base of both estimators: scikit-learn's parameters, checks and attributes around the one fit loop."""

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from deepnotes.backends.base import Backend
from deepnotes.backends.program import Data
from deepnotes.backends.registry import get_backend
from deepnotes.backends.samples import columns, spans
from deepnotes.estimators import architecture
from deepnotes.estimators.lbfgs import minimize
from deepnotes.estimators.live_network import LiveNetwork
from deepnotes.estimators.sklearn_rules import Order, Rules
from deepnotes.estimators.sparse import SparseSamples
from deepnotes.network.network import Network
from deepnotes.network.training.callbacks import as_callbacks
from deepnotes.network.training.loop import callbacks_called
from deepnotes.network.training.loop import fit as run_fit
from deepnotes.network.training.state import Training
from deepnotes.nn.optimizers import SGD, Adam, Optimizer
from deepnotes.nn.plan import Plan
from deepnotes.utils.array_checks import refuse_lost_nuls, refuse_masked
from deepnotes.utils.errors import ArgumentError, DataError, DTypeError, NonFiniteLossError, ShapeError

FIT_DTYPES = (np.float64, np.float32)
LEAST_WEIGHT, MOST_WEIGHT = 1e-25, 1e25


class DenseEstimator(BaseEstimator, ABC):
    """The base class of :class:`DenseClassifier` and :class:`DenseRegressor`, which declare the parameters."""

    coefs_: list[np.ndarray]
    intercepts_: list[np.ndarray]
    out_activation_: str
    n_outputs_: int
    loss_curve_: list[float]

    def _set(self, given: dict[str, Any]) -> None:
        """Keep the arguments of the constructor unchanged."""
        for name, value in given.items():
            if name not in {"self", "__class__"}:
                setattr(self, name, value)

    @abstractmethod
    def _checked(self, X: Any, y: Any, incremental: bool, reset: bool) -> tuple[Any, np.ndarray]:
        """Return samples, and targets of shape (m, k), or class indices of shape (m,)."""

    def _outputs_for(self, y: np.ndarray) -> int:
        """Return the number of outputs for checked targets."""
        return int(y.shape[1])

    @abstractmethod
    def _out_activation(self) -> str:
        """Return the name of the last layer's activation."""

    @abstractmethod
    def _score_outputs(self, A: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None) -> float:
        """Return the score of outputs of shape (m, k) for checked targets."""

    def _weights(self, y: np.ndarray, sample_weight: Any, X: Any, incremental: bool) -> np.ndarray | None:
        """Return the weight of each sample, if there are weights; `y` holds the checked targets."""
        weights = None
        if sample_weight is not None:
            refuse_masked(sample_weight, "sample_weight")
            weights = cast(np.ndarray, _check_sample_weight(sample_weight, X, ensure_non_negative=True))
            _check_largest(weights, "sample_weight")
        of_classes = self._class_weights(y, np.ones(len(y)) if weights is None else weights, incremental)
        if of_classes is not None:
            weights = of_classes if weights is None else weights * of_classes
            _check_largest(weights, "class_weight times sample_weight")
        return weights

    def _class_weights(self, y: np.ndarray, weights: np.ndarray, incremental: bool) -> np.ndarray | None:
        """Return the class weight of each sample, if there are class weights."""
        return None

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train, from new parameters unless ``warm_start``.

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
            As scikit-learn's estimators do; also if the parameters or the loss become NaN or infinite.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def to_network(self) -> Network:
        """Return a :class:`~deepnotes.Network` with copies of the layers and parameters, to save or export.

        Its samples are columns. Its ``metadata`` holds the names of features and classes, if there are any.

        Raises
        ------
        NotFittedError
        """
        check_is_fitted(self, "coefs_")
        net = self._network()
        made = Network(net.layers, net.inputs, backend=net.backend, dtype=net.dtype, seed=net.seed, theta=net.flat())
        for name, key in (("features", "feature_names_in_"), ("classes", "classes_")):
            if hasattr(self, key):
                made.metadata[name] = getattr(self, key).tolist()
        return made

    def _check_solver(self) -> bool:
        if self.solver == "lbfgs":
            raise AttributeError("partial_fit: solver='lbfgs' wants all samples at once; take 'adam' or 'sgd'")
        return True

    def _check_numbers(self) -> None:
        """Raise ArgumentError if True or False is given for a number; scikit-learn takes them as 1 and 0."""
        for name, constraints in self._parameter_constraints.items():
            value = getattr(self, name)
            takes_numbers = name == "random_state" or any(isinstance(c, Interval) for c in constraints)
            if isinstance(value, bool | np.bool_) and takes_numbers:
                raise ArgumentError.of(name, value, "a number")

    def _fit(self, X: Any, y: Any, sample_weight: Any, incremental: bool) -> Any:
        self._check_numbers()
        for name, given in (("X", X), ("y", y)):
            refuse_masked(given, name)
            refuse_lost_nuls(given, name)
        sizes = architecture.hidden_sizes(self.hidden_layer_sizes)
        if incremental and self.early_stopping:
            raise ArgumentError(
                "partial_fit does not support early_stopping=True, which holds samples out of a whole fit; wanted "
                "early_stopping=False"
            )
        watchers = self._watchers()
        first = not hasattr(self, "coefs_") or (not self.warm_start and not incremental)
        X, y = self._checked(X, y, incremental, reset=first)
        weights = self._weights(y, sample_weight, X, incremental)
        units = [X.shape[1], *sizes, self._outputs_for(y)]
        backend = get_backend(self.backend)
        self.n_outputs_ = units[-1]
        self._random_state = check_random_state(self.random_state)
        if first:
            self._initialize(units, X.dtype)
        network = self._network(units, backend)
        if self.solver != "lbfgs" and not first:  # left unset by another solver, or a user's parameters
            self.loss_curve_ = getattr(self, "loss_curve_", [])
            self._no_improvement_count = getattr(self, "_no_improvement_count", 0)
            if getattr(self, "validation_scores_" if self.early_stopping else "best_loss_", None) is None:
                self._begin_curves()
        if self.solver == "lbfgs":
            self._fit_lbfgs(network, X, y, weights)
        else:
            self._fit_stochastic(network, X, y, weights, incremental, watchers)
        self.coefs_, self.intercepts_ = self._running.show()
        return self

    def _watchers(self) -> list[Any]:
        watchers = as_callbacks(self.callbacks or ())
        if any(watcher.saves for watcher in watchers):
            raise ArgumentError("callbacks: an estimator cannot be resumed from checkpoints; train a Network for that")
        return watchers

    def _initialize(self, units: list[int], dtype: Any) -> None:
        """Set the initial state of a training, and draw the parameters as scikit-learn does."""
        if self.solver == "lbfgs" and self.dtype is None:
            dtype = np.dtype(np.float64)  # SciPy's dtype, whatever that of X: as in scikit-learn
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(units)
        self.out_activation_ = self._out_activation()
        made = architecture.layers(units, self.activation, self.dropout, self.out_activation_)
        loss, _ = architecture.loss_of(self.loss, self.out_activation_, self.n_outputs_)
        architecture.check(loss, made[-1])  # before anything is set
        self.coefs_, self.intercepts_ = architecture.initial(units, self.activation, self._random_state, dtype)
        self._seed = int(self._random_state.randint(2**31)) if np.any(self.dropout) else 0
        self._running = LiveNetwork(self.learning_rate_init)
        if self.solver != "lbfgs":
            self.loss_curve_ = []
            self._no_improvement_count = 0
            self._begin_curves()

    def _begin_curves(self) -> None:
        """Reset the best values and the curves of loss and score."""
        scored = self.early_stopping
        self.validation_scores_: list[float] | None = [] if scored else None
        self.validation_loss_curve_: list[float] | None = [] if scored else None
        self.best_validation_score_: float | None = -np.inf if scored else None
        self.best_loss_: float | None = None if scored else np.inf

    def _network(self, units: list[int] | None = None, backend: Backend | None = None) -> Network:
        """Return the network with the parameters in ``coefs_`` and ``intercepts_``.

        Raises
        ------
        ArgumentError
            If its layer sizes would have to differ.
        """
        shown = self._shown_sizes()
        if units is not None and units != shown:
            raise ArgumentError(f"the layers of the last fit have the sizes {shown}, and now {units} are asked for")
        layers = architecture.layers(shown, self.activation, self.dropout, self.out_activation_)
        if not hasattr(self, "_running"):
            self._running = LiveNetwork(self.learning_rate_init)
        network = self._running.network(
            layers, backend or get_backend(self.backend), getattr(self, "_seed", 0), self.coefs_, self.intercepts_
        )
        self.coefs_, self.intercepts_ = self._running.show()
        return network

    def _shown_sizes(self) -> list[int]:
        """Return ``n[0], n[1], ..., n[L]`` of ``coefs_`` and ``intercepts_``, which a user may have set.

        Raises
        ------
        ShapeError, DTypeError
        """
        if len(self.coefs_) != len(self.intercepts_) or not len(self.coefs_):
            raise ShapeError(
                f"coefs_ has {len(self.coefs_)} arrays and intercepts_ {len(self.intercepts_)}, wanted one per layer"
            )
        sizes = [getattr(self, "n_features_in_", None) or len(self.coefs_[0])]
        for i, (given_W, given_b) in enumerate(zip(self.coefs_, self.intercepts_, strict=True)):
            W, b = np.asarray(given_W), np.asarray(given_b)
            last = i == len(self.coefs_) - 1
            n = getattr(self, "n_outputs_", None) if last else None
            n = n or (W.shape[1] if W.ndim == 2 else "n")
            for name, x, wanted in (("coefs_", W, (sizes[-1], n)), ("intercepts_", b, (n,))):
                if x.shape != wanted:
                    words = f"({', '.join(map(str, wanted))}{',' if len(wanted) == 1 else ''})"
                    raise ShapeError(f"{name}[{i}] was set to an array of shape {x.shape}, wanted {words}")
                if x.dtype.kind not in "biuf":
                    raise DTypeError(f"{name}[{i}] was set to an array of {x.dtype}, wanted real numbers")
            sizes.append(int(n))
        return sizes

    def _plan(self, network: Network, optimizer: Optimizer, exact: bool = False) -> Plan:
        loss, how = architecture.loss_of(self.loss, self.out_activation_, self.n_outputs_)
        if exact and how.reported_scale != how.scale:
            how = replace(how, reported_scale=how.scale)
        labels = loss.targets == "simplex" and self.out_activation_ == "softmax"
        return Plan(
            network.inputs, network.layers, network.dtype, network.seed, loss, optimizer, float(self.alpha), None,
            labels, how,
        )  # fmt: skip

    def _optimizer(self) -> Optimizer:
        if self.solver == "adam":
            return Adam(self._running.rate, self.beta_1, self.beta_2, self.epsilon, epsilon_hat=True)
        nesterov = self.nesterovs_momentum and self.momentum > 0
        return SGD(self._running.rate, self.momentum, nesterov, rate_in_velocity=False)  # see Rules; it is also fast

    def _data(self, network: Network, plan: Plan, X: Any, y: np.ndarray, weights: np.ndarray | None) -> Data:
        """Return rows as columns on the network's backend."""
        backend, dtype = network.backend, network.host_dtype
        samples: Any
        if issparse(X) and backend.on_host:
            samples = SparseSamples(backend, X.tocsr(), dtype)
        else:
            rows = X.toarray() if issparse(X) else X
            samples = backend.from_numpy(np.asarray(rows, dtype=dtype).T)
        with np.errstate(over="ignore"):  # values beyond the dtype's range become infinite, and training refuses them
            if plan.class_indices:
                Y = y[None]
            else:
                columns = y.T if y.ndim == 2 else y == np.arange(self.n_outputs_)[:, None]
                Y = np.ascontiguousarray(columns, dtype=dtype)
            w = None if weights is None else backend.from_numpy(weights[None].astype(dtype))
        return Data(samples, backend.from_numpy(Y), w)

    def _fit_lbfgs(self, network: Network, X: Any, y: np.ndarray, weights: np.ndarray | None) -> None:
        plan = self._plan(network, SGD(), exact=True)
        data = self._data(network, plan, X, y, weights)
        data = data._replace(X=columns(data.X, slice(0, len(y))))  # each step needs all samples at once
        program, state = self._running.start(plan, go_on=False)
        cost, self.n_iter_ = minimize(
            network, program, state, data, max_iter=self.max_iter, max_fun=self.max_fun,
            tol=self.tol, verbose=self.verbose,
        )  # fmt: skip
        _, how = architecture.loss_of(self.loss, self.out_activation_, self.n_outputs_)
        samples = len(y) if weights is None else weights.sum()
        penalty = 0.5 * float(self.alpha) / samples * sum(float(np.vdot(W, W)) for W in self._running.show()[0])
        self.loss_ = penalty + (cost - penalty) * how.reported_scale / plan.objective.reported_scale
        if not np.isfinite(network.flat()).all():
            raise _not_finite("the search left them")

    def _fit_stochastic(
        self,
        network: Network,
        X: Any,
        y: np.ndarray,
        weights: np.ndarray | None,
        incremental: bool,
        watchers: list[Any],
    ) -> None:
        if not incremental:
            self._running.rate.rate = float(self.learning_rate_init)
        plan = self._plan(network, self._optimizer())
        held_out: Data | None = None
        evaluate: Callable[[], dict[str, float]] = dict
        if self.early_stopping:
            X, y, weights, (X_val, y_val, w_val) = self._split(X, y, weights)
            held_out = self._data(network, plan, X_val, y_val, w_val)
            evaluate = partial(self._evaluate, network, plan, held_out, y_val, w_val)
        data = self._data(network, plan, X, y, weights)
        samples = len(y)
        if self.batch_size != "auto" and self.batch_size > samples:
            warnings.warn(
                f"batch_size={self.batch_size} is more than there are samples, and taken for {samples}",
                stacklevel=5,
            )
        batch_size = min(200 if self.batch_size == "auto" else int(self.batch_size), samples)
        rules = Rules(self, self._running.rate, network.flat() if self.early_stopping else None)
        order: Any = Order(self._random_state) if self.shuffle else None
        watched = ("loss", "val_loss", "val_score") if self.early_stopping else ("loss",)
        training = Training(
            network, plan, data, held_out, batch_size, 1 if incremental else self.max_iter, order, [rules, *watchers],
            watched,
        )  # fmt: skip
        try:
            with callbacks_called(training), np.errstate(all="ignore"):
                program, training.state = self._running.start(plan, go_on=incremental)
                self.n_iter_, self.history_ = 0, training.history
                run_fit(training, program, evaluate)
        except KeyboardInterrupt:
            warnings.warn("the training was interrupted; the parameters are those that it had reached", stacklevel=5)
        except NonFiniteLossError as error:
            if not self.early_stopping:
                raise _not_finite(str(error)) from error
            self._diverged(error)
        else:
            if not incremental and not training.stop and self.n_iter_ == self.max_iter:
                warnings.warn(
                    f"all epochs, max_iter={self.max_iter}, were made before the training converged",
                    ConvergenceWarning,
                    stacklevel=5,
                )
        if rules.best is not None:
            network.set_flat(rules.best)

    def _split(self, X: Any, y: np.ndarray, weights: np.ndarray | None) -> tuple[Any, ...]:
        """Return samples, targets and weights to train on and to validate with, split as scikit-learn does."""
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
        for w, part in ((w_train, "to train on"), (w_val, "held out for early stopping")):
            if w is not None and not w.any():
                raise DataError(
                    f"all {len(w)} samples {part} have the weight 0; leave samples of weight 0 out, or choose another "
                    "validation_fraction or random_state"
                )
        return X[train], y[train], w_train, (X[held_out], y[held_out], w_val)

    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        return None

    def _evaluate(
        self, network: Network, plan: Plan, held_out: Data, y: np.ndarray, weights: np.ndarray | None
    ) -> dict[str, float]:
        """Return loss and score on the held-out samples."""
        X = columns(held_out.X, slice(0, len(y)))
        A, losses = network.inference.losses(network.theta, X, held_out.Y, plan.loss)
        outputs, L = (network.backend.to_numpy(x) for x in (A, losses))
        told = plan.objective.reported_scale * float(np.average(L[0].astype(np.float64), weights=weights))
        finite = bool(np.isfinite(outputs).all())
        return {"val_loss": told, "val_score": self._score_outputs(outputs.T, y, weights) if finite else np.nan}

    def _diverged(self, error: NonFiniteLossError) -> None:
        """Record an epoch that diverged as a loss and a score of NaN."""
        self.loss_ = np.nan
        self.n_iter_ += 1
        for curve in (self.loss_curve_, self.validation_scores_, self.validation_loss_curve_):
            cast(list[float], curve).append(np.nan)
        warnings.warn(f"the training ended before it converged: {error}", ConvergenceWarning, stacklevel=6)

    def _outputs(self, X: Any) -> np.ndarray:
        """Return the network's outputs, shape (samples, outputs)."""
        check_is_fitted(self, "coefs_")
        refuse_masked(X, "X")
        X = validate_data(self, X, accept_sparse=["csr", "csc"], dtype=FIT_DTYPES, reset=False)
        running = getattr(self, "_running", None)
        network = (running and running.asked(self.coefs_, self.intercepts_)) or self._network()
        if not issparse(X):
            return cast(np.ndarray, network.predict(X.T).T)
        samples = SparseSamples(network.backend, X.tocsr(), network.host_dtype)
        return np.concatenate([network.predict(samples.read(span)).T for span in spans(samples)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _check_largest(weights: np.ndarray, name: str) -> None:
    """Raise DataError if the sum of the weights might be 0, or more than float32 can hold."""
    most = float(weights.max())
    if not LEAST_WEIGHT <= most <= MOST_WEIGHT:
        raise DataError.of(f"{name}: the largest", most, f"between {LEAST_WEIGHT:g} and {MOST_WEIGHT:g}")


def _not_finite(cause: str) -> DataError:
    return DataError(
        "Solver produced non-finite parameter weights. The input data may contain large values and need to be "
        f"preprocessed. {cause[:1].upper()}{cause[1:]}"
    )
