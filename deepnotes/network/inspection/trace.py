"""The trace of a training step: each array of the forward and the backward pass, by its name in the notes.

The arrays are those of :func:`deepnotes.nn.steps.gradient_step` itself, which reports them while it runs.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from deepnotes.backends.program import Data
from deepnotes.equations.array import Array
from deepnotes.equations.ops import Ops
from deepnotes.network.inspection import formulas
from deepnotes.network.inspection.events import Event
from deepnotes.network.inspection.trace_page import Page, html_document, html_fragment, text_page
from deepnotes.nn.layers import FEATURE_LAYERS, BatchNorm, Dense, Dropout, Layer, LayerNorm, Noise, RMSNorm, Shortcut
from deepnotes.nn.plan import Plan, fuses
from deepnotes.nn.steps import gradient_step
from deepnotes.utils.errors import look_up
from deepnotes.utils.json_values import replace_nonfinite
from deepnotes.utils.wording import one_line

if TYPE_CHECKING:
    from deepnotes.network.protocol import NetworkLike


class Trace:
    """A training step, with every array that it computes; the result of :meth:`deepnotes.Network.trace`.

    ``trace["Z1"]`` is an array by its name; iteration yields the events in the order of computation. ``print(trace)``
    prints a page with the numbers beside the formulas, and a notebook shows the same page.

    Parameters
    ----------
    network : str
        A description of the network.
    given : dict of str to ndarray
        The arrays that the step starts from: ``A0`` (the samples), ``Y``, the parameters and, if there are any,
        the sample weights ``w``.
    events : sequence of Event
    notes : sequence of str
        Remarks below the page.
    """

    def __init__(
        self, network: str, given: Mapping[str, np.ndarray], events: list[Event], notes: list[str] | None = None
    ) -> None:
        self.network, self.given, self.events, self.notes = network, dict(given), tuple(events), tuple(notes or ())
        self._arrays = {"X": self.given["A0"], **self.given, **{event.name: event.value for event in events}}

    @property
    def _page(self) -> Page:
        return Page(self.network, self.given, self.events, self.notes)

    @property
    def names(self) -> list[str]:
        """The names of all arrays, those that were given first."""
        return list(self._arrays)

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array by its name.

        Raises
        ------
        UnknownNameError
            If there is no array of this name; the message suggests the nearest match.
        """
        array: np.ndarray = look_up("array", name, self._arrays)
        return array

    def __contains__(self, name: object) -> bool:
        return name in self._arrays

    def __iter__(self) -> Iterator[Event]:
        return iter(self.events)

    def __len__(self) -> int:
        return len(self.events)

    def __repr__(self) -> str:
        return f"Trace({', '.join(event.name for event in self.events)})"

    def __str__(self) -> str:
        """Return the page: step by step, formula, equation, shapes, and the values beside them."""
        return text_page(self._page)

    def _repr_html_(self) -> str:
        """Return the page as HTML, for IPython."""
        return html_fragment(self._page)

    def to_html(self) -> str:
        """Return the page as an HTML document of its own, which loads nothing else."""
        return html_document(self._page)

    def as_dict(self) -> dict[str, Any]:
        """Return the trace as JSON values; numbers that are not finite stay floats."""
        return {
            "network": self.network,
            "samples": int(self.given["A0"].shape[1]),
            "given": {name: value.tolist() for name, value in self.given.items()},
            "steps": [
                {
                    "number": event.number,
                    "name": event.name,
                    "formula": event.formula,
                    "equations": list(event.equations),
                    "direction": event.direction,
                    "shape": list(event.shape),
                    "values": event.value.tolist(),
                }
                for event in self.events
            ],
            "notes": list(self.notes),
        }

    def to_json(self, indent: int | None = None) -> str:
        """Return the trace as a JSON text, with null for numbers that are not finite."""
        return json.dumps(replace_nonfinite(self.as_dict()), allow_nan=False, ensure_ascii=False, indent=indent)


RECORDED = Dense | Dropout | Noise | LayerNorm | RMSNorm | BatchNorm
"""The layers of which the trace contains inner arrays."""


class ObservedOps(Ops):
    """The equations of a backend, each call of which is reported to a function.

    Parameters
    ----------
    ops : Ops
    called : callable
        Takes the name of the equation, its arguments and its result.
    """

    def __init__(self, ops: Ops, called: Callable[[str, tuple[Any, ...], Any], None]) -> None:
        super().__init__(ops.xp, ops._functions)
        self._called = called

    def __getattr__(self, name: str) -> Callable[..., Any]:
        equation = super().__getattr__(name)

        def observed(*args: Any, **kwargs: Any) -> Any:
            result = equation(*args, **kwargs)
            self._called(name, args, result)
            return result

        setattr(self, name, observed)
        return observed


class _Recorder:
    """Turns what a step reports into events."""

    def __init__(self, plan: Plan, weighted: bool, to_numpy: Callable[[Array], np.ndarray]) -> None:
        self.plan, self.weighted, self.to_numpy = plan, weighted, to_numpy
        self.weights = " * w" if weighted else ""
        self.names = formulas.layer_names(plan.layers, plan.inputs)
        self.events: list[Event] = []
        self.layer = 0  # the index of the layer whose pass runs
        self.direction = "forward"
        self.has: set[str] = set()  # the inner arrays of this layer that have been reported

    def add(self, name: str, formula: str, equations: str, value: Any, *factors: Any, form: str = "") -> None:
        """Append an event; `form` describes the product of the `factors`, with {} for the shape of each."""
        array = self.to_numpy(value)
        shapes = str(array.shape) if array.ndim else "a number"
        if form:
            shapes = f"{form.format(*(_shape(factor) for factor in factors))} = {shapes}"
        number = len(self.events) + 1
        self.events.append(Event(number, name, formula, tuple(equations.split()), shapes, self.direction, array))

    def equation(self, name: str, args: tuple[Any, ...], result: Any) -> None:
        """Record the inner arrays of a layer: ``Z`` and a mask in the forward pass, ``dZ`` in the backward pass."""
        if self.layer == len(self.plan.layers):  # an equation of the loss
            return
        layer, names = self.plan.layers[self.layer], self.names[self.layer]
        if name in self.has or not isinstance(layer, RECORDED):
            return
        if name == "linear" and self.direction == "forward":
            W, A_prev, b = args
            n = names.number
            formula, form = f"W{n} {names.before} + b{n}", "{} {} + {}"
            self.add(names.Z, formula, "N2", result, W, A_prev, b, form=form)
        elif name == "dropout_mask" and isinstance(layer, Dropout):
            self.add(names.mask, f"1 with probability {1 - layer.rate:g}, else 0", "", result)
        elif name == "noise":
            self.add(names.noise, "random, with mean 0 and standard deviation 1", "", result)
        elif name in ("center", "inverse_rms") and self.direction == "forward" and type(layer) in (LayerNorm, RMSNorm):
            inner = {"center": "C", "inverse_rms": "r"}[name]
            self.add(f"{inner}{names.number}", formulas.of_layer(layer, names, self.plan.inputs)[name], "", result)
        elif name in formulas.BATCH_NORM and self.direction == "forward" and type(layer) is BatchNorm:
            inner = formulas.BATCH_NORM[name]
            self.add(f"{inner}{names.number}", self._formulas(layer, names)[name], "", result)
        elif name == "weight_gradient" and self.direction == "backward" and isinstance(layer, Dense):
            self.add(f"d{names.Z}", *self._dZ(layer), args[0])
        self.has.add(name)

    def array(self, name: str, layer: int, value: Any) -> None:
        """Record an array that a step reports; `layer` counts from 1, and 0 is the input."""
        if name == "A":
            self._output(layer - 1, value)
            self.layer, self.has = layer, set()
        elif name in ("L", "cost"):
            self.direction = "loss"
            self._loss(name, value)
            if name == "cost":
                self.layer, self.direction, self.has = layer - 1, "backward", set()
        elif name == "dA":
            self._derivative(layer, value)
            self.layer, self.has = max(layer - 1, 0), set()
        else:
            self._gradient(name, layer - 1, value)
            self.layer = layer - 1

    def _output(self, index: int, A: Any) -> None:
        layer, names = self.plan.layers[index], self.names[index]
        if formulas.is_plain(layer):
            formula, _, number = formulas.activation(layer.g, names)  # type: ignore[attr-defined]
            self.add(names.after, formula, f"N3 {number}", A)
        elif isinstance(layer, Dropout):
            dropped = "dropout_mask" in self.has
            self.add(names.after, _dropped(names.before, names.mask, layer.rate) if dropped else names.before, "", A)
        elif type(layer) is Noise:
            added = f" + {layer.std:g} * {names.noise}" if "noise" in self.has else ""
            self.add(names.after, f"{names.before}{added}", "", A)
        elif type(layer) is Shortcut:
            self.add(names.after, f"{names.before} + {self.names[index - layer.layers].before}", "", A)
        else:
            default = f"{formulas.kind(layer)}({names.before})"
            self.add(names.after, self._formulas(layer, names).get("A", default), "", A)

    def _loss(self, name: str, value: Any) -> None:
        loss, k = self.plan.loss, self.plan.layout.sizes[-1]
        number = "N10" if getattr(loss, "name", "") == "binary_cross_entropy" else ""
        if name == "L":
            self.add("L", formulas.loss_formula(loss, self.names[-1].after, k), number, value)
        else:
            self.add("cost", "(1/m) Σ_samples w * L" if self.weighted else "(1/m) Σ_samples L", "N10", value)

    def _derivative(self, layer: int, dA: Any) -> None:
        """Record ``dA`` of the output of a layer, which the backward pass of the layer after it has computed."""
        name = "dA0" if layer == 0 else f"d{self.names[layer - 1].after}"
        if layer == len(self.plan.layers):
            loss, k = self.plan.loss, self.plan.layout.sizes[-1]
            self.add(name, formulas.derivative_formula(loss, self.names[-1].after, k, self.weights), "", dA)
            return
        after, names = self.plan.layers[layer], self.names[layer]
        shortcuts = "".join(
            f" + d{self.names[i].after}"
            for i, shortcut in enumerate(self.plan.layers)
            if type(shortcut) is Shortcut and i - shortcut.layers == layer
        )
        if formulas.is_plain(after):
            n = names.number
            W, dZ = self._parameter_shape(layer), _shape(dA)
            factors = "" if shortcuts else f"({W[1]}, {W[0]}) ({W[0]}, {dZ[1]})"
            self.add(name, f"W{n}ᵀ d{names.Z}{shortcuts}", "N15", dA, form=factors)
        elif isinstance(after, Dropout):
            dropped = names.mask in {event.name for event in self.events}
            dA_after = f"d{names.after}"
            formula = _dropped(dA_after, names.mask, after.rate) if dropped else dA_after
            self.add(name, f"{formula}{shortcuts}", "", dA)
        elif type(after) in (Noise, Shortcut):
            self.add(name, f"d{names.after}{shortcuts}", "", dA)
        else:
            default = f"backward pass of {formulas.kind(after)}"
            self.add(name, self._formulas(after, names).get("dA_prev", default) + shortcuts, "", dA)

    def _gradient(self, name: str, index: int, value: Any) -> None:
        """Record the gradient of one parameter of a layer."""
        layer, names = self.plan.layers[index], self.names[index]
        n, m = names.number, self.events[0].value.shape[1]
        parameter = self.plan.layout.entries[f"{name[1:]}{n}"].parameter
        if not parameter.trained:
            return
        decays = parameter.decays
        full = f"{name}{n}_loss" if (self.plan.l1 or self.plan.l2) and decays else f"{name}{n}"
        if formulas.is_plain(layer) and name == "dW":
            rows, columns = self._parameter_shape(index)
            form = f"({rows}, {m}) ({m}, {columns})"
            self.add(full, f"(1/m) d{names.Z} {names.before}ᵀ", "N13", value, form=form)
        elif formulas.is_plain(layer) and name == "db":
            self.add(full, f"(1/m) Σ_samples d{names.Z}", "N14", value)
        else:
            default = f"backward pass of {formulas.kind(layer)}"
            self.add(full, self._formulas(layer, names).get(name[1:], default), "", value)

    def _formulas(self, layer: Layer, names: formulas.Names) -> dict[str, str]:
        """Return the formulas of the arrays of a layer other than Dense and Dropout."""
        if type(layer) is BatchNorm:
            of_batch = any(event.name == f"mean{names.number}" for event in self.events)
            return formulas.batch_norm(layer, names, of_batch)
        return formulas.of_layer(layer, names, self.plan.inputs)

    def _dZ(self, layer: Dense) -> tuple[str, str]:
        """Return the formula of ``dZ`` of the layer whose backward pass runs, and its equations."""
        names, plan = self.names[self.layer], self.plan
        if self.layer == len(plan.layers) - 1 and fuses(layer, plan.loss):
            formula = formulas.delta_formula(plan.loss, names.after, plan.layout.sizes[-1], self.weights)
            return formula, "N11" if formulas.is_n11(plan.loss) else ""
        if not formulas.is_plain(layer):
            return f"backward pass of {formulas.kind(layer)}", ""
        _, formula, number = formulas.activation(layer.g, names)
        return formula, f"N12 {number}"

    def _parameter_shape(self, index: int) -> tuple[int, int]:
        return self.plan.layout.entries[f"W{self.names[index].number}"].parameter.shape

    def penalties(self, gradients: Mapping[str, Array]) -> None:
        """Record the gradients with the L1 and L2 penalties, which a step adds at its end."""
        for name, entry in self.plan.layout.entries.items():
            if entry.parameter.decays:
                terms = f" + {self.plan.l2:g} {name}" if self.plan.l2 else ""
                terms += f" + {self.plan.l1:g} sign({name})" if self.plan.l1 else ""
                self.add(f"d{name}", f"d{name}_loss{terms}", "", gradients[name])


def _shape(array: Any) -> tuple[int, ...]:
    return tuple(int(n) for n in array.shape)


def _dropped(array: str, mask: str, rate: float) -> str:
    return f"{array} * {mask} / {1 - rate:g}"


def trace(network: "NetworkLike", plan: Plan, data: Data) -> Trace:
    """Run one step of `plan` at the parameters of `network`, without the update, and return its trace.

    Parameters
    ----------
    network : NetworkLike
    plan : Plan
    data : Data
        The samples, all in one batch.
    """
    backend, layout = network.backend, network.layout

    def to_numpy(x: Array) -> np.ndarray:
        return np.array(backend.to_numpy(x))

    recorder = _Recorder(plan, data.w is not None, to_numpy)
    ops = ObservedOps(backend.ops, recorder.equation)
    with np.errstate(all="ignore"), backend.execution_context():
        decays = backend.from_numpy(layout.decays().astype(plan.dtype))
        step = backend.xp.asarray(0, dtype=backend.integer)
        gradient = gradient_step(ops, plan, network.theta, decays, step, *data, observe=recorder.array)
        if plan.l1 or plan.l2:
            recorder.penalties(layout.by_name(backend.xp, gradient.flat))
        given = {"A0": to_numpy(data.X), "Y": to_numpy(data.Y)}
        given |= {} if data.w is None else {"w": to_numpy(data.w)}
        given |= {name: to_numpy(network.parameters[name]) for name in layout.in_order}
    unsized: tuple[type[Layer], ...] = Dropout, Noise, Shortcut, BatchNorm, *FEATURE_LAYERS
    outputs = [n for n, layer in zip(layout.sizes[1:], plan.layers, strict=True) if not isinstance(layer, unsized)]
    sizes = "-".join(map(str, [network.inputs, *outputs]))
    description = f"{sizes} network, {network.dtype}, backend {one_line(backend.name)}"
    return Trace(description, given, recorder.events, _notes(plan, recorder))


def _notes(plan: Plan, recorder: _Recorder) -> list[str]:
    """Return remarks on what the page shows."""
    notes = []
    kinds = [type(layer) for layer in plan.layers]
    shown = {event.name: event for event in recorder.events}
    plain = kinds == [Dense, Dense] and not recorder.weighted and not plan.l1 and not plan.l2
    if plain and "N11" in shown["dZ2"].equations:
        first, delta = shown["dZ1"].formula, shown["dZ2"].formula
        if re.match(r"dA1( [*/] |$)", first) and ", with " not in first:  # the derivative is elementwise
            chain = f"(W2ᵀ ({delta}){first.removeprefix('dA1')}) A0ᵀ"
            notes.append(f"N16 is this chain written out: dW1 = (1/m) {chain}, composed of N11, N15, N12 and N13")
    if fuses(plan.layers[-1], plan.loss):
        A, Z = recorder.names[-1].after, recorder.names[-1].Z
        notes.append(f"L is computed from {Z} instead of {A}, which is accurate even where {A} is close to 0 or 1")
    if plan.class_indices:
        notes.append("Y holds class indices; in the formulas, it stands for the one-hot columns")
    if plan.loss.outputs_per_target > 1:
        notes.append(f"Y has the targets {plan.loss.outputs_per_target} times, one for each output")
    text = " ".join(event.formula for event in recorder.events)
    if "log(Y / " in text:
        notes.append(f"where Y is 0, so is Y * log(Y / {recorder.names[-1].after})")
    notes += [meaning for symbol, meaning in formulas.SYMBOLS.items() if symbol in text]
    if plan.l1:
        notes.append(f"the cost is without the L1 penalty, {plan.l1:g} Σ |w| over the weights; sign(0) = 0")
    if plan.l2:
        notes.append(f"the cost is without the L2 penalty, {plan.l2:g} / 2 Σ w² over the weights")
    return notes
