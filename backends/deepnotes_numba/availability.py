"""Whether Numba can compile here: found out from its import and its settings, with what mends it."""

import logging
import os
import re
import warnings
from importlib import import_module
from typing import Any

from deepnotes.backends import BackendUnavailable, reason

INSTALL = 'pip install "deepnotes[numba]"'


def check() -> None:
    """Import Numba, and raise BackendUnavailable if it cannot be imported, or could not compile.

    A setting that Numba cannot read and therefore ignores is logged as a warning.
    """
    with warnings.catch_warnings(record=True) as raised:
        warnings.simplefilter("always")
        try:
            numba: Any = import_module("numba")
        except Exception as error:
            raise BackendUnavailable("numba", *_cause_and_fix(error)) from error
    for warning in raised:
        _pass_on(warning)
    if numba.config.DISABLE_JIT:
        raise BackendUnavailable("numba", "NUMBA_DISABLE_JIT switches the compiler off", "unset NUMBA_DISABLE_JIT")
    _check_features(numba.config.CPU_FEATURES)


def _cause_and_fix(error: Exception) -> tuple[str, str]:
    """Return why Numba cannot be imported, and what to do."""
    if isinstance(error, ModuleNotFoundError):
        missing = (error.name or "numba").partition(".")[0]
        return f"Python cannot find {missing!r}", INSTALL
    kind = "" if isinstance(error, ImportError) else f"{type(error).__name__}: "
    cause = f"Numba cannot be imported: {kind}{reason(error)}"
    if "scipy" in str(error).lower():  # which Numba does without if it is missing, so that pip does not mend it
        return cause, "pip install --upgrade scipy"
    if isinstance(error, ImportError):  # Numba says which version of which library it needs; pip knows as well
        return cause, INSTALL
    settings = sorted(name for name in os.environ if name.startswith("NUMBA_"))
    if os.path.exists(".numba_config.yaml"):
        return cause, "correct or remove .numba_config.yaml in the working directory"
    if isinstance(error, ValueError) and settings:
        return cause, f"unset {settings[0]}" if len(settings) == 1 else f"unset or correct one of {', '.join(settings)}"
    return cause, "pip install --force-reinstall numba llvmlite"


def _pass_on(warning: warnings.WarningMessage) -> None:
    """Log in one line what Numba, with a traceback, warns of a setting; show other warnings as they are."""
    setting = re.match(r"Environment variable '(\w+)' is defined but its associated value '(.*)'", str(warning.message))
    if setting is None:
        warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        return
    name, value = setting.groups()
    logging.getLogger("deepnotes").warning("numba: %s=%r is not a value that Numba takes, and is ignored", name, value)


def _check_features(setting: str | None) -> None:
    """Raise for features of a processor that are misspelled, by which LLVM ends the process, or that it lacks."""
    if not setting:
        return
    present = import_module("llvmlite.binding").get_host_cpu_features()
    for feature in setting.split(","):
        if not re.fullmatch(r"\s*[+-]\S+\s*", feature):
            cause = f"NUMBA_CPU_FEATURES holds {feature!r}, wanted + or - and the name of a feature"
        elif feature.strip()[0] == "+" and present.get(feature.strip()[1:]) is False:
            cause = f"NUMBA_CPU_FEATURES asks for {feature.strip()[1:]}, which this processor does not have"
        else:
            continue
        raise BackendUnavailable("numba", cause, "unset NUMBA_CPU_FEATURES")
