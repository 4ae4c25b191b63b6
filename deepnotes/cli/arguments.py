"""The parser, the options that commands share, and the types of options, which check values before any work."""

import argparse
import importlib
import re
from collections.abc import Callable, Iterable
from typing import NoReturn, TypeVar

import deepnotes
from deepnotes.backends.base import Backend
from deepnotes.backends.registry import get_backend
from deepnotes.cli.output import unwritten, write_stdout
from deepnotes.utils.errors import ArgumentError, unknown_name
from deepnotes.utils.safe_text import NUMBER
from deepnotes.utils.wording import brief, reason

COMMANDS = ("train", "predict", "evaluate", "export", "backends", "bench", "conformance", "warmup")
"""Each is a module of this package with ``HELP``, ``configure(parser)`` and ``run(args, output)``."""

T = TypeVar("T")
E = TypeVar("E", bound=Exception)

WHOLE = re.compile(r"[+-]?[0-9]+")
"""A whole number in ASCII digits; ``int`` would take underscores and digits of other scripts as well."""


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors."""

    def error(self, message: str) -> NoReturn:
        """Raise `message` with a pointer to the help."""
        raise hinted(ArgumentError(message), f"try: {self.prog} --help")

    def _print_message(self, message: str, file: object = None) -> None:
        """Write help or version to stdout: all of it, or raise an error, which argparse would not."""
        try:
            write_stdout(message)
        except BrokenPipeError:
            raise
        except (OSError, ValueError) as error:
            raise unwritten(reason(error)) from error


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    whole_line = Parser(
        prog="deepnotes", description="Train and use dense networks on tables of numbers.", allow_abbrev=False
    )
    whole_line.add_argument("--version", action="version", version=f"deepnotes {deepnotes.__version__}")
    commands = whole_line.add_subparsers(metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"deepnotes.cli.{name}")
        command = commands.add_parser(name, help=module.HELP, description=module.HELP, allow_abbrev=False)
        module.configure(command)
        getattr(module, "add_json", add_json)(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return whole_line


def add_json(parser: argparse.ArgumentParser) -> None:
    """Add the option --json; a command may have one of its own."""
    parser.add_argument("--json", action="store_true", help="write one JSON object to stdout, the rest to stderr")


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add the argument DATA."""
    parser.add_argument(
        "data",
        metavar="DATA",
        help="a .csv, .csv.gz, .parquet, .npz, .npy or IDX file, or what comes with deepnotes: digits, moons, spirals, "
        "blobs, teacher",
    )


def add_from_disk(parser: argparse._ActionsContainer) -> None:
    """Add the option --from-disk."""
    parser.add_argument(
        "--from-disk",
        action="store_true",
        help="leave the samples on disk, for data larger than memory: .npy, .npz, .parquet and IDX files of numbers",
    )


def add_unknown(parser: argparse._ActionsContainer) -> None:
    """Add the option --unknown."""
    parser.add_argument(
        "--unknown",
        choices=("error", "zeros"),
        default="error",
        help="what a category is that the model does not know: an error (default), or none",
    )


def add_model(parser: argparse.ArgumentParser) -> None:
    """Add the argument MODEL."""
    parser.add_argument("model", metavar="MODEL", help="a model file that 'deepnotes train' wrote")


def add_backend(parser: argparse._ActionsContainer) -> None:
    """Add the option --backend."""
    parser.add_argument("--backend", metavar="NAME", help="see 'deepnotes backends'; default: the selected one")


def add_threads(parser: argparse._ActionsContainer) -> None:
    """Add the option --threads, which belongs beside --backend."""
    parser.add_argument(
        "--threads",
        type=whole(1),
        metavar="NUMBER",
        help="how many the backend may use, if it is one that can be told (default: as it likes)",
    )


def chosen_backend(args: argparse.Namespace) -> Backend:
    """Return the backend that --backend and --threads ask for.

    Raises
    ------
    UnknownNameError, BackendUnavailable
    ArgumentError
        If it has no option for the number of threads, or does not accept this number.
    """
    if args.threads is None:
        return get_backend(args.backend)
    try:
        return get_backend(args.backend, threads=args.threads)
    except ArgumentError as error:
        raise ArgumentError(f"argument --threads: {error}") from None


def hinted(error: E, hint: str) -> E:
    """Return `error` with a line below it that says what to do."""
    error.add_note(hint)
    return error


def named(kind: str, known: Iterable[str]) -> Callable[[str], str]:
    """Return the type of an option that takes one of the `known` names."""

    def convert(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(str(unknown_name(kind, text, known)))
        return text

    return convert


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an option that takes an integer of at least `least`."""
    return _checked(WHOLE, int, lambda value: value >= least, f"a whole number of at least {least}")


def number(wanted: str, good: Callable[[float], bool]) -> Callable[[str], float]:
    """Return the type of an option that takes a finite number for which `good` holds; `wanted` says so in words."""
    return _checked(NUMBER, float, lambda value: abs(value) < float("inf") and good(value), wanted)


def sizes(text: str) -> tuple[int, ...]:
    """Return the sizes of hidden layers, such as ``128,64``; none for ``none``."""
    return () if text == "none" else tuple(whole(1)(size.strip(" ")) for size in text.split(","))


def _checked(
    form: re.Pattern[str], convert: Callable[[str], T], good: Callable[[T], bool], wanted: str
) -> Callable[[str], T]:
    def checked(text: str) -> T:
        try:
            value = convert(text) if form.fullmatch(text) else None
        except ValueError:  # more digits than Python is willing to convert
            value = None
        if value is None or not good(value):
            raise argparse.ArgumentTypeError(f"got {brief(repr(text))}, wanted {wanted}")
        return value

    return checked
