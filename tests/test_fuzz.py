"""Every reader of files, handed what Hypothesis makes of good ones: a DeepnotesError or what it should be, no more."""

from pathlib import Path

import pytest
from fuzzing import TARGETS, load_targets
from hypothesis import HealthCheck, given, settings

EXAMPLES = 250


@pytest.mark.slow
@pytest.mark.parametrize("name", load_targets())
def test_no_file_brings_a_reader_down(name: str, tmp_path: Path) -> None:
    """No other exception, no hang, and memory in proportion to the file; `tests/fuzz.py` goes on for longer."""
    target, outcomes = TARGETS[name], set()

    @settings(
        max_examples=max(EXAMPLES, settings().max_examples),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(target.files)
    def hold(content: bytes) -> None:
        outcomes.add(target.hold(content, tmp_path))

    hold()
    assert outcomes == {True, False}  # both good files and bad ones were tried
