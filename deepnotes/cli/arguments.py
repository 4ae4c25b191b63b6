"""The parser of the command line, options that several commands share, and types that check the values of options."""

import argparse
import importlib
import re
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

import deepnotes
from deepnotes.backends.base import Backend
from deepnotes.backends.registry import get_backend, is_selected
from deepnotes.cli.output import stdout_error, write_stdout
from deepnotes.utils.errors import ArgumentError, unknown_name
from deepnotes.utils.safe_text import NUMBER
from deepnotes.utils.wording import brief, reason

COMMANDS = (
    *("train", "search", "predict", "evaluate", "importance", "export", "explain"),
    *("backends", "bench", "conformance", "warmup", "data"),
)
"""The commands. Each is a module of this package with ``HELP``, ``configure(parser)`` and ``run(args, output)``."""
MODULES = {"data": "built_in_data"}
"""The modules of the commands whose module has another name."""

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

WHOLE = re.compile(r"[+-]?[0-9]+")
"""A whole number in ASCII digits; ``int`` would also accept underscores and digits of other scripts."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises its errors instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raise an ArgumentError with `message`, and with a note that names the command that shows the help."""
        raise with_hint(ArgumentError(message), f"try: {self.prog} --help")

    def _print_message(self, message: str, file: object = None) -> None:
        """Write the help or the version to stdout; unlike argparse, raise an error if writing fails."""
        try:
            write_stdout(message)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise stdout_error(reason(error)) from error


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    root = Parser(
        prog="deepnotes", description="Train and use dense networks on tables of numbers.", allow_abbrev=False
    )
    root.add_argument("--version", action="version", version=f"deepnotes {deepnotes.__version__}")
    commands = root.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"deepnotes.cli.{MODULES.get(name, name)}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
        module.configure(command)
        getattr(module, "add_json", add_json)(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return root


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option --json, for commands whose module has no ``add_json`` of its own."""
    parser.add_argument(
        "--json", action="store_true", help="write one JSON object to stdout and everything else to stderr"
    )


def add_json_to_file(parser: argparse.ArgumentParser) -> None:
    """Add an option --json that takes the name of the file to write, or no value to write to stdout."""
    parser.add_argument(
        "--json",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="write the report as JSON to FILE, or to stdout if no FILE is given",
    )


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the argument DATA."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a .csv, .tsv, .jsonl (also with .gz), .parquet, .feather, .arrow, .npz, .npy or IDX file, or the name of "
        "a built-in data set: digits, iris, moons, spirals, blobs, teacher",
    )


def add_from_disk(parser: argparse._ActionsContainer) -> None:
    """Add the option --from-disk."""
    parser.add_argument(
        "--from-disk",
        action="store_true",
        help="leave the samples on disk and read them when they are used, for data larger than memory; only for .npy, "
        ".npz, .parquet and IDX files of numbers",
    )


def add_unknown(parser: argparse._ActionsContainer) -> None:
    """Add the option --unknown."""
    parser.add_argument(
        "--unknown",
        choices=("error", "zeros"),
        default="error",
        help="what to do about a category that the model was not trained on: report an error (default), or encode it "
        "as zeros",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument MODEL."""
    parser.add_argument("model", metavar="MODEL", help="a model file written by 'deepnotes train' or 'search'")


def add_start(group: argparse._ActionsContainer) -> None:
    """Add the option --from."""
    group.add_argument(
        "--from",
        dest="start",
        metavar="MODEL",
        help="start from the weights of a model file, and take its columns, target, layers and standardization; the "
        "learning-rate schedule starts anew (default: start from random weights)",
    )


def add_backend(parser: argparse._ActionsContainer) -> None:
    """Add the option --backend."""
    parser.add_argument(
        "--backend",
        metavar="NAME",
        help="the backend to compute with (default: the selected one, which 'deepnotes backends' marks with *; if none "
        "is selected, 'train' takes auto)",
    )


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add the option --threads to a command that also has the option --backend."""
    parser.add_argument(
        "--threads",
        type=whole_number(1),
        metavar="NUMBER",
        help="the number of threads, for backends with this option (default: the backend decides)",
    )


def chosen_backend(args: argparse.Namespace) -> Backend:
    """Return the backend that --backend and --threads select, or else the default of the command.

    Raises
    ------
    UnknownNameError, BackendUnavailable
    ArgumentError
        If the backend has no option for the number of threads, or refuses the given number.
    """
    default = getattr(args, "default_backend", None)
    name = default if args.backend is None and not is_selected() else args.backend
    if args.threads is None:
        return get_backend(name)
    try:
        return get_backend(name, threads=args.threads)
    except ArgumentError as error:
        raise ArgumentError(f"argument --threads: {error}") from None


def with_hint(error: E, hint: str) -> E:
    """Add `hint` to `error` as a note, which is shown on a separate line, and return the error."""
    error.add_note(hint)
    return error


def one_of(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return an option type that accepts only the names in `known`.

    In the error message, `kind` says what these names stand for, such as "activation".
    """

    def convert(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(str(unknown_name(kind, text, known)))
        return text

    return convert


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return an option type that accepts integers of at least `minimum`."""
    return _number_type(WHOLE, int, lambda value: value >= minimum, f"a whole number of at least {minimum}")


def number(expected: str, is_valid: Callable[[float], bool]) -> Callable[[str], float]:
    """Return an option type that accepts the finite numbers for which `is_valid` is true.

    `expected` describes these numbers in the error message.
    """
    return _number_type(NUMBER, float, lambda value: abs(value) < float("inf") and is_valid(value), expected)


def layer_sizes(text: str) -> tuple[int, ...]:
    """Convert a string such as ``128,64`` to the sizes of the hidden layers, and ``none`` to an empty tuple."""
    return () if text == "none" else tuple(whole_number(1)(size.strip(" ")) for size in text.split(","))


def _number_type(
    pattern: re.Pattern[str], convert: Callable[[str], T], is_valid: Callable[[T], bool], expected: str
) -> Callable[[str], T]:
    def parse(text: str) -> T:
        try:
            value = convert(text) if pattern.fullmatch(text) else None
        except ValueError:  # int refuses numbers with thousands of digits
            value = None
        if value is None or not is_valid(value):
            raise argparse.ArgumentTypeError(f"got {brief(repr(text))}, wanted {expected}")
        return value

    return parse
