"""Named tuples of values that the compiled functions pass to each other together.

Python passes plain tuples to the compiled entry points, which convert them to named tuples: Numba needs several
microseconds to recognize the type of a named tuple, but less than one for a plain tuple.

An *offset* is a number of elements, counted from the start of a flat buffer or of the workspace.
"""

from typing import Any, NamedTuple

import numpy as np

Pointer = Any


class Team(NamedTuple):
    """The threads that work on one call, from the point of view of one of them.

    Attributes
    ----------
    rank : int
        The number of this thread, from 0.
    size : int
        The number of threads.
    barrier : pointer to int64
        The memory of the barrier; see :mod:`deepnotes_numba.barrier`.
    """

    rank: int
    size: int
    barrier: Pointer


class Tables(NamedTuple):
    """A network as the compiled functions read it.

    Attributes
    ----------
    layers : ndarray of int64
        One row for each layer; see :mod:`deepnotes_numba.interpreter` for the columns.
    rates : ndarray
        The rate of each layer's dropout, or the standard deviation of its noise; 0 for other layers.
    regions : ndarray of int64
        The regions of the workspace that belong to no layer.
    """

    layers: np.ndarray
    rates: np.ndarray
    regions: np.ndarray


class Workspace(NamedTuple):
    """The memory for all activations and derivatives of a batch.

    Attributes
    ----------
    memory : pointer
    capacity : int
        The number of blocks of samples for which each region has memory.
    """

    memory: Pointer
    capacity: int


class Buffers(NamedTuple):
    """The flat buffers: each has one element for each parameter.

    Attributes
    ----------
    theta, gradient : pointer
    errors : pointer
        Accumulated rounding errors of the gradient.
    compensated : bool
        Whether sums over samples are computed in several parts, with `errors`.
    """

    theta: Pointer
    gradient: Pointer
    errors: Pointer
    compensated: bool


class Samples(NamedTuple):
    """The samples of a call.

    Attributes
    ----------
    X : ndarray, shape (samples, n) if `by_sample`, else (n, samples)
    by_sample : bool
    order : ndarray of int64
        The indices of the samples, in the order of their use.
    """

    X: np.ndarray
    by_sample: bool
    order: np.ndarray


class Targets(NamedTuple):
    """The targets of a call.

    Attributes
    ----------
    Y : ndarray, shape (k, samples), or (1, samples) for class indices
    weights : ndarray, shape (1, samples)
        Ignored unless `weighted`.
    weighted : bool
    """

    Y: np.ndarray
    weights: np.ndarray
    weighted: bool


class LossFunction(NamedTuple):
    """A loss function.

    Attributes
    ----------
    class_indices : bool
        Whether the targets are class indices.
    kernel, constants : int
        The addresses of the generated kernel and of its constants.
    """

    class_indices: bool
    kernel: int
    constants: int


class DenseLayer(NamedTuple):
    """The parameters of a dense layer.

    Attributes
    ----------
    w, b : int
        Offsets of the weights, (n, n_prev), and of the biases, (n,).
    n, n_prev : int
    """

    w: int
    b: int
    n: int
    n_prev: int


class BatchNormLayer(NamedTuple):
    """The parameters of a batch normalization, and its regions of the workspace.

    Attributes
    ----------
    parameters : int
        Offset of gamma, (n,), which beta, (n,), follows.
    running : int
        Offset of the running means, (n,), which the running variances, (n,), follow.
    n : int
    constants : int
        The address of epsilon and the momentum.
    A, X_hat : int
        Offsets of the outputs, and of the normalized inputs.
    moments : int
        Offset of the mean, the variance and the inverse standard deviation of each feature, (3, n).
    """

    parameters: int
    running: int
    n: int
    constants: int
    A: int
    X_hat: int
    moments: int


class Factor(NamedTuple):
    """The layout of the left factor of a product: the offset of the first element, and strides.

    `row` and `column` are the strides between rows and columns, and `repeat` is the stride between repetitions; see
    :func:`deepnotes_numba.vectors._tile`.
    """

    start: int
    row: int
    column: int
    repeat: int


class Tile(NamedTuple):
    """The layout of a tile of results: offset of the first element, stride between rows, and number of columns."""

    start: int
    row: int
    columns: int


class Sum(NamedTuple):
    """The terms and the initial value of a sum of products.

    Attributes
    ----------
    terms : int
        The number of terms in one block of samples.
    repeats : int
        The number of blocks of samples over which the sum extends.
    start : int
        The initial value: 0 for zero, 1 for the current results, 2 for the biases.
    bias : int
        Offset of the first bias.
    """

    terms: int
    repeats: int
    start: int
    bias: int


class DropoutCounters(NamedTuple):
    """The seed and counters from which dropout computes its random numbers.

    Attributes
    ----------
    training : bool
        Whether dropout is applied at all.
    seed : uint64
    step : int
    first_sample : int
        The position in the batch of the first sample in the first block.
    """

    training: bool
    seed: int
    step: int
    first_sample: int


class Objective(NamedTuple):
    """The cost that training minimizes.

    Attributes
    ----------
    fused : bool
        Whether the kernel of the loss computes dZ of the last layer (N11) instead of dA.
    class_indices : bool
        Whether the targets are class indices.
    l1, l2 : float
    scale, reported_scale : float
        The factors by which the loss is multiplied in the gradient and in the reported cost.
    share_l2, weighted_mean : bool
        See :class:`deepnotes.backends.Objective`.
    kernel, constants : int
        As for :class:`LossFunction`.
    """

    fused: bool
    class_indices: bool
    l1: float
    l2: float
    scale: float
    reported_scale: float
    share_l2: bool
    weighted_mean: bool
    kernel: int
    constants: int


class Optimizer(NamedTuple):
    """The constants of an optimizer.

    Attributes
    ----------
    clip_norm : float
        The norm to which larger gradients are clipped; 0 for no clipping.
    decaying : int
        The number of parameters that decay: the weights, which precede the biases.
    trained : int
        The number of parameters that are trained; the statistics follow.
    kernel, constants : int
        The addresses of the generated kernel and of its constants. If the kernel is 0, no update is made, and the
        buffer of the gradient contains that of the first batch.
    statistics_kernel, statistics_constants : int
        Those of the kernel that updates the statistics; 0 if there are none.
    slots : int
        The address of the addresses of the slots.
    safe_step, safe_norm : float
        Limits: if the step and the norm of the gradient are below them, no update can overflow.
    """

    clip_norm: float
    decaying: int
    trained: int
    kernel: int
    constants: int
    statistics_kernel: int
    statistics_constants: int
    slots: int
    safe_step: float
    safe_norm: float


class Batches(NamedTuple):
    """The mini-batches of one or several epochs, and which of them to train on.

    Attributes
    ----------
    order : ndarray of int64
        The indices of the samples of all batches.
    per_epoch : int
        The number of samples in an epoch.
    size : int
        The number of samples of a batch; the last of an epoch may have fewer.
    first, end : int
        The first update to make, and the one after the last.
    rates : ndarray, shape (updates,)
    scalars : ndarray, shape (scalars, updates)
        The optimizer's scalars, such as the rate.
    seed : uint64
    step : int
        The number of updates before the update 0.
    sums : ndarray, shape (epochs, 3)
        For each epoch, the sum of the losses and the sum of the weights, to which those of the batches are added, and
        the cost of the last batch.
    first_sample : int
        The position of the first sample in its batch: not 0 if the samples are a shard of a batch.
    whole : int
        If the samples are a shard of a batch, the number of samples of the batch, else 0.
    """

    order: np.ndarray
    per_epoch: int
    size: int
    first: int
    end: int
    rates: np.ndarray
    scalars: np.ndarray
    seed: int
    step: int
    sums: np.ndarray
    first_sample: int
    whole: int


class Training(NamedTuple):
    """The arguments that stay the same for all batches of a call.

    Attributes
    ----------
    team : Team
    tables : Tables
    buffers : Buffers
    squares : ndarray of float64
        The sums of squares; see :func:`deepnotes_numba.interpreter.gradient`.
    work : Workspace
    split : bool
        Whether threads share the rows of each array, instead of the samples.
    targets : Targets
    objective : Objective
    """

    team: Team
    tables: Tables
    buffers: Buffers
    squares: np.ndarray
    work: Workspace
    split: bool
    targets: Targets
    objective: Objective
