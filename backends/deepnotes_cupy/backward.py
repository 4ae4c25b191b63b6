"""The loss and the backward pass (N11 to N15) on a tape."""

from collections.abc import Sequence
from functools import partial
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
        half, kind = (None, 0) if scale is None else tape.empty_factor(m, k)
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
    last = caches[-1].row
    if dZ is not None and isinstance(last, DenseRow):
        with tape.aside():
            bias_gradient(tape, last, g, D, m)
    shortcuts: dict[int, list[Any]] = {}  # the derivatives to add to those by the outputs of the first rows, by number
    for index in range(len(caches) - 1, first - 1, -1):
        cache = caches[index]
        row = cache.row
        add(tape, shortcuts.pop(index + 1, []), D, row.n * m)
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
        A_prev = tape.factor(cache.A_prev, row.n_prev)
        with tape.aside():
            tape.product_over_samples((row.n_prev, row.n, m), 1 / (m * scale), A_prev, dZ, g[row.W])
        if index > first:
            dA = tape.empty(m * row.n_prev) if other is None else other
            D, other, dA = dA, None if other is None else D, dA[: m * row.n_prev]
            before, extended = caches[index - 1], index in shortcuts
            dZ = differentiate(tape, row, before, theta, g, factors, m, dZ, dA, scale, extended)
    tape.rejoin()


def add(tape: Tape, derivatives: Sequence[Any], D: Any, size: int) -> None:
    """Append the addition of other derivatives to D."""
    for other in derivatives:
        tape.launch("add_arrays", (size,), D, other, D, size)


def copies_for_shortcut(tape: Tape, row: ShortcutRow, first: int, D: Any, m: int) -> list[Any]:
    """Append a copy of dA, which D holds, for the layer before a residual block; return it if there is such a layer."""
    if row.source <= first:
        return []
    copy = tape.empty(m * row.n)
    tape.copy(D[: m * row.n], copy)
    return [copy]


def differentiate(  # noqa: PLR0913
    tape: Tape, row: DenseRow, before: Cache, theta: Any, g: Any, factors: Any, m: int, dZ: Any, dA: Any, scale: float,
    extended: bool,
) -> Any:  # fmt: skip
    """Append the derivatives by the inputs of a layer (N15), which are written to `dA`, and return None.

    If a stage suits the layer before, append its dZ (N12) and db (N14), too, and return dZ, which replaces dA. No stage
    suits if the derivatives of a shortcut are added to dA first, `extended`.
    """
    n, previous = row.n_prev, before.row
    strides = n, tape.stride(row.n)
    product = partial(tape.product, (False, False), (n, m, row.n), 1 / scale, factors[row.W], dZ, dA, strides)
    elementwise = isinstance(previous, DenseRow) and previous.g.backward_stage is not None
    if extended or not elementwise or not tape.in_stages(m * n):
        product()
        return None
    assert isinstance(previous, DenseRow)
    stage, db = previous.g.backward_stage, g[previous.b]
    assert stage is not None
    mean, tiles = Mean.of(tape, n, db, m), Mean.in_chunks(tape, n, db, *geometry.stage_tiles(m))
    reads = before.Z if previous.g.needs_Z else None, before.A if previous.g.needs_A else None

    def separate() -> None:
        product()
        mean.launch(tape, previous.g.backward, (dA, *reads, None, 0, 1.0), m)

    def together() -> None:
        tape.launch(stage, (n, m), dZ, theta[row.W], *reads, dA, tiles.sums, row.n, n, m, 1 / m)

    faster = tape.fastest(stage, (row.n, n, m, row.W.start % 4), separate, together)
    with tape.aside():
        (tiles if faster else mean).add_chunks(tape)
    return dA


def activation_backward(tape: Tape, cache: Cache, g: Any, D: Any, m: int, scale: float) -> Any:
    """Append ``dZ = dA * g'(Z)`` (N12) and ``db`` (N14), and return dZ as a factor of products.

    D holds dA. It is overwritten, unless factors are rounded: then `scale` times dZ is written to another array.
    """
    row = cache.row
    assert isinstance(row, DenseRow)
    if row.g.by_rows:
        tape.launch(row.g.backward, (row.n, m), D, cache.Z, cache.A, row.n, m)
        bias_gradient(tape, row, g, D, m)
        return tape.factor(D[: m * row.n], row.n, reusable=False, scale=scale)
    half, kind = tape.empty_factor(m, row.n)
    db = Mean.of(tape, row.n, g[row.b], m)
    db.launch(tape, row.g.backward, (D, cache.Z, cache.A, half, kind, scale), m)
    with tape.aside():
        db.add_chunks(tape)
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
    sums = Mean.in_chunks(tape, p, g[row.place], samples, chunks)
    operands = D, X, tape.constant(row.tables), sums.sums
    tape.launch("embedding_gradient", (p, chunks), *operands, row.n_prev, row.n, p, m, samples, chunks, 1 / m)
    sums.add_chunks(tape)


def bias_gradient(tape: Tape, row: DenseRow, g: Any, dZ: Any, m: int) -> None:
    """Append ``db`` (N14)."""
    mean_over_samples(tape, dZ, row.n, g[row.b], m)


def mean_over_samples(tape: Tape, x: Any, n: int, out: Any, m: int) -> None:
    """Append the mean of x, n numbers for each sample, over the samples."""
    mean = Mean.of(tape, n, out, m)
    mean.launch(tape, identity().backward, (x, None, None, None, 0, 1.0), m)
    mean.add_chunks(tape)


class Mean(NamedTuple):
    """The mean of n numbers over samples, computed in chunks of samples.

    Attributes
    ----------
    out : array, shape (n,)
    n : int
    samples, chunks : int
        The number of samples in a chunk, and the number of chunks.
    sums : array
        The sums of the chunks, divided by the number of all samples; `out` itself if there is only one chunk.
    """

    out: Any
    n: int
    samples: int
    chunks: int
    sums: Any

    @classmethod
    def of(cls, tape: Tape, n: int, out: Any, m: int) -> "Mean":
        """Return the mean over m samples that a kernel like ``activation_backward`` computes."""
        return cls.in_chunks(tape, n, out, *geometry.chunks(n, m, dtype=tape.dtype, processors=tape.device.processors))

    @classmethod
    def in_chunks(cls, tape: Tape, n: int, out: Any, samples: int, chunks: int) -> "Mean":
        """Return the mean over chunks of `samples` samples."""
        return cls(out, n, samples, chunks, out if chunks == 1 else tape.empty(chunks * n))

    def launch(self, tape: Tape, launch: Launch, operands: tuple[Any, ...], m: int) -> None:
        """Append a launch of a kernel like ``activation_backward``, which computes the sums."""
        last = self.sums, self.n, m, self.samples, 1 / m
        tape.launch(launch, (self.n, m), *operands, *last, chunks=self.chunks)

    def add_chunks(self, tape: Tape) -> None:
        """Append the sum of the chunks."""
        if self.chunks > 1:
            tape.launch("sum_partials", (self.n,), self.sums, self.out, self.n, self.chunks)
