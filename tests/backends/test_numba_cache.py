"""The Numba backend's cache with damaged files, read-only folders, full disks, several processes, or no folder."""

import errno
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn

pytest.importorskip("numba")
import deepnotes_numba
from deepnotes_numba import cache
from deepnotes_numba.compiling import entry

pytestmark = pytest.mark.slow

PACKAGE = Path(deepnotes_numba.__file__).parent
MODULE = """
import numpy as np
from deepnotes_numba.compiling import entry

@entry("a sum of squares")
def squares(x):
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    return total
"""
"""A module with one function, which compiles quickly."""
CALL = f"{MODULE}\nprint(squares(np.arange(4.0)))"


def run(code: str, folder: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"DEEPNOTES_CACHE_DIR": str(folder)} | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def log_lines(process: subprocess.CompletedProcess[str]) -> list[str]:
    """Check that a process printed the right sum, and return the lines that it logged."""
    assert (process.returncode, process.stdout) == (0, "14.0\n"), process.stderr
    return process.stderr.splitlines()


def only_file(folder: Path) -> Path:
    """Return the only file below a cache folder."""
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def damage(content: bytes, rng: random.Random) -> bytes:
    """Truncate a file's content, append bytes to it, or (most often) flip one bit of it, at random."""
    position = rng.randrange(len(content))
    kind = rng.randrange(8)
    if kind == 0:
        return content[:position]
    if kind == 1:
        return content + rng.randbytes(1 + position % 9)
    return content[:position] + bytes([content[position] ^ 1 << rng.randrange(8)]) + content[position + 1 :]


CallSquares = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def call_squares(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[CallSquares]:
    """Return a function that calls `squares` as a new process would.

    The function returns the number of cache hits and the list of warnings.
    """

    def call_squares(folder: Path, *dtypes: str) -> tuple[int, list[str]]:
        cache.code_folder.cache_clear()
        monkeypatch.setenv("DEEPNOTES_CACHE_DIR", str(folder))
        monkeypatch.setattr(cache, "_announced", set())
        monkeypatch.setattr(cache, "_warned", set())
        caplog.clear()
        namespace: dict[str, Any] = {"__name__": "small"}
        exec(MODULE, namespace)
        for dtype in dtypes or ("float64",):
            assert namespace["squares"](np.arange(4.0, dtype=dtype)) == 14
        hits = sum(namespace["squares"].stats.cache_hits.values())
        return hits, [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    yield call_squares
    cache.code_folder.cache_clear()


@pytest.fixture
def warm_cache(call_squares: CallSquares, tmp_path: Path) -> Path:
    """Return a cache folder that holds the compiled code of `squares`."""
    folder = tmp_path / "cache"
    hits, (message,) = call_squares(folder)
    assert hits == 0
    assert re.fullmatch(
        r"numba: compiling a sum of squares for float64 takes a few seconds, once: .* kept in .*numba-.*", message
    )
    assert call_squares(folder) == (1, [])
    return folder


@pytest.fixture(scope="module")
def cached_functions() -> dict[Path, tuple[Any, Any]]:
    """Train and predict; map each cache file to the compiled function and the signature whose code it holds."""
    from deepnotes_numba import prediction, training

    net = dn.Network([dn.Dense(5, "tanh"), dn.Dense(1)], inputs=2, backend="numba", seed=0)
    net.fit(np.ones((2, 8)), np.ones((1, 8)), epochs=1)
    net.predict(np.ones((2, 8)))
    net.predict(np.ones((2, 1)))
    entries = {}
    for function in (training.train, prediction.predict, prediction.predict_one):
        for sig in function.overloads:
            _, path = function._cache._place(function._cache._folder, sig, function.targetctx.codegen())
            entries[path] = function, sig
    if not all(path.exists() for path in entries):
        pytest.skip(f"compiled code cannot be kept in {cache.code_folder()}")
    return entries


# --- damage -----------------------------------------------------------------------------------------------------------


def test_any_damage_is_detected_before_the_file_is_loaded(
    cached_functions: dict[Path, tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loading a damaged file could crash this process."""
    rng = random.Random(0)
    for path, (function, sig) in cached_functions.items():
        monkeypatch.setattr(function._cache, "_folder", tmp_path)
        content = path.read_bytes()
        assert len(content) > 20_000
        for _ in range(80):
            (tmp_path / path.name).write_bytes(damage(content, rng))
            assert function._cache.load_overload(sig, function.targetctx) is None
        (tmp_path / path.name).write_bytes(content)
        assert function._cache.load_overload(sig, function.targetctx).signature.args == sig


def test_a_cache_file_with_the_code_of_another_function_is_rejected(
    cached_functions: dict[Path, tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (own_file, (function, sig)), *_, (other_file, _) = cached_functions.items()
    monkeypatch.setattr(function._cache, "_folder", tmp_path)
    for source, valid in ((own_file, True), (other_file, False)):
        shutil.copy(source, tmp_path / own_file.name)
        assert (function._cache.load_overload(sig, function.targetctx) is not None) is valid


@pytest.mark.parametrize("seed", range(6))
def test_the_code_in_a_damaged_file_is_compiled_again_with_one_warning(
    call_squares: CallSquares, warm_cache: Path, seed: int
) -> None:
    path = only_file(warm_cache)
    path.write_bytes(damage(path.read_bytes(), random.Random(seed)))
    hits, (message,) = call_squares(warm_cache)
    assert hits == 0
    assert message.startswith(
        f"numba: {path} is damaged; compiling a sum of squares for float64 takes a few seconds, once"
    )
    assert call_squares(warm_cache) == (1, [])


def test_a_new_process_survives_a_damaged_file(warm_cache: Path) -> None:
    path = only_file(warm_cache)
    path.write_bytes(path.read_bytes()[:-1000])
    module = MODULE.replace("import numpy", "__name__ = 'small'\nimport numpy", 1)
    (message,) = log_lines(run(f"{module}\nprint(squares(np.arange(4.0)))", warm_cache))
    assert "is damaged" in message


def test_several_damaged_files_cause_a_single_warning(call_squares: CallSquares, warm_cache: Path) -> None:
    call_squares(warm_cache, "float64", "float32")
    paths = [path for path in warm_cache.rglob("*") if path.is_file()]
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(b"")
    hits, messages = call_squares(warm_cache, "float64", "float32")
    assert (hits, len(messages)) == (0, 1)
    assert call_squares(warm_cache, "float64", "float32") == (2, [])


@pytest.mark.parametrize("obstacle", ["an empty folder", "a folder", "a pipe", "a dangling link"])
def test_a_folder_pipe_or_link_in_place_of_a_cache_file_is_replaced(
    call_squares: CallSquares, warm_cache: Path, obstacle: str
) -> None:
    path = only_file(warm_cache)
    path.unlink()
    if obstacle == "a dangling link":
        path.symlink_to("nowhere")
    elif obstacle == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
        if obstacle == "a folder":
            (path / "note").write_text("preserved")
    hits, (message,) = call_squares(warm_cache)
    assert hits == 0
    assert "compiling a sum of squares for float64" in message
    assert call_squares(warm_cache) == (1, [])
    if obstacle == "a folder":
        assert [note.read_text() for note in path.parent.glob("*.aside/note")] == ["preserved"]


# --- read-only --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="users and file modes are different here")
def test_a_read_only_cache_is_used() -> None:
    """As in a container image: root writes the cache, and a user without a home directory reads it.

    The sources are copied, with a different modification time.
    If this test does not run as root, the same user writes and reads, but the files are still read-only.
    """
    with tempfile.TemporaryDirectory() as name:
        image = Path(name)
        shutil.copytree(PACKAGE, image / "site" / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        assert len(log_lines(run(CALL, image / "cache"))) == 1
        for path in [image, *image.rglob("*")]:
            os.utime(path, (1e9, 1e9))
            path.chmod(0o555 if path.is_dir() else 0o444)
        # Import and compile before changing the user, since the new user may be unable to read Python and its packages.
        code = f"""
{MODULE}
import os, deepnotes_numba
assert deepnotes_numba.__path__ == [{str(image / "site" / PACKAGE.name)!r}]
squares(np.arange(4))
if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    open({str(image / "cache" / "new")!r}, "w")
except OSError:
    print(squares(np.arange(4.0)))
squares(np.arange(4, dtype=np.float32))
"""
        try:
            process = run(code, image / "cache", HOME="/nonexistent", PYTHONPATH=str(image / "site"))
        finally:
            for path in [image, *image.rglob("*")]:
                path.chmod(0o755)
    for_int, for_float32 = log_lines(process)
    assert "compiling a sum of squares takes" in for_int
    assert "compiling a sum of squares for float32 takes a few seconds, in every process, since nothing" in for_float32


def test_a_file_in_place_of_the_cache_folder_is_left_alone(
    call_squares: CallSquares, warm_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = only_file(warm_cache).parent
    shutil.rmtree(folder)
    folder.write_text("a file")
    for _ in range(2):  # as in two processes
        hits, (message,) = call_squares(warm_cache)
        assert hits == 0
        assert f"in every process, since nothing can be kept in {folder}" in message
    assert folder.read_text() == "a file"


# --- full disks, several processes, other processors ------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_a_failed_write_is_logged_and_leaves_no_file(
    call_squares: CallSquares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        hits, (_, message) = call_squares(tmp_path, "float64", "float32", "int64")[0], call_squares(tmp_path)[1]
        assert hits == 0
    assert message.startswith(f"numba: compiled code cannot be kept in {tmp_path}")
    assert message.endswith(f"({os.strerror(code)}): the next process compiles it again")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    call_squares(tmp_path)
    assert call_squares(tmp_path) == (1, [])


@pytest.mark.slow
def test_several_processes_can_compile_at_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CALL]
    environment = os.environ | {"DEEPNOTES_CACHE_DIR": str(tmp_path)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=300)[0] for process in processes] == ["14.0\n"] * 3
    only_file(tmp_path)
    assert log_lines(run(CALL, tmp_path)) == []


@pytest.mark.slow
def test_code_is_compiled_and_kept_for_each_processor(tmp_path: Path) -> None:
    for settings, target in [({}, "float64"), ({"NUMBA_CPU_NAME": "generic"}, "float64 for this processor")]:
        (message,) = log_lines(run(CALL, tmp_path, **settings))
        assert f"compiling a sum of squares for {target} takes a few seconds, once" in message
    assert log_lines(run(CALL, tmp_path)) == []


def test_each_compiler_setting_changes_the_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {cache.folder_name(PACKAGE)}
    for setting in cache.SETTINGS:
        with monkeypatch.context() as patch:
            patch.setattr(cache.numba.config, setting, 7)
            names.add(cache.folder_name(PACKAGE))
    assert len(names) == 1 + len(cache.SETTINGS)


# --- location of the folder -------------------------------------------------------------------------------------------


@pytest.fixture
def no_folder_setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remove the environment variables that set the folder, and clear its memoized path before and after a test."""
    monkeypatch.delenv("DEEPNOTES_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache.code_folder.cache_clear()
    yield
    cache.code_folder.cache_clear()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"DEEPNOTES_CACHE_DIR": "/here", "XDG_CACHE_HOME": "/there"}, "/here"),
        ({"DEEPNOTES_CACHE_DIR": "near/here"}, "{cwd}/near/here"),
        ({"DEEPNOTES_CACHE_DIR": "~/here"}, "{home}/here"),
        ({"DEEPNOTES_CACHE_DIR": "", "XDG_CACHE_HOME": "/there"}, "/there/deepnotes"),
        ({"XDG_CACHE_HOME": ""}, "{home}/.cache/deepnotes"),
    ],
)
def test_environment_variables_set_the_folder(
    settings: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_folder_setting: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    base = Path(expected.format(cwd=tmp_path, home=os.path.expanduser("~")))
    assert cache.code_folder() == base / cache.folder_name(PACKAGE)


def test_without_a_home_directory_every_process_compiles(
    monkeypatch: pytest.MonkeyPatch, no_folder_setting: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as if the user had no home directory
    assert cache.code_folder() is None

    @entry("doubling")
    def double(x):
        return 2 * x

    assert double(21) == 42
    (record,) = caplog.records
    assert record.getMessage().startswith("numba: compiling doubling takes a few seconds, in every process, since")
    assert "DEEPNOTES_CACHE_DIR" in record.getMessage()


@pytest.mark.parametrize("root", ["/dev/null", "/dev/null/nowhere", f"/tmp/{'long' * 200}"])
def test_a_folder_that_cannot_be_created_only_causes_a_warning(call_squares: CallSquares, root: str) -> None:
    hits, (message,) = call_squares(Path(root))
    assert hits == 0
    assert "in every process, since nothing can be kept in" in message
