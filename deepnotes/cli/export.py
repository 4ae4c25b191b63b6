"""``deepnotes export``: a model as an ONNX file, and as a Python file that needs only NumPy."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import deepnotes
from deepnotes.cli.arguments import add_model, hinted
from deepnotes.cli.output import Output, counted
from deepnotes.cli.output_paths import require_output_paths
from deepnotes.cli.tasks import Regression, from_metadata
from deepnotes.network.network import Network
from deepnotes.utils.errors import ArgumentError, DeepnotesError, MissingExtraError, ModelFileError
from deepnotes.utils.wording import listed

if TYPE_CHECKING:
    from deepnotes.network.formats.chain import Chain, Target

HELP = "Write a model, with all that is done to its inputs, as a file that runs without deepnotes."


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``export``."""
    add_model(parser)
    parser.add_argument("--onnx", metavar="FILE", help="write an ONNX file")
    parser.add_argument(
        "--python", metavar="FILE", help="write a file of Python that needs only NumPy; 'python FILE --check' tests it"
    )


def run(args: argparse.Namespace, output: Output) -> None:
    """Read and convert the model, check the result against the test vectors, write it and report."""
    from deepnotes.network.formats.chain import Chain
    from deepnotes.network.formats.onnx_writing import write

    wanted = {"onnx": args.onnx, "python": args.python}
    paths = {name: Path(path) for name, path in wanted.items() if path is not None}
    if not paths:
        raise hinted(ArgumentError("--onnx FILE, --python FILE or both are wanted"), "try: deepnotes export --help")
    require_output_paths({f"--{name}": path for name, path in paths.items()}, [Path(args.model)])

    network = deepnotes.load(args.model, "numpy")
    chain = Chain.of(network, _target(args.model, network))
    if "onnx" in paths and (encoder := chain.encoder) is not None:
        encoded = [f.name for f in encoder.features if f.categories is not None or f.fill is not None]
        raise hinted(
            ArgumentError(
                f"--onnx: {args.model} encodes or imputes columns ({listed(encoded)}), and an ONNX file of deepnotes "
                "takes the numbers that come of it"
            ),
            "use --python, which does it all, or net.to_onnx for the network behind it",
        )
    makers: dict[str, Any] = {"onnx": _onnx, "python": _python}
    # All files are made before any is written.
    made: dict[str, Any] = {name: makers[name](chain, output) for name in paths}
    found: dict[str, Any] = {"onnx": None, "python": None}
    told = [("model", f"{args.model}: {chain}, {chain.dtype}")]
    for name, (content, about, facts) in made.items():
        size = write(paths[name], content).stat().st_size
        found[name] = {"path": str(paths[name]), "bytes": size, **about}
        told += [(name, f"{paths[name]}: {counted(size, 'byte')}"), ("checked", facts)]
    output.facts(told)
    output.outcome(
        {
            "command": "export",
            "model": args.model,
            "features": chain.inputs,
            "outputs": chain.outputs,
            "dtype": chain.dtype,
            **found,
        }
    )


def _target(path: str, network: Network) -> "Target | None":
    """Return the units of the target of a regression, as ``deepnotes predict`` gives it; None where there are none."""
    from deepnotes.network.formats.chain import Target

    if "task" not in network.metadata:
        return None
    try:
        task = from_metadata(network.metadata, network.outputs)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise ModelFileError(f"{path} does not say what its outputs mean ({type(error).__name__}: {error})") from error
    return Target(task.mean, task.scale) if isinstance(task, Regression) else None


def _onnx(chain: "Chain", output: Output) -> tuple[bytes, dict[str, Any], str]:
    from deepnotes.network.formats import onnx_writing, vectors

    content = onnx_writing.to_onnx(chain)
    told = f"by onnx.checker, opset {onnx_writing.OPSET}"
    about: dict[str, Any] = {"opset": onnx_writing.OPSET, "checked_with": None, "worst": None}
    tests = vectors.vectors_of(chain)
    try:
        found, runtime = onnx_writing.run(content, tests)
    except MissingExtraError as error:
        output.log(f"not run: {error}")
        return content, about, told
    worst = vectors.worst(found, tests)
    if not worst <= 1:
        raise DeepnotesError(f"{runtime} is off by {worst:.3g} times what rounding may do; nothing was written")
    about |= {"checked_with": runtime, "worst": worst}
    return content, about, f"{told}, and run by {runtime}: off by at most {worst:.2g} of what rounding may do"


def _python(chain: "Chain", output: Output) -> tuple[str, dict[str, Any], str]:
    from deepnotes.network.formats import python_writing

    content = python_writing.to_python(chain)
    told = python_writing.check(content)
    return content, {"checked": told}, told
