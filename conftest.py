"""Exclude the doctests of the estimators if scikit-learn is not installed; test_estimators.py reports it as skipped."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("sklearn") else ["deepnotes/estimators/*"]
