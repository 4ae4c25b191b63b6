"""Nothing that a command reads is written, no output is written twice, and no place is bad only after the work."""

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
    """Return an array of bytes as an IDX file."""
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
TARGET = {"rows.csv": ["--target", "kind"], "rows.parquet": ["--target", "kind"]}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Return a function that runs a command which must fail and change nothing, and returns what it says."""

    def contents() -> dict[str, bytes]:
        return {str(path): path.read_bytes() for path in sorted(Path().rglob("*")) if path.is_file()}

    def call(status: int, *words: Any) -> str:
        before = contents()
        assert main([str(word) for word in words]) == status
        out, err = capsys.readouterr()
        assert contents() == before
        assert out == ""
        assert len(err.splitlines()) <= 2
        assert err.startswith("deepnotes: error: ")
        return err.removeprefix("deepnotes: error: ")

    return call


def model() -> str:
    assert main(["train", make_csv()[0], "--target", "kind", *QUICK, "-o", "model.safetensors"]) == 0
    return "model.safetensors"


def spellings(name: str) -> Iterator[str]:
    """Yield paths that lead to a file: its name, a longer one, links."""
    yield name
    yield f"./{name}"
    yield str(Path(name).absolute())
    os.symlink(name, "link")
    yield "link"
    os.link(name, "hard")
    yield "hard"
    os.mkdir("below")
    yield f"below/../{name}"
    os.symlink(".", "folder")
    yield f"folder/{name}"


@pytest.mark.parametrize("maker", MAKERS)
def test_train_writes_nothing_that_it_reads(maker: Callable[[], list[str]], refused: Callable[..., str]) -> None:
    names = maker()
    words = ["train", names[0], *TARGET.get(names[0], []), *QUICK]
    for name in names:
        for path in spellings(name):
            assert "is what the command reads, and would be lost" in refused(2, *words, "-o", path)
        for path in ("link", "hard", "below", "folder"):
            shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.unlink(path)
        os.rename(name, f"{name}.svg")
        os.symlink(f"{name}.svg", name)
        assert "--plot" in refused(2, *words, "-o", "m", "--plot", f"{name}.svg")
        os.rename(f"{name}.svg", name)


@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("maker", MAKERS)
def test_predict_writes_nothing_that_it_reads(
    maker: Callable[[], list[str]], from_disk: bool, refused: Callable[..., str]
) -> None:
    names = maker()
    trained = ["train", names[0], *TARGET.get(names[0], []), *QUICK, "-o", "m.safetensors"]
    assert main(trained) == 0
    for name in (*names, "m.safetensors"):
        os.link(name, "hard")
        words = ["predict", "m.safetensors", names[0], *(["--from-disk"] if from_disk else [])]
        for path in (name, "hard"):
            assert "is what the command reads" in refused(2, *words, "-o", path)
        os.unlink("hard")


def test_train_of_the_digits_does_not_replace_them(refused: Callable[..., str]) -> None:
    from deepnotes import datasets

    assert "is what the command reads" in refused(2, "train", "digits", *QUICK, "-o", datasets.DIGITS)


def test_export_does_not_replace_the_model_nor_one_output_by_another(refused: Callable[..., str]) -> None:
    name = model()
    os.symlink(name, "link")
    for option in ("--onnx", "--python"):
        for path in (name, "link"):
            assert f"{option} {path} is what the command reads" in refused(2, "export", name, option, path)
    told = refused(2, "export", name, "--onnx", "a", "--python", "./a")
    assert told == "--python a and --onnx a are the same file\n"
    os.mkdir("d")
    os.symlink("d", "e")
    assert "are the same file" in refused(2, "export", name, "--onnx", "d/new", "--python", "e/new")
    os.symlink("x", "y")  # which leads to nothing yet
    assert "are the same file" in refused(2, "export", name, "--onnx", "x", "--python", "y")


def test_two_outputs_of_train_and_bench_are_two_files(refused: Callable[..., str]) -> None:
    make_csv()
    words = ["train", "rows.csv", "--target", "kind", *QUICK]
    assert "--plot a.svg and --output a.svg are the same" in refused(2, *words, "-o", "a.svg", "--plot", "./a.svg")
    told = refused(2, "bench", "--plot", "a.svg", "--html", "a.svg")
    assert told == "--html a.svg and --plot a.svg are the same file\n"
    assert "are the same file" in refused(2, "bench", "--html", "a", "--json", "./a")


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="stdout has no name here")
def test_stdout_may_be_named_as_the_output_of_predict() -> None:
    words = [sys.executable, "-m", "deepnotes", "predict", model(), "rows.csv", "-o", "/dev/stdout"]
    with open("out.csv", "wb") as file:
        subprocess.run(words, stdout=file, stderr=subprocess.PIPE, check=True)
    assert read_table("out.csv").n_rows == 40


@pytest.mark.skipif(os.name != "posix", reason="stdout is a file of the shell's")
def test_stdout_does_not_go_into_what_is_read(folder: Path) -> None:
    name = model()
    before = Path("rows.csv").read_bytes(), Path(name).read_bytes()
    for words in (["predict", name, "rows.csv"], ["evaluate", name, "rows.csv"], ["export", name, "--python", "m.py"]):
        for read in ("rows.csv", name) if words[0] != "export" else (name,):
            with open(read, "ab") as file:
                done = subprocess.run([sys.executable, "-m", "deepnotes", *words], stdout=file, stderr=subprocess.PIPE)
            assert done.returncode == 2
            assert done.stderr.decode() == f"deepnotes: error: stdout is {read}, which the command reads\n"
    assert (Path("rows.csv").read_bytes(), Path(name).read_bytes()) == before


def test_stderr_does_not_go_into_what_is_read(folder: Path) -> None:
    name = model()
    before = Path("rows.csv").read_bytes(), Path(name).read_bytes()
    for read in ("rows.csv", name):
        with open(read, "ab") as file:
            words = ["predict", name, "rows.csv", "-o", "p.csv"]
            done = subprocess.run([sys.executable, "-m", "deepnotes", *words], stdout=subprocess.PIPE, stderr=file)
        assert done.returncode == 2
        assert f"stderr is {read}, which the command reads" in done.stdout.decode()
    assert (Path("rows.csv").read_bytes(), Path(name).read_bytes()) == before


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_checkpoints_and_other_files_do_not_get_into_each_others_way(refused: Callable[..., str]) -> None:
    make_csv()
    words = ["train", "rows.csv", "--target", "kind", *QUICK]
    assert main([*words, "--checkpoint", "run", "-o", "m.safetensors"]) == 0
    (step,) = Path("run").glob("step-*")
    os.symlink(step, "link")
    os.link(step, "hard")
    resume = [*words, "--checkpoint", "run", "--resume", "-o"]
    for path in ("link", step, "run/step-000000099.safetensors", "run/.step-000000001.tmp"):
        assert "has the name of a checkpoint" in refused(2, *resume, path)
    assert "is what the command reads" in refused(2, *resume, "hard")
    assert "needs a directory" in refused(2, *words, "--checkpoint", "new", "-o", "new")
    assert "needs a directory" in refused(2, *words, "--checkpoint", "new/below", "-o", "./new")
    assert refused(1, *resume, "run") == "cannot write run: it is a directory\n"
    shutil.copy("rows.csv", "run/step-000000005.safetensors")
    os.symlink("run/step-000000005.safetensors", "data.csv")
    assert "has the name of a checkpoint" in refused(2, *words[:1], "data.csv", *words[2:], "--checkpoint", "run")


def test_the_model_may_go_into_a_directory_of_checkpoints_that_is_made_on_the_way(refused: Callable[..., str]) -> None:
    make_csv()
    words = ["train", "rows.csv", "--target", "kind", *QUICK]
    assert main([*words, "--checkpoint", "new/run", "-o", "./new/run/m.safetensors"]) == 0
    assert Path("new/run/m.safetensors").is_file()
    assert "No such file or directory" in refused(1, *words, "--checkpoint", "other", "-o", "others/m.safetensors")
    Path("blocked").write_text("a file")
    assert "blocked" in refused(1, *words, "--checkpoint", "blocked/run", "-o", "blocked/run/m.safetensors")


def test_data_model_and_checkpoints_may_share_a_directory() -> None:
    os.rename(make_csv()[0], "step-counts.csv")
    words = ["train", "step-counts.csv", "--target", "kind", *QUICK, "--checkpoint", ".", "-o", "lock"]
    assert main(words) == 0
    assert main([*words, "--resume"]) == 0
    assert read_table("step-counts.csv").n_rows == 40


# --- the rule is whole: what is opened is what was compared -----------------------------------------------------------

OPENED: list[str] | None = None


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or OPENED is None or not isinstance(arguments[0], str | os.PathLike):
        return
    if not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        OPENED.append(os.fspath(arguments[0]))


sys.addaudithook(_note)  # which cannot be taken away, and does nothing while OPENED is None


@pytest.mark.parametrize("from_disk", [False, True])
@pytest.mark.parametrize("maker", MAKERS)
def test_no_file_is_read_that_is_not_compared(maker: Callable[[], list[str]], from_disk: bool, folder: Path) -> None:
    global OPENED
    names = maker()
    if from_disk and names[0].endswith(".csv"):
        pytest.skip("a .csv file does not stay on disk")
    words = ["train", names[0], *TARGET.get(names[0], []), *QUICK, "-o", "m", *(["--from-disk"] if from_disk else [])]
    OPENED = []
    try:
        assert main(words) == 0
    finally:
        opened, OPENED = OPENED, None
    found = {path.resolve() for path in map(Path, opened) if path.resolve().parent == folder and path.is_file()}
    compared = {path.resolve() for path in data.files(names[0])}
    assert compared == {folder / name for name in names}
    assert found == (set() if maker is make_parquet else compared)  # pyarrow opens files without Python


def test_a_library_call_replaces_a_file_that_is_still_mapped_without_harm(folder: Path) -> None:
    """To name a file is to mean it there, as in NumPy; what was mapped from the old file stays what it was."""
    make_npy()
    X = np.load("X_train.npy", mmap_mode="r").T
    net = dn.Network([dn.Dense(2, "softmax")], inputs=2, seed=0)

    class Save(dn.Callback):
        def on_epoch(self, training: Any) -> None:
            net.save("X_train.npy")

    history = net.fit(X, CLASSES, epochs=3, callbacks=[Save()])
    np.testing.assert_array_equal(X, ROWS.T)
    same = dn.Network([dn.Dense(2, "softmax")], inputs=2, seed=0)
    assert same.fit(ROWS.T, CLASSES, epochs=3).loss == history.loss
    dn.load("X_train.npy")


# --- places that cannot be written ------------------------------------------------------------------------------------

BAD_PLACES = [
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


@pytest.mark.parametrize(("place", "told"), BAD_PLACES, ids=lambda word: word[:12].replace("\0", "0"))
def test_a_bad_place_is_refused_before_the_work(
    place: str, told: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = model()
    os.symlink("loop", "loop")
    os.symlink("no/where", "dangling")
    monkeypatch.setattr(train, "Network", None)  # the work must not begin
    commands = [
        ["train", "rows.csv", "--target", "kind", *QUICK, "-o"],
        ["predict", name, "rows.csv", "-o"],
        ["export", name, "--onnx"],
        ["export", name, "--python"],
        ["bench", "--html"],
        ["conformance", "--backend", "numpy", "--json"],
    ]
    for words in commands:
        found = refused(1, *words, place)
        assert found.startswith("cannot write ")
        assert told in found


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="takes root, to be somebody else for a while")
def test_no_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as folder:  # since nobody else may enter one of pytest's
        os.chmod(folder, 0o755)
        monkeypatch.chdir(folder)
        os.mkdir("open")
        os.chmod("open", 0o1777)
        Path("open/theirs").write_text("kept")
        os.seteuid(12345)
        try:
            for place, told in (("new", "Permission denied"), ("open/theirs", "it belongs to another user")):
                with pytest.raises(dn.DeepnotesError, match=f"cannot write {place}: {told}"):
                    require_output_paths({"--output": Path(place)})
            require_output_paths({"--output": Path("open/mine")})
        finally:
            os.seteuid(0)
        monkeypatch.undo()


def test_a_directory_that_goes_away_during_the_training(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_csv()
    words = ["train", "rows.csv", "--target", "kind", *QUICK, "-o", "out/m.safetensors"]
    fit = dn.Network.fit

    def fit_and_remove(*args: Any, **options: Any) -> Any:
        found = fit(*args, **options)
        shutil.rmtree("out")
        return found

    monkeypatch.setattr(dn.Network, "fit", fit_and_remove)
    for checkpoint, more in (([], 0), (["--checkpoint", "run"], 1)):
        os.mkdir("out")
        assert main([*words, *checkpoint]) == 1
        told = capsys.readouterr().err.splitlines()
        assert told[0] == "deepnotes: error: cannot write out/m.safetensors: No such file or directory"
        assert len(told) == 1 + more
    assert told[1] == "the training is kept: the same command with --resume goes on from run"


@pytest.mark.parametrize("what", ["removed", "a directory"])
def test_a_plot_that_cannot_be_written_leaves_the_model(
    what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="needs deepnotes[plot]")
    make_csv()
    fit = dn.Network.fit
    os.mkdir("out")

    def fit_and_spoil(*args: Any, **options: Any) -> Any:
        found = fit(*args, **options)
        shutil.rmtree("out") if what == "removed" else os.mkdir("out/c.svg")
        return found

    monkeypatch.setattr(dn.Network, "fit", fit_and_spoil)
    words = ["train", "rows.csv", "--target", "kind", *QUICK, "-o", "m.safetensors", "--plot", "out/c.svg"]
    assert main(words) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0].startswith("deepnotes: error: cannot write out/c.svg: ")
    assert told[1:] == ["the model was written to m.safetensors"]
    dn.load("m.safetensors")
