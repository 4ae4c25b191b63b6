"""Batches, and Samples: data that are read a few batches at a time."""

from typing import Any

import numpy as np
import pytest

import deepnotes as dn
from deepnotes.backends import Batches, Chunk, Data, Indices, Samples
from deepnotes.backends.samples import columns, host_columns, spans, take
from deepnotes.network.streaming import data_for_program, updates_in_memory

BACKEND = dn.get_backend("numpy")
X = np.arange(20.0).reshape(2, 10)
Y = np.arange(10).reshape(1, 10)


class Rows(Samples):
    """Samples stored as the rows of an array, and read as columns, at most `max_columns` at a time."""

    def __init__(self, rows: np.ndarray, max_columns: int) -> None:
        super().__init__(BACKEND, rows.T.shape, max_columns)
        self.rows = rows

    def read(self, indices: Indices) -> np.ndarray:
        return self.rows[indices].T


class RowsForPrograms(Rows):
    read_by_programs = True


def data(X: Any, Y: Any, w: Any = None) -> Data:
    return Data(X, Y, w)


@pytest.mark.parametrize("max_columns", [0, 1, 3, 5, 10, 99])
def test_spans_cover_all_samples_and_respect_the_maximum_length(max_columns: int) -> None:
    slices = list(spans(Rows(X.T, max_columns)))
    np.testing.assert_array_equal(np.concatenate([np.arange(10)[s] for s in slices]), np.arange(10))
    assert max(s.stop - s.start for s in slices) <= max(1, max_columns)


def test_spans_of_several_samples_respect_the_smallest_maximum_length() -> None:
    assert [s.stop for s in spans(Rows(X.T, 4), Rows(Y.T, 3))] == [3, 6, 9, 10]
    assert list(spans(data(X, Y).X)) == [slice(0, 10)]


def test_data_without_samples_have_one_empty_span() -> None:
    assert list(spans(data(X[:, :0], Y).X)) == [slice(0, 0)]
    assert list(spans(Rows(X.T[:0], 3))) == [slice(0, 0)]


@pytest.mark.parametrize("span", [slice(2, 5), slice(0, 10), slice(None)])
def test_columns_of_samples_equal_the_columns_of_the_array(span: slice) -> None:
    for samples in (X, Rows(X.T, 3)):
        np.testing.assert_array_equal(columns(data(samples, Y).X, span), X[:, span])
        np.testing.assert_array_equal(host_columns(BACKEND, data(samples, Y).X, span), X[:, span])


@pytest.mark.parametrize("w", [None, X[:1]])
def test_take_returns_arrays_for_data_of_arrays_or_samples(w: Any) -> None:
    order = np.array([7, 0, 7])
    for source in (data(X, Y, w), data(Rows(X.T, 3), Y, w), data(Rows(X.T, 3), Rows(Y.T, 3), w)):
        batch = take(BACKEND, source, order)
        np.testing.assert_array_equal(batch.X, X[:, order])
        np.testing.assert_array_equal(batch.Y, Y[:, order])
        assert (batch.w is None) if w is None else (np.asarray(batch.w) == w[:, order]).all()


def test_samples_that_a_program_cannot_read_are_passed_to_it_as_arrays() -> None:
    order = np.array([7, 0, 7])
    for source in (data(Rows(X.T, 3), Y), data(X, Rows(Y.T, 3)), data(Rows(X.T, 3), RowsForPrograms(Y.T, 3))):
        passed_data, indices = data_for_program(BACKEND, source, order)
        np.testing.assert_array_equal(np.asarray(passed_data.X)[:, indices], X[:, order])
        np.testing.assert_array_equal(np.asarray(passed_data.Y)[:, indices], Y[:, order])


def test_arrays_and_samples_that_a_program_can_read_are_passed_unchanged() -> None:
    order = np.array([7, 0, 7])
    for source in (data(X, Y), data(RowsForPrograms(X.T, 3), Y), data(X, RowsForPrograms(Y.T, 3))):
        passed_data, indices = data_for_program(BACKEND, source, order)
        assert passed_data is source
        assert indices is order


def test_samples_limit_the_number_of_batches_in_memory_but_allow_one() -> None:
    source = data(Rows(X.T, 7), Rows(Y.T, 5))
    assert [updates_in_memory(source, batch_size) for batch_size in (1, 2, 3, 9)] == [5, 2, 1, 1]
    assert updates_in_memory(data(X, RowsForPrograms(Y.T, 5)), 1) > 10**6


def test_batches_after_a_chunk_continue_with_its_sums() -> None:
    batches = Batches(data(X, Y), np.arange(10), 4, np.array([0.3, 0.2, 0.1]), (1.0, 2.0))
    first = batches.first(2)
    assert (first.order.tolist(), first.rates.tolist(), first.sums) == (list(range(8)), [0.3, 0.2], (1.0, 2.0))
    rest = batches.after(Chunk(5.0, 6.0, 2, 0.5))
    assert (rest.order.tolist(), rest.rates.tolist(), rest.sums) == ([8, 9], [0.1], (5.0, 6.0))
    assert batches.after(Chunk(5.0, 6.0, 0, 0.5)).order.tolist() == list(range(10))
