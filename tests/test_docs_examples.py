"""The blocks of the README and of the pages in docs/ run as they are printed, and print what is printed there.

All blocks of a page run in order, in one directory: Python in one namespace, commands (``console``) in a shell. A
``text`` block is what the Python block before it prints. Where a page prints a number, a whole number has to be the
same, and another one within a factor of three, since it depends on the machine. An HTML comment before a block,
``<!-- not run: REASON -->``, exempts it.
"""

import ast
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted(DOCS.glob("*.md")))]
REQUIRED_MODULES = {
    "README.md": ("pyarrow", "matplotlib", "onnx", "onnxruntime"),
    "docs/arrays.md": ("torch",),
    "docs/benchmarks.md": ("matplotlib", "numba"),
    "docs/checkpoints.md": ("pyarrow",),
    "docs/conformance.md": ("numba",),
    "docs/data.md": ("pyarrow",),
    "docs/extending.md": ("numba",),
    "docs/estimators.md": ("sklearn", "matplotlib", "pandas"),
    "docs/exchange.md": ("pyarrow", "onnx", "onnxruntime", "sklearn", "skl2onnx"),
    "docs/models.md": ("pyarrow", "pandas", "matplotlib"),
    "docs/numba.md": ("numba",),
    "docs/plots.md": ("matplotlib", "tensorboardX"),
    "docs/search.md": ("sklearn",),
    "docs/uncertainty.md": ("matplotlib", "sklearn"),
}
SLOW = {"docs/benchmarks.md", "docs/conformance.md", "docs/numba.md"}
NOT_RUN = {
    "a fragment",
    "measures for minutes, and writes to the repository",
    "needs a GPU",
    "needs several processes",
    "its table contains durations",
    "builds an image",
    ".ci/run runs it",
}
"""The reasons for which a block may be exempt."""
BLOCK = re.compile(
    r"(?:^ *<!-- not run: (?P<reason>.*?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?")
DURATION = re.compile(r"\d[\d,]*(?:\.\d+)? s\b")


class Block(NamedTuple):
    """A fenced block of a page, and the reason why it is not run, or None."""

    language: str
    code: str
    reason: str | None


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [Block(match["language"], match["code"], match["reason"]) for match in BLOCK.finditer(text)]


def matches(expected: str, line: str) -> bool:
    """Return whether a printed line agrees with the line of the page, in which ``...`` stands for anything.

    Durations are not compared.
    """
    expected, line = (DURATION.sub("0 s", text) for text in (expected, line))
    texts = [re.escape(text).replace(r"\.\.\.", ".*") for text in NUMBER.split(expected.rstrip())]
    found = re.fullmatch(f"({NUMBER.pattern})".join(texts), line.rstrip())
    return found is not None and all(map(agree, NUMBER.findall(expected), found.groups()))


def agree(stated: str, actual: str) -> bool:
    """Return whether two numbers are equal or, if the stated one is not whole, within a factor of three."""
    if re.fullmatch(r"[\d,]+", stated):
        return stated == actual
    a, b = (float(number.replace(",", "")) for number in (stated, actual))
    return a <= 3 * b and b <= 3 * a


def missing_line(expected: list[str], printed: list[str]) -> str | None:
    """Return the first expected line that was not printed after the ones before it, or None."""
    rest = iter(printed)
    return next((line for line in expected if line.strip() and not any(matches(line, other) for other in rest)), None)


def run_console(code: str, folder: Path) -> None:
    """Run the commands of a block, each after ``$``, and compare what they print with the lines that follow it."""
    environment = os.environ | {
        "PATH": os.pathsep.join([str(make_programs(folder)), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        "COLUMNS": "200",
    }
    for part in re.split(r"^\$ ", code, flags=re.MULTILINE)[1:]:
        command, *expected = part.splitlines()
        if command.startswith("pip install "):  # .ci/run installs it
            continue
        process = subprocess.run(
            ["bash", "-c", command], cwd=folder, env=environment, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=550, check=False,
        )  # fmt: skip
        fails = any("error: " in line for line in expected)
        assert (process.returncode != 0) == fails, f"{command}\n{process.stdout}"
        line = missing_line(expected, process.stdout.splitlines())
        assert line is None, f"{command}\nprinted no line like\n{line}\nbut\n{process.stdout}"


def make_programs(folder: Path) -> Path:
    """Make a directory with the programs that pages call, run by this Python."""
    programs = folder / ".programs"
    programs.mkdir(exist_ok=True)
    for name, arguments in {"python": "", "deepnotes": "-m deepnotes", "pytest": "-m pytest"}.items():
        path = programs / name
        path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {arguments} "$@"\n')
        path.chmod(0o755)
    return programs


def run_python(code: str, page: str, names: dict[str, object]) -> list[str]:
    """Run a block, check the values that its comments state, and return the lines that it prints."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, page, "exec"), names)
    for line in code.splitlines():
        if claim := re.fullmatch(r"([\w.\[\], ()]+?) +# (\([\d, ]*\)|'.*'|\[.*\])", line):
            assert eval(claim[1], names) == ast.literal_eval(claim[2]), line
    return printed.getvalue().splitlines()


@pytest.mark.filterwarnings("ignore:training did not converge")  # the examples are short
@pytest.mark.parametrize("page", [pytest.param(page, marks=[pytest.mark.slow] * (page in SLOW)) for page in PAGES])
def test_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in REQUIRED_MODULES.get(page, ()):
        pytest.importorskip(module, reason=f"the examples of {page} need {module}")
    if page == "docs/exchange.md" and shutil.which("cc") is None:
        pytest.skip(f"the examples of {page} need a C compiler")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    printed: list[str] = []
    for block in blocks(page):
        if block.reason is not None:
            assert block.reason in NOT_RUN
        elif block.language == "python":
            printed = run_python(block.code, page, names)
        elif block.language == "console":
            run_console(block.code, tmp_path)
        elif block.language == "math":  # mkdocs sets it, see .ci/mathematics.py
            continue
        else:
            assert block.language == "text", f"a block of {page} in {block.language or 'no language'}"
            line = missing_line(block.code.splitlines(), printed)
            assert line is None, f"{page} printed no line like\n{line}\nbut\n" + "\n".join(printed)


@pytest.mark.parametrize("page", PAGES)
def test_extras_and_linked_files_exist(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for names in re.findall(r'pip install [^\n]*?"(?:deepnotes|\.)\[([\w,]+)\]"', text):
        assert set(names.split(",")) <= set(extras), names
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", re.sub(r"`[^`\n]*`", "", text)):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_no_block_installs_from_an_index(page: str) -> None:
    """As long as deepnotes is on none, `pip install deepnotes` works only where it is installed already."""
    for block in blocks(page):
        assert not re.search(r"^(\$ |RUN )?pip install [^&\n]*\bdeepnotes\b", block.code, flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("expected", "line", "agrees"),
    [
        ("0.031 of 80 outputs", "0.02 of 80 outputs", True),
        ("0.031 of 80 outputs", "0.0015 of 80 outputs", False),
        ("0.031 of 80 outputs", "0.031 of 81 outputs", False),
        ("known: Aub, ...; 3 rows", "known: Aub, Hof 7; 3 rows", True),
        ("a (b)", "a [b]", False),
        ("time 4.79 s for 6 networks", "time 0.2 s for 6 networks", True),
        ("time 4.79 s for 6 networks", "time 4.79 s for 7 networks", False),
    ],
)
def test_lines_are_compared_with_their_numbers(expected: str, line: str, agrees: bool) -> None:
    assert matches(expected, line) == agrees
