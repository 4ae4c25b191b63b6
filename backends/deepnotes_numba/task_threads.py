"""Threads that each run one task after another; compiled calls release the GIL, so they run at the same time."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from deepnotes_numba import thread_count
from deepnotes_numba.thread_team import current_core, leave_core


def run_each(tasks: Sequence[Callable[[], None]], threads: int | None) -> None:
    """Run tasks in the calling thread and in others, as many as a call may use; see :meth:`Backend.run_each`.

    Parameters
    ----------
    tasks : sequence of callable
    threads : int or None
        The user's limit on the number of threads.
    """
    waiting = deque(tasks)
    errors: list[BaseException] = []
    caller_core = current_core()

    def work() -> None:
        try:
            with thread_count.single_threaded():
                while waiting and not errors:
                    try:
                        task = waiting.popleft()
                    except IndexError:  # another thread has taken the last one
                        return
                    task()
        except BaseException as error:
            errors.append(error)

    def work_beside() -> None:
        leave_core(caller_core)
        work()

    others = min(thread_count.limit(threads), len(tasks)) - 1
    started = [threading.Thread(target=work_beside, name=f"deepnotes-task-{i}", daemon=True) for i in range(others)]
    try:
        for thread in started:
            thread.start()
        work()
    finally:
        waiting.clear()
        for thread in started:
            thread.join()
    if errors:
        raise errors[0]
