"""Lower layers, losses and optimizers to kernels and their arguments: sizes, slices of the flat buffer, options."""

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple, TypeAlias

from deepnotes.backends import (
    Activation,
    ActivationFunction,
    BatchNorm,
    Dense,
    Dropout,
    Embedding,
    Layer,
    Layout,
    Loss,
    LossFunction,
    Noise,
    Optimizer,
    Plan,
    Shortcut,
    Supported,
    formulas,
    fuses,
)
from deepnotes_cupy import generated
from deepnotes_cupy.generated import Part
from deepnotes_cupy.sources import Launch, constant

ELEMENTWISE = "bias_activation", "activation_backward", "dense_few", "forward_stage", "backward_stage"
"""The kernels of an activation whose outputs do not depend on each other."""
SUPPORTED = Supported(generates=True, by_feature=True, batch_norm=True, embeds=True, l1=True)


class LoweredActivation(NamedTuple):
    """The kernels of an activation.

    Attributes
    ----------
    part : Part or None
        The structure that the kernels are generated with; None for the identity.
    forward, backward : Launch
        The parameters of the kernels begin with those of ``bias_activation`` and ``activation_backward`` or, if the
        outputs of a sample depend on each other, with those of ``row_activation`` and ``row_backward``.
    few : Launch or None
        The kernel ``dense_few`` with this activation, unless outputs depend on each other.
    forward_stage, backward_stage : Launch or None
        The kernels of ``kernels/stages.cuh`` with this activation, unless outputs depend on each other.
    """

    part: Part | None
    forward: Launch
    backward: Launch
    few: Launch | None = None
    forward_stage: Launch | None = None
    backward_stage: Launch | None = None

    @property
    def by_rows(self) -> bool:
        """Whether outputs of a sample depend on each other."""
        return self.part is not None and self.part.by_rows

    @property
    def needs_Z(self) -> bool:
        """Whether the backward pass reads Z."""
        return self.part is not None and self.part.needs_Z

    @property
    def needs_A(self) -> bool:
        """Whether the backward pass reads A."""
        return self.part is not None and self.part.needs_A


class LoweredLoss(NamedTuple):
    """The kernel of a loss, whether it computes the loss from the logits of the last layer (N11), and the structure."""

    launch: Launch
    fused: bool
    part: Part


class LoweredUpdate(NamedTuple):
    """The kernel of an optimizer's update, the names of the scalars that it reads, and the structure."""

    launch: Launch
    scalars: tuple[str, ...]
    part: Part


def identity() -> LoweredActivation:
    """Return the kernels of the identity."""
    return LoweredActivation(None, *map(Launch.of, ELEMENTWISE))


def lower_activation(g: ActivationFunction, dtype: str, outputs: int) -> LoweredActivation:
    """Return the kernels of an activation."""
    traced = _traced_outputs(g, outputs)
    outputs_of, slope_of = formulas.activation(g, dtype, traced), formulas.backward(g, dtype, traced)
    if outputs_of.is_input("Z") and slope_of.is_input("dA"):
        return identity()
    part = generated.activation(outputs_of, slope_of, formulas.options(g))
    if part.by_rows:
        kernels = generated.kernels("rows.cu", part, outputs=outputs)
        forward, backward = (Launch(kernels[name], part.options) for name in ("row_activation", "row_backward"))
        return LoweredActivation(part, forward, backward)
    kernels = generated.kernels("activation.cu", part) | generated.kernels("activation_stages.cu", part)
    return LoweredActivation(part, *(Launch(kernels[name], part.options) for name in ELEMENTWISE))


def lower_loss(loss: LossFunction, last: Layer, dtype: str, outputs: int) -> LoweredLoss:
    """Return the kernel of a loss after the layer `last`."""
    traced = _traced_outputs(loss, outputs)
    if fused := fuses(last, loss):
        both = formulas.loss_of_logits(loss, last.g, dtype, traced)
    else:
        both = formulas.loss_and_derivative(loss, dtype, traced)
    part = generated.loss(both, formulas.options(loss))
    kernels = generated.kernels("loss.cu", part, outputs=outputs)
    return LoweredLoss(Launch(kernels["loss"], part.options), fused, part)


def lower_update(optimizer: Optimizer, dtype: str, statistics: bool = False) -> LoweredUpdate:
    """Return the kernel of an optimizer's update of parameters, or of statistics."""
    formula = formulas.update_statistics if statistics else formulas.update
    step, slots = formula(optimizer, dtype), len(optimizer.slots)
    names = step.numbers[1:]
    part = generated.update(step, slots, names)
    return LoweredUpdate(update_launch(part, slots), names, part)


def update_launch(part: Part, slots: int) -> Launch:
    """Return the kernel of an update with a number of slots."""
    return Launch(generated.kernels("update.cu", part, slots)["update"], part.options)


def _traced_outputs(part: ActivationFunction | LossFunction, outputs: int) -> int:
    """Return the number of outputs with which to trace a part.

    The library's equations have a shortcut for one output, which would need a kernel of its own.
    """
    return 2 if type(part) in (Activation, Loss) else outputs


class DenseRow(NamedTuple):
    """A dense layer: its number, from 1; its sizes; the slices of θ for W and b; the activation."""

    number: int
    n_prev: int
    n: int
    W: slice
    b: slice
    g: LoweredActivation


class DropoutRow(NamedTuple):
    """A dropout layer: its number, from 1; the number of neurons; and the probability of dropping a neuron."""

    number: int
    n: int
    rate: float


class NoiseRow(NamedTuple):
    """A layer that adds noise: its number, from 1; the number of neurons; and the standard deviation."""

    number: int
    n: int
    std: float


class FeatureRow(NamedTuple):
    """A layer by feature, such as LayerNorm.

    Attributes
    ----------
    number : int
        From 1.
    n_prev, n : int
        There may be twice as many inputs as outputs.
    parameters : tuple of slice
        The slice of θ for each parameter; they follow each other.
    in_place : list of int
        The indices of the parameters whose gradients have the terms dA.
    forward, backward : Launch
        The kernels of ``kernels/features.cu``.
    """

    number: int
    n_prev: int
    n: int
    parameters: tuple[slice, ...]
    in_place: list[int]
    forward: Launch
    backward: Launch

    @property
    def place(self) -> slice:
        """The slice of θ for all parameters."""
        return slice(self.parameters[0].start, self.parameters[-1].stop) if self.parameters else slice(0, 0)


class ShortcutRow(NamedTuple):
    """The end of a residual block: its number, from 1; the number of neurons; and the number of rows before the block.

    The outputs of the last of these rows, or X if there is none, are added to those of the row before this one.
    """

    number: int
    n: int
    source: int


class EmbeddingRow(NamedTuple):
    """An embedding, the first layer.

    Attributes
    ----------
    n_prev, n : int
    outputs : tuple of int
        Four numbers for each output, see ``embed`` in ``kernels/embedding.cu``.
    tables : tuple of int
        Four numbers for each table, and the number of numbers in all tables, see ``embedding_gradient``.
    place : slice
        The slice of θ for all tables.
    """

    n_prev: int
    n: int
    outputs: tuple[int, ...]
    tables: tuple[int, ...]
    place: slice


class BatchNormRow(NamedTuple):
    """A batch normalization.

    Attributes
    ----------
    n_prev, n : int
        They are equal.
    place, running : slice
        The slices of θ for gamma and beta, and for the running mean and variance.
    epsilon, momentum : float
    """

    n_prev: int
    n: int
    place: slice
    running: slice
    epsilon: float
    momentum: float


Row: TypeAlias = DenseRow | DropoutRow | NoiseRow | FeatureRow | ShortcutRow | EmbeddingRow | BatchNormRow


def lower(layers: Sequence[Layer], layout: Layout, dtype: str, training: bool) -> list[Row]:
    """Return the rows of supported layers, with dropout and noise only if `training` and their rate or std is not 0.

    Raises
    ------
    NotAnExpressionError
        If there is no kernel for a layer.
    """
    slices = {(entry.layer, entry.key): slice(entry.start, entry.stop) for entry in layout.entries.values()}
    rows: list[Row] = []
    before: list[int] = []  # for each layer, the number of rows before it
    for index, layer in enumerate(layers):
        before.append(len(rows))
        n_prev, n = layout.sizes[index : index + 2]
        if type(layer) is Dense:
            g = lower_activation(layer.g, dtype, n)
            rows.append(DenseRow(index + 1, n_prev, n, slices[index, "W"], slices[index, "b"], g))
        elif type(layer) is Shortcut:
            rows.append(ShortcutRow(index + 1, n, before[index - layer.layers]))
        elif type(layer) is BatchNorm:
            gamma, beta, mean, variance = (slices[index, name] for name in layer.parameters(n))
            place, running = slice(gamma.start, beta.stop), slice(mean.start, variance.stop)
            rows.append(BatchNormRow(n_prev, n, place, running, layer.epsilon, layer.momentum))
        elif type(layer) is Embedding:
            rows.append(_embedding_row(layer, n_prev, n, [slices[index, table.key] for table in layer]))
        elif type(layer) is Dropout:
            if training and layer.rate > 0:
                rows.append(DropoutRow(index + 1, n, layer.rate))
        elif type(layer) is Noise:
            if training and layer.std > 0:
                rows.append(NoiseRow(index + 1, n, layer.std))
        else:
            names = formulas.feature_parameters(layer, n_prev)
            parameters = tuple(slices[index, name] for name in names)
            rows.append(FeatureRow(index + 1, n_prev, n, parameters, *_lower_layer(layer, dtype, n_prev, n)))
    return rows


def _embedding_row(layer: Embedding, n_prev: int, n: int, slices: list[slice]) -> EmbeddingRow:
    """Return the row of an embedding, whose tables are at `slices` of θ, one after the other."""
    outputs = [(column, 0, 0, 0) for columns in layer.numeric(n_prev) for column in columns]
    tables, place = list[int](), slice(slices[0].start, slices[-1].stop)
    for (column, categories, size), table in zip(layer, slices, strict=True):
        tables += [table.start - place.start, column, size, len(outputs)]
        outputs += [(column, table.start + i, size, categories) for i in range(size)]
    return EmbeddingRow(n_prev, n, tuple(chain(*outputs)), (*tables, place.stop - place.start), place)


def _lower_layer(layer: Layer, dtype: str, inputs: int, outputs: int) -> tuple[list[int], Launch, Launch]:
    """Return, for a layer by feature, the parameters whose gradients have the terms dA, and the kernels."""
    forward, backward = formulas.layer(layer, dtype, inputs), formulas.layer_backward(layer, dtype, inputs)
    part = generated.layer(forward, backward, formulas.options(layer))
    kernels = generated.kernels("features.cu", part, outputs=outputs)
    launches = [Launch(kernels[name], part.options) for name in ("feature_forward", "feature_backward")]
    return generated.terms_in_place(backward), launches[0], launches[1]


class Lowered(NamedTuple):
    """A plan as kernels: those of its layers, of the loss, of the update, and of the update of statistics, if any."""

    rows: list[Row]
    loss: LoweredLoss
    update: LoweredUpdate
    statistics: LoweredUpdate | None


def lower_plan(plan: Plan) -> Lowered:
    """Return the kernels of a plan whose parts all have kernels; errors as for :func:`lower`."""
    return Lowered(
        lower(plan.layers, plan.layout, plan.dtype, training=True),
        lower_loss(plan.loss, plan.layers[-1], plan.dtype, plan.layout.sizes[-1]),
        lower_update(plan.optimizer, plan.dtype),
        lower_update(plan.optimizer, plan.dtype, True) if plan.layout.trained < plan.layout.size else None,
    )


def stored_per_sample(rows: Sequence[Row], inputs: int, targets: int, factors: str) -> int:
    """Return an upper bound on the number of elements stored for each sample of a batch, to suggest a batch size."""
    widest = max(row.n for row in rows)
    stored = 2 * sum(row.n for row in rows)  # Z, A and the result of dropout
    stored += sum(len(row.parameters) * row.n + row.n_prev for row in rows if isinstance(row, FeatureRow))
    # The sums of chunks, or the normalized inputs:
    stored += sum(row.n for row in rows if isinstance(row, EmbeddingRow | BatchNormRow))
    if factors in ("bfloat16", "float16"):
        stored += (inputs + 2 * sum(row.n for row in rows)) // 2 + constant("ROW") * (1 + len(rows))  # with gaps
    # The products that Tape.product_over_samples adds:
    blocks = max((row.n_prev + row.n for row in rows if isinstance(row, DenseRow)), default=0)
    return inputs + targets + 3 + stored + 2 * widest + blocks
