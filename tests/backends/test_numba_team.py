"""Teams of threads in the Numba backend: one call per thread, barriers, and errors that end all threads."""

import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from watchdog import call_within

pytest.importorskip("numba")
import deepnotes as dn
from deepnotes_numba import thread_count, thread_team
from deepnotes_numba.arguments import Team
from deepnotes_numba.barrier import ARRIVED, BROKEN, SIZE, wait
from deepnotes_numba.compiling import jit_standalone
from deepnotes_numba.vectors import pointer


@jit_standalone
def meet(team):
    rank, size, meeting = team
    return wait(Team(rank, size, pointer(meeting, 0)))


@jit_standalone
def meet_in_rounds(team, rounds, progress):
    """Meet twice a round, and count how often another thread is in a different round after the first meeting.

    Return this number, or -1 if another thread has failed.
    """
    rank, size, meeting = team
    threads = Team(rank, size, pointer(meeting, 0))
    mismatches = 0
    for r in range(rounds):
        progress[rank, 0] = r
        if not wait(threads):
            return -1
        for other in range(size):
            mismatches += progress[other, 0] != r
        if not wait(threads):
            return -1
    return mismatches


def wait_for(condition: Callable[[], Any]) -> None:
    while not condition():
        time.sleep(0.001)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_team_calls_a_function_once_per_rank_and_returns_the_result_of_rank_0(size: int) -> None:
    calls = []

    def function(team: tuple[int, int, np.ndarray], *arguments: Any) -> int:
        rank, size, meeting = team
        calls.append((rank, size, *arguments))
        assert meeting.tolist() == [0] * SIZE
        return 10 + rank

    assert thread_team.run(size, function, "a", 2) == 10
    assert sorted(calls) == [(rank, size, "a", 2) for rank in range(size)]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("failing_rank", [0, 1, 2])
def test_an_error_in_one_thread_ends_all_threads_and_is_raised(failing_rank: int, error: type[BaseException]) -> None:
    ended = []

    def function(team: tuple[int, int, np.ndarray]) -> None:
        rank, _, meeting = team
        if rank == failing_rank:
            raise error("one failed")
        wait_for(lambda: meeting[BROKEN])
        ended.append(rank)

    with pytest.raises(error, match="one failed"):
        call_within(60, thread_team.run, 3, function)
    assert sorted(ended) == sorted({0, 1, 2} - {failing_rank})


def test_an_error_releases_threads_that_wait_in_compiled_code() -> None:
    results = []

    def function(team: tuple[int, int, np.ndarray]) -> None:
        rank, _, meeting = team
        if rank == 0:
            wait_for(lambda: meeting[ARRIVED] == 2)
            raise ValueError("too late")
        results.append(meet(team))

    with pytest.raises(ValueError, match="too late"):
        call_within(60, thread_team.run, 3, function)
    assert results == [False, False]


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5])
def test_no_thread_passes_a_barrier_before_all_have_reached_it(size: int) -> None:
    """There may be more threads than processors."""
    assert call_within(60, thread_team.run, size, meet_in_rounds, 1000, np.zeros((size, 16), np.int64)) == 0


@pytest.fixture
def _no_second_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    start = threading.Thread.start

    def start_unless_second(thread: threading.Thread) -> None:
        if thread.name == "deepnotes-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_unless_second)


@pytest.mark.usefixtures("_no_second_thread")
def test_a_thread_that_cannot_be_started_releases_the_waiting_threads() -> None:
    results = []
    with pytest.raises(RuntimeError, match="can't start"):
        call_within(60, thread_team.run, 3, lambda team: results.append(meet(team)))
    assert results == [False]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not let threads be moved")
def test_new_threads_avoid_the_core_of_the_calling_thread() -> None:
    granted = os.sched_getaffinity(0)
    cores: dict[int, set[int]] = {}

    def function(team: tuple[int, int, np.ndarray]) -> None:
        cores[team[0]] = set(os.sched_getaffinity(0))

    thread_team.run(3, function)
    assert cores[0] == os.sched_getaffinity(0) == granted  # the calling thread is not moved
    avoided = 1 if len(granted) > 1 else 0
    assert [len(granted - cores[rank]) for rank in (1, 2)] == [avoided, avoided]


# --- tasks that each have one thread ----------------------------------------------------------------------------------


def test_each_task_has_one_thread() -> None:
    limits: list[int] = []
    dn.get_backend("numba", threads=2).run_each([lambda: limits.append(thread_count.limit(2))] * 5)
    assert limits == [1] * 5
    assert thread_count.limit(2) == 2


def test_no_task_starts_after_one_has_failed() -> None:
    started: list[int] = []

    def fail() -> None:
        started.append(1)
        raise RuntimeError("a task failed")

    with pytest.raises(RuntimeError, match="a task failed"):
        dn.get_backend("numba", threads=2).run_each([fail] * 9)
    assert len(started) <= 2
