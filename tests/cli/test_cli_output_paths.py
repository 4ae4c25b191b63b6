"""Output paths: no command overwrites its inputs or writes two outputs to one file; invalid paths are refused early."""

import gzip
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import data, main, train
from deepnotes.cli.output_paths import require_output_paths
from deepnotes.datasets.tables import read_table, write_table

RNG = np.random.default_rng(1)
ROWS = RNG.normal(size=(40, 2)).astype(np.float32)
CLASSES = (ROWS[:, 0] > 0).astype(np.int64)
QUICK = ["--epochs", "1", "--layers", "4", "--quiet", "--backend", "numpy"]


def idx(array: np.ndarray) -> bytes:
    """Return the content of an IDX file that holds an array of bytes."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def make_csv() -> list[str]:
    write_table("rows.csv", ["x", "y", "kind"], [*ROWS.T, np.where(CLASSES, "up", "down")])
    return ["rows.csv"]


def make_npy() -> list[str]:
    np.save("X_train.npy", ROWS)
    np.save("y_train.npy", CLASSES)
    return ["X_train.npy", "y_train.npy"]


def make_npz() -> list[str]:
    np.savez("rows.npz", X=ROWS, y=CLASSES)
    return ["rows.npz"]


def make_parquet() -> list[str]:
    pa = pytest.importorskip("pyarrow", reason="needs deepnotes[data]")
    pytest.importorskip("pyarrow.parquet")
    pa.parquet.write_table(pa.table({"x": ROWS[:, 0], "y": ROWS[:, 1], "kind": CLASSES}), "rows.parquet")
    return ["rows.parquet"]


def make_idx() -> list[str]:
    Path("t-images-idx3-ubyte").write_bytes(idx(RNG.integers(0, 255, size=(40, 2, 2))))
    with gzip.open("t-labels-idx1-ubyte.gz", "wb") as file:
        file.write(idx(CLASSES))
    return ["t-images-idx3-ubyte", "t-labels-idx1-ubyte.gz"]


MAKERS = [make_csv, make_npy, make_npz, make_parquet, make_idx]
"""Functions that write data files in various formats and return the names of the files."""
TARGET = {"rows.csv": ["--target", "kind"], "rows.parquet": ["--target", "kind"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run each test in a temporary folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def check_refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command, checks that it fails and changes no file, and returns the message."""

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}

    def call(status: int, *arguments: Any) -> str:
        before = contents()
        assert main([str(argument) for argument in arguments]) == status
        out, err = capsys.readouterr()
        assert contents() == before
        assert out == ""
        assert len(err.splitlines()) <= 2
        assert err.startswith("deepnotes: error: ")
        return err.removeprefix("deepnotes: error: ")

    return call


def train_model() -> str:
    assert main(["train", make_csv()[0], "--target", "kind", *QUICK, "-o", "model.safetensors"]) == 0
    return "model.safetensors"


def paths_to(name: str) -> Iterator[str]:
    """Yield paths that all lead to one file: its name, longer paths, and links, which are created."""
    yield name
    yield f"./{name}"
    yield str(Path(name).absolute())
    os.symlink(name, "link")
    yield "link"
    os.link(name, "hard")
    yield "hard"
    os.mkdir("subfolder")
    yield f"subfolder/../{name}"
    os.symlink(".", "folder")
    yield f"folder/{name}"


@pytest.mark.parametrize("maker", MAKERS)
def test_train_does_not_overwrite_its_inputs(maker: Callable[[], list[str]], check_refused: Callable[..., str]) -> None:
    names = maker()
    command = ["train", names[0], *TARGET.get(names[0], []), *QUICK]
    for name in names:
        for path in paths_to(name):
            message = check_refused(2, *command, "-o", path)
            assert f"--output {Path(path)} would overwrite {name}, which the command reads" in message
        for path in ("link", "hard", "subfolder", "folder"):
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        os.rename(name, f"{name}.svg")
        os.symlink(f"{name}.svg", name)
        assert "--plot" in check_refused(2, *command, "-o", "m", "--plot", f"{name}.svg")
        os.rename(f"{name}.svg", name)


@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("maker", MAKERS)
def test_predict_does_not_overwrite_its_inputs(
    maker: Callable[[], list[str]], from_disk: bool, check_refused: Callable[..., str]
) -> None:
    names = maker()
    assert main(["train", names[0], *TARGET.get(names[0], []), *QUICK, "-o", "m.safetensors"]) == 0
    for name in (*names, "m.safetensors"):
        os.link(name, "hard")
        command = ["predict", "m.safetensors", names[0], *(["--from-disk"] if from_disk else [])]
        for path in (name, "hard"):
            assert "which the command reads" in check_refused(2, *command, "-o", path)
        os.unlink("hard")


def test_training_on_digits_does_not_overwrite_them(check_refused: Callable[..., str]) -> None:
    from deepnotes import datasets

    assert "which the command reads" in check_refused(2, "train", "digits", *QUICK, "-o", datasets.DIGITS)


def test_export_overwrites_neither_the_model_nor_its_own_output(check_refused: Callable[..., str]) -> None:
    name = train_model()
    os.symlink(name, "link")
    for option in ("--onnx", "--python"):
        for path in (name, "link"):
            message = check_refused(2, "export", name, option, path)
            assert f"{option} {path} would overwrite {name}, which the command reads" in message
    message = check_refused(2, "export", name, "--onnx", "a", "--python", "./a")
    assert message == "--python a and --onnx a are the same file\n"
    os.mkdir("d")
    os.symlink("d", "e")
    assert "are the same file" in check_refused(2, "export", name, "--onnx", "d/new", "--python", "e/new")
    os.symlink("x", "y")  # x does not exist yet
    assert "are the same file" in check_refused(2, "export", name, "--onnx", "x", "--python", "y")


def test_two_outputs_of_train_or_bench_must_be_different_files(check_refused: Callable[..., str]) -> None:
    make_csv()
    command = ["train", "rows.csv", "--target", "kind", *QUICK]
    assert "--plot a.svg and --output a.svg are the same" in check_refused(
        2, *command, "-o", "a.svg", "--plot", "./a.svg"
    )
    message = check_refused(2, "bench", "--plot", "a.svg", "--html", "a.svg")
    assert message == "--html a.svg and --plot a.svg are the same file\n"
    assert "are the same file" in check_refused(2, "bench", "--html", "a", "--json", "./a")


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="needs /dev/stdout")
def test_predict_may_write_to_dev_stdout() -> None:
    command = [sys.executable, "-m", "deepnotes", "predict", train_model(), "rows.csv", "-o", "/dev/stdout"]
    with open("out.csv", "wb") as file:
        subprocess.run(command, stdout=file, stderr=subprocess.PIPE, check=True)
    assert read_table("out.csv").n_rows == 40


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX file descriptors")
def test_stdout_cannot_be_an_input_file(folder: Path) -> None:
    name = train_model()
    before = Path("rows.csv").read_bytes(), Path(name).read_bytes()
    for command in (
        ["predict", name, "rows.csv"],
        ["evaluate", name, "rows.csv"],
        ["export", name, "--python", "m.py"],
    ):
        for path in ("rows.csv", name) if command[0] != "export" else (name,):
            with open(path, "ab") as file:
                process = subprocess.run(
                    [sys.executable, "-m", "deepnotes", *command], stdout=file, stderr=subprocess.PIPE
                )
            assert process.returncode == 2
            assert process.stderr.decode() == f"deepnotes: error: stdout is {path}, which the command reads\n"
    assert (Path("rows.csv").read_bytes(), Path(name).read_bytes()) == before


def test_stderr_cannot_be_an_input_file(folder: Path) -> None:
    name = train_model()
    before = Path("rows.csv").read_bytes(), Path(name).read_bytes()
    for path in ("rows.csv", name):
        with open(path, "ab") as file:
            command = ["predict", name, "rows.csv", "-o", "p.csv"]
            process = subprocess.run([sys.executable, "-m", "deepnotes", *command], stdout=subprocess.PIPE, stderr=file)
        assert process.returncode == 2
        assert f"stderr is {path}, which the command reads" in process.stdout.decode()
    assert (Path("rows.csv").read_bytes(), Path(name).read_bytes()) == before


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_other_outputs_cannot_collide_with_checkpoints(check_refused: Callable[..., str]) -> None:
    make_csv()
    command = ["train", "rows.csv", "--target", "kind", *QUICK]
    assert main([*command, "--checkpoint", "run", "-o", "m.safetensors"]) == 0
    (step,) = Path("run").glob("step-*")
    os.symlink(step, "link")
    os.link(step, "hard")
    resume = [*command, "--checkpoint", "run", "--resume", "-o"]
    for path in ("link", step, "run/step-000000099.safetensors", "run/.step-000000001.tmp"):
        assert "has the name of a checkpoint" in check_refused(2, *resume, path)
    assert "which the command reads" in check_refused(2, *resume, "hard")
    assert "needs a directory there" in check_refused(2, *command, "--checkpoint", "new", "-o", "new")
    assert "needs a directory there" in check_refused(2, *command, "--checkpoint", "new/below", "-o", "./new")
    assert check_refused(1, *resume, "run") == "cannot write run: it is a directory\n"
    shutil.copy("rows.csv", "run/step-000000005.safetensors")
    os.symlink("run/step-000000005.safetensors", "data.csv")
    assert "has the name of a checkpoint" in check_refused(
        2, *command[:1], "data.csv", *command[2:], "--checkpoint", "run"
    )


def test_the_model_may_be_written_to_a_new_checkpoint_directory(check_refused: Callable[..., str]) -> None:
    make_csv()
    command = ["train", "rows.csv", "--target", "kind", *QUICK]
    assert main([*command, "--checkpoint", "new/run", "-o", "./new/run/m.safetensors"]) == 0
    assert Path("new/run/m.safetensors").is_file()
    assert "No such file or directory" in check_refused(
        1, *command, "--checkpoint", "other", "-o", "others/m.safetensors"
    )
    Path("blocked").write_text("a file")
    assert "blocked" in check_refused(1, *command, "--checkpoint", "blocked/run", "-o", "blocked/run/m.safetensors")


def test_data_model_and_checkpoints_may_share_a_directory() -> None:
    os.rename(make_csv()[0], "step-counts.csv")
    command = ["train", "step-counts.csv", "--target", "kind", *QUICK, "--checkpoint", ".", "-o", "lock"]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0
    assert read_table("step-counts.csv").n_rows == 40


# --- all files that are read are protected ----------------------------------------------------------------------------

OPENED: list[str] | None = None
"""The paths of the files opened for reading, if a test records them."""


def _record_open(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or OPENED is None or not isinstance(arguments[0], str | os.PathLike):
        return
    if not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        OPENED.append(os.fspath(arguments[0]))


sys.addaudithook(_record_open)  # an audit hook cannot be removed; this one does nothing while OPENED is None


@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("maker", MAKERS)
def test_every_file_that_is_read_is_listed_as_an_input(
    maker: Callable[[], list[str]], from_disk: bool, folder: Path
) -> None:
    global OPENED
    names = maker()
    if from_disk and names[0].endswith(".csv"):
        pytest.skip("samples of a .csv file cannot stay on disk")
    command = ["train", names[0], *TARGET.get(names[0], []), *QUICK, "-o", "m", *(["--from-disk"] if from_disk else [])]
    OPENED = []
    try:
        assert main(command) == 0
    finally:
        opened, OPENED = OPENED, None
    read = {path.resolve() for path in map(Path, opened) if path.resolve().parent == folder and path.is_file()}
    listed = {path.resolve() for path in data.files(names[0])}
    assert listed == {folder / name for name in names}
    assert read == (set() if maker is make_parquet else listed)  # pyarrow opens files without an audit event


def test_save_may_replace_the_file_of_a_memory_mapped_array(folder: Path) -> None:
    """As in NumPy, the file is not protected; the array keeps the old content."""
    make_npy()
    X = np.load("X_train.npy", mmap_mode="r").T
    net = dn.Network([dn.Dense(2, "softmax")], inputs=2, seed=0)

    class Save(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            net.save("X_train.npy")

    history = net.fit(X, CLASSES, epochs=3, callbacks=[Save()])
    np.testing.assert_array_equal(X, ROWS.T)
    other = dn.Network([dn.Dense(2, "softmax")], inputs=2, seed=0)
    assert other.fit(ROWS.T, CLASSES, epochs=3).loss == history.loss
    dn.load("X_train.npy")


# --- paths that cannot be written -------------------------------------------------------------------------------------

INVALID_PATHS = [
    ("no/where", "No such file or directory"),
    ("rows.csv/below", "Not a directory"),
    ("n" * 300, "File name too long"),
    ("d/" * 3000 + "m", "File name too long"),
    ("nu\0l", "contains a null byte"),
    ("nu\0l/below", "contains a null byte"),
    ("", "it is a directory"),
    (".", "it is a directory"),
    ("loop", "Too many levels of symbolic links"),
    ("dangling", "No such file or directory"),
]


@pytest.mark.parametrize(("path", "message"), INVALID_PATHS, ids=lambda word: word[:12].replace("\0", "0"))
def test_an_invalid_output_path_is_refused_before_the_work(
    path: str, message: str, check_refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = train_model()
    os.symlink("loop", "loop")
    os.symlink("no/where", "dangling")
    monkeypatch.setattr(train, "Network", None)  # the error must come before training
    commands = [
        ["train", "rows.csv", "--target", "kind", *QUICK, "-o"],
        ["predict", name, "rows.csv", "-o"],
        ["export", name, "--onnx"],
        ["export", name, "--python"],
        ["bench", "--html"],
        ["conformance", "--backend", "numpy", "--json"],
    ]
    for command in commands:
        error = check_refused(1, *command, path)
        assert error.startswith("cannot write ")
        assert message in error


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to change the user")
def test_paths_without_permission_to_write_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # other users may not enter the temporary directories of pytest
        os.chmod(folder, 0o755)
        monkeypatch.chdir(folder)
        os.mkdir("open")
        os.chmod("open", 0o1777)
        Path("open/theirs").write_text("kept")
        os.seteuid(12345)
        try:
            for path, message in (
                ("new", "Permission denied"),
                ("open/theirs", "the file and its directory belong to other users"),
            ):
                with pytest.raises(dn.DeepnotesError, match=f"cannot write {path}: {message}"):
                    require_output_paths({"--output": Path(path)})
            require_output_paths({"--output": Path("open/mine")})
        finally:
            os.seteuid(0)
        monkeypatch.undo()


def test_an_output_directory_removed_during_training_is_reported(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_csv()
    command = ["train", "rows.csv", "--target", "kind", *QUICK, "-o", "out/m.safetensors"]
    fit = dn.Network.fit

    def fit_and_remove(*args: Any, **options: Any) -> Any:
        history = fit(*args, **options)
        shutil.rmtree("out")
        return history

    monkeypatch.setattr(dn.Network, "fit", fit_and_remove)
    for checkpoint, hints in (([], 0), (["--checkpoint", "run"], 1)):
        os.mkdir("out")
        assert main([*command, *checkpoint]) == 1
        message = capsys.readouterr().err.splitlines()
        assert message[0] == "deepnotes: error: cannot write out/m.safetensors: No such file or directory"
        assert len(message) == 1 + hints
    assert message[1] == "the trained network is not lost: the same command with --resume continues from run"


@pytest.mark.parametrize("obstacle", ["removed", "a directory"])
def test_the_model_is_written_even_if_the_plot_cannot_be_written(
    obstacle: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs deepnotes[plot]")
    make_csv()
    fit = dn.Network.fit
    os.mkdir("out")

    def fit_and_obstruct(*args: Any, **options: Any) -> Any:
        history = fit(*args, **options)
        shutil.rmtree("out") if obstacle == "removed" else os.mkdir("out/c.svg")
        return history

    monkeypatch.setattr(dn.Network, "fit", fit_and_obstruct)
    command = ["train", "rows.csv", "--target", "kind", *QUICK, "-o", "m.safetensors", "--plot", "out/c.svg"]
    assert main(command) == 1
    message = capsys.readouterr().err.splitlines()
    assert message[0].startswith("deepnotes: error: cannot write out/c.svg: ")
    assert message[1:] == ["the model was written to m.safetensors"]
    dn.load("m.safetensors")
