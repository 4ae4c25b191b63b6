"""The loss and the backward pass (N11 to N15) on a tape."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from deepnotes.backends import LOSSES as LIBRARY
from deepnotes_cupy import geometry
from deepnotes_cupy.forward import Cache, Masks, dropout
from deepnotes_cupy.lowering import DenseRow, DropoutRow
from deepnotes_cupy.sources import codes
from deepnotes_cupy.tape import Tape

FUSED = {name: traits.fused[1] for name, traits in LIBRARY.items() if traits.fused}
"""The kernels that take a loss from the logits, by its name."""


class Targets(NamedTuple):
    """The targets of a batch.

    Attributes
    ----------
    Y : array
        Shape (m * k,) by sample, or (m,) class indices.
    by_class : bool
    w : array or None
        Sample weights, shape (m,).
    """

    Y: Any
    by_class: bool
    w: Any = None


class Loss(NamedTuple):
    """A loss, its option, and whether it is taken from the logits of the last layer."""

    name: str
    option: float
    fused: bool


def loss(
    tape: Tape,
    of: Loss,
    row: DenseRow | DropoutRow,
    Z: Any,
    A: Any,
    theta: Any,
    targets: Targets,
    m: int,
    D: Any,
    L: Any,
) -> None:
    """Add the losses of the samples and their derivatives: dZ if the loss is fused (N11), else dA.

    Parameters
    ----------
    row : Row
        The last layer.
    Z, A : array
        If the loss is fused, Z is the product without b, and A is written unless it is None; otherwise A holds the
        outputs.
    D, L : array
        Written to: shapes (m * k,) and (m,).
    """
    Y, by_class, w = targets
    k = row.n
    if of.fused:
        assert isinstance(row, DenseRow)
        tape.launch(FUSED[of.name], (k, m), Z, theta[row.b], Y, int(by_class), w, A, D, L, k, m)
    else:
        code = codes("Loss")[of.name]
        tape.launch("loss", (k, m), A, Y, int(by_class), w, D, L, k, m, code, of.option)


def backward(
    tape: Tape, caches: Sequence[Cache], g: Any, factors: Any, m: int, D: list[Any], masks: Masks, fused: bool,
    scale: float,
) -> None:  # fmt: skip
    """Add the gradient of all parameters, written to `g`, shape (p,).

    Parameters
    ----------
    tape : Tape
    caches : sequence of Cache
    g : array, shape (p,)
    factors : array
        As of :func:`deepnotes_cupy.forward.weights`.
    m : int
    D : list of two arrays
        The first holds the derivatives of the loss; both are overwritten.
    masks : Masks
    fused : bool
        Whether these are already dZ.
    scale : float
        The factor of dZ where it is rounded to 16 bits; the products divide by it.
    """
    first = next(i for i, cache in enumerate(caches) if isinstance(cache.row, DenseRow))
    for place in reversed(range(len(caches))):
        cache = caches[place]
        row, here = cache.row, D[0]
        if isinstance(row, DropoutRow):
            if place > first:
                dropout(tape, row, here, here, m, masks)
            continue
        of_linear(tape, cache, g, here, m, fused and place == len(caches) - 1)
        dZ = tape.factor(here[: m * row.n], lasting=False, scale=scale)
        A_prev = tape.factor(cache.A_prev)
        tape.product_over_samples((row.n_prev, row.n, m), 1 / (m * scale), A_prev, dZ, g[row.W])
        if place > first:
            tape.product((False, False), (row.n_prev, m, row.n), 1 / scale, factors[row.W], dZ, D[1])
            D = D[::-1]


def of_linear(tape: Tape, cache: Cache, g: Any, D: Any, m: int, is_dZ: bool) -> None:
    """Add ``dZ = dA * g'(Z)`` in place (N12), unless D is already dZ, and ``db`` (N14)."""
    row = cache.row
    assert isinstance(row, DenseRow)
    activation = row.activation
    if activation == "softmax" and not is_dZ:
        tape.launch("softmax_backward", (row.n, m), D, cache.A, row.n, m)
    if is_dZ or activation == "softmax":
        activation = "identity"
    rows, chunks = geometry.chunks(row.n, m, dtype=tape.dtype, processors=tape.device.processors)
    partial = g[row.b] if chunks == 1 else tape.empty(chunks * row.n)
    tape.launch(
        "activation_backward", (row.n, m), D, cache.Z, cache.A, partial, row.n, m, rows,
        codes("Activation")[activation], row.option, 1 / m, chunks=chunks,
    )  # fmt: skip
    if chunks > 1:
        tape.launch("sum_partials", (row.n,), partial, g[row.b], row.n, chunks)
