"""Samples on disk: training gives the same bits as from memory, but holds only a few batches in memory."""

import gzip
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from test_data_files import idx

import deepnotes as dn
from deepnotes.datasets import on_disk as disk
from deepnotes.datasets import parquet_files
from deepnotes.datasets.on_disk import OnDisk
from deepnotes.datasets.tables import read_table
from deepnotes.network import streaming
from deepnotes.utils.errors import ArgumentError, DataError, DTypeError, NonFiniteLossError, ShapeError, TableError


@pytest.fixture
def save_and_map(tmp_path):
    """Return a function that saves rows to a file and returns the memory-mapped array."""

    def save(rows):
        np.save(tmp_path / "rows.npy", rows)
        return np.load(tmp_path / "rows.npy", mmap_mode="r")

    return save


@pytest.fixture(autouse=True)
def small_buffers(monkeypatch):
    """Limit the samples in memory to a few, so that files are read in many chunks."""
    monkeypatch.setattr(disk, "BYTES_IN_MEMORY", 1 << 14)
    monkeypatch.setattr(streaming, "MAX_CONVERTED_AT_ONCE", 0)
    monkeypatch.setattr(parquet_files, "MAX_BYTES", 1 << 12)


def load_backend(backend):
    """Return the backend, or skip the test if it is not installed."""
    if backend == "numba":
        pytest.importorskip("numba", reason='the extra "numba" is not installed')
    if backend == "host device":
        import host_device  # the CuPy backend with the CPU in place of a GPU; it needs g++

        return host_device.backend()
    return backend


# --- training and statistics ------------------------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.parametrize("dtype", ["float64", "float32", "uint8"])
@pytest.mark.parametrize("backend", ["numpy", "numba", "host device"])
def test_training_from_disk_gives_the_same_bits_as_from_memory(save_and_map, backend, dtype):
    backend = load_backend(backend)
    rng = np.random.default_rng(0)
    rows = (rng.normal(size=(1500, 12)) * 40 + 120).astype(dtype)
    y, weights = rng.integers(0, 3, 1000), rng.uniform(size=1000)
    standardizer = dn.Standardizer.fit(rows.T)

    def train(X):
        layers = [dn.Dense(8, "relu"), dn.Dropout(0.3), dn.Dense(3, "softmax")]
        net = dn.Network(layers, inputs=12, seed=0, standardizer=standardizer, backend=backend)
        held_out = X[:, 1000:]
        settings = {"epochs": 2, "validation": (held_out, np.arange(500) % 3), "metrics": ["accuracy"]}
        history = net.fit(X[:, :1000], y, sample_weight=weights, **settings)
        loss = net.partial_fit(held_out, np.arange(500) % 3)
        gradients = net.gradients(held_out, np.arange(500) % 3)
        trained = [net.flat(), history.loss, history.metrics["val_accuracy"], loss, gradients["W1"]]
        return trained, [history.val_loss, net.predict(held_out)], net.backend.determinism

    trained, predicted, determinism = train(rows.T)
    trained_from_disk, predicted_from_disk, _ = train(OnDisk(save_and_map(rows)))
    for memory, from_disk in zip(trained, trained_from_disk, strict=True):
        np.testing.assert_array_equal(from_disk, memory)
    # Predictions are computed in chunks, and BLAS may round differently for narrower matrices.
    rtol = 0 if determinism == "any threads" else 1e-5
    for memory, from_disk in zip(predicted, predicted_from_disk, strict=True):
        np.testing.assert_allclose(from_disk, memory, rtol=rtol, atol=rtol)


def test_a_memory_mapped_array_is_converted_in_batches(save_and_map, monkeypatch):
    rows = np.random.default_rng(1).normal(size=(300, 5))
    y = (rows[:, 0] > 0).astype(float)

    def train(X):
        net = dn.Network([dn.Dense(1, "sigmoid")], inputs=5, seed=0)
        net.fit(X, y, epochs=2)
        return net.flat()

    batch_sizes = []
    read = streaming.DiskSamples.read

    def read_and_count(samples, indices):
        X = read(samples, indices)
        batch_sizes.append(X.shape[1])
        return X

    monkeypatch.setattr(streaming.DiskSamples, "read", read_and_count)
    np.testing.assert_array_equal(train(save_and_map(rows).T), train(rows.T))
    assert sum(batch_sizes) == 300 * 3  # each sample is read once to check it, and once in each of two epochs
    assert max(batch_sizes) * 5 * 8 * disk.COPIES <= disk.BYTES_IN_MEMORY
    batch_sizes.clear()
    train(save_and_map(rows.astype("float32")).T)  # nothing to convert
    assert not batch_sizes


def test_training_from_disk_can_be_resumed(save_and_map, tmp_path):
    rows = np.random.default_rng(1).normal(size=(300, 5))
    X, y = OnDisk(save_and_map(rows)), (rows[:, 0] > 0).astype(float)

    def train(X, epochs, **settings):
        net = dn.Network([dn.Dense(4, "tanh"), dn.Dense(1, "sigmoid")], inputs=5, seed=0)
        net.fit(X, y, epochs=epochs, **settings)
        return net.flat()

    train(X, 2, checkpoint=tmp_path / "run")
    for samples in (X, rows.T):  # training can also be resumed with the same data in memory
        resumed = train(samples, 4, checkpoint=tmp_path / "run", resume=True)
        np.testing.assert_array_equal(resumed, train(rows.T, 4))


def test_a_standardizer_can_be_fitted_to_samples_on_disk(save_and_map):
    rows = np.random.default_rng(2).normal(size=(1000, 7)) * 10.0 ** np.arange(-3, 4) + 5
    rows[:, 3] = 0.1
    ours, expected = dn.Standardizer.fit(OnDisk(save_and_map(rows))), dn.Standardizer.fit(rows.T)
    np.testing.assert_allclose(ours.mean, expected.mean, rtol=1e-14)  # sums of 1000 terms in a different order
    np.testing.assert_allclose(ours.scale, expected.scale, rtol=1e-13)
    assert ours.scale[3] == 1
    big = dn.Standardizer.fit(OnDisk(save_and_map(np.array([[1.7e308], [-1.7e308]]))))
    assert (big.mean[0, 0], big.scale[0, 0]) == (0, pytest.approx(1.7e308))


def test_indexing_selects_samples_of_the_chosen_columns(save_and_map):
    rows = np.arange(20.0).reshape(5, 4)
    X = OnDisk(save_and_map(rows), columns=[3, 1])
    assert X.shape == (2, 5)
    assert X[:, 1:3].read(np.array([1, 0])).tolist() == rows[[2, 1]][:, [3, 1]].T.tolist()
    assert X[:, [4, 0]][:, -1:].read(np.array([0])).tolist() == rows[[0]][:, [3, 1]].T.tolist()


# --- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[1.0]],), ArgumentError, "rows: got list, wanted a NumPy array"),
        ((np.ones(3),), ShapeError, r"rows has shape \(3,\), wanted \(m, n\)"),
        ((np.array([["a"]]),), DTypeError, "rows: got an array of <U1"),
        ((np.ones((2, 2)), [0, 2]), ArgumentError, r"index has elements outside 0 \.\. 1"),
        ((np.ones((2, 2)), [-1]), ArgumentError, r"index has elements outside 0 \.\. 1"),
    ],
)
def test_invalid_rows_and_indices_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        OnDisk(*arguments)


def test_indexing_by_features_is_refused():
    with pytest.raises(ArgumentError, match=r"wanted X\[:, samples\]"):
        OnDisk(np.ones((2, 2)))[0]


def test_training_refuses_invalid_samples_on_disk(save_and_map):
    rows = np.zeros((500, 5))
    net = dn.Network([dn.Dense(1)], inputs=5, seed=0)
    before = net.flat()
    with pytest.raises(ShapeError, match=r"X has shape \(4, 500\), wanted \(5, m\)"):
        net.fit(OnDisk(save_and_map(rows), columns=range(4)), np.zeros(500))
    rows[471, 3] = np.nan
    with pytest.raises(DataError, match=r"X\[3, 471\] is nan; wanted finite numbers"):
        net.fit(OnDisk(save_and_map(rows)), np.zeros(500))
    rows[471, 3] = 1e300
    with pytest.raises(DataError, match=r"X\[3, 471\] is inf"):
        net.fit(OnDisk(save_and_map(rows)), np.zeros(500))
    np.testing.assert_array_equal(net.flat(), before)
    with pytest.raises(NonFiniteLossError, match="training stopped before update 1"):
        net.fit(OnDisk(save_and_map(np.full((500, 5), 1e30))), np.full(500, 1e30), epochs=2, shuffle=False)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "parquet"])
def test_open_table_and_read_table_give_the_same_contents(tmp_path, kind):
    rows = np.arange(600, dtype=np.uint8).reshape(100, 6)
    y = np.arange(100) % 3
    path = tmp_path / f"images.{kind}"
    if kind == "npy":
        np.save(path, np.asfortranarray(rows))
        np.save(tmp_path / "labels.npy", y)
    elif kind == "npz":
        np.savez(path, y=y, X=rows.astype(">f4"))
    elif kind == "idx":
        path.write_bytes(idx(rows.reshape(100, 2, 3)))
        (tmp_path / "labels.idx").write_bytes(idx(y))
    else:
        pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
        pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
        columns = {f"x{j}": rows[:, j] for j in range(6)} | {"y": [f"kind {i}" for i in y]}
        pq.write_table(pa.table(columns), path, row_group_size=7)
    on_disk, in_memory = dn.open_table(path), read_table(path)
    assert on_disk.names == in_memory.names
    assert on_disk.n_rows == 100
    target = on_disk.names[-1]
    assert on_disk.column(target).tolist() == in_memory.column(target).tolist()
    X, names = on_disk.features(exclude=[target])
    assert names == on_disk.names[:-1]
    np.testing.assert_array_equal(np.concatenate(list(X.blocks()), axis=1), in_memory.features(exclude=[target])[0].T)
    subset, _ = on_disk.features(names=names[4:1:-1])
    np.testing.assert_array_equal(subset.read(np.array([3])), rows[[3], 4:1:-1].T)
    with pytest.raises(TableError, match="no column 'zz'"):
        on_disk.features(exclude=["zz"])
    with pytest.raises(TableError, match="no column 'zz'"):
        dn.open_table(path, exclude=["zz"])


def test_files_that_cannot_be_memory_mapped_are_refused(tmp_path):
    def message(name, content=None):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(TableError) as caught:
            dn.open_table(tmp_path / name)
        return str(caught.value)

    assert "convert the file to one of these formats" in message("a.csv", b"a,b\n1,2\n")
    np.savez_compressed(tmp_path / "a.npz", X=np.ones((2, 2)))
    assert "array 'X' is compressed; save it with numpy.savez" in message("a.npz")
    np.savez(tmp_path / "b.npz", a=np.ones(2))
    assert "only an array X of shape" in message("b.npz")
    assert "decompress it with gunzip" in message("a.idx", gzip.compress(idx(np.ones((2, 2)))))
    assert "does not match the shape in its header" in message("b.idx", idx(np.ones((2, 2))) + b"x")
    assert "two dimensions or more" in message("c.idx", idx(np.ones(2)))
    assert "cannot be read: No such file" in message("d.npy")
    with pytest.raises(ArgumentError, match="exclude='y', wanted a collection of column names"):
        dn.open_table(tmp_path / "a.npz", exclude="y")


def test_text_and_missing_values_in_a_parquet_file_are_refused(tmp_path):
    pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
    pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1.0, None], "s": ["x", "y"], "y": [1, 2]}), path)
    table = dn.open_table(path)
    with pytest.raises(TableError, match="column 's' is not part of the numeric matrix that stays on disk"):
        table.features(exclude=["y"])
    with pytest.raises(TableError, match="row 2: column 'a' has no value"):
        table.column("a")


def test_a_wrong_local_header_in_an_npz_file_is_refused(tmp_path):
    """In an npz file, an array begins after the local header of its zip entry; here, that header has a wrong length."""
    path = tmp_path / "a.npz"
    np.savez(path, X=np.ones((3, 2)))
    with zipfile.ZipFile(path) as archive:
        offset = archive.getinfo("X.npy").header_offset
    content = bytearray(path.read_bytes())
    content[offset + 28 : offset + 30] = b"\xff\xff"
    path.write_bytes(content)
    with pytest.raises(TableError):
        dn.open_table(path)


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.thinned(3)
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="uses the memory limits of Linux")
@pytest.mark.parametrize("kind", ["npy", "npz", "parquet"])
def test_training_from_disk_needs_less_memory_than_the_data(tmp_path, kind):
    """A process that may allocate 16 MB standardizes and trains on 31 MB of data, which do not fit into its memory.

    With Parquet, it may allocate 32 MB and trains on 61 MB, since pyarrow holds some rows both encoded and decoded.
    """
    m, n = (240_000 if kind == "parquet" else 120_000), 32
    rng = np.random.default_rng(0)
    path = tmp_path / f"X.{kind}"
    if kind == "parquet":
        pa = pytest.importorskip("pyarrow", reason='the extra "data" (pyarrow) is not installed')
        pq = pytest.importorskip("pyarrow.parquet", reason='the extra "data" (pyarrow) is not installed')
        rows = rng.integers(0, 9, (m, n)).astype("float64")
        columns = {f"x{j}": rows[:, j] for j in range(n)}
        pq.write_table(pa.table(columns), path, row_group_size=20_000)
        pq.write_table(pa.table(columns).slice(0, 64), tmp_path / "small.parquet")
    else:
        rows = rng.normal(size=(m, n))
        (np.save if kind == "npy" else np.savez)(path, **({"arr": rows} if kind == "npy" else {"X": rows}))
        (np.save if kind == "npy" else np.savez)(
            tmp_path / f"small.{kind}", **({"arr": rows[:64]} if kind == "npy" else {"X": rows[:64]})
        )
    del rows
    code = """
import resource, sys
import numpy as np
import deepnotes as dn
from deepnotes.datasets import on_disk as disk, parquet_files

disk.BYTES_IN_MEMORY = parquet_files.MAX_BYTES = 1 << 22

def train(path):
    X, _ = dn.open_table(path).features()
    y = np.arange(X.shape[1]) % 2
    net = dn.Network([dn.Dense(8, "relu"), dn.Dense(2, "softmax")], X.shape[0], seed=0, backend="numpy",
                     standardizer=dn.Standardizer.fit(X))
    net.fit(X, y, epochs=1, batch_size=512)
    return net.evaluate(X, y)["loss"]

if sys.argv[1].endswith("parquet"):
    import pyarrow
    pyarrow.set_cpu_count(1), pyarrow.set_io_thread_count(1)
    pyarrow.set_memory_pool(pyarrow.system_memory_pool())
train(sys.argv[2])  # imports modules and allocates the BLAS workspace
np.ones((999, 999)) @ np.ones((999, 999))
fields = next(line for line in open("/proc/self/status") if line.startswith("VmData")).split()
megabytes = 32 if sys.argv[1].endswith("parquet") else 16
resource.setrlimit(resource.RLIMIT_DATA, (int(fields[1]) * 1024 + (megabytes << 20),) * 2)
assert np.isfinite(train(sys.argv[1]))
try:
    X, _ = dn.read_table(sys.argv[1]).features()
    dn.Network([dn.Dense(2)], X.shape[1]).fit(X.T, np.zeros((2, len(X))), epochs=1)
except (dn.TableError, MemoryError) as error:
    print("too large:", error)
"""
    command = [sys.executable, "-c", code, path, tmp_path / f"small.{kind}"]
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "OPENBLAS_NUM_THREADS": "1"}
    process = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert process.returncode == 0, process.stderr
    assert "does not fit into memory" in process.stdout
