"""Transfers to the backend and back keep all bits, change no argument and share no memory by mistake."""

import numpy as np

from deepnotes.network.network import Network
from deepnotes.nn.layers import Dense
from deepnotes.testing.checks import Trial, check
from deepnotes.testing.inputs import LAYOUTS


@check("transfers.round_trip")
def round_trip(trial: Trial) -> None:
    """Arrays of every dtype, shape and layout come back from the backend unchanged."""
    backend = trial.backend
    for shape in [(), (1,), (0,), (3, 0), (4, 5), (2, 3, 4)]:
        x = trial.rng.normal(0, 1e3, shape)
        for name, array in [
            *((dtype, x.astype(dtype)) for dtype in trial.dtypes), ("int64", x.astype(np.int64)), ("bool", x > 0)
        ]:  # fmt: skip
            on_backend = backend.from_numpy(np.asarray(array))
            trial.that(backend.is_array(on_backend), f"from_numpy gives an array of the backend ({name}, {shape})")
            trial.that(tuple(on_backend.shape) == shape, f"from_numpy keeps the shape {shape} ({name})")
            trial.same(on_backend, array, f"{name} {shape}")
    special = np.array([[np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5]])
    for dtype in trial.dtypes:
        trial.same(backend.from_numpy(special.astype(dtype)), special.astype(dtype), f"{dtype} NaN and infinity")
        for layout, to_layout in LAYOUTS.items():
            x = to_layout(trial.rng.normal(size=(6, 11)).astype(dtype))
            trial.same(backend.from_numpy(x), np.array(x), f"{dtype} {layout}")


@check("transfers.dtype")
def dtype_conversion(trial: Trial) -> None:
    """``from_numpy`` converts to the requested dtype."""
    for dtype in trial.dtypes:
        for other in trial.dtypes:
            x = trial.rng.normal(size=(3, 4)).astype(dtype)
            kind = getattr(trial.backend.xp, other)
            trial.same(trial.backend.from_numpy(x, kind), x.astype(other), f"{dtype} as {other}")


@check("transfers.views")
def views(trial: Trial) -> None:
    """Slices and transposes of arrays on the backend are copied to the host with the right elements."""
    for dtype in trial.dtypes:
        x = trial.rng.normal(size=(6, 11)).astype(dtype)
        on_backend = trial.backend.from_numpy(x)
        for name, result, expected in [
            ("transpose", on_backend.T, x.T),
            ("strided slice", on_backend[::2, ::3], x[::2, ::3]),
            ("row", on_backend[2, :], x[2, :]),
            ("columns", on_backend[:, 3:7], x[:, 3:7]),
            ("empty slice", on_backend[:, 4:4], x[:, 4:4]),
        ]:
            trial.same(result, np.ascontiguousarray(expected), f"{dtype} {name}")


@check("transfers.write")
def write(trial: Trial) -> None:
    """``Backend.write`` writes values to a whole buffer or to a part of it."""
    backend = trial.backend
    for dtype in trial.dtypes:
        flat, values = np.arange(9).astype(dtype), np.array([-1, -2, -3], dtype)
        for start in (0, 4, 6):
            expected = flat.copy()
            expected[start : start + 3] = values
            result = backend.write(backend.from_numpy(flat.copy()), start, backend.from_numpy(values.copy()))
            trial.same(result, expected, f"{dtype} at {start}")
        result = backend.write(backend.from_numpy(flat.copy()), 0, backend.from_numpy(flat[::-1].copy()))
        trial.same(result, flat[::-1], f"{dtype} whole buffer")


@check("transfers.ownership")
def ownership(trial: Trial) -> None:
    """Training and prediction do not change the user's arrays; changing these arrays does not change the network."""
    rng = trial.rng
    for dtype in trial.dtypes:
        X, Y, w = rng.normal(size=(4, 30)).astype(dtype), rng.normal(size=(2, 30)).astype(dtype), rng.uniform(1, 2, 30)
        before = [a.copy() for a in (X, Y, w)]
        net = Network([Dense(5, "tanh"), Dense(2)], 4, backend=trial.backend, dtype=dtype, seed=0)
        theta = net.flat()
        start = theta.copy()
        net.set_flat(theta)
        net.fit(X, Y, sample_weight=w, epochs=2, optimizer="adam")
        net.evaluate(X, Y, sample_weight=w)
        net.predict(X)
        for name, array, original in zip(("X", "Y", "w"), (X, Y, w), before, strict=True):
            trial.same(array, original, f"{dtype}: {name} after training, evaluation and prediction")
        trial.same(theta, start, f"{dtype}: the array given to set_flat, after training")
        trained = net.flat()
        theta[:] = 0
        trial.same(net.flat(), trained, f"{dtype}: the network after that array was changed")
        copy = net.flat()
        copy[:] = 0
        trial.same(net.flat(), trained, f"{dtype}: the network after a copy of its parameters was changed")


@check("transfers.identity")
def identity(trial: Trial) -> None:
    """A network with an identity matrix returns its input in a new array."""
    for dtype in trial.dtypes:
        net = Network([Dense(4)], 4, backend=trial.backend, dtype=dtype, seed=0)
        net.parameters["W1"] = np.eye(4, dtype=dtype)
        X = trial.rng.normal(size=(4, 9)).astype(dtype)
        if trial.products(dtype):  # rounding the factors of products does not change numbers of few bits
            X = np.round(16 * X) / 16
        before = X.copy()
        A = net.predict(X)
        trial.that(isinstance(A, np.ndarray) and A.dtype == dtype, f"{dtype}: a NumPy array of the same dtype")
        trial.same(A, before, f"{dtype}: the prediction")
        if A.flags.writeable:
            A[:] = 0
        trial.same(X, before, f"{dtype}: X after the prediction was overwritten")


@check("transfers.native")
def native(trial: Trial) -> None:
    """For arrays of the backend, predictions are arrays of the backend, and results equal those for host arrays."""
    for dtype in trial.dtypes:
        net = Network([Dense(5, "tanh"), Dense(2)], 4, backend=trial.backend, dtype=dtype, seed=0)
        X, Y = trial.rng.normal(size=(4, 9)).astype(dtype), trial.rng.normal(size=(2, 9)).astype(dtype)
        on_backend = trial.backend.from_numpy(X)
        A = net.predict(on_backend)
        trial.that(trial.backend.is_array(A), f"{dtype}: predictions that are an array of the backend")
        trial.same(A, net.predict(X), f"{dtype}: predictions for the backend's array and the host's")
        start = net.flat()
        results = []
        for data in ((X, Y), (on_backend, trial.backend.from_numpy(Y))):
            net.set_flat(start)
            net.fit(*data, epochs=2, batch_size=4, shuffle=False)
            results.append(net.flat())
        trial.same(results[1], results[0], f"{dtype}: parameters trained on the backend's arrays and on the host's")
