"""Commands that fail: they print a message of one or two lines, exit with the right status, and damage no file."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.cli import main, train
from deepnotes.datasets.tables import read_table, write_table

DEEPNOTES = [sys.executable, "-m", "deepnotes"]


@pytest.fixture(autouse=True)
def folder(folder):
    """Run each test in a temporary folder with good.csv and a classifier trained on it, with the default backend."""
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(2, 40))
    write_table("good.csv", ["x", "y", "kind", "price"], [x, y, np.where(x > 0, "up", "down"), 1e5 * (x + y)])
    assert main(["train", "good.csv", "--target", "kind", "--exclude", "price", "--epochs", "1", "--quiet"]) == 0
    return folder


@pytest.fixture
def fails(capsys):
    """Return a function that runs a command, checks that it fails with the given status, and returns the message."""

    def call(status, *argv):
        actual_status = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if not line.startswith("task: ")]
        assert actual_status == status, err
        assert out == ""
        assert "Traceback" not in err
        assert 1 <= len(lines) <= 2, err
        assert lines[0].startswith("deepnotes: error: ")
        return "\n".join(lines).removeprefix("deepnotes: error: ")

    return call


def write(name, text):
    """Write a file and return its name."""
    with open(name, "wb") as file:
        file.write(text.encode())
    return name


# --- invalid arguments ------------------------------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("", "required: COMMAND"),
        ("trian digits", "invalid choice: 'trian'"),
        ("train", "required: DATA"),
        ("train digit", "did you mean 'digits'?"),
        ("train digits --nonsense", "unrecognized arguments: --nonsense"),
        ("train digits --epoch 3", "unrecognized arguments: --epoch 3"),
        ("train digits --activation rleu", "unknown activation 'rleu'; did you mean 'relu'?"),
        ("train digits --loss mse", "unknown loss 'mse'; did you mean 'mean_squared_error'?"),
        ("train digits --optimizer adma", "unknown optimizer 'adma'; did you mean 'adam'?"),
        ("train digits --schedule cos", "unknown schedule 'cos'; did you mean 'cosine'?"),
        ("train digits --task sort", "unknown task 'sort'"),
        ("train digits --backend nunpy", "unknown backend 'nunpy'; did you mean 'numpy'?"),
        (
            "train digits --backend numpy --threads 2",
            "argument --threads: backend 'numpy' has no option 'threads'; its options: none",
        ),
        ("train digits --threads 0", "argument --threads: got '0', wanted a whole number of at least 1"),
        ("train digits --dtype float16", "argument --dtype: invalid choice: 'float16'"),
        ("train digits --epochs 0", "argument --epochs: got '0', wanted a whole number of at least 1"),
        ("train digits --epochs 1e3", "argument --epochs: got '1e3'"),
        ("train digits --epochs", "argument --epochs: expected one argument"),
        ("train digits --batch-size -5", "argument --batch-size: got '-5'"),
        ("train digits --layers 128,0", "argument --layers: got '0'"),
        ("train digits --layers 128,,64", "argument --layers: got ''"),
        ("train digits --dropout 1", "argument --dropout: got '1', wanted a number of at least 0 and less than 1"),
        ("train digits --validation 1", "argument --validation: got '1'"),
        ("train digits --learning-rate 0", "argument --learning-rate: got '0', wanted a number above 0"),
        ("train digits --learning-rate nan", "argument --learning-rate: got 'nan'"),
        ("train digits --clip-norm inf", "argument --clip-norm: got 'inf'"),
        ("train digits --l2 -1", "argument --l2: got '-1'"),
        ("train digits --seed -1", "argument --seed: got '-1'"),
        ("train digits --early-stopping x", "argument --early-stopping: got 'x'"),
        ("train digits --l1 -1", "argument --l1: got '-1', wanted a number of at least 0"),
        (
            "train digits --optimizer lbfgs --dropout 0.1",
            "--dropout cannot be combined with --optimizer lbfgs: its",
        ),
        ("train digits --optimizer lbfgs --batch-size 8", "--batch-size cannot be combined with --optimizer lbfgs: ea"),
        (
            "train digits --optimizer lbfgs --average ema",
            "--average cannot be combined with --optimizer lbfgs: the",
        ),
        ("train digits --optimizer lbfgs --clip-norm 1", "--clip-norm cannot be combined with --optimizer lbfgs: its"),
        ("train digits --optimizer lbfgs --from-disk", "--from-disk cannot be combined with --optimizer lbfgs: each"),
        ("search digits --optimizer lbfgs --l1 0.1", "--l1 cannot be combined with --optimizer lbfgs: it needs"),
        ("train digits --momentum 0.5", "--momentum is only for --optimizer sgd, but the optimizer is adam"),
        ("train good.csv", "--target COLUMN is needed; the columns of good.csv: x, y, kind, price"),
        ("train good.csv --target price --exclude kind --loss binary_cross_entropy", "is for classes; a regression"),
        ("train good.csv --target kind -o good.csv", "--output good.csv would overwrite good.csv, which the command"),
        ("predict good.safetensors good.csv -o good.safetensors", "would overwrite good.safetensors"),
        ("predict good.safetensors", "required: DATA"),
        ("predict good.safetensors good.csv --backend nunpy", "unknown backend 'nunpy'"),
        ("predict good.safetensors good.csv --threads 2 --backend numpy", "argument --threads: backend 'numpy' has no"),
        ("evaluate good.safetensors good.csv --threads 2", "argument --threads: backend 'numpy' has no option"),
        ("evaluate", "required: MODEL, DATA"),
        ("warmup --backend nunpy", "unknown backend 'nunpy'; did you mean 'numpy'?"),
        ("warmup --threads 2", "unrecognized arguments: --threads 2"),
        ("backends --backend numpy", "unrecognized arguments"),
    ],
)
def test_invalid_arguments_exit_with_status_2(fails, command, message):
    assert message in fails(2, *command.split())


def test_errors_about_arguments_point_to_the_help(fails):
    assert fails(2, "train").endswith("\ntry: deepnotes train --help")


# --- data that cannot be used -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "bad.csv:1: the file is empty"),
        ("x,kind\n", "bad.csv:1: no row follows the header"),
        ("x,kind\n1,a\noops,b\n", "bad.csv:3: column 'x' has 'oops' where a number was expected"),
        ("x,kind\n1,a\n2,b,3\n", "bad.csv:3: 3 cells where the header has 2"),
        ("x,kind\n1,a\n,b\n", "bad.csv:3: column 'x' has an empty cell"),
        ("x,kind\n" + "".join(f"word{i},{i % 2}\n" for i in range(99)), "bad.csv:2: column 'x' is text with 79"),
        ("x,kind\n,a\n,b\n,a\n,b\n,a\n,b\n", "bad.csv:2: column 'x' has an empty cell where a value was expected"),
        ("kind\na\nb\n", "bad.csv: no column is left as a feature"),
        ("x,kind\n1,a\n", "bad.csv has only one row, but training needs at least 2"),
        ("x,kind\n1,a\n2,a\n3,a\n4,a\n5,a\n", "the target has only one class, 'a'"),
        ("x,kind\n1,a\n2,b\n3,c\n4,d\n5,e\n", "bad.csv: each row has a different class"),
        ("x,kind\n1,a\n2,a\n", "share 0.2 of 2 samples leaves the validation set empty"),
    ],
)
def test_invalid_tables_are_refused(fails, folder, text, message):
    assert message in fails(1, "train", write("bad.csv", text), "--target", "kind")
    assert not (folder / "bad.safetensors").exists()


def test_missing_files_are_refused(fails):
    assert fails(1, "train", "nowhere.csv", "--target", "y") == "nowhere.csv: cannot be read: No such file or directory"
    assert fails(1, "predict", "good.safetensors", "nowhere.csv").startswith("nowhere.csv: cannot be read")
    assert fails(1, "evaluate", "nowhere.safetensors", "good.csv").startswith("cannot read nowhere.safetensors")


def test_unknown_columns_are_refused_with_a_suggestion(fails):
    message = "good.csv: no column 'prize' (did you mean 'price'?); columns: x, y, kind, price"
    assert fails(1, "train", "good.csv", "--target", "prize") == message
    assert "no column 'yy' (did you mean 'y'?)" in fails(1, "train", "good.csv", "--target", "price", "--exclude", "yy")
    assert "no column 'kin'" in fails(1, "evaluate", "good.safetensors", "good.csv", "--target", "kin")


def test_tables_without_the_features_of_the_model_are_refused(fails):
    write_table("less.csv", ["a", "X", "kind"], [[1.0], [2.0], ["up"]])
    message = fails(1, "predict", "good.safetensors", "less.csv")
    assert message == "less.csv: no column 'x' (did you mean 'X'?), no column 'y'; columns: a, X, kind"
    assert fails(1, "evaluate", "good.safetensors", "less.csv") == message


def test_targets_that_do_not_fit_the_task_are_refused(fails):
    table = read_table("good.csv")
    write_table("other.csv", table.names, table.columns | {"kind": np.array(["up", "sideways"] * 20)})
    message = fails(1, "evaluate", "good.safetensors", "other.csv")
    assert message == "the target has the class 'sideways', but the model knows only down, up"
    assert "is text" in fails(1, "train", "good.csv", "--target", "kind", "--exclude", "price", "--task", "regression")


def test_negative_targets_are_refused_for_the_poisson_loss(fails):
    message = fails(1, "train", "good.csv", "--target", "price", "--exclude", "kind", "--loss", "poisson")
    assert message.endswith("but the loss poisson needs numbers of at least 0")


# --- invalid models ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_files_that_are_not_models_are_refused(fails, folder, command):
    valid = (folder / "good.safetensors").read_bytes()
    for i, content in enumerate([b"", b"hello", valid[:4], valid[:200], valid[:-1], valid[:-4] + b"oops"]):
        (folder / f"{i}.safetensors").write_bytes(content)
        assert f"{i}.safetensors" in fails(1, command, f"{i}.safetensors", "good.csv")
    assert "good.csv" in fails(1, command, "good.csv", "good.csv")


@pytest.mark.parametrize(
    "change",
    [
        {"features": ["x"]},
        {"features": [1, 2]},
        {"features": None},
        {"target": 3},
        {"task": "sorting"},
        {"loss": "anger"},
        {"loss": []},
        {"classes": ["one"]},
        {"classes": 2},
        {"task": "regression"},
        {"task": "regression", "target_mean": 0, "target_scale": 1},
        {"task": "regression", "target_mean": 10**400, "target_scale": 1},
    ],
)
def test_models_with_invalid_metadata_are_refused(fails, change):
    network = dn.load("good.safetensors")
    network.metadata |= change
    network.save("changed.safetensors")
    message = fails(1, "predict", "changed.safetensors", "good.csv")
    assert message.startswith("changed.safetensors has no valid description of its inputs and outputs")


def test_a_model_without_metadata_is_refused(fails):
    dn.Network([dn.Dense(1)], inputs=2, seed=0).save("plain.safetensors")
    assert "use a model that 'deepnotes train' wrote" in fails(1, "predict", "plain.safetensors", "good.csv")


# --- output that cannot be written ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nowhere/model", "cannot write nowhere/model: No such file or directory"),
        ("good.csv/model", "cannot write good.csv/model: Not a directory"),
        (".", "cannot write .: it is a directory"),
    ],
)
def test_output_paths_that_cannot_be_written_are_refused_first(fails, monkeypatch, path, message):
    monkeypatch.setattr(train, "Network", None)  # the error must come before training
    assert fails(1, "train", "good.csv", "--target", "kind", "-o", path) == message
    assert fails(1, "predict", "good.safetensors", "good.csv", "-o", path) == message


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_model_cannot_be_written_to_a_pipe(fails):
    os.mkfifo("pipe")
    message = fails(1, "train", "good.csv", "--target", "kind", "-o", "pipe")
    assert message == "cannot write pipe: it is not a regular file"


# --- runs that fail ---------------------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_training_without_a_model(fails, folder):
    (folder / "digits.safetensors").write_text("old")
    message = fails(1, "train", "digits", "--optimizer", "sgd", "--learning-rate", "1e20", "--quiet", "--force")
    assert "before update" in message
    assert message.endswith("\nno model was written; try a smaller --learning-rate, or --clip-norm 1")
    assert (folder / "digits.safetensors").read_text() == "old"


def test_the_error_of_an_unavailable_backend_includes_the_fix(fails, monkeypatch):
    def unavailable(args):
        raise dn.BackendUnavailable("sparkle", "there is no sparkle device", "pip install sparkle")

    monkeypatch.setattr(train, "chosen_backend", unavailable)
    assert "pip install sparkle" in fails(1, "train", "digits", "--backend", "sparkle")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ZeroDivisionError("oh"), "this is a bug in deepnotes (ZeroDivisionError: oh); --debug shows the traceback"),
        (MemoryError(), "out of memory"),
        (OSError(28, "No space left on device", "x.csv"), "x.csv: No space left on device"),
        (OSError("broken"), "broken"),
        (
            dn.BackendUnavailable("b", "one\ntwo\n\nthree", "four"),
            "backend 'b' is unavailable: one two three; to fix it: four",
        ),
    ],
)
def test_unexpected_errors_are_reported_in_one_line(fails, monkeypatch, error, message):
    def fail(args):
        raise error

    monkeypatch.setattr(train, "chosen_backend", fail)
    assert fails(1, "train", "digits") == message


def test_debug_shows_the_traceback(capsys):
    assert main(["train", "nowhere.csv", "--debug"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback")
    assert err.endswith("\ndeepnotes: error: nowhere.csv: cannot be read: No such file or directory\n")


@pytest.mark.parametrize(("command", "status"), [("--version", 0), ("train nowhere.csv", 1), ("train", 2)])
def test_the_process_exits_with_the_status_of_the_command(command, status):
    process = subprocess.run([*DEEPNOTES, *command.split()], capture_output=True, text=True)
    assert process.returncode == status
    assert (process.stdout == "") == (status > 0)
    assert (process.stderr == "") == (status == 0)


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX signals")
def test_an_interrupt_ends_training_with_status_130(folder):
    program = (  # a background job starts with SIGINT ignored, so the handler is set
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from deepnotes.cli import main; sys.exit(main(['train', 'digits', '--epochs', '100000']))"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any(line.startswith("epoch 1/") for line in process.stderr)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.splitlines() == ["deepnotes: interrupted; no model was written"]
    assert not (folder / "digits.safetensors").exists()


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX pipes")
def test_a_closed_pipe_ends_the_command_silently():
    command = [*DEEPNOTES, "predict", "good.safetensors", "good.csv"]
    reader, writer = os.pipe()
    os.close(reader)
    with subprocess.Popen(command, stdout=writer, stderr=subprocess.PIPE, text=True) as process:
        os.close(writer)
        _, err = process.communicate(timeout=20)
    assert (process.returncode, err) == (141, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_is_reported():
    with open("/dev/full", "w") as full:
        command = [*DEEPNOTES, "evaluate", "good.safetensors", "good.csv"]
        process = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert process.returncode == 1
    note, error = process.stderr.splitlines()
    assert "that the model was trained on" in note
    assert error == "deepnotes: error: cannot write to stdout: No space left on device"


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_invalid_checkpoint_options_do_not_change_checkpoints(fails):
    train = ("train", "good.csv", "--target", "kind", "--exclude", "price", "--epochs", "2", "--quiet")
    assert "--resume needs --checkpoint DIR" in fails(2, *train, "--resume")
    assert "--every needs --checkpoint DIR" in fails(2, *train, "--every", "5m")
    assert "every='soon', wanted a number of epochs" in fails(2, *train, "--checkpoint", "run", "--every", "soon")
    assert main([*train, "--checkpoint", "run"]) == 0
    before = sorted(os.listdir("run"))
    assert "resume (resume=True or --resume)" in fails(1, *train, "--checkpoint", "run")
    message = fails(1, *train, "--checkpoint", "run", "--resume", "--batch-size", "7")
    assert "batch_size was 32 and is 7" in message
    assert sorted(os.listdir("run")) == before


def test_sigterm_ends_training_with_a_checkpoint(folder):
    command = ["train", "digits", "--epochs", "100000", "--quiet", "--checkpoint", "run", "--every", "1"]
    with subprocess.Popen([*DEEPNOTES, *command], stderr=subprocess.PIPE, text=True) as process:
        while not os.path.isdir("run") or not any(name.startswith("step-") for name in os.listdir("run")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert any(name.endswith(".safetensors") for name in os.listdir("run"))
    assert not os.path.exists("digits.safetensors")
