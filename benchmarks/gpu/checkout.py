"""Use deepnotes from a checkout that is not installed: put its folders on the path and register its backends."""

import sys
import tempfile
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def make_importable() -> None:
    """Make deepnotes and its backends importable, and known to :mod:`importlib.metadata`, unless they are already.

    A GPU image has CuPy, NumPy and pytest; that should be enough.
    """
    if "cupy" not in entry_points(group="deepnotes.backends").names:
        sys.path[:0] = [_described(), str(ROOT), str(ROOT / "backends")]


def _described() -> str:
    """Return a new folder with the metadata that an installed project has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, version = project["name"], project["version"]
    folder = Path(tempfile.mkdtemp(prefix="deepnotes-"))
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (about / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    return str(folder)
