"""Data sets: digits and flowers that come with the package, synthetic data, and readers of data files."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepnotes.datasets.digits import DIGITS as DIGITS
    from deepnotes.datasets.digits import Digits as Digits
    from deepnotes.datasets.digits import load_digits as load_digits
    from deepnotes.datasets.iris import IRIS as IRIS
    from deepnotes.datasets.iris import load_iris as load_iris
    from deepnotes.datasets.synthetic import Points as Points
    from deepnotes.datasets.synthetic import Samples as Samples
    from deepnotes.datasets.synthetic import make_blobs as make_blobs
    from deepnotes.datasets.synthetic import make_moons as make_moons
    from deepnotes.datasets.synthetic import make_spirals as make_spirals
    from deepnotes.datasets.synthetic import make_teacher as make_teacher

__all__ = [
    "DIGITS",
    "IRIS",
    "Digits",
    "Points",
    "Samples",
    "load_digits",
    "load_iris",
    "make_blobs",
    "make_moons",
    "make_spirals",
    "make_teacher",
]

_LAZY = {
    "DIGITS": "deepnotes.datasets.digits",
    "Digits": "deepnotes.datasets.digits",
    "IRIS": "deepnotes.datasets.iris",
    "Points": "deepnotes.datasets.synthetic",
    "Samples": "deepnotes.datasets.synthetic",
    "load_digits": "deepnotes.datasets.digits",
    "load_iris": "deepnotes.datasets.iris",
    "make_blobs": "deepnotes.datasets.synthetic",
    "make_moons": "deepnotes.datasets.synthetic",
    "make_spirals": "deepnotes.datasets.synthetic",
    "make_teacher": "deepnotes.datasets.synthetic",
}


def __getattr__(name: str) -> Any:
    """Import the module of a data set at its first use, so that importing the readers or Standardizer stays quick."""
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    globals()[name] = getattr(import_module(_LAZY[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
