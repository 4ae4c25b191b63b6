"""The loss and the backward pass (N11 to N15) on a tape."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from deepnotes_cupy import geometry
from deepnotes_cupy.forward import Cache, Masks, dropout
from deepnotes_cupy.lowering import DenseRow, DropoutRow, LoweredLoss, library_activation
from deepnotes_cupy.tape import Tape


class Targets(NamedTuple):
    """The targets of a batch.

    Attributes
    ----------
    Y : array
        Shape (m * k,) by sample, or (m,) class indices.
    class_indices : bool
    w : array or None
        Sample weights, shape (m,).
    """

    Y: Any
    class_indices: bool
    w: Any = None


def append_loss(  # noqa: PLR0913 - the operands of the equation
    tape: Tape,
    loss: LoweredLoss,
    row: DenseRow | DropoutRow,
    Z: Any,
    A: Any,
    theta: Any,
    targets: Targets,
    m: int,
    D: Any,
    L: Any,
) -> None:
    """Append the losses of the samples and their derivatives: dZ if the loss is fused (N11), otherwise dA.

    Parameters
    ----------
    row : Row
        The last layer.
    Z, A : array
        If the loss is fused, Z holds ``W A_prev`` without b, and the network's outputs are written to A unless it is
        None. Otherwise A holds the network's outputs.
    D, L : array
        The arrays to write to: the derivatives, shape (m * k,), and the losses, shape (m,).
    """
    Y, class_indices, w = targets
    k = row.n
    if loss.fused:
        assert isinstance(row, DenseRow)
        tape.launch(loss.launch, (k, m), Z, theta[row.b], Y, int(class_indices), w, A, D, L, k, m)
    else:
        tape.launch(loss.launch, (k, m), A, Y, int(class_indices), w, D, L, k, m)


def backward(  # noqa: PLR0913 - the operands of the backward pass
    tape: Tape, caches: Sequence[Cache], g: Any, factors: Any, m: int, D: Any, masks: Masks, fused: bool, scale: float,
) -> None:  # fmt: skip
    """Append the backward pass, which writes the gradient of all parameters to `g`.

    Parameters
    ----------
    tape : Tape
    caches : sequence of Cache
    g : array, shape (p,)
    factors : array
        The weights as returned by :func:`deepnotes_cupy.forward.round_weights`.
    m : int
    D : array
        The derivatives of the loss; it is overwritten.
    masks : Masks
    fused : bool
        Whether `D` holds dZ of the last layer, instead of dA.
    scale : float
        The factor by which dZ is multiplied before it is rounded to 16 bits; the products are divided by it.
    """
    # The gradient of W and b is not needed before the update, so it is computed beside the derivatives of the layers
    # before. Then dZ must not be overwritten, so each layer has memory of its own for it.
    other = None if tape.concurrent else tape.empty(D.size)
    first = next(i for i, cache in enumerate(caches) if isinstance(cache.row, DenseRow))
    for index in reversed(range(len(caches))):
        cache = caches[index]
        row = cache.row
        if isinstance(row, DropoutRow):
            if index > first:
                dropout(tape, row, D, D, m, masks)
            continue
        dZ = activation_backward(tape, cache, g, D, m, fused and index == len(caches) - 1, scale)
        A_prev = tape.factor(cache.A_prev)
        with tape.aside():
            tape.product_over_samples((row.n_prev, row.n, m), 1 / (m * scale), A_prev, dZ, g[row.W])
        if index > first:
            dA = tape.empty(m * row.n_prev) if other is None else other
            tape.product((False, False), (row.n_prev, m, row.n), 1 / scale, factors[row.W], dZ, dA)
            D, other = dA, None if other is None else D
    tape.rejoin()


def activation_backward(tape: Tape, cache: Cache, g: Any, D: Any, m: int, is_dZ: bool, scale: float) -> Any:
    """Append ``dZ = dA * g'(Z)`` (N12), unless `D` already holds dZ, and ``db`` (N14); return dZ as a factor.

    D holds dA. It is overwritten, unless factors are rounded: then `scale` times dZ is written to another array.
    """
    row = cache.row
    assert isinstance(row, DenseRow)
    launch = row.g.backward
    if row.g.by_rows and not is_dZ:
        tape.launch(launch, (row.n, m), D, cache.Z, cache.A, row.n, m)
    if row.g.by_rows or is_dZ:
        launch = library_activation("identity").backward  # for the bias gradient alone
    rows, chunks = geometry.chunks(row.n, m, dtype=tape.dtype, processors=tape.device.processors)
    partial = g[row.b] if chunks == 1 else tape.empty(chunks * row.n)
    half, kind = tape.empty_factor(m * row.n)
    factor = half, kind, scale
    tape.launch(launch, (row.n, m), D, cache.Z, cache.A, *factor, partial, row.n, m, rows, 1 / m, chunks=chunks)
    if chunks > 1:
        with tape.aside():
            tape.launch("sum_partials", (row.n,), partial, g[row.b], row.n, chunks)
    return D[: m * row.n] if half is None else half
