"""Options of a backend are passed to its factory, belong to the selection, and stay with the backend."""

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import registry

calls: list[tuple[str, dict[str, Any]]] = []
"""The calls of the factories below: their names and arguments."""


def tuned(threads: int | None = None, *, device: str = "cpu") -> dn.Backend:
    """Create a backend with two options; an entry point registered by the tests names this function."""
    calls.append(("tuned", {"threads": threads, "device": device}))
    if threads is not None and threads < 1:
        raise dn.ArgumentError(f"threads={threads!r}, wanted at least 1")
    return dn.Backend("tuned", array_api_strict)


def accepts_all(**options: object) -> dn.Backend:
    calls.append(("accepts_all", options))
    return dn.Backend("accepts_all", array_api_strict)


def plain() -> dn.Backend:
    calls.append(("plain", {}))
    return dn.Backend("plain", array_api_strict)


def broken(threads: int = 1) -> dn.Backend:
    raise dn.ArgumentError("this is not about an option")


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the backends above in addition to those of deepnotes, and reset the selection afterwards."""
    names = ("tuned", "accepts_all", "plain", "broken")
    entries = {name: EntryPoint(name, f"{__name__}:{name}", registry.GROUP) for name in names}
    entries |= registry._entry_points()
    monkeypatch.setattr(registry, "_entry_points", lambda: entries)
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)
    calls.clear()
    yield
    dn.set_backend(None)


def test_options_are_passed_to_the_factory_and_kept_by_the_backend() -> None:
    backend = dn.get_backend("tuned", threads=2)
    assert calls == [("tuned", {"threads": 2, "device": "cpu"})]
    assert backend.options == {"threads": 2}
    assert dn.get_backend(backend="tuned").options == {}
    assert dn.Backend("mine", np).options == {}


def test_a_backend_is_created_once_per_set_of_options() -> None:
    first = dn.get_backend("tuned", threads=1, device="gpu")
    assert dn.get_backend("tuned", device="gpu", threads=1) is first
    others = [dn.get_backend("tuned"), dn.get_backend("tuned", threads=1), dn.get_backend("tuned", threads=True)]
    assert len({id(backend) for backend in (first, *others)}) == len(calls) == 4


def test_an_option_that_the_factory_lacks_is_refused_without_calling_it() -> None:
    with pytest.raises(dn.ArgumentError) as caught:
        dn.get_backend("tuned", thread=2)
    assert str(caught.value) == "backend 'tuned' has no option 'thread'; its options: threads, device"
    with pytest.raises(dn.ArgumentError) as caught:
        dn.get_backend("numpy", threads=2)
    assert str(caught.value) == "backend 'numpy' has no option 'threads'; its options: none"
    assert calls == []


def test_a_factory_may_take_any_option() -> None:
    assert dn.get_backend("accepts_all", anything="goes").options == {"anything": "goes"}
    assert calls == [("accepts_all", {"anything": "goes"})]


def test_an_argument_error_about_a_passed_option_is_raised_unchanged() -> None:
    with pytest.raises(dn.ArgumentError, match=r"^threads=0, wanted at least 1$"):
        dn.get_backend("tuned", threads=0)
    with pytest.raises(dn.BackendUnavailable, match="ArgumentError: this is not about an option"):
        dn.get_backend("broken")


def test_an_unhashable_value_is_refused() -> None:
    with pytest.raises(dn.ArgumentError, match=r"'accepts_all': got devices=\[0, 1\], wanted hashable values"):
        dn.get_backend("accepts_all", devices=[0, 1])
    assert calls == []


def test_options_cannot_be_passed_with_a_backend_object() -> None:
    backend = dn.get_backend("tuned")
    with pytest.raises(dn.ArgumentError, match=r"'tuned'.*: got threads=2, wanted options only with the name"):
        dn.get_backend(backend, threads=2)


def test_a_selection_includes_its_options() -> None:
    dn.set_backend("tuned", threads=4)
    assert dn.get_backend().options == {"threads": 4}
    with dn.use_backend("tuned", threads=1) as backend:
        assert dn.get_backend() is backend is dn.get_backend("tuned", threads=1)
        assert dn.get_backend("tuned").options == {}
        assert dn.Network([dn.Dense(1)], inputs=2).backend is backend
    assert dn.get_backend().options == {"threads": 4}
    dn.set_backend("tuned")
    assert dn.get_backend().options == {}


def test_options_without_a_name_override_those_of_the_selected_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    with dn.use_backend("tuned", threads=1, device="gpu"):
        assert dn.get_backend(threads=2) is dn.get_backend("tuned", threads=2, device="gpu")
        assert dn.get_backend() is dn.get_backend("tuned", threads=1, device="gpu")
    monkeypatch.setenv("DEEPNOTES_BACKEND", "tuned")
    assert dn.get_backend(threads=3) is dn.get_backend("tuned", threads=3)


def test_the_options_of_the_process_default_apply_to_all_threads() -> None:
    dn.set_backend("tuned", threads=4)
    options: list[dict[str, Any]] = []
    thread = threading.Thread(target=lambda: options.append(dn.get_backend().options))
    thread.start()
    thread.join()
    assert options == [{"threads": 4}]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("tuned", {"thread": 2}, "no option 'thread'"),
        ("tuned", {"threads": 0}, "threads=0, wanted at least 1"),
        (None, {"threads": 2}, "name=None with threads=2, wanted the name of a backend"),
        (dn.Backend("mine", np), {}, "name=<deepnotes backend 'mine'.*>, wanted the name of a backend"),
        ("", {}, "unknown backend ''"),
    ],
)
def test_an_invalid_selection_is_refused_and_changes_nothing(name: Any, options: dict[str, Any], message: str) -> None:
    selections: list[Callable[..., Any]] = [dn.set_backend, lambda *a, **o: dn.use_backend(*a, **o).__enter__()]
    dn.set_backend("tuned", threads=4)
    for select in selections:
        with pytest.raises((dn.ArgumentError, dn.UnknownNameError), match=message):
            select(name, **options)
        assert dn.get_backend().options == {"threads": 4}


def test_auto_skips_backends_without_the_option(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(registry, "by_priority", lambda: ["plain", "tuned", "accepts_all"])
    assert dn.get_backend("auto").name == "plain"
    with caplog.at_level("INFO", logger="deepnotes"):
        assert dn.get_backend("auto", threads=2) is dn.get_backend("tuned", threads=2)
    assert "not plain (backend 'plain' has no option 'threads'; its options: none)" in caplog.text
    with dn.use_backend("auto", device="gpu"):
        assert dn.get_backend() is dn.get_backend("tuned", device="gpu")


def test_auto_raises_if_no_backend_has_the_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "by_priority", lambda: ["plain", "numpy"])
    with pytest.raises(dn.ArgumentError, match=r"none of plain, numpy works here with threads=2 \(.*'plain' has"):
        dn.get_backend("auto", threads=2)


def test_a_pickled_backend_keeps_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = dn.get_backend("tuned", threads=2)
    content = pickle.dumps(backend)
    assert pickle.loads(content) is copy.deepcopy(backend) is backend
    monkeypatch.setattr(registry, "_loaded", {})  # as in another process
    restored = pickle.loads(content)
    assert restored is not backend
    assert (restored.name, restored.options) == ("tuned", {"threads": 2})
    assert calls[-1] == ("tuned", {"threads": 2, "device": "cpu"})


def test_a_copied_network_keeps_the_options_of_its_backend_and_a_saved_one_does_not(tmp_path: Any) -> None:
    net = dn.Network([dn.Dense(2)], inputs=3, backend=dn.get_backend("tuned", threads=2), seed=0)
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.backend is net.backend
        np.testing.assert_array_equal(other.flat(), net.flat())
    net.save(tmp_path / "model")
    assert dn.load(tmp_path / "model").backend is dn.get_backend("numpy")
    assert dn.load(tmp_path / "model", dn.get_backend("tuned", threads=2)).backend is net.backend
