"""Check whether Numba can be imported and can compile; if not, suggest a fix."""

import logging
import os
import re
import warnings
from importlib import import_module
from typing import Any

from deepnotes.backends import BackendUnavailable, reason

INSTALL = 'pip install "deepnotes[numba]"'


def check() -> None:
    """Import Numba and check its settings; log a warning for each setting whose value Numba ignores as invalid.

    Raises
    ------
    BackendUnavailable
        If Numba cannot be imported, or its settings prevent it from compiling.
    """
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            numba: Any = import_module("numba")
        except Exception as error:
            raise BackendUnavailable("numba", *_cause_and_fix(error)) from error
    for warning in raised:
        _report(warning)
    if numba.config.DISABLE_JIT:
        raise BackendUnavailable("numba", "NUMBA_DISABLE_JIT switches the compiler off", "unset NUMBA_DISABLE_JIT")
    _check_features(numba.config.CPU_FEATURES)


def _cause_and_fix(error: Exception) -> tuple[str, str]:
    """Return the reason why Numba cannot be imported, and the fix."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "numba").partition(".")[0]
        return f"Python cannot find {missing!r}", INSTALL
    kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
    cause = f"Numba cannot be imported: {kind}{reason(error)}"
    if "scipy" in str(error).lower():  # an optional dependency of Numba, which pip does not install
        return cause, "pip install --upgrade scipy"
    if isinstance(
        error, ImportError
    ):  # Numba's message names the library and the version that it needs, which pip installs
        return cause, INSTALL
    settings = sorted(name for name in os.environ if name.startswith("NUMBA_"))
    if os.path.exists(".numba_config.yaml"):
        return cause, "correct or remove .numba_config.yaml in the working directory"
    if isinstance(error, ValueError) and settings:
        return cause, f"unset {settings[0]}" if len(settings) == 1 else f"unset or correct one of {', '.join(settings)}"
    return cause, "pip install --force-reinstall numba llvmlite"


def _report(warning: warnings.WarningMessage) -> None:
    """Log Numba's warning about a setting in one line, without its traceback; issue other warnings again."""
    setting = re.match(r"Environment variable '(\w+)' is defined but its associated value '(.*)'", str(warning.message))
    if setting is None:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return
    name, value = setting.groups()
    logging.getLogger("deepnotes").warning("numba: %s=%r is not a valid value and is ignored", name, value)


def _check_features(setting: str | None) -> None:
    """Raise BackendUnavailable if the setting has a missing or misspelled feature: LLVM might end the process."""
    if not setting:
        return
    present = import_module("llvmlite.binding").get_host_cpu_features()
    for feature in setting.split(","):
        if not re.fullmatch(r"\s*[+-]\S+\s*", feature):
            cause = f"NUMBA_CPU_FEATURES contains {feature!r}, wanted + or - and the name of a feature"
        elif feature.strip()[0] == "+" and present.get(feature.strip()[1:]) is False:
            cause = f"NUMBA_CPU_FEATURES asks for {feature.strip()[1:]}, which this processor does not have"
        else:
            continue
        raise BackendUnavailable("numba", cause, "unset NUMBA_CPU_FEATURES")
