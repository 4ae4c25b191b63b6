"""Fuzzing of all file readers: a reader either returns a valid result or raises a DeepnotesError."""

from pathlib import Path

import pytest
from fuzzing import TARGETS, load_targets
from hypothesis import HealthCheck, given, settings

EXAMPLES = 250


@pytest.mark.slow
@pytest.mark.parametrize("name", load_targets())
def test_readers_survive_damaged_and_malicious_files(name: str, tmp_path: Path) -> None:
    """No reader raises another exception, hangs, or uses memory out of proportion to the file."""
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
    assert outcomes == {True, False}  # some files are readable, others are not
