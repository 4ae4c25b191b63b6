"""A history is printed as a table, which fits on a page for any number of epochs."""

import numpy as np

import deepnotes as dn


def test_a_history_of_many_epochs_is_printed_as_a_short_table() -> None:
    losses = [1 / epoch for epoch in range(1, 201)]
    history = dn.History(losses, metrics={"accuracy": [0.5] * 200}, learning_rate=[0.1] * 200, seconds=[0.0] * 200)
    history.best_epoch = 150
    lines = str(history).splitlines()
    assert lines[0].split() == ["epoch", "loss", "accuracy", "learning", "rate", "seconds"]
    assert [line.split()[:2] for line in (lines[1], lines[-2])] == [["1", "1"], ["200", "0.005"]]
    assert len(lines) <= 12
    assert max(map(len, lines)) < 80
    assert lines[-1] == "200 epochs; the parameters of epoch 150 were restored"


def test_every_row_is_in_the_table_of_a_notebook_too() -> None:
    X = np.random.default_rng(0).normal(size=(2, 20))
    history = dn.Network([dn.Dense(1)], inputs=2, seed=0).fit(X, X[0], epochs=3, validation=(X, X[0]))
    shown = history._repr_html_()
    *rows, notes = str(history).splitlines()
    assert len(rows) == 4
    assert notes == "3 epochs"
    assert all(
        f"{loss:.4g}" in row and f"{loss:.4g}" in shown for loss, row in zip(history.loss, rows[1:], strict=True)
    )
    assert str(dn.History()).splitlines()[-1] == "0 epochs"
