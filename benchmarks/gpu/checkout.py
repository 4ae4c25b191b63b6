"""Make deepnotes importable from a checkout that is not installed, and register its backends."""

import sys
import tempfile
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def make_importable() -> None:
    """Make deepnotes and its backends importable and known to :mod:`importlib.metadata`, if they are not installed.

    This allows the benchmark to run in a container that has only CuPy, NumPy and pytest.
    """
    if "cupy" not in entry_points(group="deepnotes.backends").names:
        sys.path[:0] = [_write_metadata(), str(ROOT), str(ROOT / "backends")]


def _write_metadata() -> str:
    """Write the metadata that an installation would write, but to a new directory, and return its path."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    folder = Path(tempfile.mkdtemp(prefix="deepnotes-"))
    dist_info = folder / f"{name}-{version}.dist-info"
    dist_info.mkdir()
    (dist_info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (dist_info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return str(folder)
