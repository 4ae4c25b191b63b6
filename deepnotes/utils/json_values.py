"""Values for JSON, which has no numbers that are not finite."""

import math
from collections.abc import Mapping
from typing import Any


def replace_nonfinite(value: Any) -> Any:
    """Return a JSON value with None instead of non-finite numbers, also within mappings and sequences."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: replace_nonfinite(item) for key, item in value.items()}
    return [replace_nonfinite(item) for item in value] if isinstance(value, list | tuple) else value
