"""Ranks that exchange messages by TCP: how they find each other, what they exchange, and how they fail."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_ranks import shard, tree
from thread_ranks import in_threads

import deepnotes as dn
from deepnotes.network.distributed import Ranks, sum_in_tree
from deepnotes.network.distributed.launch import find_launch
from deepnotes.network.distributed.tcp_ranks import TCPRanks
from deepnotes.utils.errors import ArgumentError, RankError

WORKER = Path(__file__).with_name("mpi_worker.py")
WITHIN = 30


def free_port() -> int:
    """Return a port that was free a moment ago, and whose successor was, too."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port if port < 65_000 else free_port()


def start(size: int, port: int | None = None, **options: Any) -> "list[subprocess.Popen[str]]":
    """Start processes as torchrun does, by environment variables."""
    port = free_port() if port is None else port
    command = [sys.executable, str(WORKER), "by=tcp", *(f"{name}={value}" for name, value in options.items())]
    variables = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [
        subprocess.Popen(
            command, env=os.environ | variables | {"RANK": str(rank)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]  # fmt: skip


def finish(processes: "list[subprocess.Popen[str]]") -> tuple[dict[int, Any], str]:
    """Return what each rank printed, and the texts on stderr."""
    try:
        texts = [process.communicate(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    printed = [json.loads(line) for out, _ in texts for line in out.splitlines() if line.startswith("{")]
    return {one["rank"]: one for one in printed}, "".join(err for _, err in texts)


def run_threads(size: int, function: Callable[[TCPRanks], Any], **options: Any) -> list[Any]:
    """Call a function with each rank in a thread of its own; return the results, or the errors that it raised."""
    port = free_port()

    def work(rank: int) -> Any:
        with dn.distributed.tcp(rank, size, "localhost", port, **({"time_limit": 20.0} | options)) as ranks:
            return function(ranks)

    return in_threads(size, work)


@pytest.fixture(scope="module")
def expected() -> int:
    """The digest of the parameters after 200 updates on one process."""
    results, err = finish(start(1))
    assert results, err
    digest: int = results[0]["digest"]
    return digest


# --- processes -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [2, *(pytest.param(size, marks=pytest.mark.slow) for size in (4, 8))])
def test_processes_train_to_the_same_bits(expected: int, size: int) -> None:
    results, err = finish(start(size))
    assert [results.get(rank, {}).get("digest") for rank in range(size)] == [expected] * size, err


@pytest.mark.parametrize(
    ("fail", "message"),
    [
        ("raise", "RankError: rank 1: OSError: unplugged"),
        ("raise before", "RankError: rank 1: OSError: no such file"),
        ("end", "RankError: rank 1: its process has ended"),
        ("kill", "RankError: rank 1: its process has ended"),
        ("settings", "batch_size is 48 on rank 0 and 32 on rank 1"),
    ],
)
def test_a_rank_that_fails_ends_the_others_with_its_message(fail: str, message: str) -> None:
    start_time = time.monotonic()
    results, err = finish(start(2, fail=fail, rank=1))
    assert message in results[0]["error"], err
    assert time.monotonic() - start_time < WITHIN


def test_a_rank_that_hangs_is_an_error_after_the_time_limit() -> None:
    processes = start(2, fail="hang", rank=1, time_limit=5)
    assert processes[0].wait(timeout=WITHIN + 10) != 0  # the other one sleeps, and is killed below
    processes[1].kill()
    assert "rank 1 did not answer rank 0 for 5 s" in finish(processes)[0][0]["error"]


def test_a_signal_to_one_rank_ends_all_after_the_same_update_and_a_checkpoint(expected: int, tmp_path: Path) -> None:
    results, err = finish(start(2, fail="interrupt", rank=1, checkpoint=tmp_path))
    assert [results[rank]["error"] for rank in range(2)] == ["KeyboardInterrupt: "] * 2, err
    results, err = finish(start(1, checkpoint=tmp_path, resume=1))
    assert results[0]["digest"] == expected, err


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_rank_killed_ends_all_and_training_resumes_on_another_number(
    expected: int, tmp_path: Path, victim: int
) -> None:
    processes = start(4 if victim else 2, checkpoint=tmp_path, slow=1)
    while not list(tmp_path.glob("step-*.safetensors")) and processes[0].poll() is None:
        time.sleep(0.01)
    processes[victim].send_signal(signal.SIGKILL)
    start_time = time.monotonic()
    results, err = finish(processes)
    assert time.monotonic() - start_time < WITHIN
    assert f"rank {victim}: its process has ended" in results[1 - victim]["error"], err
    results, err = finish(start(1 if victim else 4, checkpoint=tmp_path, resume=1))
    assert [one["digest"] for one in results.values()] == [expected] * (1 if victim else 4), err


@pytest.mark.slow
def test_torchrun_starts_the_ranks(expected: int) -> None:
    pytest.importorskip("torch", reason="needs PyTorch, for torchrun")
    options = ["--standalone", "--nproc-per-node", "2", str(WORKER), "by=tcp"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *options], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    digests = [json.loads(line)["digest"] for line in done.stdout.splitlines() if line.startswith("{")]
    assert digests == [expected] * 2


@pytest.mark.parametrize("from_disk", [False, True])
def test_the_command_line_writes_the_same_model_on_two_processes(tmp_path: Path, from_disk: bool) -> None:
    data = ["iris"]
    if from_disk:
        pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        rng = np.random.default_rng(0)
        table = {f"x{j}": rng.normal(size=600) for j in range(4)}
        table["y"] = (table["x0"] * table["x1"] > 0).astype(int)
        parquet.write_table(pyarrow.table(table), tmp_path / "table.parquet", row_group_size=50)
        data = [str(tmp_path / "table.parquet"), "--target", "y", "--from-disk"]
    options = ("--ranks", "tcp", "--backend", "numpy", "--epochs", "3", "--layers", "8", "--force", "--seed", "1")
    files = [tmp_path / str(size) / "model.safetensors" for size in (1, 2)]
    for size, path in zip((1, 2), files, strict=True):
        path.parent.mkdir()
        variables = {"SLURM_NTASKS": str(size), "SLURM_JOB_ID": str(os.getpid()), "SLURM_STEP_NODELIST": "localhost"}
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", "deepnotes", "train", *data, *options, "-o", str(path)], stdout=subprocess.PIPE,
                stderr=subprocess.PIPE, text=True, env=os.environ | variables | {"SLURM_PROCID": str(rank)},
            )
            for rank in range(size)
        ]  # fmt: skip
        texts = [process.communicate(timeout=240) for process in processes]
        assert [process.returncode for process in processes] == [0] * size, texts
        assert ["accuracy" in out for out, _ in texts] == [True, False][:size]
    assert files[0].read_bytes() == files[1].read_bytes()


# --- messages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("numbers", [5, 300_000])
def test_the_sum_over_ranks_has_the_same_bits_for_any_number_of_ranks(size: int, numbers: int) -> None:
    def work(ranks: TCPRanks) -> bytes:
        count = ranks.shards // ranks.size
        buffers = [np.empty(numbers, np.float32) for _ in range(max(1, count.bit_length() - 1))]
        with ranks.guard():
            total = sum_in_tree(partial(shard, size=numbers), ranks.rank * count, count, buffers)
            ranks.sum(total)
            assert ranks.gather({"rank": ranks.rank, "x": "y" * numbers})[-1]["rank"] == size - 1
            assert ranks.broadcast(f"of {ranks.rank}") == "of 0"
            ranks.barrier()
        return total.tobytes()

    total = np.empty(numbers, np.float32)
    sum_in_tree(partial(shard, size=numbers), 0, 8, [total, *(np.empty_like(total) for _ in range(2))])
    assert run_threads(size, work) == [total.tobytes()] * size
    if numbers == 5:
        assert total.tobytes() == tree(0, 8).tobytes()


def test_ranks_can_be_used_again_after_an_error_in_the_middle_of_a_long_message() -> None:
    """What was begun to be sent is sent, and what belongs to the earlier call is dropped."""

    def work(ranks: TCPRanks) -> Any:
        def fail_once() -> None:
            with ranks.guard():
                if ranks.rank == 1:
                    raise ValueError("once")
                ranks.sum(np.full(3_000_000, 7.0))

        with pytest.raises(ValueError if ranks.rank == 1 else RankError, match="once"):
            fail_once()
        with ranks.guard():
            x = np.full(100, float(ranks.rank))
            ranks.sum(x)
            return ranks.gather(x[0])

    assert run_threads(2, work) == [[1.0, 1.0]] * 2
    assert run_threads(4, work) == [[6.0] * 4] * 4


def test_an_error_that_all_ranks_raise_stays_what_it_is() -> None:
    def work(ranks: TCPRanks) -> None:
        with ranks.guard():
            ranks.barrier()
            raise ArithmeticError("on all ranks")

    assert [type(error) for error in run_threads(4, work)] == [ArithmeticError] * 4


def test_a_rank_that_does_not_answer_is_an_error_after_the_time_limit() -> None:
    def work(ranks: TCPRanks) -> None:
        with ranks.guard():
            if ranks.rank == 1:
                time.sleep(2.5)
                return
            ranks.sum(np.ones(3))

    error = run_threads(2, work, time_limit=1.0)[0]
    assert isinstance(error, RankError)
    assert "rank 1 did not answer rank 0 for 1 s" in str(error)


def test_ranks_on_one_machine_are_numbered_and_follow_the_protocol() -> None:
    assert run_threads(4, lambda ranks: (ranks.local_rank, isinstance(ranks, Ranks))) == [(i, True) for i in range(4)]


# --- the start -----------------------------------------------------------------------------------------------------


def test_a_stranger_that_connects_is_ignored() -> None:
    port, results = free_port(), []

    def rank(number: int) -> None:
        with dn.distributed.tcp(number, 2, "localhost", port, time_limit=20) as ranks, ranks.guard():
            results.append(ranks.gather(number))

    first = threading.Thread(target=rank, args=(0,))
    first.start()
    for greeting in (b"", b"GET / HTTP/1.1\r\n\r\n", bytes(200)):
        while True:
            with suppress(ConnectionRefusedError), socket.create_connection(("localhost", port)) as stranger:
                stranger.sendall(greeting)
                break
    rank(1)
    first.join()
    assert results == [[0, 1]] * 2


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        (
            [{}, {"secret": "other"}],
            ["rank 1 did not connect to rank 0", "rank 0, at localhost:.*, has another secret"],
        ),
        ([{}, {"size": 4}], ["rank 1 was started as one of 4 ranks, rank 0 as one of 2", "rank 0, at .*, has ended"]),
        ([{"size": 4}, {"size": 4}, {"size": 4, "rank": 1}], ["two processes were started as rank 1", "rank", "rank"]),
        ([{}], ["rank 1 did not connect to rank 0 within the time limit"]),
        ([{"rank": 1}], ["rank 1 did not reach rank 0 at localhost:.* within the time limit"]),
    ],
)
def test_processes_that_do_not_belong_together_are_refused(options: Any, messages: list[str]) -> None:
    port = free_port()

    def work(index: int) -> Any:
        own = {"rank": index, "size": 2, "secret": "one", "time_limit": 2.0} | options[index]
        return dn.distributed.tcp(address="localhost", port=port, **own)

    for error, message in zip(in_threads(len(options), work), messages, strict=True):
        assert isinstance(error, RankError), error
        assert re.search(message, str(error)), error


def test_a_port_that_is_in_use_is_an_error() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        pytest.raises(RankError, match=r"rank 0 cannot listen at port .* choose another port"),
    ):
        dn.distributed.tcp(0, 2, "localhost", server.getsockname()[1], time_limit=1)


def test_the_variables_of_torchrun_come_before_those_of_slurm() -> None:
    slurm = {"SLURM_PROCID": "2", "SLURM_NTASKS": "9", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NODELIST": "a[1-2],b"}
    assert find_launch(slurm) == (2, 4, "a1", 20_000)
    assert find_launch(slurm | {"SLURM_JOB_ID": "1234567", "SLURM_STEP_ID": "2"}) == (2, 4, "a1", 34_569)
    assert find_launch(slurm | {"MASTER_ADDR": "c", "MASTER_PORT": "5000"}) == (2, 4, "c", 5001)
    torchrun = {"RANK": "3", "WORLD_SIZE": "4", "MASTER_ADDR": "d", "MASTER_PORT": "6000", "LOCAL_RANK": "1"}
    assert find_launch(slurm | torchrun) == (3, 4, "d", 6001)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "no launcher has started this process"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK='one', wanted a whole number"),
        ({"RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE='0'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "rank 2 of 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "MASTER_PORT": "70000"}, "MASTER_PORT='70000'"),
        ({"SLURM_PROCID": "0"}, "no SLURM_NTASKS"),
    ],
)
def test_other_environments_are_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        find_launch(environment)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "wanted both or neither"),
        ({"rank": 2, "size": 2, "address": "localhost", "port": 1}, "rank=2, wanted less than size=2"),
        ({"rank": 0, "size": 2}, "address and port"),
        ({"rank": 0, "size": 2, "address": "localhost", "port": 70_000}, "port=70000"),
        ({"rank": 0, "size": 2, "address": 5, "port": 1}, "address=5"),
        ({"rank": 0, "size": 1, "secret": 5}, "secret: got int"),
        ({"rank": 0, "size": 3, "address": "localhost", "port": 1}, "3 ranks cannot share 8 shards"),
        ({"rank": 0, "size": 1, "time_limit": 0}, "time_limit"),
    ],
)
def test_other_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        dn.distributed.tcp(**arguments)
