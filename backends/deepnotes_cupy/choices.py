"""Choices: which of several ways of computing the same was fastest, kept in a file."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from deepnotes.backends import cache_folder, replacing

Choice = tuple[int, ...]
"""Integers, at least 0 and below 2^64, that describe a way."""

log = logging.getLogger("deepnotes")


class Choices:
    """The choices made so far, by a text that describes what is computed.

    Parameters
    ----------
    path : Path or None
        The file. If it is None or cannot be used, the choices are kept in memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._path, self._known = path, _read(path)

    def get(self, key: str) -> Choice | None:
        """Return the choice for a key, or None if there is none."""
        return self._known.get(key)

    def add(self, key: str, choice: Choice) -> Choice:
        """Keep a choice, or the one that another process has kept in the meantime, and return what is kept."""
        before, kept = self._known.get(key), _read(self._path)
        if kept.get(key) in (None, before):
            kept[key] = choice
        choice = self._known[key] = kept[key]
        if self._path is None:
            return choice
        merged = self._known | kept
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self._path, text=True) as file:
                json.dump(merged, file)
        except OSError as error:
            log.debug("cupy: what was fastest is not kept: %s", error)
            self._path = None
        return choice


def choices_path(name: str) -> Path | None:
    """Return the file for the choices on a device, or None if there is no folder to keep it in."""
    folder = cache_folder()
    return None if folder is None else folder / f"cupy-choices-{''.join(c if c.isalnum() else '-' for c in name)}.json"


def _read(path: Path | None) -> dict[str, Choice]:
    """Return the choices in a file: none if it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8")) if path else {}
        return {key: _checked(numbers) for key, numbers in content.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _checked(numbers: Sequence[int]) -> Choice:
    if not all(isinstance(x, int) and 0 <= x < 1 << 64 for x in numbers):
        raise ValueError(f"not a choice: {numbers}")
    return tuple(numbers)
