"""A backend that describes itself wrongly is refused with the reason, and does not hide the other backends."""

from importlib.metadata import EntryPoint

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import registry

DECLARATIONS = [
    ("determinism", "always", "determinism='always', wanted one of 'any threads', 'same threads', 'none'"),
    ("matmul_precision", "tf32", "matmul_precision='tf32', wanted one of 'highest', 'high', 'bfloat16', 'float16'"),
    ("dtypes", "float32", "dtypes='float32', wanted those of 'float32', 'float64' and 'int64' that it has, as a tuple"),
    ("dtypes", ("float16",), "wanted those of 'float32', 'float64' and 'int64' that it has, as a tuple"),
    ("dtypes", ("int64",), "wanted those of 'float32', 'float64' and 'int64' that it has, as a tuple"),
    ("known_gaps", ["semantics.subnormals"], "wanted a dict of ids of checks and reasons"),
]


def create_wrong() -> dn.Backend:
    """Return a backend with a determinism that does not exist."""
    backend = dn.Backend("wrong", np)
    backend.determinism = "always"
    return backend


class Undescribed(dn.Backend):
    """A backend that cannot describe itself."""

    def describe(self) -> str:
        raise RuntimeError("the driver is lost")


def create_undescribed() -> dn.Backend:
    """Return a backend whose description fails."""
    return Undescribed("undescribed", np)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    """Register these backends, as a package of a third party does."""
    entries = {name: EntryPoint(name, f"{__name__}:create_{name}", registry.GROUP) for name in ("wrong", "undescribed")}
    entries |= registry._entry_points()
    monkeypatch.setattr(registry, "_entry_points", lambda: entries)
    monkeypatch.setattr(registry, "_loaded", {})
    monkeypatch.delenv("DEEPNOTES_BACKEND", raising=False)


@pytest.mark.parametrize(("attribute", "value", "message"), DECLARATIONS)
def test_a_declaration_with_another_value_is_refused(attribute, value, message) -> None:
    kind = type("Mine", (dn.Backend,), {attribute: value})
    with pytest.raises(dn.ArgumentError) as caught:
        kind("mine", np)
    assert str(caught.value).startswith(f"backend 'mine': {attribute}=")
    assert str(caught.value).endswith(message)


def test_a_declaration_that_is_set_later_is_checked_when_the_backend_is_loaded() -> None:
    with pytest.raises(dn.BackendUnavailable, match=r"determinism='always', wanted one of .*; to fix it: report this"):
        dn.get_backend("wrong")


def test_the_list_of_backends_includes_those_that_work_and_the_reasons_of_the_others(run) -> None:
    out, _ = run("backends")
    rows = {line[3:].split()[0]: line for line in out.splitlines() if " yes " in line or " no " in line}
    assert " yes " in rows["numpy"]
    assert "ArgumentError: backend 'wrong': determinism='always'" in rows["wrong"]
    assert rows["undescribed"].endswith("no     its method describe failed (RuntimeError: the driver is lost)")
    assert "to fix it: report this to the authors of test_declarations" in out
