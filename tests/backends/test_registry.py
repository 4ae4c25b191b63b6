"""Backends are listed without importing them and selected in a defined order; errors name the cause and a fix."""

import asyncio
import sys
import threading
from collections.abc import Iterator
from functools import cache
from importlib.metadata import EntryPoint
from pathlib import Path

import array_api_strict
import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import registry

ENTRY_POINTS, BY_PRIORITY = registry._entry_points, registry.by_priority


def strict() -> dn.Backend:
    """Create a second backend; an entry point registered by the tests names this function."""
    return dn.Backend("strict", array_api_strict)


def broken() -> dn.Backend:
    raise OSError("libcuda.so.1: cannot open shared object file")


def without_device() -> dn.Backend:
    raise dn.BackendUnavailable("nodevice", "there is no CUDA device", "use backend='numpy'")


def no_backend() -> object:
    return object()


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Register the backends above in addition to those of deepnotes, and reset the selection afterwards."""
    factories = {name: f"{__name__}:{name}" for name in ("strict", "broken", "without_device", "no_backend")}
    factories |= {"missing": "surely_not_installed.backend:create", "dotted": f"{__name__}.strict"}
    entries = {n: EntryPoint(n, value, registry.GROUP) for n, value in factories.items()} | registry._entry_points()
    monkeypatch.setattr(registry, "_entry_points", lambda: entries)
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)
    yield
    dn.set_backend(None)


def test_listing_backends_imports_none() -> None:
    assert {"missing", "broken", "numpy"} <= set(dn.registered_backends())
    assert registry._loaded == {}


def test_available_backends_are_the_ones_that_work() -> None:
    available = set(dn.available_backends())
    assert {"numpy", "strict"} <= available
    assert not available & {"broken", "without_device", "no_backend", "missing"}


def test_the_default_is_numpy() -> None:
    assert dn.get_backend().name == "numpy"


def test_argument_context_process_default_and_environment_apply_in_this_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DEEPNOTES_BACKEND", "strict")
    assert dn.get_backend().name == "strict"
    dn.set_backend("numpy")
    assert dn.get_backend().name == "numpy"
    with dn.use_backend("strict") as backend:
        assert dn.get_backend() is backend
        assert backend.name == "strict"
        assert dn.get_backend("numpy").name == "numpy"
        with dn.use_backend("numpy"):
            assert dn.get_backend().name == "numpy"
        assert dn.get_backend().name == "strict"
    assert dn.get_backend().name == "numpy"


def test_an_error_ends_the_context() -> None:
    with pytest.raises(ZeroDivisionError), dn.use_backend("strict"):
        1 / 0  # noqa: B018
    assert dn.get_backend().name == "numpy"


def test_a_backend_is_created_once() -> None:
    backends: list[dn.Backend] = []
    threads = [threading.Thread(target=lambda: backends.append(dn.get_backend("strict"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(backends) == 8
    assert len(set(map(id, backends))) == 1


def test_a_network_keeps_its_backend() -> None:
    with dn.use_backend("strict"):
        net = dn.Network([dn.Dense(1)], inputs=2, seed=0)
    assert net.backend.name == "strict"
    assert isinstance(net.predict(np.zeros((2, 3))), np.ndarray)


def test_a_context_does_not_affect_other_threads() -> None:
    inside, names = threading.Event(), []

    def other() -> None:
        inside.wait()
        names.append(dn.get_backend().name)

    thread = threading.Thread(target=other)
    thread.start()
    with dn.use_backend("strict"):
        inside.set()
        thread.join()
    assert names == ["numpy"]


def test_the_process_default_applies_to_all_threads() -> None:
    dn.set_backend("strict")
    names = []
    thread = threading.Thread(target=lambda: names.append(dn.get_backend().name))
    thread.start()
    thread.join()
    assert names == ["strict"]


def test_a_context_does_not_affect_other_async_tasks() -> None:
    async def task(name: str) -> list[str]:
        names = []
        with dn.use_backend(name):
            for _ in range(3):
                await asyncio.sleep(0)
                names.append(dn.get_backend().name)
        return names

    async def both() -> list[list[str]]:
        return list(await asyncio.gather(task("strict"), task("numpy")))

    assert asyncio.run(both()) == [["strict"] * 3, ["numpy"] * 3]


def test_auto_selects_the_first_backend_that_works(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = ["missing", "without_device", "strict", "numpy"]
    monkeypatch.setattr(registry, "by_priority", lambda: names)
    with caplog.at_level("INFO", logger="deepnotes"):
        assert dn.get_backend("auto").name == "strict"
    assert "chose strict" in caplog.text
    assert "no CUDA device" in caplog.text


def install(folder: Path, name: str, priority: str) -> None:
    """Write a module and package metadata that register a backend and its priority for ``"auto"``."""
    (folder / f"{name}_backend.py").write_text(
        "import array_api_strict, deepnotes\n\n"
        f"def create():\n    return deepnotes.Backend({name!r}, array_api_strict)\n"
    )
    registration = folder / f"{name}-1.0.dist-info"
    registration.mkdir()
    (registration / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (registration / "entry_points.txt").write_text(
        f"[{registry.GROUP}]\n{name} = {name}_backend:create\n\n"
        f"[{registry.AUTO_GROUP}]\n{priority} = {name}_backend:create\n"
    )


@pytest.fixture
def third_party(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Install third-party backends with a high, a low, an equal and an invalid priority, and one of no backend."""
    for name, priority in [("swift", "1000"), ("steady", "1"), ("equal", "10"), ("odd", "first")]:
        install(tmp_path, name, priority)
    registration = tmp_path / "absent-1.0.dist-info"
    registration.mkdir()
    (registration / "METADATA").write_text("Metadata-Version: 2.1\nName: absent\nVersion: 1.0\n")
    (registration / "entry_points.txt").write_text(f"[{registry.AUTO_GROUP}]\n7 = absent_backend:create\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entry_points", cache(ENTRY_POINTS.__wrapped__))
    registry._priorities.cache_clear()
    yield
    registry._priorities.cache_clear()


@pytest.mark.usefixtures("third_party")
def test_auto_tries_backends_by_priority_and_imports_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.by_priority() == ["swift", "cupy", "numba", "equal", "numpy", "steady"]
    assert not {"swift_backend", "steady_backend", "equal_backend", "odd_backend"} & set(sys.modules)
    assert dn.get_backend("auto").name == "swift"
    assert "steady_backend" not in sys.modules
    monkeypatch.delitem(sys.modules, "swift_backend")


@pytest.mark.usefixtures("third_party")
def test_an_entry_point_that_gives_no_backend_a_priority_is_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    registry.by_priority()
    registry.by_priority()
    group, factories = f"in the group '{registry.AUTO_GROUP}'", f"in the group '{registry.GROUP}'"
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"entry point '7' of absent {group}: absent_backend:create is not an entry point {factories}",
        f"entry point 'first' of odd {group}: its name is no priority, wanted a whole number",
    ]


def test_of_two_backends_of_one_name_the_second_is_reported_and_never_replaces_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which of two packages is found first depends on the order of the folders in sys.path."""
    install(tmp_path, "steady", "1")
    impostor = tmp_path / "another-1.0.dist-info"
    impostor.mkdir()
    (impostor / "METADATA").write_text("Metadata-Version: 2.1\nName: another\nVersion: 1.0\n")
    factories = "numpy = steady_backend:create\nsteady = another_backend:create\n"
    (impostor / "entry_points.txt").write_text(f"[{registry.GROUP}]\n{factories}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_entry_points", cache(ENTRY_POINTS.__wrapped__))
    assert registry._entry_points()["numpy"].value == "deepnotes_numpy:create"
    assert registry._entry_points()["steady"].value == "another_backend:create"
    assert sorted(record.getMessage() for record in caplog.records) == [
        "backend 'numpy' of another is not used: deepnotes registers a backend of that name, too",
        "backend 'steady' of steady is not used: another registers a backend of that name, too",
    ]


def test_auto_raises_if_no_backend_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "by_priority", lambda: ["missing"])
    with pytest.raises(dn.BackendUnavailable, match="none of missing works"):
        dn.get_backend("auto")
    monkeypatch.setattr(registry, "_priorities", dict)  # as with an old installation of deepnotes without priorities
    monkeypatch.setattr(registry, "by_priority", BY_PRIORITY)
    with pytest.raises(dn.BackendUnavailable, match=r"no backend has a priority.*pip install --force-reinstall"):
        dn.get_backend("auto")


@pytest.mark.parametrize(
    ("name", "cause", "fix"),
    [
        ("missing", "cannot find 'surely_not_installed'", "pip install surely_not_installed"),
        ("broken", "OSError: libcuda.so.1", "pip install --force-reinstall broken"),
        ("without_device", "there is no CUDA device", "use backend='numpy'"),
        ("dotted", f"its entry point {__name__}.strict: No module named", "report this to the authors of"),
        ("no_backend", "returned object, not a deepnotes Backend", "report this"),
    ],
)
def test_the_error_of_a_broken_backend_names_the_cause_and_the_fix(name: str, cause: str, fix: str) -> None:
    with pytest.raises(dn.BackendUnavailable) as caught:
        dn.get_backend(name)
    assert cause in caught.value.cause
    assert fix in caught.value.fix
    assert cause in str(caught.value)
    assert fix in str(caught.value)


@pytest.mark.parametrize("select", [dn.get_backend, dn.set_backend, lambda name: dn.use_backend(name).__enter__()])
def test_an_unknown_name_is_refused_with_a_suggestion_and_changes_nothing(select: object) -> None:
    with pytest.raises(dn.UnknownNameError, match="unknown backend 'nunpy'; did you mean 'numpy'"):
        select("nunpy")  # type: ignore[operator]
    assert dn.get_backend().name == "numpy"


def test_kernels_must_have_the_names_and_parameters_of_equations() -> None:
    with pytest.raises(TypeError, match=r"kernel relu\(xp, Z, slope=0.1\) must have the parameters of the equation"):
        dn.Backend("mine", np, {"relu": lambda xp, Z, slope=0.1: Z})
    with pytest.raises(TypeError, match="'rleu', but there is no equation of that name"):
        dn.Backend("mine", np, {"rleu": lambda xp, Z: Z})


def test_a_kernel_is_called_instead_of_its_equation() -> None:
    shapes = []

    def relu(xp: object, Z: np.ndarray) -> np.ndarray:
        shapes.append(Z.shape)
        return np.maximum(Z, 0)

    net = dn.Network([dn.Dense(3, "relu")], inputs=2, backend=dn.Backend("mine", np, {"relu": relu}), seed=0)
    net.predict(np.ones((2, 5)))
    assert shapes == [(3, 5)]


def test_the_numpy_kernel_for_gather_selects_columns() -> None:
    backend = dn.get_backend("numpy")
    X = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(backend.ops.gather(X, np.array([3, 0])), X[:, [3, 0]])


def test_an_unknown_equation_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no equation 'soft_relu'"):
        dn.get_backend("numpy").ops.soft_relu  # noqa: B018
