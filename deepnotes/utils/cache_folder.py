"""The folder in which backends keep compiled code and measurements for other processes."""

import os
from pathlib import Path


def cache_folder() -> Path | None:
    """Return the absolute path of ``DEEPNOTES_CACHE_DIR`` or, if it is not set, of a folder in the user's cache folder.

    Return None if there is no such folder: the user has no home directory, or the path is relative to a working
    directory that was deleted.
    """
    root = os.environ.get("DEEPNOTES_CACHE_DIR")
    base = os.path.expanduser(root or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "deepnotes"))
    if not root and base.startswith("~"):
        return None
    try:
        return Path(os.path.abspath(base))
    except FileNotFoundError:
        return None
