"""The loss and the backward pass (N11 to N15) on a tape."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from deepnotes_cupy import geometry
from deepnotes_cupy.forward import Cache, Masks, dropout
from deepnotes_cupy.lowering import (
    BatchNormRow,
    DenseRow,
    DropoutRow,
    EmbeddingRow,
    FeatureRow,
    LoweredLoss,
    NoiseRow,
    Row,
    ShortcutRow,
    identity,
)
from deepnotes_cupy.sources import Launch
from deepnotes_cupy.tape import Tape

MIN_CHUNK = 128
"""The smallest number of samples over which one thread adds up the gradient of an embedding."""


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
    row: Row,
    Z: Any,
    A: Any,
    theta: Any,
    targets: Targets,
    m: int,
    D: Any,
    L: Any,
    scale: float | None = None,
) -> Any:
    """Append the losses of the samples and their derivatives: dZ if the loss is fused (N11), otherwise dA.

    If `scale` is given, and dZ is a factor of products that is rounded, return `scale` times dZ as that factor, else
    None.

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
        half, kind = (None, 0) if scale is None else tape.empty_factor(m * k)
        factor = half, kind, scale or 1.0
        tape.launch(loss.launch, (k, m), Z, theta[row.b], Y, int(class_indices), w, A, D, *factor, L, k, m)
        return half
    tape.launch(loss.launch, (k, m), A, None, Y, int(class_indices), w, None, D, None, 0, 1.0, L, k, m)
    return None


def backward(  # noqa: PLR0913 - the operands of the backward pass
    tape: Tape, caches: Sequence[Cache], theta: Any, g: Any, factors: Any, m: int, D: Any, dZ: Any, masks: Masks,
    scale: float,
) -> None:  # fmt: skip
    """Append the backward pass, which writes the gradient of all parameters to `g`.

    Parameters
    ----------
    tape : Tape
    caches : sequence of Cache
    theta, g : array, shape (p,)
    factors : array
        The weights as returned by :func:`deepnotes_cupy.forward.round_weights`.
    m : int
    D : array
        The derivatives of the loss by the outputs, or by Z of the last layer; it is overwritten.
    dZ : array or None
        If `D` holds dZ of the last layer: it, or its rounded copy, as a factor of products.
    masks : Masks
    scale : float
        The factor by which dZ is multiplied before it is rounded to 16 bits; the products are divided by it.
    """
    # The gradient of W and b is not needed before the update, so it is computed beside the derivatives of the layers
    # before. Then dZ must not be overwritten, so each layer has memory of its own for it.
    other = None if tape.concurrent else tape.empty(D.size)
    first = next(i for i, cache in enumerate(caches) if not isinstance(cache.row, DropoutRow | NoiseRow))
    shortcuts: dict[int, list[Any]] = {}  # the derivatives to add to those by the outputs of the first rows, by number
    for index in range(len(caches) - 1, first - 1, -1):
        cache = caches[index]
        row = cache.row
        for by_shortcut in shortcuts.pop(index + 1, []):
            tape.launch("add_arrays", (row.n, m), D, by_shortcut, D, row.n * m)
        if isinstance(row, DropoutRow):
            dropout(tape, row, D, D, m, masks)
            continue
        if isinstance(row, ShortcutRow):
            shortcuts.setdefault(row.source, []).extend(copies_for_shortcut(tape, row, first, D, m))
            continue
        if isinstance(row, NoiseRow):
            continue
        if isinstance(row, EmbeddingRow):
            embedding_gradient(tape, row, g, D, cache.A_prev, m)
            continue
        if isinstance(row, FeatureRow | BatchNormRow):
            dA = tape.empty(m * row.n_prev) if other is None or index == first else other
            of_layer = feature_backward if isinstance(row, FeatureRow) else batch_norm_backward
            of_layer(tape, cache, theta, g, m, D, dA)
            D, other = dA, None if other is None else D
            continue
        if dZ is None:
            dZ = activation_backward(tape, cache, g, D, m, scale)
        else:
            with tape.aside():
                bias_gradient(tape, row, g, D, m)
        A_prev = tape.factor(cache.A_prev)
        with tape.aside():
            tape.product_over_samples((row.n_prev, row.n, m), 1 / (m * scale), A_prev, dZ, g[row.W])
        if index > first:
            dA = tape.empty(m * row.n_prev) if other is None else other
            tape.product((False, False), (row.n_prev, m, row.n), 1 / scale, factors[row.W], dZ, dA)
            D, other = dA, None if other is None else D
        dZ = None
    tape.rejoin()


def copies_for_shortcut(tape: Tape, row: ShortcutRow, first: int, D: Any, m: int) -> list[Any]:
    """Append a copy of dA, which D holds, for the layer before a residual block; return it if there is such a layer."""
    if row.source <= first:
        return []
    copy = tape.empty(m * row.n)
    tape.copy(D[: m * row.n], copy)
    return [copy]


def activation_backward(tape: Tape, cache: Cache, g: Any, D: Any, m: int, scale: float) -> Any:
    """Append ``dZ = dA * g'(Z)`` (N12) and ``db`` (N14), and return dZ as a factor of products.

    D holds dA. It is overwritten, unless factors are rounded: then `scale` times dZ is written to another array.
    """
    row = cache.row
    assert isinstance(row, DenseRow)
    if row.g.by_rows:
        tape.launch(row.g.backward, (row.n, m), D, cache.Z, cache.A, row.n, m)
        bias_gradient(tape, row, g, D, m)
        return tape.factor(D[: m * row.n], reusable=False, scale=scale)
    half, kind = tape.empty_factor(m * row.n)
    partial, chunks = _sums(tape, row.g.backward, (D, cache.Z, cache.A, half, kind, scale), row.n, g[row.b], m)
    with tape.aside():
        _add_partial_sums(tape, row.n, g[row.b], partial, chunks)
    return D[: m * row.n] if half is None else half


def feature_backward(tape: Tape, cache: Cache, theta: Any, g: Any, m: int, D: Any, dA_prev: Any) -> None:
    """Append the backward pass of a layer by feature: D holds dA; it writes dA_prev and the gradients."""
    row = cache.row
    assert isinstance(row, FeatureRow)
    size = m * row.n
    terms: Any = tape.empty(size * len(row.parameters)) if len(row.in_place) < len(row.parameters) else None
    operands = D, cache.A_prev, theta[row.place], dA_prev, terms, size
    tape.launch(row.backward, (row.n, m), *operands, row.n, m)
    with tape.aside():
        for k, place in enumerate(row.parameters):
            mean_over_samples(tape, D if k in row.in_place else terms[k * size : (k + 1) * size], row.n, g[place], m)


def batch_norm_backward(tape: Tape, cache: Cache, theta: Any, g: Any, m: int, D: Any, dA_prev: Any) -> None:
    """Append the backward pass of a batch normalization: D holds dA; it writes dA_prev, the gradients and changes."""
    row, X_hat = cache.row, cache.Z
    assert isinstance(row, BatchNormRow)
    parameters = X_hat[m * row.n :], theta[row.place], theta[row.running]
    results = dA_prev, g[row.place], g[row.running]
    tape.launch("differentiate_batch", (row.n, m), D, X_hat, *parameters, *results, row.n, m, row.momentum)


def embedding_gradient(tape: Tape, row: EmbeddingRow, g: Any, D: Any, X: Any, m: int) -> None:
    """Append the gradients of the tables (N13); D holds dA."""
    p = row.tables[-1]
    samples = max(MIN_CHUNK, -(-p // row.n))  # in a chunk: the sums of the chunks take no more memory than D
    chunks = -(-m // samples)
    partial = g[row.place] if chunks == 1 else tape.empty(chunks * p)
    operands = D, X, tape.constant(row.tables), partial
    tape.launch("embedding_gradient", (p, chunks), *operands, row.n_prev, row.n, p, m, samples, chunks, 1 / m)
    _add_partial_sums(tape, p, g[row.place], partial, chunks)


def bias_gradient(tape: Tape, row: DenseRow, g: Any, dZ: Any, m: int) -> None:
    """Append ``db`` (N14)."""
    mean_over_samples(tape, dZ, row.n, g[row.b], m)


def mean_over_samples(tape: Tape, x: Any, n: int, out: Any, m: int) -> None:
    """Append the mean of x, n numbers for each sample, over the samples."""
    _add_partial_sums(tape, n, out, *_sums(tape, identity().backward, (x, None, None, None, 0, 1.0), n, out, m))


def _sums(tape: Tape, launch: Launch, operands: tuple[Any, ...], n: int, out: Any, m: int) -> tuple[Any, int]:
    """Append a launch of a kernel like ``activation_backward``; return the sums of the chunks, and their number."""
    rows, chunks = geometry.chunks(n, m, dtype=tape.dtype, processors=tape.device.processors)
    partial = out if chunks == 1 else tape.empty(chunks * n)
    tape.launch(launch, (n, m), *operands, partial, n, m, rows, 1 / m, chunks=chunks)
    return partial, chunks


def _add_partial_sums(tape: Tape, n: int, out: Any, partial: Any, chunks: int) -> None:
    if chunks > 1:
        tape.launch("sum_partials", (n,), partial, out, n, chunks)
