"""What pytest does not look for doctests in where it cannot be imported; test_estimators.py says so by name."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("sklearn") else ["deepnotes/estimators/*"]
