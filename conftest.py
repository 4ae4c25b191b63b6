"""Exclude the estimators' doctests if scikit-learn is not installed; test_estimators.py then reports a skipped test."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("sklearn") else ["deepnotes/estimators/*"]
