"""The forward pass, layer by layer (N2, N3), on a tape."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from deepnotes_cupy.lowering import (
    BatchNormRow,
    DenseRow,
    DropoutRow,
    EmbeddingRow,
    FeatureRow,
    NoiseRow,
    Row,
    ShortcutRow,
    identity,
)
from deepnotes_cupy.tape import Tape


class Cache(NamedTuple):
    """The values of a layer that the backward pass needs: its row, its input, Z and A, as flat arrays."""

    row: Row
    A_prev: Any
    Z: Any
    A: Any


class Masks(NamedTuple):
    """The source of dropout masks and noise: the network's seed, and the control structure that counts the steps."""

    seed: int
    control: Any


def round_weights(tape: Tape, theta: Any, decaying: int) -> Any:
    """Return the weights, rounded for products; they are contiguous in `theta`, so one launch is enough."""
    return tape.factor(theta[:decaying])


def forward(
    tape: Tape, rows: Sequence[Row], theta: Any, factors: Any, X: Any, m: int, masks: Masks | None, fused: bool
) -> list[Cache]:
    """Add the forward pass to a tape, and return the layers' caches.

    Parameters
    ----------
    tape : Tape
    rows : sequence of Row
    theta : array, shape (p,)
    factors : array
        The weights as returned by :func:`round_weights`.
    X : array, shape (m * n[0],)
        By sample. If the first layer is dropout or noise, it may overwrite X.
    m : int
    masks : Masks or None
        None for predictions.
    fused : bool
        Whether to stop after the product of the last layer, since a fused loss computes the rest.
    """
    A = X
    caches: list[Cache] = []
    sources = sources_of(rows)
    for index, row in enumerate(rows):
        if isinstance(row, DropoutRow | NoiseRow):
            assert masks is not None
            needed = index in sources or _backward_reads_output(caches)
            source, A = A, (tape.empty(m * row.n) if needed else A)
            if isinstance(row, DropoutRow):
                dropout(tape, row, source, A, m, masks)
            else:
                add_noise(tape, row, source, A, m, masks)
            caches.append(Cache(row, None, None, A))
            continue
        if isinstance(row, BatchNormRow):
            caches.append(normalize_batch(tape, row, theta, A, m))
            A = caches[-1].A
            continue
        if not isinstance(row, DenseRow):
            out = tape.empty(m * row.n)
            outputs = X, *(cache.A for cache in caches)
            without_product(tape, row, theta, A, outputs, m, out)
            caches.append(Cache(row, A, None, out))
            A = out
            continue
        last = index == len(rows) - 1
        multiplied = not last and isinstance(rows[index + 1], DenseRow)
        caches.append(dense(tape, row, theta, factors, A, m, last and fused, multiplied))
        A = caches[-1].A
    return caches


def dense(
    tape: Tape, row: DenseRow, theta: Any, factors: Any, A_prev: Any, m: int, logits: bool, multiplied: bool
) -> Cache:
    """Add a dense layer (N2, N3) to the tape, and return its cache.

    If `logits`, its A is Z without b. Otherwise A shares the memory of Z, unless the backward pass needs Z. If A is a
    factor of a product, `multiplied`, it is rounded.
    """
    Z = tape.empty(m * row.n)
    A = Z if logits or not row.g.needs_Z else tape.empty(m * row.n)

    def separate() -> None:
        linear(tape, row, factors, A_prev, m, Z)
        if not logits:
            activate(tape, row, theta, Z, m, A, multiplied)

    stage, b = (identity().forward_stage, None) if logits else (row.g.forward_stage, theta[row.b])
    if stage is None or not tape.in_stages(m * row.n):
        separate()
    else:
        operands = A_prev, theta[row.W], b, None if A is Z else Z, A
        sizes = row.n_prev, row.n, m
        tape.fastest(
            stage, (*sizes, row.W.start % 4, logits), separate,
            lambda: tape.launch(stage, (row.n, m), *operands, *sizes),
        )  # fmt: skip
    return Cache(row, A_prev, Z, A)


def sources_of(rows: Sequence[Row]) -> set[int]:
    """Return the numbers of rows before each residual block: the outputs of the last of them are needed at its end."""
    return {row.source for row in rows if isinstance(row, ShortcutRow)}


def without_product(
    tape: Tape, row: FeatureRow | ShortcutRow | EmbeddingRow | BatchNormRow, theta: Any, A_prev: Any,
    outputs: Sequence[Any], m: int, A: Any,
) -> None:  # fmt: skip
    """Add a layer that multiplies no matrices to the tape; it writes A. `outputs` are X and those of rows before.

    A batch normalization normalizes by its running statistics, as in a prediction.
    """
    if isinstance(row, EmbeddingRow):
        tape.launch("embed", (row.n, m), A_prev, theta, tape.constant(row.outputs), A, row.n_prev, row.n, m)
    elif isinstance(row, BatchNormRow):
        parameters = theta[row.place], theta[row.running]
        tape.launch("normalize", (row.n, m), A_prev, *parameters, A, row.n, m, row.epsilon)
    elif isinstance(row, ShortcutRow):
        tape.launch("add_arrays", (row.n, m), A_prev, outputs[row.source], A, row.n * m)
    else:
        tape.launch(row.forward, (row.n, m), A_prev, theta[row.place], A, row.n, m)


def normalize_batch(tape: Tape, row: BatchNormRow, theta: Any, A_prev: Any, m: int) -> Cache:
    """Add a batch normalization to the tape, and return its cache, in which Z is X_hat and the moments."""
    A, Z = tape.empty(m * row.n), tape.empty((m + 3) * row.n)
    operands = A_prev, theta[row.place], theta[row.running], A, Z, Z[m * row.n :]
    tape.launch("normalize_batch", (row.n, m), *operands, row.n, m, row.epsilon)
    return Cache(row, A_prev, Z, A)


def linear(tape: Tape, row: DenseRow, factors: Any, A_prev: Any, m: int, Z: Any) -> None:
    """Add ``Z = W A_prev`` (N2 without b) to the tape."""
    operands, strides = (factors[row.W], tape.factor(A_prev, row.n_prev)), (row.n_prev, tape.stride(row.n_prev))
    tape.product((True, False), (row.n, m, row.n_prev), 1.0, *operands, Z, strides)


def predict(tape: Tape, rows: Sequence[Row], theta: Any, X: Any, m: int, out: Any, logits: bool) -> None:
    """Add a forward pass that keeps no values for a backward pass.

    Parameters
    ----------
    tape : Tape
    rows : sequence of Row
        Without dropout and noise.
    theta : array, shape (p,)
    X, out : array or Slot
        Shapes (m * n[0],) and (m * n[L],), by sample.
    m : int
    logits : bool
        Whether to write, instead of the outputs, Z of the last layer without b.
    """
    factors = round_weights(tape, theta, max((row.W.stop for row in rows if isinstance(row, DenseRow)), default=0))
    buffers = [tape.empty(m * max(row.n for row in rows[:-1])) for _ in rows[1:3]]  # each layer reads one of the two
    sources, outputs = sources_of(rows), [X]
    for number, row in enumerate(rows):
        last = row is rows[-1]
        target = out
        if not last:
            target = tape.empty(m * row.n) if number + 1 in sources else buffers[number % 2][: m * row.n]
        if isinstance(row, DenseRow):
            linear(tape, row, factors, outputs[-1], m, target)
            if not (last and logits):
                multiplied = not last and isinstance(rows[number + 1], DenseRow)
                activate(tape, row, theta, target, m, target, multiplied)
        else:
            assert not isinstance(row, DropoutRow | NoiseRow)
            without_product(tape, row, theta, outputs[-1], outputs, m, target)
        outputs.append(target)


def predict_few(tape: Tape, rows: Sequence[DenseRow], theta: Any, X: Any, m: int, out: Any, logits: bool) -> None:
    """Do the same for at most ``FEW`` samples (see kernels/inference.cu), without rounding."""
    A = X
    for row in rows:
        last = row is rows[-1]
        target = out if last else tape.empty(m * row.n)
        few = None if last and logits else row.g.few
        b = theta[row.b] if few else None
        tape.launch(few or "dense_few", (row.n,), A, theta[row.W], b, target, row.n_prev, row.n, m)
        if row.g.by_rows and not (last and logits):
            activate(tape, row, theta, target, m, target)
        A = target


def activate(tape: Tape, row: DenseRow, theta: Any, Z: Any, m: int, A: Any, multiplied: bool = False) -> None:
    """Add ``Z += b`` and ``A = g(Z)`` (N2, N3) to the tape; A may be Z.

    If A is a factor of a product, `multiplied`, it is rounded in the same launch where that is possible.
    """
    b = theta[row.b]
    if row.g.by_rows:
        tape.launch(row.g.forward, (row.n, m), Z, b, A, row.n, m)
        return
    half, kind = tape.empty_factor(m, row.n) if multiplied else (None, 0)
    tape.launch(row.g.forward, (row.n, m), Z, b, A, half, kind, row.n, m)
    if half is not None:
        tape.keep_factor(A, half)


def dropout(tape: Tape, row: DropoutRow, A: Any, out: Any, m: int, masks: Masks) -> None:
    """Add dropout of A, or its backward pass if `A` is dA, to the tape; `out` may be the same array."""
    threshold, scale = round(row.rate * 2**32), 1 / (1 - row.rate)
    tape.launch("dropout", (row.n, m), A, out, row.n, m, threshold, masks.seed, row.number, masks.control, scale)


def add_noise(tape: Tape, row: NoiseRow, A: Any, out: Any, m: int, masks: Masks) -> None:
    """Add noise to A, on the tape; `out` may be the same array."""
    tape.launch("noise", (row.n, m), A, out, row.n, m, masks.seed, row.number, masks.control, row.std)


def _backward_reads_output(caches: Sequence[Cache]) -> bool:
    """Return whether the backward pass needs the output of the last of these layers, so it must not be overwritten."""
    row = caches[-1].row if caches else None
    return isinstance(row, DenseRow) and row.g.needs_A
