"""``deepnotes export``: write a model as an ONNX file, a Python file that needs only NumPy, or a C99 file."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepnotes.cli.arguments import add_model, with_hint
from deepnotes.cli.output import Output, format_count
from deepnotes.cli.output_paths import require_output_paths
from deepnotes.cli.tasks import Distribution, Regression, Regressions, from_metadata
from deepnotes.network.ensemble import Ensemble
from deepnotes.network.loading.model_reading import load_network
from deepnotes.network.network import Network
from deepnotes.utils.errors import ArgumentError, DeepnotesError, MissingExtraError, ModelFileError
from deepnotes.utils.wording import join_names

if TYPE_CHECKING:
    from deepnotes.network.formats.chain import Exportable, Target

HELP = "Export a model, with the preprocessing of its inputs, to a file that can be used without deepnotes."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export``."""
    add_model(parser)
    parser.add_argument("--onnx", metavar="FILE", help="write an ONNX file")
    parser.add_argument(
        "--python", metavar="FILE", help="write a Python file that needs only NumPy; 'python FILE --check' tests it"
    )
    parser.add_argument("--c", metavar="FILE", help="write a C99 file that needs only math.h and allocates no memory")
    parser.add_argument(
        "--int8", action="store_true", help="store the weights in the C file in 8 bits each, times a scale per neuron"
    )


def run(args: argparse.Namespace, output: Output) -> None:
    """Convert the model, check the result with test vectors, and write the requested files."""
    from deepnotes.network.formats.chain import Chain, ChainMean
    from deepnotes.network.formats.onnx_writing import write

    paths = {name: Path(path) for name in ("onnx", "python", "c") if (path := getattr(args, name)) is not None}
    if not paths:
        raise with_hint(
            ArgumentError("no output: give --onnx FILE, --python FILE or --c FILE"), "try: deepnotes export --help"
        )
    if args.int8 and "c" not in paths:
        raise ArgumentError("--int8 has no effect without --c FILE")
    require_output_paths({f"--{name}": path for name, path in paths.items()}, [Path(args.model)])

    network = load_network(args.model, "numpy")
    target = _target(args.model, network)
    if isinstance(network, Ensemble):
        chain: Exportable = ChainMean.of(network.networks, network.metadata, target)
    else:
        chain = Chain.of(network, target)
    if "c" in paths:
        _require_no_encoding(args.model, chain)
    to_c = partial(_convert_to_c, path=args.c, weights="int8" if args.int8 else "exact")
    converters: dict[str, Any] = {"onnx": _convert_to_onnx, "python": _convert_to_python, "c": to_c}
    # If a conversion fails, no file is written.
    converted: dict[str, Any] = {name: converters[name](chain, output) for name in paths}
    details: dict[str, Any] = {"onnx": None, "python": None, "c": None}
    facts = [("model", f"{args.model}: {chain}, {chain.dtype}")]
    for name, (content, check, description) in converted.items():
        size = write(paths[name], content).stat().st_size
        details[name] = {"path": str(paths[name]), "bytes": size, **check}
        facts += [(name, f"{paths[name]}: {format_count(size, 'byte')}"), ("checked", description)]
    output.facts(facts)
    output.outcome(
        {
            "command": "export",
            "model": args.model,
            "features": chain.inputs,
            "outputs": chain.outputs,
            "dtype": chain.dtype,
            **details,
        }
    )


def _require_no_encoding(path: str, chain: "Exportable") -> None:
    """Raise ArgumentError if the model encodes or imputes columns, since a C file is exported without this step."""
    if chain.encoder is None:
        return
    encoded = [f.name for f in chain.encoder.features if f.categories is not None or f.fill is not None]
    raise with_hint(
        ArgumentError(
            f"--c: {path} encodes or imputes columns ({join_names(encoded)}), but a C file exported by deepnotes takes "
            "columns that are already encoded"
        ),
        "use --onnx or --python, which include the encoding, or Network.to_c, which exports the network without it",
    )


def _target(path: str, network: Network | Ensemble) -> "Target | None":
    """Return the scaling that converts a regression's outputs to the units of the target; None for other networks."""
    from deepnotes.network.formats.chain import Target

    if "task" not in network.metadata:
        return None
    try:
        task = from_metadata(network.metadata, network.outputs)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(
            f"{path} has no valid description of its outputs ({type(error).__name__}: {error})"
        ) from error
    if isinstance(task, Regressions | Distribution):
        what = "several targets" if isinstance(task, Regressions) else "several numbers for each target"
        raise ArgumentError(
            f"{path} predicts {what}, but export takes one; dn.load({path!r}).network.to_onnx and to_python "
            "export the network, whose outputs are scaled"
        )
    return Target(task.mean, task.scale) if isinstance(task, Regression) else None


def _convert_to_onnx(chain: "Exportable", output: Output) -> tuple[bytes, dict[str, Any], str]:
    """Return the content of the ONNX file, and the result of its check, both as JSON values and as text.

    Raises
    ------
    DeepnotesError
        If an output of ONNX Runtime exceeds its error bound.
    """
    from deepnotes.network.formats import check_vectors, onnx_encoding, onnx_writing

    content = onnx_writing.to_onnx(chain, chain.encoder)
    description = f"by onnx.checker, opset {onnx_writing.OPSET}"
    check: dict[str, Any] = {"opset": onnx_writing.OPSET, "checked_with": None, "worst": None}
    if chain.encoder is None:
        tests = check_vectors.vectors_of(chain)
        inputs: Any = tests
    else:
        inputs, X = onnx_encoding.sample_columns(chain.encoder)
        tests = check_vectors.vectors_from(chain, X)
    try:
        outputs, runtime = onnx_writing.run(content, inputs)
    except MissingExtraError as error:
        output.log(f"not run: {error}")
        return content, check, description
    worst = check_vectors.worst(outputs, tests)
    if not worst <= 1:
        raise DeepnotesError(
            f"{runtime}: the largest error is {worst:.3g} times the bound on rounding errors; no file was written"
        )
    check |= {"checked_with": runtime, "worst": worst}
    return content, check, f"{description}, and run by {runtime}: no error exceeds {worst:.2g} times its bound"


def _convert_to_python(chain: "Exportable", output: Output) -> tuple[str, dict[str, Any], str]:
    """Return the content of the Python file, and the result of its check, both as JSON values and as text."""
    from deepnotes.network.formats import python_writing

    content = python_writing.to_python(chain)
    description = python_writing.check(content)
    return content, {"checked": description}, description


def _convert_to_c(chain: "Exportable", output: Output, path: str, weights: str) -> tuple[str, dict[str, Any], str]:
    """Return the content of the C file, and the result of its check, both as JSON values and as text."""
    from deepnotes.network.formats import c_writing

    content = c_writing.to_c(chain, c_writing.identifier(path), weights)
    checked = c_writing.check(content)
    if checked is None:
        output.log("not compiled: there is no C compiler cc")
        return content, {"weights": weights, "compiler": None, "checked": None}, "not compiled, as there is no compiler"
    compiler, description = checked
    return content, {"weights": weights, "compiler": compiler, "checked": description}, description
