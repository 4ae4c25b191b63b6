"""All parts of the library, for backends that compile their kernels ahead."""

from collections.abc import Iterator
from dataclasses import fields
from itertools import product
from typing import Any

from deepnotes.nn import activations, losses, optimizers
from deepnotes.nn.activations import Activation
from deepnotes.nn.layers import FEATURE_LAYERS, GLU, Dense, Layer, SwiGLU, flatten
from deepnotes.nn.losses import Loss
from deepnotes.nn.optimizer_base import Optimizer
from deepnotes.nn.optimizers import SGD


def library_activations() -> Iterator[Activation]:
    """Yield every activation, with each of :func:`_options`."""
    for name, traits in activations.LIBRARY.items():
        yield from (Activation(name, **options) for options in _options(traits.options))


def library_losses() -> Iterator[tuple[Loss, Dense]]:
    """Yield every loss with each of :func:`_options`, and a last layer: one that it is fused with, and another one."""
    for name, traits in losses.LIBRARY.items():
        for options in _options(traits.options):
            for last in {"identity", traits.fused[0] if traits.fused else "identity"}:
                yield Loss(name, **options), Dense(1, last)


def library_layers() -> Iterator[Layer]:
    """Yield every layer by feature: gates with the activations of GLU and SwiGLU, the others with default options."""
    blocks = flatten([GLU(1), SwiGLU(1)])
    gates = [layer for layer in blocks if type(layer) in FEATURE_LAYERS]
    yield from gates
    yield from (kind() for kind in FEATURE_LAYERS if kind not in map(type, gates))


def library_optimizers() -> Iterator[Optimizer]:
    """Yield every optimizer, with all combinations of its options that are True or False."""
    yield SGD()
    for kind in optimizers.LIBRARY.values():
        switches = [option.name for option in fields(kind) if option.type is bool]  # type: ignore[arg-type]
        momentum: dict[str, Any] = {"momentum": 0.9} if kind is SGD else {}
        for values in product((False, True), repeat=len(switches)):
            yield kind(**momentum, **dict(zip(switches, values, strict=True)))


def _options(defaults: dict[str, float]) -> list[dict[str, float]]:
    """Return the defaults, and values for which an expression is not simplified, as it is for 1, for example."""
    return [defaults, dict.fromkeys(defaults, 0.3)] if defaults else [{}]
