"""Fuzzing of all readers of files: each either returns a valid result or raises a DeepnotesError."""

from pathlib import Path

import pytest
from fuzzing import TARGETS, load_targets
from hypothesis import HealthCheck, given, settings

EXAMPLES = 250


@pytest.mark.slow
@pytest.mark.parametrize("name", load_targets())
def test_readers_survive_damaged_and_malicious_files(name: str, tmp_path: Path) -> None:
    """There is no other exception, no hang, and memory is in proportion to the file; `fuzz.py` tries more files."""
    target, outcomes = TARGETS[name], set()

    @settings(
        max_examples=max(EXAMPLES, settings().max_examples),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.files)
    def try_file(content: bytes) -> None:
        outcomes.add(target.check(content, tmp_path))

    try_file()
    assert outcomes == {True, False}  # some files could be read, and some could not
