"""The Numba backend's compiled code on disk: damaged, read-only, full, shared; and nowhere to keep it."""

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
SMALL = """
import numpy as np
from deepnotes_numba.compiling import entry

@entry("a sum of squares")
def squares(x):
    total = 0.0
    for i in range(x.shape[0]):
        total += x[i] * x[i]
    return total
"""
"""A function whose compiled code takes a moment to make."""
CALLED = f"{SMALL}\nprint(squares(np.arange(4.0)))"


def run(code: str, folder: Path | str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"DEEPNOTES_CACHE_DIR": str(folder)} | environment,
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def told(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what a process that came to the right sum has logged."""
    assert (done.returncode, done.stdout) == (0, "14.0\n"), done.stderr
    return done.stderr.splitlines()


def code_in(folder: Path) -> Path:
    """Return the one file below a cache folder."""
    (path,) = (path for path in folder.rglob("*") if path.is_file())
    return path


def damaged(content: bytes, rng: random.Random) -> bytes:
    """Return a file's content with a bit turned, or cut off somewhere, or with something after it."""
    at = rng.randrange(len(content))
    way = rng.randrange(8)
    if way == 0:
        return content[:at]
    if way == 1:
        return content + rng.randbytes(1 + at % 9)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


Start = Callable[..., tuple[int, list[str]]]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Iterator[Start]:
    """Return a function that calls the small one as a new process would, and returns cache hits, and warnings."""

    def start(folder: Path, *dtypes: str) -> tuple[int, list[str]]:
        cache.cache_folder.cache_clear()
        monkeypatch.setenv("DEEPNOTES_CACHE_DIR", str(folder))
        monkeypatch.setattr(cache, "_announced", set())
        monkeypatch.setattr(cache, "_warned", set())
        caplog.clear()
        names: dict[str, Any] = {"__name__": "small"}
        exec(SMALL, names)
        for dtype in dtypes or ("float64",):
            assert names["squares"](np.arange(4.0, dtype=dtype)) == 14
        hits = sum(names["squares"].stats.cache_hits.values())
        return hits, [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]

    yield start
    cache.cache_folder.cache_clear()


@pytest.fixture
def warm(start: Start, tmp_path: Path) -> Path:
    """Return a cache folder with the code of the small function."""
    folder = tmp_path / "cache"
    hits, (said,) = start(folder)
    assert hits == 0
    assert re.fullmatch(
        r"numba: compiling a sum of squares for float64 takes some seconds, once: .* kept in .*numba-.*", said
    )
    assert start(folder) == (1, [])
    return folder


@pytest.fixture(scope="module")
def compiled() -> dict[Path, tuple[Any, Any]]:
    """Return the files of training and prediction, with function and signature."""
    from deepnotes_numba import prediction, training

    net = dn.Network([dn.Dense(5, "tanh"), dn.Dense(1)], inputs=2, backend="numba", seed=0)
    net.fit(np.ones((2, 8)), np.ones((1, 8)), epochs=1)
    net.predict(np.ones((2, 8)))
    net.predict(np.ones((2, 1)))
    found = {}
    for function in (training.train, prediction.predict, prediction.predict_one):
        for sig in function.overloads:
            found[function._cache._place(function._cache._folder, sig, function.targetctx.codegen())[1]] = function, sig
    if not all(path.exists() for path in found):
        pytest.skip(f"compiled code cannot be kept in {cache.cache_folder()}")
    return found


# --- damage -----------------------------------------------------------------------------------------------------------


def test_any_damage_is_found_before_anything_is_loaded(
    compiled: dict[Path, tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the files of training and prediction: to load such a file would end this process now and then."""
    rng = random.Random(0)
    for path, (function, sig) in compiled.items():
        monkeypatch.setattr(function._cache, "_folder", tmp_path)
        content = path.read_bytes()
        assert len(content) > 100_000
        for _ in range(80):
            (tmp_path / path.name).write_bytes(damaged(content, rng))
            assert function._cache.load_overload(sig, function.targetctx) is None
        (tmp_path / path.name).write_bytes(content)
        assert function._cache.load_overload(sig, function.targetctx).signature.args == sig


def test_the_code_of_another_function_counts_as_damage(
    compiled: dict[Path, tuple[Any, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (one, (function, sig)), *_, (other, _) = compiled.items()
    monkeypatch.setattr(function._cache, "_folder", tmp_path)
    for source, found in ((one, True), (other, False)):
        shutil.copy(source, tmp_path / one.name)
        assert (function._cache.load_overload(sig, function.targetctx) is not None) is found


@pytest.mark.parametrize("seed", range(6))
def test_what_is_damaged_is_compiled_anew_and_replaced_with_one_warning(start: Start, warm: Path, seed: int) -> None:
    path = code_in(warm)
    path.write_bytes(damaged(path.read_bytes(), random.Random(seed)))
    hits, (said,) = start(warm)
    assert hits == 0
    assert said.startswith(f"numba: {path} is damaged; compiling a sum of squares for float64 takes some seconds, once")
    assert start(warm) == (1, [])


def test_a_new_process_outlives_a_damaged_file(warm: Path) -> None:
    path = code_in(warm)
    path.write_bytes(path.read_bytes()[:-1000])
    module = SMALL.replace("import numpy", "__name__ = 'small'\nimport numpy", 1)
    (said,) = told(run(f"{module}\nprint(squares(np.arange(4.0)))", warm))
    assert "is damaged" in said


def test_several_damaged_files_are_one_warning(start: Start, warm: Path) -> None:
    start(warm, "float64", "float32")
    paths = [path for path in warm.rglob("*") if path.is_file()]
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(b"")
    hits, said = start(warm, "float64", "float32")
    assert (hits, len(said)) == (0, 1)
    assert start(warm, "float64", "float32") == (2, [])


@pytest.mark.parametrize("obstacle", ["an empty folder", "a folder", "a pipe", "a link to nowhere"])
def test_something_else_where_a_file_should_be(start: Start, warm: Path, obstacle: str) -> None:
    path = code_in(warm)
    path.unlink()
    if obstacle == "a link to nowhere":
        path.symlink_to("nowhere")
    elif obstacle == "a pipe":
        os.mkfifo(path)
    else:
        path.mkdir()
        if obstacle == "a folder":
            (path / "kept").write_text("kept")
    hits, (said,) = start(warm)
    assert hits == 0
    assert "compiling a sum of squares for float64" in said
    assert start(warm) == (1, [])
    if obstacle == "a folder":
        assert [found.read_text() for found in path.parent.glob("*.aside/kept")] == ["kept"]


# --- read-only --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="there are no users and modes of files as POSIX has them")
def test_a_warm_cache_that_cannot_be_written_to_is_used() -> None:
    """As in a container: filled by root, read by a user without a home, with sources that were copied at another time.

    The other user is this one where there is no other to become; what cannot be written to is the same.
    """
    with tempfile.TemporaryDirectory() as name:
        image = Path(name)
        shutil.copytree(PACKAGE, image / "site" / PACKAGE.name, ignore=shutil.ignore_patterns("__pycache__"))
        assert len(told(run(CALLED, image / "cache"))) == 1
        for path in [image, *image.rglob("*")]:
            os.utime(path, (1e9, 1e9))
            path.chmod(0o555 if path.is_dir() else 0o444)
        # Python and its packages may be out of the other user's reach, hence what is imported, or compiled, before.
        code = f"""
{SMALL}
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
            done = run(code, image / "cache", HOME="/nonexistent", PYTHONPATH=str(image / "site"))
        finally:
            for path in [image, *image.rglob("*")]:
                path.chmod(0o755)
    integers, singles = told(done)
    assert "compiling a sum of squares takes" in integers
    assert "compiling a sum of squares for float32 takes some seconds, in each process anew, since nothing" in singles


def test_a_folder_that_goes_after_the_import(start: Start, warm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = code_in(warm).parent
    shutil.rmtree(folder)
    folder.write_text("a file")
    for _ in range(2):
        hits, (said,) = start(warm)
        assert hits == 0
        assert f"in each process anew, since nothing can be kept in {folder}" in said
    assert folder.read_text() == "a file"


# --- full disks, several processes, other processors ------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EDQUOT, errno.EIO])
def test_code_that_cannot_be_written(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        hits, (_, said) = start(tmp_path, "float64", "float32", "int64")[0], start(tmp_path)[1]
        assert hits == 0
    assert said.startswith(f"numba: compiled code cannot be kept in {tmp_path}")
    assert said.endswith(f"({os.strerror(code)}): the next process compiles it anew")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    start(tmp_path)
    assert start(tmp_path) == (1, [])


@pytest.mark.slow
def test_several_processes_compile_at_once(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CALLED]
    environment = os.environ | {"DEEPNOTES_CACHE_DIR": str(tmp_path)}
    processes = [subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=300)[0] for process in processes] == ["14.0\n"] * 3
    code_in(tmp_path)
    assert told(run(CALLED, tmp_path)) == []


@pytest.mark.slow
def test_another_processor_compiles_anew_and_says_so(tmp_path: Path) -> None:
    for settings, words in [({}, "float64"), ({"NUMBA_CPU_NAME": "generic"}, "float64 for this processor")]:
        (said,) = told(run(CALLED, tmp_path, **settings))
        assert f"compiling a sum of squares for {words} takes some seconds, once" in said
    assert told(run(CALLED, tmp_path)) == []


def test_settings_of_the_compiler_open_another_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    names = {cache.folder_name(PACKAGE)}
    for setting in cache.SETTINGS:
        with monkeypatch.context() as patch:
            patch.setattr(cache.numba.config, setting, 7)
            names.add(cache.folder_name(PACKAGE))
    assert len(names) == 1 + len(cache.SETTINGS)


# --- which folder -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the folder be looked for again, without settings, and again afterwards."""
    monkeypatch.delenv("DEEPNOTES_CACHE_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cache.cache_folder.cache_clear()
    yield
    cache.cache_folder.cache_clear()


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"DEEPNOTES_CACHE_DIR": "/here", "XDG_CACHE_HOME": "/there"}, "/here"),
        ({"DEEPNOTES_CACHE_DIR": "near/here"}, "{cwd}/near/here"),
        ({"DEEPNOTES_CACHE_DIR": "~/here"}, "{home}/here"),
        ({"DEEPNOTES_CACHE_DIR": "", "XDG_CACHE_HOME": "/there"}, "/there/deepnotes"),
        ({"XDG_CACHE_HOME": ""}, "{home}/.cache/deepnotes"),
    ],
)
def test_which_folder(
    settings: dict[str, str], wanted: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, no_folder: None
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable, value in settings.items():
        monkeypatch.setenv(variable, value)
    base = Path(wanted.format(cwd=tmp_path, home=os.path.expanduser("~")))
    assert cache.cache_folder() == base / cache.folder_name(PACKAGE)


def test_a_user_without_a_home(
    monkeypatch: pytest.MonkeyPatch, no_folder: None, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as it does where the system knows no home
    assert cache.cache_folder() is None

    @entry("doubling")
    def double(x):
        return 2 * x

    assert double(21) == 42
    (record,) = caplog.records
    assert record.getMessage().startswith("numba: compiling doubling takes some seconds, in each process anew, since")
    assert "DEEPNOTES_CACHE_DIR" in record.getMessage()


@pytest.mark.parametrize("root", ["/dev/null", "/dev/null/nowhere", f"/tmp/{'long' * 200}"])
def test_a_folder_that_cannot_be(start: Start, root: str) -> None:
    hits, (said,) = start(Path(root))
    assert hits == 0
    assert "in each process anew, since nothing can be kept in" in said
