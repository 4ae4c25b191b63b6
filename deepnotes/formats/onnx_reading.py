"""Dense chains in ONNX files, whoever wrote them, as networks."""

from math import prod
from os import PathLike
from typing import TYPE_CHECKING

import numpy as np

from deepnotes.activations import LIBRARY, Activation
from deepnotes.backend import Backend
from deepnotes.containers import as_path
from deepnotes.errors import DeepnotesError, ModelFileError
from deepnotes.formats.chain import Chain, Link, scaled
from deepnotes.formats.normal_forms import DEFAULTS, Form, Forms
from deepnotes.formats.onnx_file import ML, Graph, Node, read
from deepnotes.formats.standardization import Standardization
from deepnotes.wording import brief

if TYPE_CHECKING:
    from deepnotes.network import Network

REACH = 100
"""How many nodes an activation may take; the longest, GELU as the equations have it, takes 60."""
FLOATS = {1, 11}
"""What ONNX calls float32 and float64."""
SUPPORTED = (
    "Gemm and MatMul with constant weights, Add, Sub, Mul, Div and Scaler with constants before the first and after "
    "any of them, Identity, Dropout, Cast, Flatten, Reshape, Transpose and Squeeze where they change nothing, and the "
    f"activations {', '.join(sorted(LIBRARY))}, in the ways in which they are usually written"
)


def from_onnx(
    path: str | PathLike[str], *, backend: str | Backend | None = None, output: str | None = None
) -> "Network":
    """Return the network that an ONNX file holds: a chain of dense layers and activations.

    Samples are columns in the network, as everywhere here, whatever they are in the file. Standardization before the
    first layer becomes a :class:`~deepnotes.Standardizer`; names of classes and metadata are kept.

    Parameters
    ----------
    path : path
    backend : str or Backend, optional
        What it shall run on; by default the selected one.
    output : str, optional
        Which output of the file is wanted, where it has more than one of numbers. That of ``ZipMap``, which is a dict
        for each sample, becomes an array.

    Returns
    -------
    Network
        Of the dtype of the weights in the file.

    Raises
    ------
    ModelFileError
        If the file cannot be read, is damaged, keeps data elsewhere, or holds something else than a dense chain; then
        the message names the node, and says what is supported.
    MissingExtraError
        Without the extra ``onnx``.
    UnknownNameError, BackendUnavailable
        As :func:`deepnotes.get_backend`.
    """
    path = as_path(path)
    graph = read(path, output)
    try:
        chain = _Walk(graph).chain()
    except DeepnotesError as error:
        raise ModelFileError(f"{path}: {error}") from None
    return chain.network(backend)


class _Walk:
    """The way along a graph, from its input to its output, and what was met on it."""

    def __init__(self, graph: Graph) -> None:
        self.graph, self.nodes, self.constants = graph, graph.nodes, graph.constants
        self.at = graph.input
        self.rows: bool | None = None  # whether samples are rows; not known before something says so
        self.turned = False  # whether the input was transposed before that
        self.features = graph.features
        self.before = Standardization()
        self.links: list[Link] = []
        self.linear: tuple[np.ndarray, np.ndarray] | None = None  # W and b of a layer that has no activation yet
        self.forms: Forms | None = None
        self.alone = self._alone()

    def chain(self) -> Chain:
        """Return what there is."""
        i = 0
        while i < len(self.nodes):
            i = self._step(i)
            self.at = self.nodes[i - 1].outputs[0]
        self._activate(Activation("identity"))
        if not self.links or self.forms is None:
            raise ModelFileError("it has no dense layer")
        metadata = dict(self.graph.metadata)
        if self.graph.classes and "classes" not in metadata:
            metadata["classes"] = [str(name) for name in self.graph.classes]
        standardizer = self.before.standardizer(self.links[0].W.shape[1])
        return Chain(tuple(self.links), self.forms.dtype, standardizer, None, metadata)

    def _alone(self) -> list[bool]:
        """Return whether the first output of each node is all that is still needed once it is there."""
        last = {name: i for i, node in enumerate(self.nodes) for name in node.inputs}
        last[self.graph.output] = len(self.nodes)
        ends = [0] * (len(self.nodes) + 1)
        ends[last[self.graph.input]] += 1
        living, found = 1, []
        for i, node in enumerate(self.nodes):
            needed = [name for name in node.outputs if name in last]
            living += len(needed) - ends[i]
            for name in needed:
                ends[last[name]] += 1
            found.append(living == 1 and node.outputs[0] in needed)
        return found

    def _step(self, i: int) -> int:
        """Take the nodes from i on as far as they are one thing, and return where the next one is."""
        node = self.nodes[i]
        if self.linear is not None and (found := self._activation(i)):
            self._activate(found[0])
            return found[1] + 1
        if self._two_classes(i):
            return i + 2
        if not self.alone[i] or self._drops(node):
            raise self._stranger(node)
        if node.op in {"Gemm", "MatMul"}:
            self._dense(node)
        elif node.op in {"Add", "Sub", "Mul", "Div", f"{ML}.Scaler"}:
            self._affine(node)
        elif node.inputs[0] != self.at:
            raise self._stranger(node)
        elif node.op in {"Identity", "Dropout"} or (node.op == "Cast" and node.attributes.get("to") in FLOATS):
            pass
        elif node.op in {"Flatten", "Reshape", "Transpose", "Squeeze"}:
            self._reshape(node)
        else:
            raise self._stranger(node)
        return i + 1

    def _stranger(self, node: Node, why: str = "") -> ModelFileError:
        told = why or "is no part of a dense chain there"
        return ModelFileError(f"{node} {told}; supported are {SUPPORTED}")

    # --- activations ----------------------------------------------------------------------------------------------

    def _activate(self, g: Activation) -> None:
        if self.linear is not None:
            self.links.append(Link(*self.linear, g))
            self.linear = None

    def _activation(self, start: int) -> tuple[Activation, int] | None:
        """Return the activation that the nodes from `start` on are, and the last of them; the longest that fits."""
        assert self.forms is not None
        table, found = self.forms.table, None
        forms: dict[str, Form] = {self.at: table.variable()}
        numbers: set[float] = set()
        for i in range(start, min(len(self.nodes), start + REACH)):
            node = self.nodes[i]
            parts = []
            for name in filter(None, node.inputs):
                x = self.constants.get(name)
                if x is not None and x.size == 1:
                    numbers.add(float(x.item()))
                    parts.append(table.constant(float(x.item())))
                else:
                    parts.append(forms.get(name))
            attributes = DEFAULTS.get(node.op, {}) | node.attributes
            numbers |= {x for x in attributes.values() if isinstance(x, float)}
            if self._drops(node) or (node.op == "Softmax" and not self._over_features(node)):
                return found
            forms[node.outputs[0]] = form = table.node(node.op, parts, attributes)
            if form is None:
                return found
            if self.alone[i] and (g := self.forms.activation(form, numbers)):
                found = g, i
        return found

    def _over_features(self, node: Node) -> bool:
        axis = node.attributes.get("axis", -1 if self.rows else 1)  # 1 was the default before opset 13
        if not self.rows and self.graph.opset < 13 and node.op == "Softmax":  # it went over all from that axis on
            return False
        return axis in ((1, -1) if self.rows else (0, -2))

    def _drops(self, node: Node) -> bool:
        """Return whether a node is a Dropout that drops something, since it is told to behave as in training."""
        training = self.constants.get(node.inputs[2]) if node.op == "Dropout" and len(node.inputs) > 2 else None
        return training is not None and bool(training.any())

    def _two_classes(self, i: int) -> bool:
        """Take ``[1 - p, p]`` of one sigmoid, as scikit-learn's classifiers of two classes have it: a softmax."""
        if self.linear is not None or i + 1 >= len(self.nodes) or not self.links:
            return False
        W, b, g = self.links[-1]
        less, both = self.nodes[i : i + 2]
        one = self.constants.get(less.inputs[0]) if less.inputs else None
        good = (
            g.name == "sigmoid" and len(W) == 1 and self.alone[i + 1]
            and less.op == "Sub" and less.inputs[1:] == (self.at,) and one is not None and one.size == 1 and one == 1
            and both.op == "Concat" and both.inputs == (less.outputs[0], self.at) and self._over_features(both)
        )  # fmt: skip
        if good:  # 1 - σ(z) and σ(z) are the softmax of 0 and z
            self.links[-1] = Link(np.vstack([0 * W, W]), np.vstack([0 * b, b]), Activation("softmax"))
            self.features = (2,)
        return bool(good)

    # --- layers ---------------------------------------------------------------------------------------------------

    def _dense(self, node: Node) -> None:
        """Take a product with constant weights, and the sum after it that Gemm has as well."""
        first, second, *rest = *node.inputs, "", ""
        flipped = [bool(node.attributes.get(key, 0)) and node.op == "Gemm" for key in ("transA", "transB")]
        W = self.constants.get(second if first == self.at else first)
        if W is None or W.ndim != 2 or W.dtype.kind != "f" or self.at not in (first, second):
            raise self._stranger(node, "has no constant matrix of weights")
        if rest[0] and node.op == "MatMul":
            raise self._stranger(node)
        if first == self.at:  # X W, samples are rows
            self._lie_in_rows(node, not flipped[0])
            W, self.rows = (W if flipped[1] else W.T), True
        else:  # W X, samples are columns
            self._lie_in_rows(node, flipped[1])
            W, self.rows = (W.T if flipped[0] else W), False
        self._activate(Activation("identity"))
        wanted = len(self.links[-1].W) if self.links else prod(self.features)
        if wanted not in (0, W.shape[1]):
            raise ModelFileError(f"{node} takes {W.shape[1]} numbers of each sample, and is given {wanted}")
        self.forms = self.forms or Forms(W.dtype.name)
        if self.forms.dtype != W.dtype:
            raise ModelFileError(f"{node} has weights of {W.dtype}, and those before it are of {self.forms.dtype}")
        self.features = (len(W),)
        alpha = float(node.attributes.get("alpha", 1.0)) if node.op == "Gemm" else 1.0
        self.linear = scaled(W, np.zeros((len(W), 1), W.dtype), alpha, 0.0, W.dtype.name)
        if rest[0]:
            beta = float(node.attributes.get("beta", 1.0))
            self.linear = scaled(*self.linear, 1.0, beta * self._vector(node, rest[0]), W.dtype.name)

    def _affine(self, node: Node) -> None:
        """Take a sum with or a product by constants: standardization, a bias, a target in its own units."""
        if node.op == f"{ML}.Scaler":
            pairs = [("Sub", "offset"), ("Mul", "scale")]
            steps = [
                (op, np.asarray(node.attributes[key]).reshape(-1, 1)) for op, key in pairs if key in node.attributes
            ]
        else:
            first, second, *_ = *node.inputs, ""
            turned = second == self.at and first != self.at
            if turned and node.op in {"Sub", "Div"}:
                raise self._stranger(node)
            steps = [(node.op, self._vector(node, first if turned else second))]
        for op, c in steps:
            if self.linear is None and self.links:
                raise self._stranger(node)
            if self.linear is None:
                self.before.add(str(node), op, c)
                continue
            with np.errstate(all="ignore"):
                factor = {"Mul": c, "Div": 1 / c}.get(op, 1.0)
            W, b = self.linear
            self.linear = scaled(W, b, factor, {"Add": c, "Sub": -c}.get(op, 0.0), W.dtype.name)

    def _vector(self, node: Node, name: str) -> np.ndarray:
        """Return a constant as one number, or as one for each feature, shape (n, 1), in double precision."""
        c = self.constants.get(name)
        if c is None or c.dtype.kind not in "fi":
            raise self._stranger(node)
        if c.size == 1:
            return np.asarray(c.astype(np.float64).reshape(1, 1))
        if self.rows is None:  # features lie along the first axis if the constants do
            self._settle(not (c.ndim == 2 and c.shape[1] == 1))
        wanted = (*self.features, 1) if self.rows is False else self.features
        shape = c.shape[1:] if len(c.shape) > len(wanted) and c.shape[0] == 1 else c.shape
        if len(shape) != len(wanted) or any(n not in (0, k) for n, k in zip(wanted, shape, strict=True)):
            raise ModelFileError(f"{node} has a constant of shape {brief(c.shape)}, wanted {brief(wanted)}")
        return np.asarray(c.astype(np.float64).reshape(-1, 1))

    # --- what changes nothing ---------------------------------------------------------------------------------------

    def _settle(self, rows: bool) -> None:
        """Take samples to be rows from here on, or columns."""
        self.rows = rows
        if rows == self.turned:  # the first axis of the input, not the last, is that of the features
            self.features = (0,)

    def _lie_in_rows(self, node: Node, rows: bool) -> None:
        """Hold samples to be rows, or columns, from the first node on that takes them to be."""
        if self.rows is None and len(self.features) == 1:
            self._settle(rows)
        if self.rows != rows or len(self.features) != 1:
            raise self._stranger(node, f"takes samples to be {'rows' if rows else 'columns'}, and they are not")

    def _reshape(self, node: Node) -> None:
        """Take what gives each sample the same numbers in the same order."""
        if node.op == "Transpose":
            if node.attributes.get("perm", [1, 0]) != [1, 0] or len(self.features) != 1:
                raise self._stranger(node, "changes the order of numbers within a sample")
            if self.rows is None:
                self.turned = not self.turned
            else:
                self.rows = not self.rows
            return
        if self.rows is None:
            self._settle(True)
        if self.rows is False:
            raise self._stranger(node, "takes samples to be rows, and they are columns")
        if node.op == "Squeeze":
            axes = self.constants.get(node.inputs[1]) if len(node.inputs) > 1 else node.attributes.get("axes")
            if prod(self.features) != 1 or axes is None or list(np.ravel(axes)) not in ([1], [-1]):
                raise self._stranger(node, "changes the shape of samples")
            return
        size = prod(self.features)
        if node.op == "Flatten" and node.attributes.get("axis", 1) != 1:
            raise self._stranger(node, "joins samples")
        if node.op == "Reshape":
            size = self._size_after(node)
        self.features = (size,)

    def _size_after(self, node: Node) -> int:
        """Return how many numbers a sample has after a Reshape that leaves it one row."""
        shape = self.constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
        samples, *sample = [int(n) for n in shape.ravel()] if shape is not None and shape.dtype.kind == "i" else [-2]
        size, wanted = prod(self.features), prod(sample)
        copies = samples == 0 and not node.attributes.get("allowzero", 0)
        if len(sample) == 1 and wanted == -1 and (copies or samples > 0):
            return size
        if sample and min(sample) > 0 and (copies or samples == -1 or samples > 0) and size in (wanted, 0):
            return wanted
        raise self._stranger(node, "changes the shape of samples")
