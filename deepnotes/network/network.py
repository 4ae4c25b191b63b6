"""The class Network: a chain of layers that can be trained, evaluated and saved."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from functools import cached_property, partial
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepnotes.backends.base import Backend
from deepnotes.backends.eager import EagerInference, EagerProgram
from deepnotes.backends.full_batch import program_of
from deepnotes.backends.host import aligned
from deepnotes.backends.inference import Inference
from deepnotes.backends.program import Data, Program, State
from deepnotes.backends.registry import get_backend
from deepnotes.backends.samples import host_columns
from deepnotes.datasets.standardizer import Standardizer
from deepnotes.equations.array import Array
from deepnotes.network.distributed.ranks import Ranks
from deepnotes.network.evaluation import compute_metrics, epoch_evaluator, mean_and_std, outputs, sampled_outputs
from deepnotes.network.inputs import Converted, as_data, as_samples, is_native
from deepnotes.network.parameters import NetworkState, Parameters
from deepnotes.network.training.callbacks import EarlyStopping, as_callbacks
from deepnotes.network.training.full_batch import check_full_batch
from deepnotes.network.training.history import History
from deepnotes.network.training.loop import callback_lifecycle, exclusive
from deepnotes.network.training.loop import fit as run_fit
from deepnotes.network.training.program_of_parts import AccumulatingProgram
from deepnotes.network.training.sharded_program import ShardedProgram
from deepnotes.network.training.signals import Deferral
from deepnotes.network.training.state import Callback, Training, with_averages
from deepnotes.nn.averaging import Averaged, WeightAverage
from deepnotes.nn.constraints import constrained
from deepnotes.nn.full_batch import FullBatchOptimizer
from deepnotes.nn.layer_rates import as_layer_rates
from deepnotes.nn.layers import BatchNorm, Dense, Embedding, Layer, flatten, is_random, with_default_initializers
from deepnotes.nn.losses import LossFunction, loss_after
from deepnotes.nn.metrics import Metrics, as_metrics
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import as_optimizer
from deepnotes.nn.plan import Layout, Plan, slots_at_start
from deepnotes.nn.presets import current_dialect, in_dialect
from deepnotes.utils.arguments import float_dtype, number, true_or_false, whole
from deepnotes.utils.array_checks import refuse_masked
from deepnotes.utils.errors import ArgumentError, ShapeError

if TYPE_CHECKING:
    from deepnotes.network.inspection.events import Event
    from deepnotes.network.inspection.trace import Trace

DEFAULT_BATCH_SIZE = 32


class Network:
    """A chain of layers. Samples are columns: X has shape (n[0], m), and the output has shape (n[L], m).

    Parameters
    ----------
    layers : sequence of Layer
        For example ``[dn.Dense(128, "relu"), dn.Dense(10, "softmax")]``.
    inputs : int
        ``n[0]``, the number of features.
    backend : str or Backend, optional
        By default the selected backend, see :func:`deepnotes.get_backend`. The backend of a network cannot be changed.
    dtype : {"float32", "float64"}, default "float32"
    seed : int, optional
        Determines the initial weights, the order of samples and the dropout masks; all of them are the same on every
        backend. By default a random seed. It is stored in the attribute ``seed``.
    standardizer : Standardizer, optional
        Applied to every X that is passed to the network's methods.
    theta : ndarray, shape (p,), optional
        Initial values of all parameters, in the order of the flat buffer (weights first). By default they are drawn by
        the layers' initializers.

    Attributes
    ----------
    parameters : Parameters
        A mapping of ``W1``, ``b1``, ``W2``, ... to arrays; assignment changes the network.
    metadata : dict
        JSON values that are saved with the network, such as the names of features and classes.
    dialect : str
        The name of the defaults that were in effect when the network was constructed, see :class:`~deepnotes.defaults`.
        An optimizer that is passed to ``fit`` by name has the same defaults.
    theta : Array, shape (p,)
        The flat buffer of all parameters; ``layout`` maps each parameter to its slice.

    Raises
    ------
    ArgumentError, UnknownNameError, BackendUnavailable

    Examples
    --------
    >>> net = Network([Dense(4, "tanh"), Dense(1, "sigmoid")], inputs=3, seed=0)
    >>> net.predict(np.zeros((3, 2), dtype=np.float32)).shape
    (1, 2)
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        inputs: int,
        *,
        backend: str | Backend | None = None,
        dtype: str = "float32",
        seed: int | None = None,
        standardizer: Standardizer | None = None,
        theta: np.ndarray | None = None,
    ) -> None:
        self.inputs = whole("inputs", inputs)
        self.layers = _as_layers(layers)
        self.dtype = float_dtype(dtype)
        self.host_dtype = np.dtype(self.dtype)
        self.seed = _as_seed(seed)
        if not isinstance(standardizer, Standardizer | None):
            raise ArgumentError.of("standardizer", standardizer, "a Standardizer, such as Standardizer.fit(X), or None")
        if standardizer is not None and len(standardizer.mean) != self.inputs:
            n = len(standardizer.mean)
            raise ShapeError(f"standardizer has {n} features, but the network has {self.inputs} inputs")
        self.standardizer = standardizer
        self.dialect, self.layers = current_dialect(), with_default_initializers(flatten(self.layers))
        self._check_categories_unscaled()
        self.metadata: dict[str, Any] = {}
        self.backend = get_backend(backend)
        if self.dtype not in self.backend.dtypes:
            has, name = " or ".join(d for d in self.backend.dtypes if d.startswith("float")), self.backend.name
            raise ArgumentError(f"dtype={self.dtype!r}: backend {name!r} has no {self.dtype}, wanted {has}")
        self.layout = Layout(self.inputs, self.layers)
        self._rng = np.random.default_rng(self.seed)
        refuse_masked(theta, "theta")
        theta = self.layout.initial(self._rng) if theta is None else np.asarray(theta)
        if theta.shape != (self.layout.size,):
            raise ShapeError.of("theta", theta.shape, f"({self.layout.size},)")
        with np.errstate(over="ignore"):
            self.theta = self.from_host(theta)
            overflow = np.isfinite(theta) & ~np.isfinite(np.asarray(theta, self.host_dtype))
        if overflow.any():
            raise ArgumentError(f"initial parameters up to {abs(theta).max():.3g} are too large for {self.dtype}")
        self._training: tuple[Plan, Program, State] | None = None
        self._per_chunk: dict[int, int] = {}  # by batch size: the number of updates that a chunk had at last

    @property
    def parameters(self) -> Parameters:
        """The parameters, by name; see :class:`Parameters`."""
        return Parameters(self)

    @property
    def outputs(self) -> int:
        """``n[L]``, the number of outputs."""
        return self.layout.sizes[-1]

    @cached_property
    def inference(self) -> Inference:
        """The forward pass on this network's backend."""
        compiled = self.backend.compile_inference(self.layers, self.layout, self.dtype)
        return compiled or EagerInference(self.backend, self.layers, self.layout, self.dtype)

    def flat(self) -> np.ndarray:
        """Return a host copy of all parameters, shape (p,), in the order of the flat buffer."""
        return np.array(self.backend.to_numpy(self.theta))

    def set_flat(self, theta: np.ndarray) -> None:
        """Set all parameters from a host array of shape (p,)."""
        refuse_masked(theta, "theta")
        if np.shape(theta) != (self.layout.size,):
            raise ShapeError.of("theta", np.shape(theta), f"({self.layout.size},)")
        self.theta = self.backend.write(self.theta, 0, self.from_host(theta))

    def state_dict(self) -> dict[str, np.ndarray]:
        """Return a copy of the parameters under the names and in the shapes of a ``torch.nn.Sequential``.

        Returns
        -------
        dict of str to ndarray
            Such as ``0.weight``, shape (n[1], n[0]), and ``0.bias``, shape (n[1],). The numbers are those of the
            modules, of which a Dense layer with an activation has two. The standardizer is not included.

        Raises
        ------
        ArgumentError
            If residual blocks overlap without one containing the other.

        Examples
        --------
        >>> net = Network([Dense(4, "relu"), Dense(1)], inputs=3, seed=0)
        >>> {name: array.shape for name, array in net.state_dict().items()}
        {'0.weight': (4, 3), '0.bias': (4,), '2.weight': (1, 4), '2.bias': (1,)}
        """
        from deepnotes.network.formats.state_dicts import state_dict

        return state_dict(self)

    def load_state_dict(self, state: Any) -> None:
        """Set all parameters from a dict with the names and shapes of :meth:`state_dict`.

        Parameters
        ----------
        state : mapping of str to array_like
            Such as ``model.state_dict()`` of a ``torch.nn.Sequential`` with the same layers. The arrays may be of any
            library, and are converted to the network's dtype. A PReLU layer also takes a single slope, shape (1,).

        Raises
        ------
        UnknownParameterError
            If entries are missing or superfluous; the message names them. Parameters are then unchanged, as after any
            of these errors.
        ShapeError, DTypeError, DataError, ForeignArrayError
            If arrays have other shapes, or cannot be converted.
        ArgumentError
            If `state` is not a mapping, or as for :meth:`state_dict`.

        Examples
        --------
        >>> net, other = (Network([Dense(4, "relu"), Dense(1)], inputs=3, seed=seed) for seed in (0, 1))
        >>> other.load_state_dict(net.state_dict())
        >>> bool((other.flat() == net.flat()).all())
        True
        """
        from deepnotes.network.formats.state_dicts import load_state_dict

        load_state_dict(self, state)

    def with_head(self, layers: Sequence[Layer], *, keep: int = -1, seed: int | None = None) -> "Network":
        """Return a new network: the first layers of this one, followed by new last layers (its head).

        The kept layers have copies of their parameters; those of the new layers are drawn by their initializers. The
        standardizer, dtype, backend and dialect are those of this network. Its metadata, such as the names of classes,
        are not copied, since they describe the old outputs. To train the head only, or the kept layers with a lower
        rate, pass ``layer_rates`` to :meth:`fit`.

        Parameters
        ----------
        layers : sequence of Layer
            The new layers.
        keep : int, default -1
            Which layers are kept: ``net.layers[:keep]``, so -1 stands for all but the last.
        seed : int, optional
            The seed of the new network, by default that of this one.

        Returns
        -------
        Network

        Raises
        ------
        ArgumentError
            If `layers` are not layers, or no layer is kept.

        Examples
        --------
        >>> net = Network([Dense(8, "relu"), Dense(4, "relu"), Dense(5, "softmax")], inputs=3, seed=0)
        >>> tuned = net.with_head([Dense(2, "softmax")])
        >>> tuned.layers
        (Dense(8, 'relu'), Dense(4, 'relu'), Dense(2, 'softmax'))
        >>> bool((tuned.parameters["W1"] == net.parameters["W1"]).all())
        True
        """
        head, most = _as_layers(layers), len(self.layers)
        kept = range(most)[: whole("keep", keep, -most)]
        if keep > most or not kept:
            raise ArgumentError.of("keep", keep, f"a slice net.layers[:keep] of 1 to {most} layers")
        net = self._like((*self.layers[: len(kept)], *head), seed=self.seed if seed is None else seed)
        theta, own = net.flat(), self.flat()
        for name, entry in net.layout.entries.items():
            if entry.layer in kept:
                theta[entry.start : entry.stop] = own[self.layout.entries[name].start : self.layout.entries[name].stop]
        net.set_flat(theta)
        return net

    @exclusive
    def fit(  # noqa: PLR0913 - the options of training, each with a default
        self,
        X: Any,
        Y: Any,
        *,
        loss: str | LossFunction | None = None,
        optimizer: str | Optimizer = "adam",
        epochs: int = 10,
        batch_size: int | None = None,
        accumulate: int = 1,
        shuffle: bool = True,
        samples: Any = None,
        validation: Any = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        l1: float = 0.0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        metrics: Metrics = (),
        layer_rates: Mapping[int, float] | None = None,
        average: WeightAverage | None = None,
        early_stopping: EarlyStopping | int | None = None,
        callbacks: Sequence[Callback] = (),
        checkpoint: str | PathLike[str] | None = None,
        every: int | str | None = None,
        resume: bool = False,
        progress: bool = False,
        ranks: Ranks | None = None,
    ) -> History:
        """Train from the current parameters, with a new state of the optimizer.

        Parameters
        ----------
        X : array_like, shape (n[0], m)
            An array of the backend or of NumPy, or a host array of any other library. A copy is avoided if possible.
        Y : array_like, shape (n[L], m)
            Shape (m,) is accepted for one output, and class indices of shape (m,) for categorical cross-entropy. For a
            loss with several outputs for each target, such as :class:`~deepnotes.QuantileLoss`, a row for each target.
        loss : str or LossFunction, optional
            By default the loss that matches the last activation: binary cross-entropy after sigmoid, categorical
            cross-entropy after softmax, else mean squared error.
        optimizer : str or Optimizer, default "adam"
        epochs : int, default 10
        batch_size : int, optional
            By default 32, or all samples for :class:`~deepnotes.LBFGS`. The last batch of an epoch may be smaller.
        accumulate : int, default 1
            The number of consecutive batches whose gradients make one update: the update is that of one batch with all
            their samples, up to rounding, but takes the memory of a batch. The last update of an epoch may have fewer.
            Schedules count updates.
        shuffle : bool, default True
            Whether to draw a new order of the samples for each epoch.
        samples : array_like of int, shape (k,), or of bool, shape (m,), optional
            The indices of the samples to train on, or a mask; an index may occur several times. By default all samples.
            The results have the bits of training on a copy with the same memory layout, but nothing is copied. The
            other arguments describe all samples, and all are checked.
        validation : (X_val, Y_val), (X_val, Y_val, w_val) or array, optional
            Data to evaluate the network on after each epoch; the weights `w_val` are as for `sample_weight`. An array,
            a Series or a range contains the indices of samples in X, or a mask, as for `samples` (a list does not: it
            is a pair); the evaluation is then not weighted.
        sample_weight : array_like, shape (m,), optional
            Numbers of at least 0. Only their ratios matter: they are scaled to mean 1 over all samples, and the cost of
            a batch is the sum of its weighted losses divided by its number of samples. So a sample of weight 2 counts
            as much as two samples, whatever the batch size. The reported loss is the weighted mean of the losses.
        class_weight : mapping, sequence or "balanced", optional
            The weight of each class; the weight of a sample is multiplied by that of its class. Classes that a mapping
            leaves out have weight 1. With ``"balanced"``, the sample weights have the same sum in each class.
        l1 : float, default 0.0
            Adds ``l1 * Σ |w|`` over the weights (not the biases) to the cost. The reported loss is without L1 and L2.
        l2 : float, default 0.0
            Adds ``l2 / 2 * Σ w²`` over the weights (not the biases) to the cost.
        clip_norm : float, optional
            Gradients with a larger global norm are scaled down to this norm.
        metrics : str, callable or list of them, optional
            Computed without weights after each epoch, on the validation data if given, else on the training data.
        layer_rates : mapping of int to float, optional
            A factor from 0 to 100 on the learning rate of each layer, such as ``{1: 0, 2: 0.1}``. A layer has the
            number of its parameters, as in ``W1``; layers that are left out have the factor 1. With 0, a layer is
            frozen: its parameters keep their bits, whatever L1, L2, weight decay and constraints. Its gradient counts
            for `clip_norm` all the same, as that of a parameter group of PyTorch with ``lr=0`` does.
        average : EMA or SWA, optional
            Average the parameters over the updates: evaluate the averages after each epoch, and set the parameters to
            them at the end. Until the first update that counts, and after an error, the parameters are not averaged.
        early_stopping : EarlyStopping or int, optional
            An int is the patience: ``5`` means ``EarlyStopping(5)``.
        callbacks : sequence of Callback, optional
        checkpoint, every, resume : optional
            The directory for checkpoints, the interval between two checkpoints (by default 60s), and whether to resume
            from the latest checkpoint: see :class:`~deepnotes.Checkpoints`.
        progress : bool, default False
            Whether to show a progress bar with the remaining time on stderr.
        ranks : Ranks, optional
            Processes that share the training run, such as :func:`deepnotes.network.distributed.mpi`: each computes the
            gradients of its shards of each batch. All of them have to call ``fit`` with the same arguments. The result
            has the same bits on any number of ranks, but not those of training without `ranks`, in which a batch is
            not divided into shards. Rank 0 evaluates, shows progress, and writes files.

        Returns
        -------
        History

        Raises
        ------
        ArgumentError, ShapeError, DTypeError, DataError, ForeignArrayError, UnknownNameError
            If an argument is not valid; the network is then unchanged.
        NonFiniteLossError
            If the loss or a gradient becomes NaN or infinite; the parameters are then those before the update.
        CheckpointError
            If a checkpoint cannot be written or resumed from, or if it belongs to another training run.
        BusyError
            If the network is already being trained, in another thread or by a call of ``fit`` that called a callback.
        RankError
            If another rank has failed, does not answer, or was called with other arguments.
        """
        prepare = partial(
            self.prepare_fit, X, Y, {}, loss=loss, optimizer=optimizer, epochs=epochs, batch_size=batch_size,
            accumulate=accumulate, shuffle=shuffle, samples=samples, validation=validation, sample_weight=sample_weight,
            class_weight=class_weight, l1=l1, l2=l2, clip_norm=clip_norm, metrics=metrics, layer_rates=layer_rates,
            average=average, early_stopping=early_stopping, callbacks=callbacks, checkpoint=checkpoint, every=every,
            resume=resume, progress=progress, ranks=ranks,
        )  # fmt: skip
        if ranks is None:
            return prepare().run()
        if not isinstance(ranks, Ranks):
            raise ArgumentError.of("ranks", ranks, "the result of deepnotes.distributed.mpi(), or None")
        with ranks.guard():
            history = prepare().run()
            ranks.barrier()  # an error at the end of another rank concerns this one, too
            return history

    def prepare_fit(  # noqa: PLR0913 - the options of fit
        self,
        X: Any,
        Y: Any,
        converted: Converted,
        *,
        loss: str | LossFunction | None,
        optimizer: str | Optimizer,
        epochs: int,
        batch_size: int | None,
        accumulate: int,
        shuffle: bool,
        samples: Any,
        validation: Any,
        sample_weight: Any,
        class_weight: Any,
        l1: float,
        l2: float,
        clip_norm: float | None,
        metrics: Metrics,
        layer_rates: Mapping[int, float] | None,
        average: WeightAverage | None,
        early_stopping: EarlyStopping | int | None,
        callbacks: Sequence[Callback],
        checkpoint: str | PathLike[str] | None,
        every: int | str | None,
        resume: bool,
        progress: bool,
        ranks: Ranks | None = None,
    ) -> "PreparedFit":
        """Check the arguments of :meth:`fit`, and return the training run that they describe.

        `converted` holds conversions of the same X and Y, which several training runs share; it is extended.
        """
        loss_function, metric_functions = self._loss(loss), as_metrics(metrics)
        epochs, accumulate = whole("epochs", epochs), whole("accumulate", accumulate)
        batch_size = None if batch_size is None else whole("batch_size", batch_size)
        shuffle = true_or_false("shuffle", shuffle)
        subset = None if samples is None else ("samples", samples)
        data, class_indices = as_data(
            self, X, Y, loss_function, sample_weight, class_weight, subset=subset, converted=converted
        )
        if isinstance(validation, range) or getattr(validation, "ndim", None) == 1:
            held_out: Data | None = as_data(
                self, X, Y, loss_function, subset=("validation", validation), converted=converted
            )[0]
        else:
            held_out = self._validation_data(validation, loss_function)
        optimizer, used = as_optimizer(optimizer, self.dialect), data.X.shape[1]
        if isinstance(optimizer, FullBatchOptimizer):
            batch_size, shuffle = batch_size or used, False  # an order would only change the rounding
            check_full_batch(
                optimizer, self.layers, self.layout, batch_size, batch_size * accumulate, used,
                l1=l1, clip_norm=clip_norm, layer_rates=layer_rates, average=average,
            )  # fmt: skip
        batch_size = batch_size or DEFAULT_BATCH_SIZE
        optimizer = self._optimizer(optimizer, layer_rates)
        if average is not None:
            if not isinstance(average, WeightAverage):
                raise ArgumentError(f"average: got {type(average).__name__}, wanted an EMA or SWA")
            optimizer = Averaged(optimizer, average)
        plan = self._plan(loss_function, optimizer, l2, clip_norm, class_indices, l1)
        all_callbacks = as_callbacks(callbacks, early_stopping, checkpoint, every, resume, progress)
        if ranks is not None:
            from deepnotes.network.training.shared_start import on_rank

            all_callbacks = on_rank(all_callbacks, ranks)
        if held_out is None:
            columns = ("loss", *metric_functions)
        else:
            columns = ("loss", "val_loss", *(f"val_{name}" for name in metric_functions))
        rng = self._rng if shuffle else None
        training = Training(
            self, plan, data, held_out, batch_size, epochs, rng, all_callbacks, columns, accumulate=accumulate
        )
        if ranks is not None:
            training.ranks, training.shards = ranks, ranks.shards
        if ranks is not None:
            self._check_batches(min(training.update_size, training.samples), ranks.shards)
        self._check_batches(min(batch_size, training.samples))
        evaluate = epoch_evaluator(self, data, held_out, loss_function, metric_functions)
        return PreparedFit(self, training, evaluate if average is None else partial(with_averages, training, evaluate))

    @exclusive
    def partial_fit(  # noqa: PLR0913 - a subset of the options of fit
        self,
        X: Any,
        Y: Any,
        *,
        loss: str | LossFunction | None = None,
        optimizer: str | Optimizer = "adam",
        batch_size: int | None = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        l1: float = 0.0,
        l2: float = 0.0,
        clip_norm: float | None = None,
        layer_rates: Mapping[int, float] | None = None,
    ) -> float:
        """Train on more samples, once and in the given order, with the current state of the optimizer.

        That state is the result of the last ``fit`` or ``partial_fit`` if the settings were the same; otherwise the
        optimizer starts with a new state. Parameters and errors are as for :meth:`fit`, with two exceptions:
        `batch_size` is by default the number of samples, and weights are not scaled, since more samples may follow.
        ``class_weight="balanced"`` is refused for the same reason.

        Returns
        -------
        float
            The weighted mean of the losses, each computed before the update that uses the sample.
        """
        loss_function = self._loss(loss)
        if isinstance(class_weight, str) and class_weight == "balanced":
            raise ArgumentError(
                "class_weight='balanced' needs all samples, but partial_fit has only some of them: pass a mapping"
            )
        data, class_indices = as_data(self, X, Y, loss_function, sample_weight, class_weight, scaled=False)
        batch_size = data.X.shape[1] if batch_size is None else whole("batch_size", batch_size)
        optimizer = as_optimizer(optimizer, self.dialect)
        if isinstance(optimizer, FullBatchOptimizer):
            raise ArgumentError.of(
                "optimizer",
                optimizer,
                "one that does not need all samples, such as Adam, since partial_fit has only some",
            )
        plan = self._plan(loss_function, self._optimizer(optimizer, layer_rates), l2, clip_norm, class_indices, l1)
        self._check_batches(min(batch_size, data.X.shape[1]))
        last = self._training
        program, state = last[1:] if last is not None and last[0] == plan else self._start(plan)
        training = Training(self, plan, data, None, batch_size, 1, None)
        training.state = state
        with np.errstate(all="ignore"):
            cost = run_fit(training, program, dict).loss[-1]
        return cost if data.w is None else cost / float(host_columns(self.backend, data.w).mean(dtype=np.float64))

    def predict(self, X: Any, *, samples: int | None = None, return_std: bool = False, seed: int | None = None) -> Any:
        """Return the output ``A[L]``, shape (n[L], m), for X of shape (n[0], m).

        If X is an array of the backend, or an array of another library on the same GPU, the output is an array of the
        backend; otherwise it is a NumPy array.

        Parameters
        ----------
        X : array_like, shape (n[0], m)
        samples : int, optional
            Predict so many times with dropout and noise, as in training, with other random numbers each time. How much
            the outputs differ measures how uncertain the network is (Y. Gal and Z. Ghahramani, arXiv:1506.02142). By
            default, dropout and noise have no effect.
        return_std : bool, default False
            With `samples`, whether to return the mean of these outputs and their standard deviation, as
            :meth:`Ensemble.predict` does, instead of all of them.
        seed : int, optional
            With `samples`, determines the random numbers, which are the same on every backend; by default the
            network's seed.

        Returns
        -------
        array, shape (n[L], m)
            With `samples`, shape (samples, n[L], m); with `return_std`, two arrays of shape (n[L], m).

        Raises
        ------
        ArgumentError
            If `samples` is given, but the network has neither dropout nor noise.
        ShapeError, DTypeError, ForeignArrayError

        Examples
        --------
        >>> from deepnotes.nn import Dropout
        >>> net = Network([Dense(8, "tanh"), Dropout(0.2), Dense(1)], inputs=3, seed=0)
        >>> net.predict(np.ones((3, 5)), samples=50).shape
        (50, 1, 5)
        >>> mean, std = net.predict(np.ones((3, 5)), samples=50, return_std=True)
        """
        if samples is not None:
            return self._sample(X, whole("samples", samples), true_or_false("return_std", return_std), seed)
        if return_std or seed is not None:
            raise ArgumentError(f"{'return_std' if return_std else 'seed'} needs samples, such as samples=50")
        A = outputs(self, as_samples(self, X, on_host=hasattr(self.inference, "predict_host")))
        return A if is_native(self, X) else self.backend.to_numpy(A)

    def _sample(self, X: Any, samples: int, return_std: bool, seed: int | None) -> Any:
        """Return predictions with dropout and noise; see :meth:`predict`."""
        if not any(map(is_random, self.layers)):
            raise ArgumentError(
                f"samples={samples}: all predictions would be equal, since the network has no layer of Dropout or "
                "Noise with an effect"
            )
        inputs, native = as_samples(self, X), is_native(self, X)
        with np.errstate(all="ignore"), self.backend.execution_context():
            parts: list[Any] = sampled_outputs(self, inputs, samples, self.seed if seed is None else _as_seed(seed))
            parts = parts if native else [self.backend.to_numpy(A) for A in parts]
            xp: Any = self.backend.xp if native else np
            if return_std:
                return mean_and_std(xp, parts)
            return xp.concat([xp.reshape(A, (1, *A.shape)) for A in parts], axis=0)

    def evaluate(
        self,
        X: Any,
        Y: Any,
        *,
        loss: str | LossFunction | None = None,
        metrics: Metrics = (),
        sample_weight: Any = None,
    ) -> dict[str, float]:
        """Return the mean loss and the metrics, by name.

        The weights apply to the loss and to the library's own metrics, but not to user-defined metrics. Parameters and
        errors are as for :meth:`fit`.
        """
        loss_function = self._loss(loss)
        metric_functions = as_metrics(metrics)
        data, _ = as_data(self, X, Y, loss_function, sample_weight)
        return compute_metrics(self, data, loss_function, metric_functions)

    def gradients(
        self,
        X: Any,
        Y: Any,
        *,
        loss: str | LossFunction | None = None,
        sample_weight: Any = None,
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> dict[str, Array]:
        """Return the gradient of the cost for each trained parameter (N13, N14), by name: ``W1``, ``b1``, ...

        All samples are one batch. Dropout acts as in the first training step. Parameters and errors are as for
        :meth:`fit`.
        """
        data, plan = self.prepare_step(X, Y, loss, sample_weight, None, l2, l1)
        with np.errstate(all="ignore"), self.backend.execution_context():
            g = EagerProgram(self.backend, plan).gradients(State(self.theta), data).flat
        gradients, entries = self.layout.by_name(self.backend.xp, g), self.layout.entries
        return {name: gradient for name, gradient in gradients.items() if entries[name].parameter.trained}

    def prepare_step(
        self,
        X: Any,
        Y: Any,
        loss: str | LossFunction | None,
        sample_weight: Any = None,
        class_weight: Any = None,
        l2: float = 0.0,
        l1: float = 0.0,
    ) -> tuple[Data, Plan]:
        """Check the arguments of :meth:`gradients` or :meth:`trace`; return the batch, and the plan of the step."""
        loss_function = self._loss(loss)
        data, class_indices = as_data(self, X, Y, loss_function, sample_weight, class_weight, together=True)
        return data, self._plan(loss_function, self._optimizer("sgd"), l2, None, class_indices, l1)

    def trace(
        self,
        X: Any,
        Y: Any,
        *,
        loss: str | LossFunction | None = None,
        sample_weight: Any = None,
        class_weight: Any = None,
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> "Trace":
        """Run one training step, without the update, and return every array that it computes (N1 to N16).

        These are ``Z``, ``A``, ``L`` and the cost, ``dZ``, ``dW``, ``db`` and ``dA`` of each layer, by their names in
        the notes. All samples are one batch. Dropout acts as in the first training step. Parameters and errors are as
        for :meth:`fit`.

        Returns
        -------
        Trace
            ``trace["dW2"]`` is an array; ``print(trace)`` prints all of them beside their formulas.

        Examples
        --------
        >>> net = Network([Dense(4, "tanh"), Dense(1, "sigmoid")], inputs=3, seed=0)
        >>> trace = net.trace(np.ones((3, 2)), np.array([0, 1]))
        >>> [event.name for event in trace]
        ['Z1', 'A1', 'Z2', 'A2', 'L', 'cost', 'dZ2', 'dW2', 'db2', 'dA1', 'dZ1', 'dW1', 'db1', 'dA0']
        >>> trace["dW2"].shape
        (1, 4)
        """
        from deepnotes.network.inspection.trace import trace

        data, plan = self.prepare_step(X, Y, loss, sample_weight, class_weight, l2, l1)
        return trace(self, plan, data)

    def steps(self, X: Any, Y: Any, **options: Any) -> "Iterator[Event]":
        """Iterate over the arrays of one training step in the order of computation, as for :meth:`trace`.

        Examples
        --------
        >>> net = Network([Dense(1, "sigmoid")], inputs=3, seed=0)
        >>> for event in net.steps(np.ones((3, 2)), np.array([0, 1])):
        ...     print(event.name, "=", event.formula, event.shape)
        Z1 = W1 A0 + b1 (1, 2)
        A1 = 1 / (1 + e^-Z1) (1, 2)
        L = -(Y * log A1 + (1 - Y) * log(1 - A1)) (1, 2)
        cost = (1/m) Σ_samples L ()
        dZ1 = A1 - Y (1, 2)
        dW1 = (1/m) dZ1 A0ᵀ (1, 3)
        db1 = (1/m) Σ_samples dZ1 (1, 1)
        dA0 = W1ᵀ dZ1 (3, 2)
        """
        return iter(self.trace(X, Y, **options))

    def activations(self, X: Any, layer: int | None = None) -> Any:
        """Return the outputs ``A[l]`` (N3) of hidden layers for X of shape (n[0], m), without dropout.

        Parameters
        ----------
        X : array_like, shape (n[0], m)
        layer : int, optional
            ``l`` as in ``W[l]``: 1 is the first layer with parameters, and -1 the last; 0 is the input, after the
            standardizer. By default, the outputs of all layers.

        Returns
        -------
        array, shape (n[l], m), or dict of str to array
            Of all layers by name: ``A1``, ``A2``, ..., and the output of a layer without parameters after the second
            layer as ``A2_`` and its kind, such as ``A2_dropout``. The arrays are of the kind that :meth:`predict`
            returns.

        Raises
        ------
        ArgumentError
            If the network has no such layer.
        ShapeError, DTypeError, ForeignArrayError

        Examples
        --------
        >>> net = Network([Dense(4, "relu"), Dense(1, "sigmoid")], inputs=3, seed=0)
        >>> net.activations(np.ones((3, 2)), layer=1).shape
        (4, 2)
        >>> list(net.activations(np.ones((3, 2))))
        ['A1', 'A2']
        """
        from deepnotes.network.inspection.derivatives import activations

        return activations(self, X, layer)

    def input_gradient(
        self, X: Any, Y: Any, *, loss: str | LossFunction | None = None, sample_weight: Any = None
    ) -> Any:
        """Return the derivative of the loss of each sample by its inputs, ``∂L/∂X``, shape (n[0], m), without dropout.

        This is ``dA[0]`` of N15, divided by the scale of the standardizer if the network has one. Like all ``dA``, it
        is per sample: divide it by m for the derivative of the cost. Parameters and errors are as for :meth:`fit`.
        The result is an array of the kind that :meth:`predict` returns.

        Examples
        --------
        >>> net = Network([Dense(1, "sigmoid")], inputs=3, dtype="float64", seed=0)
        >>> X, y = np.ones((3, 2)), np.array([0, 1])
        >>> dX = net.input_gradient(X, y)
        >>> bool(np.allclose(dX, net.parameters["W1"].T @ (net.predict(X) - y)))
        True
        """
        from deepnotes.network.inspection.derivatives import input_gradient

        data, plan = self.prepare_step(X, Y, loss, sample_weight)
        return input_gradient(self, plan, data, X)

    def jacobian(self, X: Any) -> Any:
        """Return the derivative of each output by each input, shape (n[L], n[0], m), without dropout.

        It is computed by N12 and N15, with ``dA[L]`` set to each unit vector in turn. Element ``[k, i, j]`` belongs to
        output k, input i and sample j. The result is an array of the kind that :meth:`predict` returns.

        Raises
        ------
        ShapeError, DTypeError, ForeignArrayError

        Examples
        --------
        >>> net = Network([Dense(4, "tanh"), Dense(2)], inputs=3, seed=0)
        >>> net.jacobian(np.ones((3, 5))).shape
        (2, 3, 5)
        """
        from deepnotes.network.inspection.derivatives import jacobian

        return jacobian(self, X)

    def hessian_vector_product(
        self,
        X: Any,
        Y: Any,
        v: Any,
        *,
        loss: str | LossFunction | None = None,
        sample_weight: Any = None,
        l2: float = 0.0,
    ) -> Any:
        """Return ``H v``, where H is the Hessian of the cost: the derivative of :meth:`gradients` in the direction `v`.

        It is exact up to rounding: the equations of the gradient run on dual numbers (B. A. Pearlmutter, Fast exact
        multiplication by the Hessian, Neural Computation 6 (1994) 147), in float64, on the backend of the network or,
        if that has no float64, on NumPy. H itself, of shape (p, p), is not computed.

        Parameters
        ----------
        X, Y : array_like
            As for :meth:`gradients`, and so are the options.
        v : array_like, shape (p,), or mapping of str to array_like
            A vector in the order of the flat buffer, or its parts by the names of parameters, 0 for those left out.

        Returns
        -------
        ndarray of float64, shape (p,), or dict of str to ndarray
            The dict has all parameters. Statistics, such as those of BatchNorm, have the product 0, whatever `v`.

        Raises
        ------
        UnknownParameterError
            If the network has no parameter of a name in `v`.
        NotAnExpressionError
            If a user-defined part uses a function outside the array protocol.
        ArgumentError, ShapeError, DTypeError, DataError, ForeignArrayError, UnknownNameError

        Examples
        --------
        >>> net = Network([Dense(1)], inputs=2, dtype="float64", seed=0)
        >>> X = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, 0.0]])
        >>> net.hessian_vector_product(X, np.zeros(3), {"W1": np.array([[3.0, 0.0]])})["W1"]  # 2/3 X Xᵀ v
        array([[28.,  4.]])
        """
        from deepnotes.network.inspection.derivatives import hessian_vector_product

        network = in_double_precision(self)
        data, plan = network.prepare_step(X, Y, loss, sample_weight, None, l2)
        return hessian_vector_product(network, plan, data, v)

    def summary(self) -> str:
        """Return a table of the layers, with output shape, activation and number of parameters."""
        from deepnotes.network.summary import summary

        return summary(self)

    def folded(self) -> "Network":
        """Return a network with equal predictions, up to rounding, in which each BatchNorm is folded into a Dense.

        That is the Dense without activation before the BatchNorm or, if there is none, the Dense after it. The new
        network is smaller and predicts faster. Where the running mean is large compared to the standard deviation, its
        outputs have fewer correct digits. This network is not changed.

        Raises
        ------
        ArgumentError
            If there is no such Dense, if a residual block begins or ends in between, or if the new weights are not
            finite.

        Examples
        --------
        >>> from deepnotes.nn import BatchNorm
        >>> net = Network([Dense(4), BatchNorm(), Dense(1, "sigmoid")], inputs=3, seed=0)
        >>> net.folded().layers
        (Dense(4), Dense(1, 'sigmoid'))
        """
        from deepnotes.network.folding import fold

        layers, theta = fold(self)
        network = self._like(layers, theta=theta)
        network.metadata = deepcopy(self.metadata)
        return network

    def calibrated(self, X: Any, Y: Any, *, sample_weight: Any = None) -> "Network":
        """Return a network whose probabilities are calibrated on held-out samples.

        The logits of the last layer are divided by the temperature T that minimizes the mean cross-entropy of the
        samples: ``W`` and ``b`` of this layer become ``W / T`` and ``b / T``. Overconfident networks have T > 1. Which
        class is the most probable does not change. This network is not changed.

        Parameters
        ----------
        X : array_like, shape (n[0], m)
            Samples that the network was not trained on; for those that it was trained on, it is too confident.
        Y : array_like, shape (n[L], m) or (m,)
            The targets, as for :meth:`fit`.
        sample_weight : array_like, shape (m,), optional

        Returns
        -------
        Network
            With T in ``metadata["temperature"]``.

        Raises
        ------
        ArgumentError
            If the last layer is not a Dense with sigmoid, softmax or log_softmax, or has a constraint, or if a
            parameter divided by T is too large for the dtype.
        DataError
            If no temperature is the best: if all samples are predicted correctly, or no better than by chance; or if
            the logits are not finite.
        ShapeError, DTypeError, ForeignArrayError
            As for :meth:`fit`.

        References
        ----------
        C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, On Calibration of Modern Neural Networks, arXiv:1706.04599.

        Examples
        --------
        >>> net = Network([Dense(1, "sigmoid")], inputs=1, theta=np.array([2 * np.log(3), 0.0]), dtype="float64")
        >>> X, y = np.ones((1, 4)), np.array([1, 1, 1, 0])
        >>> net.predict(X)[0, 0].round(3), net.calibrated(X, y).predict(X)[0, 0].round(3)
        (np.float64(0.9), np.float64(0.75))
        """
        from deepnotes.network.calibration import calibrate, cross_entropy_of

        loss = cross_entropy_of(self.layers)
        linear = self._like((*self.layers[:-1], Dense(self.outputs)), theta=self.flat())
        temperature, theta = calibrate(self, linear, loss, X, Y, sample_weight)
        network = self._like(self.layers, theta=theta)
        network.metadata = deepcopy(self.metadata) | {"temperature": temperature}
        return network

    def save(self, path: str | PathLike[str]) -> None:
        """Write the architecture, parameters, standardizer and metadata to a safetensors file.

        If writing fails, an existing file is left unchanged.

        Raises
        ------
        ModelFileError
            If the network has user-defined layers or activations, which cannot be saved, or the file cannot be written.
        """
        from deepnotes.network.formats.model_files import save

        save(self, path)

    def to_json(self) -> str:
        """Return the network as JSON, which :func:`~deepnotes.from_json` reads.

        It has the content of a model file: architecture, parameters, standardizer and metadata. Matrices are lists of
        rows. Each number is the shortest decimal that is read back with the same bits.

        Raises
        ------
        ModelFileError
            As for :meth:`save`; or if a parameter is NaN or infinite.

        Examples
        --------
        >>> Network([Dense(1)], inputs=2, theta=np.array([0.1, -2, 0])).to_json()[-64:]
        '"metadata": {}, "tensors": {"W1": [[0.1, -2.0]], "b1": [[0.0]]}}'
        """
        from deepnotes.network.formats.json_text import to_json

        return to_json(self)

    def to_onnx(self, path: str | PathLike[str]) -> None:
        """Write the network to an ONNX file with one input ``X`` of shape (m, n[0]): samples are rows.

        The file includes the standardizer and the metadata, and is checked by ``onnx.checker``. If writing fails, an
        existing file is left unchanged.

        Raises
        ------
        ModelFileError
            As for :meth:`save`.
        MissingExtraError
            If the extra ``onnx`` is not installed.
        """
        from deepnotes.network.formats import chain, onnx_writing

        onnx_writing.write(path, onnx_writing.to_onnx(chain.Chain.of(self)))

    def to_python(self, path: str | PathLike[str]) -> None:
        """Write the network to a Python file that needs only NumPy and contains test vectors to check itself.

        The function ``predict`` in the file takes an array of shape (m, n[0]): samples are rows. ``python FILE
        --check`` compares its outputs with the test vectors. If writing fails, an existing file is left unchanged.

        Raises
        ------
        ModelFileError
            As for :meth:`save`.
        """
        from deepnotes.network.formats import chain, onnx_writing, python_writing

        onnx_writing.write(path, python_writing.to_python(chain.Chain.of(self)))

    def to_c(self, path: str | PathLike[str], *, weights: str = "exact") -> None:
        """Write the network to a C99 file that needs no library but the functions of ``math.h``, and allocates nothing.

        The function ``NAME_predict`` in the file, where NAME is the name of the file, computes the outputs of one
        sample. Compiled with ``-DNAME_TEST`` (in capital letters), the file is a program that checks itself with test
        vectors. If writing fails, an existing file is left unchanged.

        Parameters
        ----------
        path : path-like
        weights : {"exact", "int8"}, default "exact"
            ``"int8"`` stores each weight in one byte: as a whole number from -127 to 127, times a scale for each
            neuron. A comment in the file says by how much this changes the outputs for the test vectors.

        Raises
        ------
        UnknownNameError
            If `weights` is not one of these.
        ModelFileError
            As for :meth:`to_onnx`; or if a weight is NaN or infinite and `weights` is "int8".
        """
        from deepnotes.network.formats import c_writing, chain

        c_writing.write(path, chain.Chain.of(self), weights)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state for ``copy`` and ``pickle``: host arrays, without the Program, which can be recompiled."""
        training: tuple[Plan, list[np.ndarray], int] | None = None
        if self._training is not None:
            plan, _, state = self._training
            training = plan, [np.array(self.backend.to_numpy(slot)) for slot in state.slots], state.step
        content = self.__dict__ | {"theta": self.flat(), "_training": training}
        content.pop("inference", None)
        return content

    def __setstate__(self, content: dict[str, Any]) -> None:
        self.__dict__ = content | {"_training": None, "_per_chunk": {}}
        self.theta = self.from_host(content["theta"])
        if content["_training"] is not None:
            plan, slots, step = content["_training"]
            _, state = self._start(plan)
            state.slots, state.step = tuple(map(self.from_host, slots)), step

    def __repr__(self) -> str:
        dialect = "" if self.dialect == "notes" else f", dialect={self.dialect!r}"
        return (
            f"Network({list(self.layers)}, inputs={self.inputs}, backend={self.backend.name!r}, dtype={self.dtype!r}, "
            f"seed={self.seed}{dialect})"
        )

    def _repr_html_(self) -> str:
        """Return the table of :meth:`summary` as HTML, for IPython."""
        from deepnotes.network.summary import summary

        return summary(self)._repr_html_()

    def from_host(self, x: np.ndarray) -> Array:
        """Return a copy of `x` on the backend, in the network's dtype."""
        copy = aligned(x.size, self.host_dtype).reshape(x.shape)
        copy[...] = x
        return self.backend.from_numpy(copy)

    def _check_categories_unscaled(self) -> None:
        """Raise an error if the standardizer would change the indices of categories."""
        if self.standardizer is None or not isinstance(self.layers[0], Embedding):
            return
        for column in self.layers[0].columns:
            if column < self.inputs and (self.standardizer.mean[column] != 0 or self.standardizer.scale[column] != 1):
                raise ArgumentError(
                    f"standardizer changes column {column}, which holds categories; use "
                    f"Standardizer.fit(X, unchanged={self.layers[0].columns})"
                )

    def _slot(self, values: np.ndarray) -> Array:
        """Return the values of a slot, shape (p,), in an array of the backend."""
        if self.backend.on_host or values.any():
            return self.from_host(values)
        with self.backend.execution_context():
            return self.backend.xp.zeros((self.layout.size,), dtype=getattr(self.backend.xp, self.dtype))

    def _like(self, layers: Sequence[Layer], **changes: Any) -> "Network":
        """Return a network of some layers, with the settings of this one except for those in `changes`."""
        settings: dict[str, Any] = {
            "backend": self.backend,
            "dtype": self.dtype,
            "seed": self.seed,
            "standardizer": self.standardizer,
        }
        with in_dialect(self.dialect):
            return Network(layers, self.inputs, **(settings | changes))

    def _loss(self, loss: str | LossFunction | None) -> LossFunction:
        """Return `loss` as a LossFunction, by default the loss that matches the last activation."""
        last = self.layers[-1]
        return loss_after(last.g if isinstance(last, Dense) else None, loss)

    def _validation_data(self, validation: Any, loss: LossFunction) -> Data | None:
        """Return the argument `validation` of :meth:`fit` as data on the backend, or None."""
        if validation is None:
            return None
        if not isinstance(validation, tuple | list) or len(validation) not in (2, 3):
            raise ArgumentError(
                "validation: wanted a pair (X_val, Y_val), (X_val, Y_val, w_val), or an array of the indices of samples"
            )
        X, Y, weights = (*validation, None)[:3]
        data, _ = as_data(self, X, Y, loss, weights, names=("X_val", "Y_val", "w_val"))
        return data

    def _optimizer(self, optimizer: str | Optimizer, layer_rates: Mapping[int, float] | None = None) -> Optimizer:
        """Return `optimizer` as an Optimizer with the `layer_rates` of :meth:`fit` and the layers' constraints."""
        chosen = as_optimizer(optimizer, self.dialect).for_layout(self.layout)
        if layer_rates is not None:
            chosen = as_layer_rates(chosen, layer_rates, self.layout)
        frozen = [layer for layer, factor in (layer_rates or {}).items() if factor == 0]
        return constrained(chosen, self.layout, frozen)

    def _plan(
        self,
        loss: LossFunction,
        optimizer: str | Optimizer,
        l2: float,
        clip_norm: float | None,
        class_indices: bool,
        l1: float = 0.0,
    ) -> Plan:
        """Return the plan of a training step with these settings, after validating them."""
        largest = float(np.finfo(self.dtype).max)
        return Plan(
            self.inputs,
            self.layers,
            self.dtype,
            self.seed,
            loss,
            as_optimizer(optimizer, self.dialect),
            number("l2", l2, below=largest),
            None if clip_norm is None else number("clip_norm", clip_norm, positive=True, below=largest),
            class_indices,
            l1=number("l1", l1, below=largest),
        )

    def _check_batches(self, samples: int, shards: int = 1) -> None:
        """Raise ArgumentError if the network has a BatchNorm, and a batch of so many samples is too small for it."""
        layer = next((layer for layer in self.layers if type(layer) is BatchNorm), None)
        if layer is None or samples >= 2 * shards:
            return
        each = "" if shards == 1 else f", divided into {shards} shards"
        raise ArgumentError(
            f"batches of {samples} sample{'s' * (samples != 1)}{each}: {layer!r} needs the variance of several "
            f"samples, wanted at least {2 * shards}"
        )

    def _start(self, plan: Plan) -> tuple[Program, State]:
        """Return a Program and an initial state; reuse those of the last call if its plan was the same."""
        slots = [self._slot(values) for values in slots_at_start(plan.optimizer, self.layout)]
        # The Program of a full-batch optimizer remembers the last gradient of its training run.
        is_reusable = not isinstance(plan.optimizer, FullBatchOptimizer)
        if is_reusable and self._training is not None and self._training[0] == plan:
            _, program, state = self._training
            state.slots = tuple(self.backend.write(old, 0, new) for old, new in zip(state.slots, slots, strict=True))
            state.step = 0
        else:
            program = program_of(self.backend, plan)
            state = NetworkState(self, tuple(slots))
            self._per_chunk.clear()
        self._training = (plan, program, state)
        return program, state


def in_double_precision(network: Network) -> Network:
    """Return a copy of a network in float64, on the same backend or, if that has no float64, on NumPy."""
    backend: Backend = network.backend if "float64" in network.backend.dtypes else get_backend("numpy")
    return network._like(network.layers, backend=backend, dtype="float64", theta=network.flat())


class PreparedFit(NamedTuple):
    """A training run whose arguments are valid.

    Attributes
    ----------
    network : Network
    training : Training
    evaluate : callable
        See :func:`deepnotes.network.training.loop.fit`.
    """

    network: Network
    training: Training
    evaluate: Callable[[], dict[str, float]]

    def run(self, signals: Deferral | None = None) -> History:
        """Train, once only, and return the history; see :func:`deepnotes.network.training.loop.fit`."""
        network, training = self.network, self.training
        with callback_lifecycle(training), np.errstate(all="ignore"):
            program, training.state = network._start(training.plan)
            if training.accumulate > 1:
                program = AccumulatingProgram(program, network.backend, training.plan, training.batch_size)
            if training.shards is not None:
                program = ShardedProgram(program, network.backend, training.plan, training.ranks)
            used = min(training.update_size, training.samples)
            training.per_chunk = network._per_chunk.get(used, 1)
            try:
                history = run_fit(training, program, self.evaluate, signals)
            finally:
                network._per_chunk[used] = training.per_chunk
        if history.best_epoch is None:
            training.use_averages()
        return history


def _as_layers(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return the layers of a network, or of its head; raise ArgumentError if they are not layers."""
    if not isinstance(layers, Sequence) or not layers:
        raise ArgumentError.of("layers", layers, "a list of at least one layer")
    for i, layer in enumerate(layers):
        if not isinstance(layer, Layer):
            raise ArgumentError.of(f"layers[{i}]", layer, "a deepnotes Layer such as Dense(10, 'relu')")
    return tuple(layers)


def _as_seed(seed: int | None) -> int:
    """Return the seed of a network, by default a random one; raise ArgumentError if it needs more than 64 bits."""
    if seed is None:
        return int(np.random.SeedSequence().generate_state(1, np.uint64)[0])
    value = whole("seed", seed, 0)
    if value >= 1 << 64:
        raise ArgumentError.of("seed", seed, "less than 2^64")
    return value
