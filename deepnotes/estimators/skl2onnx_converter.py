"""Conversion of pipelines with deepnotes' estimators to ONNX, by skl2onnx.

After ``register_skl2onnx()``, ``skl2onnx.to_onnx(pipeline, X[:1])`` works as for scikit-learn's own estimators. The
nodes of the network are traced from the equations, as in :mod:`deepnotes.network.formats.onnx_writing`. For a
classifier, the converter adds nodes that compute the probabilities of all classes and the label.
"""

from typing import Any

import numpy as np

from deepnotes.network.formats.chain import Chain
from deepnotes.network.formats.onnx_writing import trace_chain
from deepnotes.utils.errors import ModelFileError
from deepnotes.utils.extras import import_optional

OPSET = 13
"""The opset of the nodes that are traced from the equations."""
OPTIONS = {"zipmap": [True, False, "columns"], "output_class_labels": [False, True], "nocl": [True, False]}
"""The options of skl2onnx for a classifier."""


def register_skl2onnx() -> None:
    """Register converters for ``DenseClassifier`` and ``DenseRegressor`` with skl2onnx, in the current process.

    The outputs are the same as for scikit-learn's estimators. A classifier has two outputs: the label and the
    probabilities, shape (samples, classes). A regressor has one output, of shape (samples, outputs).

    Raises
    ------
    MissingExtraError
        If skl2onnx or scikit-learn is not installed.

    Examples
    --------
    >>> import deepnotes as dn
    >>> dn.register_skl2onnx()  # doctest: +SKIP
    >>> model = skl2onnx.to_onnx(make_pipeline(StandardScaler(), dn.DenseClassifier()).fit(X, y), X[:1])
    ... # doctest: +SKIP
    """
    skl2onnx = import_optional("skl2onnx", "skl2onnx", "converting an estimator with skl2onnx")
    from deepnotes.estimators import DenseClassifier, DenseRegressor

    skl2onnx.update_registered_converter(
        DenseClassifier, "DeepnotesDenseClassifier", _classifier_shapes, _convert_classifier, options=OPTIONS
    )
    skl2onnx.update_registered_converter(
        DenseRegressor, "DeepnotesDenseRegressor", _regressor_shapes, _convert_regressor
    )


def _classifier_shapes(operator: Any) -> None:
    """Set the types and shapes of a classifier's outputs."""
    types = import_optional("skl2onnx.common.data_types", "skl2onnx", "converting an estimator with skl2onnx")
    model, samples = operator.raw_operator, operator.inputs[0].get_first_dimension()
    kind = types.StringTensorType if model.classes_.dtype.kind in "UO" else types.Int64TensorType
    operator.outputs[0].set_type(kind([samples, len(model.classes_)] if model._multilabel else [samples]))
    operator.outputs[1].type.shape = [samples, len(model.classes_)]


def _regressor_shapes(operator: Any) -> None:
    """Set the shape of a regressor's output."""
    samples = operator.inputs[0].get_first_dimension()
    operator.outputs[0].type.shape = [samples, operator.raw_operator.n_outputs_]


class _Graph:
    """Adds the nodes of one estimator to the graph of a pipeline."""

    def __init__(self, scope: Any, operator: Any, container: Any) -> None:
        self.scope, self.operator, self.container = scope, operator, container
        self.onnx = import_optional("onnx", "onnx", "an ONNX file")
        common = import_optional("skl2onnx.common.data_types", "skl2onnx", "converting an estimator with skl2onnx")
        kinds = self.onnx.TensorProto
        is_double = common.guess_proto_type(operator.inputs[0].type) == kinds.DOUBLE
        self.result = kinds.DOUBLE if is_double else kinds.FLOAT
        self.dtype = np.float64 if is_double else np.float32

    def node(self, op: str, inputs: list[str], output: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        name = output or self.scope.get_unique_variable_name(f"deepnotes_{op}")
        version = 1 if domain else OPSET
        unique = self.scope.get_unique_operator_name(op)
        self.container.add_node(op, inputs, [name], op_domain=domain, op_version=version, name=unique, **attributes)
        return name

    def constant(self, x: Any) -> str:
        """Add an initializer and return its name."""
        name: str = self.scope.get_unique_variable_name("deepnotes_constant")
        if x.dtype.kind == "U":
            content = [text.encode() for text in x.ravel()]
            self.container.add_initializer(name, self.onnx.TensorProto.STRING, list(x.shape), content)
        else:
            kind = self.onnx.helper.np_dtype_to_tensor_dtype(x.dtype)
            self.container.add_initializer(name, kind, list(x.shape), x.ravel().tolist())
        return name

    def outputs(self) -> str:
        """Add the nodes of the network and return the name of their result, shape (samples, outputs)."""
        chain = Chain.of(self.operator.raw_operator.to_network())
        kind = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(chain.dtype))
        names = {"X": self.node("Cast", [self.operator.inputs[0].full_name], to=kind)}
        trace, A = trace_chain(chain)
        names |= {name: self.constant(x) for name, x in trace.constants.items()}
        for node in trace.nodes:
            attributes = {a.name: self.onnx.helper.get_attribute_value(a) for a in node.attribute}
            names[node.output[0]] = self.node(node.op_type, [names[name] for name in node.input], **attributes)
        return self.node("Cast", [names[A.name]], to=self.result)


def _convert_regressor(scope: Any, operator: Any, container: Any) -> None:
    loss = operator.raw_operator._loss_function
    if loss.outputs_per_target > 1:
        raise ModelFileError(
            f"a DenseRegressor with loss={loss!r} has several outputs for each target, but skl2onnx expects one; use "
            "to_network().to_onnx(path)"
        )
    graph = _Graph(scope, operator, container)
    graph.node("Identity", [graph.outputs()], operator.outputs[0].full_name)


def _convert_classifier(scope: Any, operator: Any, container: Any) -> None:
    model, graph = operator.raw_operator, _Graph(scope, operator, container)
    label, probabilities = (output.full_name for output in operator.outputs[:2])
    A = graph.outputs()
    if model._multilabel:
        graph.node("Identity", [A], probabilities)
        half = graph.constant(np.array([0.5], graph.dtype))
        graph.node("Cast", [graph.node("Greater", [A, half])], label, to=graph.onnx.TensorProto.INT64)
        return
    if model.n_outputs_ == 1 and len(model.classes_) == 2:
        one = graph.constant(np.array([1], graph.dtype))
        graph.node("Concat", [graph.node("Sub", [one, A]), A], probabilities, axis=1)
    else:
        graph.node("Identity", [A], probabilities)
    indices = graph.node("ArgMax", [probabilities], axis=1, keepdims=0)
    classes = model.classes_
    if classes.dtype.kind not in "UOiub":
        raise ModelFileError(f"classes have the dtype {classes.dtype}, but skl2onnx needs integers or text")
    classes = classes.astype(str) if classes.dtype.kind in "UO" else classes.astype(np.int64)
    graph.node("Gather", [graph.constant(classes), indices], label, axis=0)
