"""What keeps Numba from working is named with its cure, and ``auto`` goes on to NumPy; what does not, works."""

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


def tried(before: str = "", **environment: str) -> tuple[str, str, str]:
    """Return what a new process says of the backend, which one "auto" is there, and what it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", before + TRY], env=os.environ | environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    said, auto = done.stdout.splitlines()
    return said, auto, done.stderr


@pytest.mark.thinned(2)
@pytest.mark.parametrize(
    ("name", "value", "cause"),
    [
        ("NUMBA_DISABLE_JIT", "1", "NUMBA_DISABLE_JIT switches the compiler off"),
        ("NUMBA_NUM_THREADS", "0", "Numba cannot be imported: ValueError: Number of threads"),
        ("NUMBA_FUNCTION_CACHE_SIZE", "-1", "Numba cannot be imported: ValueError: maxlen"),
        ("NUMBA_CPU_FEATURES", "avx2", "NUMBA_CPU_FEATURES holds 'avx2', wanted + or - and"),
    ],
)
def test_a_setting_with_which_numba_does_not_work(name: str, value: str, cause: str) -> None:
    said, auto, err = tried(**{name: value})
    assert said.startswith(cause)
    assert said.endswith(f"| unset {name}")
    assert (auto, err) == ("numpy", "")


def test_the_list_of_backends_says_so() -> None:
    words = [sys.executable, "-m", "deepnotes", "backends", "--json"]
    done = subprocess.run(words, env=os.environ | {"NUMBA_DISABLE_JIT": "1"}, capture_output=True, text=True)
    assert done.returncode == 0
    assert '"cause": "NUMBA_DISABLE_JIT switches the compiler off"' in done.stdout


def test_a_setting_that_numba_ignores_is_a_line_in_the_log() -> None:
    said, auto, err = tried(NUMBA_NUM_THREADS="two")
    assert (said[:6], auto) == ("works:", "numba")
    assert err == "numba: NUMBA_NUM_THREADS='two' is not a value that Numba takes, and is ignored\n"


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
def test_libraries_that_are_missing_or_do_not_fit(before: str, cause: str, fix: str) -> None:
    said, auto, _ = tried(before)
    assert said.startswith(cause)
    assert said.endswith(f"| {fix}")
    assert auto == "numpy"


def test_scipy_is_not_needed() -> None:
    load = "from deepnotes_numba.compiled_equations import dropout_mask"
    said, auto, _ = tried(f"import sys; sys.modules['scipy'] = None; {load}; dropout_mask((2, 2), 0.0, 1, 2, 3)")
    assert (said[:6], auto) == ("works:", "numba")


@pytest.mark.parametrize(
    ("setting", "refused"),
    [(None, False), ("", False), ("-avx512f", False), ("+unheard-of,-avx", False), ("+no", True), ("avx", True),
     ("+avx,,", True)],
)  # fmt: skip
def test_features_of_a_processor(setting: str | None, refused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from llvmlite import binding

    monkeypatch.setattr(binding, "get_host_cpu_features", lambda: {"avx": True, "no": False})
    if not refused:
        availability._check_features(setting)
        return
    with pytest.raises(dn.BackendUnavailable, match="unset NUMBA_CPU_FEATURES"):
        availability._check_features(setting)


def test_a_damaged_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".numba_config.yaml").write_text("a: [")
    monkeypatch.chdir(tmp_path)
    cause, fix = availability._cause_and_fix(RuntimeError("while parsing\n a flow"))
    assert cause == "Numba cannot be imported: RuntimeError: while parsing a flow"
    assert ".numba_config.yaml" in fix
