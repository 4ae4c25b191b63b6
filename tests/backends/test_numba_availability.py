"""If Numba cannot work, the error names the cause and the fix, and ``auto`` falls back to NumPy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import deepnotes as dn

pytest.importorskip("numba")
from deepnotes_numba import availability

pytestmark = pytest.mark.slow

TRY = """
import deepnotes as dn
try:
    print("works:", dn.get_backend("numba").describe())
except dn.BackendUnavailable as error:
    print(f"{error.cause} | {error.fix}")
print(dn.get_backend("auto").name)
"""
INSTALL = 'pip install "deepnotes[numba]"'


def try_backend(before: str = "", **environment: str) -> tuple[str, str, str]:
    """Run `before` and TRY in a new process; return the description or error, the name that "auto" gets, and stderr."""
    process = subprocess.run(
        [sys.executable, "-c", before + TRY],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    outcome, auto = process.stdout.splitlines()
    return outcome, auto, process.stderr


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("NUMBA_DISABLE_JIT", "1", "NUMBA_DISABLE_JIT switches the compiler off"),
        ("NUMBA_NUM_THREADS", "0", "Numba cannot be imported: ValueError: Number of threads"),
        ("NUMBA_FUNCTION_CACHE_SIZE", "-1", "Numba cannot be imported: ValueError: maxlen"),
        ("NUMBA_CPU_FEATURES", "avx2", "NUMBA_CPU_FEATURES contains 'avx2', wanted + or - and"),
    ],
)
def test_a_setting_that_disables_numba_is_named(name: str, value: str, cause: str) -> None:
    outcome, auto, err = try_backend(**{name: value})
    assert outcome.startswith(cause)
    assert outcome.endswith(f"| unset {name}")
    assert (auto, err) == ("numpy", "")


def test_the_backends_command_names_a_setting_that_disables_numba() -> None:
    command = [sys.executable, "-m", "deepnotes", "backends", "--json"]
    process = subprocess.run(command, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert process.returncode == 0
    assert '"cause": "NUMBA_DISABLE_JIT switches the compiler off"' in process.stdout


def test_an_invalid_setting_that_numba_ignores_is_logged() -> None:
    outcome, auto, err = try_backend(NUMBA_NUM_THREADS="two")
    assert (outcome[:6], auto) == ("works:", "numba")
    assert err == "numba: NUMBA_NUM_THREADS='two' is not a valid value and is ignored\n"


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("before", "cause", "fix"),
    [
        ("import sys; sys.modules['numba'] = None", "Python cannot find 'numba'", INSTALL),
        ("import sys; sys.modules['llvmlite'] = None", "Python cannot find 'llvmlite'", INSTALL),
        ("import llvmlite as m; m.__version__ = '0.1.0'", "Numba cannot be imported: Numba requires at least", INSTALL),
        ("import numpy; numpy.__version__ = '9.0.0'", "Numba cannot be imported: Numba needs NumPy", INSTALL),
        (
            "import sys, types; sys.modules['scipy'] = s = types.ModuleType('scipy'); s.__version__ = '0.9.0'",
            "Numba cannot be imported: Numba requires SciPy", "pip install --upgrade scipy",
        ),
    ],
)  # fmt: skip
def test_missing_or_incompatible_libraries_are_named(before: str, cause: str, fix: str) -> None:
    outcome, auto, _ = try_backend(before)
    assert outcome.startswith(cause)
    assert outcome.endswith(f"| {fix}")
    assert auto == "numpy"


def test_numba_works_without_scipy() -> None:
    load = "from deepnotes_numba.compiled_equations import dropout_mask"
    outcome, auto, _ = try_backend(
        f"import sys; sys.modules['scipy'] = None; {load}; dropout_mask((2, 2), 0.0, 1, 2, 3)"
    )
    assert (outcome[:6], auto) == ("works:", "numba")


@pytest.mark.parametrize(
    ("setting", "refused"),
    [(None, False), ("", False), ("-avx512f", False), ("+unheard-of,-avx", False), ("+no", True), ("avx", True),
     ("+avx,,", True)],
)  # fmt: skip
def test_misspelled_or_missing_processor_features_are_refused(
    setting: str | None, refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llvmlite import binding

    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: {"avx": True, "no": False})
    if not refused:
        availability._check_features(setting)
        return
    with pytest.raises(dn.BackendUnavailable, match="unset NUMBA_CPU_FEATURES"):
        availability._check_features(setting)


def test_an_invalid_numba_config_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".numba_config.yaml").write_text("a: [")
    monkeypatch.chdir(tmp_path)
    cause, fix = availability._cause_and_fix(RuntimeError("while parsing\n a flow"))
    assert cause == "Numba cannot be imported: RuntimeError: while parsing a flow"
    assert ".numba_config.yaml" in fix
