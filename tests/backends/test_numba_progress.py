"""Messages during a long compilation by Numba."""

import logging
import time

import pytest

pytest.importorskip("numba", reason="needs Numba")

from numba.core import event

from deepnotes_numba import progress


@pytest.fixture
def messages(monkeypatch, caplog):
    """Return a function that compiles for so many intervals, as Numba does, and returns the messages."""
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    listener = progress.CompileProgress()

    def compile_for(intervals, fails=False):
        caplog.clear()
        listener.announce("training for float32")
        try:
            with event.trigger_event("numba:compile"):
                for _ in range(3):
                    with event.trigger_event("numba:compile"):
                        pass
                time.sleep(intervals * progress.INTERVAL)
                if fails:
                    raise ValueError
        except ValueError:
            pass
        return [record.getMessage() for record in caplog.records]

    with caplog.at_level(logging.INFO, logger="deepnotes"):
        yield compile_for
    event.unregister("numba:compile", listener)


def test_a_long_compilation_reports_its_progress_and_its_end(messages):
    for _ in range(2):  # the listener can be used again
        *during, last = messages(4)
        assert during
        assert set(during) == {"numba: compiling training for float32: 3 functions in 0 s so far"}
        assert last == "numba: compiling training for float32 ended after 0 s"


def test_the_messages_of_a_compilation_that_fails_end_as_well(messages, caplog):
    assert "ended" in messages(4, fails=True)[-1]
    before = len(caplog.records)
    time.sleep(3 * progress.INTERVAL)
    assert len(caplog.records) == before


def test_a_compilation_without_an_event_leaves_no_announcement(messages, caplog):
    listener = progress.CompileProgress()
    listener.announce("activations")
    listener.withdraw()  # as at the end of the compilation of a callback
    assert "training for float32" in messages(4)[-1]
    assert not any("activations" in record.getMessage() for record in caplog.records)


def test_a_short_compilation_reports_nothing(messages):
    assert messages(0) == []


def test_functions_that_were_not_announced_are_not_reported(messages, caplog):
    messages(0)
    with event.trigger_event("numba:compile"):
        time.sleep(3 * progress.INTERVAL)
    assert not caplog.records
