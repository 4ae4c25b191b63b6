"""Named tuples of values that travel together through the compiled functions.

Python passes plain tuples to the compiled entry points, which convert them: Numba needs several microseconds to
recognize the type of a named tuple, but less than one for a plain tuple.

An *offset* is the number of elements from the start of a flat buffer or of the workspace.
"""

from typing import Any, NamedTuple

import numpy as np

Pointer = Any


class Team(NamedTuple):
    """The threads that work on one call, as one of them sees them.

    Attributes
    ----------
    rank : int
        The number of this thread, from 0.
    size : int
        The number of threads.
    meeting : pointer to int64
        The words of the barrier; see :mod:`deepnotes_numba.barrier`.
    """

    rank: int
    size: int
    meeting: Pointer


class Tables(NamedTuple):
    """A network as the compiled functions read it.

    Attributes
    ----------
    layers : ndarray of int64
        One row for each layer; see :mod:`deepnotes_numba.interpreter` for the columns.
    options : ndarray
        The option of each layer: of its activation, or the rate of dropout.
    regions : ndarray of int64
        The regions of the workspace that belong to no layer.
    """

    layers: np.ndarray
    options: np.ndarray
    regions: np.ndarray


class Workspace(NamedTuple):
    """The memory of all activations of a batch.

    Attributes
    ----------
    memory : pointer
    capacity : int
        The number of blocks of samples for which each region has memory.
    """

    memory: Pointer
    capacity: int


class Buffers(NamedTuple):
    """The flat buffers, each with one element for each parameter.

    Attributes
    ----------
    theta, gradient : pointer
    errors : pointer
        Accumulated rounding errors of the gradient.
    first, second : pointer
        The optimizer's slots.
    compensated : bool
        Whether sums over samples have several parts, so that `errors` is used.
    """

    theta: Pointer
    gradient: Pointer
    errors: Pointer
    first: Pointer
    second: Pointer
    compensated: bool


class Samples(NamedTuple):
    """The inputs of a call.

    Attributes
    ----------
    X : ndarray, shape (samples, n) if `by_sample`, else (n, samples)
    by_sample : bool
    order : ndarray of int64
        The indices of the samples, in the order in which they are used.
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
    """A loss.

    Attributes
    ----------
    code : int
    option : floating
        The loss's option, of the workspace's dtype.
    labelled : bool
        Whether the targets are class indices.
    """

    code: int
    option: np.floating
    labelled: bool


class OutputBlock(NamedTuple):
    """The offsets of one block of the last layer's arrays.

    Attributes
    ----------
    z, a, d : int
        Offsets of Z, A and dA or dZ, (k, S) each.
    y : int
        Offset of the targets, (k, S), or (1, S) for class indices.
    shares, losses : int
        Offsets of each sample's share of the mean, (S,), and of its share times its loss, (S,).
    largest, total : int
        Offsets of the rows that softmax writes, (S,).
    k : int
        The number of outputs.
    """

    z: int
    a: int
    d: int
    y: int
    shares: int
    losses: int
    largest: int
    total: int
    k: int


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


class Factor(NamedTuple):
    """The layout of the left factor of a product: offset of the first element, and strides.

    `again` is the stride between repetitions; see :func:`deepnotes_numba.vectors._tile`.
    """

    start: int
    row: int
    column: int
    again: int


class Tile(NamedTuple):
    """The layout of a tile of results: offset of the first element, stride between rows, and number of columns."""

    start: int
    row: int
    columns: int


class Sum(NamedTuple):
    """The extent of a sum of products.

    Attributes
    ----------
    terms : int
    times : int
        How often the terms are repeated, from one block of samples to the next.
    start : int
        The initial value: 0, or 1 for the current results, or 2 for the biases.
    bias : int
        Offset of the first bias.
    """

    terms: int
    times: int
    start: int
    bias: int


class Draw(NamedTuple):
    """The counters of dropout's random numbers.

    Attributes
    ----------
    training : bool
        Without training, nothing is dropped.
    seed : uint64
    step : int
    first : int
        The number in the batch of the first sample of the first block.
    """

    training: bool
    seed: int
    step: int
    first: int


class Update(NamedTuple):
    """An optimizer's update.

    Attributes
    ----------
    code : int
    scale : float
        The factor of the gradient.
    rate, epsilon, beta1, beta2 : float
    """

    code: int
    scale: float
    rate: float
    epsilon: float
    beta1: float
    beta2: float


class Objective(NamedTuple):
    """The cost that training minimizes.

    Attributes
    ----------
    loss : int
        The code of the loss.
    option : floating
        The loss's option, of the workspace's dtype.
    labelled : bool
        Whether the targets are class indices.
    l2 : float
    scale, reported : float
        The factors of the loss in the gradient and in the cost.
    share_l2, weighted_mean : bool
        See :class:`deepnotes.backends.Objective`.
    """

    loss: int
    option: np.floating
    labelled: bool
    l2: float
    scale: float
    reported: float
    share_l2: bool
    weighted_mean: bool


class Optimizer(NamedTuple):
    """The constants of an optimizer.

    Attributes
    ----------
    code : int
    beta1, beta2 : float
    clip_norm : float
        The largest norm of a gradient; 0 for no limit.
    decaying : int
        The number of parameters that decay: the weights, which precede the biases.
    safe_step, safe_norm : float
        Limits on the step and on the norm, below which no update can overflow.
    """

    code: int
    beta1: float
    beta2: float
    clip_norm: float
    decaying: int
    safe_step: float
    safe_norm: float


class Batches(NamedTuple):
    """The mini-batches of a call.

    Attributes
    ----------
    order : ndarray of int64
        The indices of the samples of all batches.
    size : int
        The number of samples of a batch; the last may have fewer.
    rates : ndarray, shape (updates,)
    scalars : ndarray, shape (4, updates)
        The rate and epsilon, the share of θ that decays, and the factor of the gradient.
    seed : uint64
    step : int
        The number of updates before this call.
    loss_sum, weight_sum : float
        The sums of losses and weights before this call.
    """

    order: np.ndarray
    size: int
    rates: np.ndarray
    scalars: np.ndarray
    seed: int
    step: int
    loss_sum: float
    weight_sum: float


class Training(NamedTuple):
    """The arguments of a training that stay the same from batch to batch.

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
