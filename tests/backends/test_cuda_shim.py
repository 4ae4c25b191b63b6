"""The shim that runs CUDA kernels on the CPU gives CUDA's results, and detects operations that CUDA forbids."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from cuda_shim import ORDERS, Host, KernelFault, compiler, prepare

HEAD = 'extern "C" __global__ void __launch_bounds__(1024) '
SOURCES = {
    "reverse": """reverse(int* x) {
        __shared__ int scratch[64];
        scratch[threadIdx.x] = x[threadIdx.x + 64 * blockIdx.x];
        __syncthreads();
        x[threadIdx.x + 64 * blockIdx.x] = scratch[63 - threadIdx.x];
    }""",
    "thread_ids": """thread_ids(int* x) {
        const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
        const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
        x[block * (blockDim.x * blockDim.y * blockDim.z) + thread] = block * 1000 + thread;
    }""",
    "shuffles": """shuffles(double* x, unsigned* votes) {
        const int i = threadIdx.x;
        x[i] = __shfl_xor_sync(0xffffffffu, double(i), 5);
        x[64 + i] = __shfl_down_sync(0xffffffffu, double(i), 3, 16);
        x[128 + i] = __shfl_up_sync(0xffffffffu, double(i), 3, 16);
        x[192 + i] = __shfl_sync(0xffffffffu, double(i), 7, 8);
        votes[i] = __ballot_sync(0xffffffffu, i % 3 == 0) + __any_sync(0xffffffffu, i == 40);
    }""",
    "warp_sum": """warp_sum(int* x) {
        __shared__ volatile int scratch[64];
        scratch[threadIdx.x] = x[threadIdx.x];
        for (int half = 16; half > 0; half /= 2) {
            SYNC;
            const int other = scratch[threadIdx.x ^ half];
            SYNC;
            scratch[threadIdx.x] += other;
        }
        x[threadIdx.x] = scratch[threadIdx.x];
    }""",
}


def make_host(name: str, old: str = "", new: str = "", build: str = "checked") -> Host:
    """Return a host for one of the sources, in which `old` is replaced by `new`."""
    source = SOURCES[name].replace("SYNC", "__syncwarp()")
    assert old in source
    return Host("float32", build=build, source=HEAD + source.replace(old, new))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile all sources in parallel; without g++, skip the tests."""
    compiler()
    sources = [HEAD + source.replace("SYNC", "__syncwarp()") for source in SOURCES.values()]
    prepare(*(("float32", build, source) for source in sources for build in ("fast", "checked")))


@pytest.mark.parametrize("build", ["fast", "checked"])
@pytest.mark.parametrize("order", ORDERS)
def test_barriers_order_accesses_to_shared_memory(order: str, build: str) -> None:
    host, x = make_host("reverse", build=build), np.arange(192, dtype=np.int32)
    host.order = order
    host.launch("reverse", 3, 64, x)
    np.testing.assert_array_equal(x, np.arange(192).reshape(3, 64)[:, ::-1].ravel())


@pytest.mark.parametrize("build", ["fast", "checked"])
def test_grids_and_blocks_may_have_three_dimensions(build: str) -> None:
    x = np.full(24 * 60, -1, np.int32)
    make_host("thread_ids", build=build).launch("thread_ids", (2, 3, 4), (3, 4, 5), x)
    np.testing.assert_array_equal(x, (np.arange(24)[:, None] * 1000 + np.arange(60)).ravel())


@pytest.mark.parametrize("build", ["fast", "checked"])
@pytest.mark.parametrize("order", ORDERS)
def test_shuffles_and_votes_return_the_values_of_other_lanes(order: str, build: str) -> None:
    host, x, votes = make_host("shuffles", build=build), np.zeros(256), np.zeros(64, np.uint32)
    host.order = order
    host.launch("shuffles", 1, 64, x, votes)
    i = np.arange(64)
    np.testing.assert_array_equal(x[:64], i ^ 5)
    np.testing.assert_array_equal(x[64:128], np.where(i % 16 + 3 < 16, i + 3, i))
    np.testing.assert_array_equal(x[128:192], np.where(i % 16 >= 3, i - 3, i))
    np.testing.assert_array_equal(x[192:], i // 8 * 8 + 7)
    expected = [sum(1 << k for k in range(32) if (k + 32 * w) % 3 == 0) + (w == 1) for w in (0, 1)]
    np.testing.assert_array_equal(votes, np.repeat(np.array(expected, np.uint32), 32))


@pytest.mark.parametrize("order", ORDERS)
def test_a_warp_synchronizes_without_the_rest_of_the_block(order: str) -> None:
    host, x = make_host("warp_sum"), np.arange(64, dtype=np.int32)
    host.order = order
    host.launch("warp_sum", 1, 64, x)
    assert x.tolist() == [sum(range(32))] * 32 + [sum(range(32, 64))] * 32


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("reverse", "__syncthreads();", "", "reverse, block (0, 0, 0): thread 0: reads shared memory that was not"),
        ("reverse", "__syncthreads();", "__syncwarp();", "thread 31: reads shared memory that was not written"),
        ("reverse", "scratch[64]", "scratch[63]", ""),
        ("reverse", "__syncthreads();", "if (threadIdx.x < 63) __syncthreads();", "reads, without a barrier between"),
        ("reverse", "__syncthreads();", "__syncthreads();\nif (threadIdx.x < 63) __syncthreads();", "63 never reaches"),
        ("reverse", "__syncthreads();", "if (threadIdx.x < 7) __syncthreads();\nelse __syncthreads();", "two"),
        ("reverse", "+ 64 * blockIdx.x", "", "block (1, 0, 0): thread 0: reads, without a barrier between"),
        ("reverse", "x[threadIdx.x + 64 * blockIdx.x] = scratch", "x[threadIdx.x + 64 * blockIdx.x + 1] = scratch", ""),
        ("thread_ids", "thread] =", "thread + 1] =", "writes out of bounds"),
        ("thread_ids", "x[block", "(x - 1)[block", "writes out of bounds"),
        ("shuffles", "x[i] =", "if (i < 40) x[i] =", "lanes of a warp are at different shuffles"),
        ("shuffles", "const int i", "if (threadIdx.x == 9) return;\nconst int i", "a lane that has ended"),
        ("shuffles", "0xffffffffu, double(i), 5", "0xffffu, double(i), 5", "a mask of less than a warp"),
        ("warp_sum", "SYNC;\n            const", "const", "reads shared memory that was not written"),
        ("warp_sum", "SYNC;\n            scratch", "scratch", "reads, without a barrier between"),
        ("warp_sum", "x[threadIdx.x] = scratch", "scratch[threadIdx.x ^ 1] = 0;\nx[threadIdx.x] = scratch", "without"),
        ("warp_sum", "scratch[threadIdx.x] = x", "scratch[0] = x[threadIdx.x];\nscratch[threadIdx.x] = x", "writes,"),
    ],
)  # fmt: skip
def test_operations_that_cuda_forbids_are_faults(name: str, old: str, new: str, message: str) -> None:
    source = SOURCES[name]
    assert old in source
    host = Host("float32", checked=True, source=HEAD + source.replace(old, new).replace("SYNC", "__syncwarp()"))
    grid: int | tuple[int, ...] = 1
    block: int | tuple[int, ...] = 64
    arrays: list[np.ndarray] = [np.zeros(64, np.int32)]
    if name == "reverse":
        grid, arrays = 3, [np.zeros(192, np.int32)]
    elif name == "shuffles":
        arrays = [np.zeros(256), np.zeros(64, np.uint32)]
    elif name == "thread_ids":
        grid, block, arrays = (2, 3, 4), (3, 4, 5), [np.zeros(24 * 60, np.int32)]
    with pytest.raises(KernelFault, match=re.escape(message) or None):
        host.launch(name, grid, block, *arrays)


def test_a_barrier_that_is_never_reached_is_a_fault_in_the_fast_build_too() -> None:
    host = make_host("reverse", "__syncthreads();", "if (threadIdx.x < 63) __syncthreads();", "fast")
    with pytest.raises(KernelFault, match=r"reverse, block \(0, 0, 0\): thread 62 waits at the barrier of line"):
        host.launch("reverse", 3, 64, np.zeros(192, np.int32))


def test_misaligned_vector_accesses_are_a_fault() -> None:
    source = HEAD + "copy(const float* x, float* y) { *(float4*)y = *(const float4*)x; }"
    raw = np.zeros(12, np.float32)
    x = raw[(-raw.ctypes.data % 16) // 4 :]
    for build in ("fast", "checked"):
        host = Host("float32", build=build, source=source)
        host.launch("copy", 1, 1, x[:4], x[4:8])
        with pytest.raises(KernelFault, match="not aligned"):
            host.launch("copy", 1, 1, x[1:5], x[4:8])


def test_launches_from_several_threads_do_not_interfere() -> None:
    """All launches share one set of fibers, and other Python threads continue during a launch."""
    host = make_host("reverse", build="fast")

    def reverse_twice(start: int) -> bool:
        x = np.arange(start, start + 64 * 3000, dtype=np.int32)
        for _ in range(2):
            host.launch("reverse", 3000, 64, x)
        return np.array_equal(x, np.arange(start, start + 64 * 3000))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(reverse_twice, range(0, 8000, 1000)))


def test_wrong_arguments_are_refused() -> None:
    host, x = make_host("reverse"), np.zeros(64, np.int32)
    with pytest.raises(TypeError, match="reverse takes 1 arguments, got 2"):
        host.launch("reverse", 1, 64, x, x)
    with pytest.raises(TypeError, match="x has dtype int64, wanted int32"):
        host.launch("reverse", 1, 64, x.astype(np.int64))
    with pytest.raises(TypeError, match="wanted a contiguous array"):
        host.launch("reverse", 1, 32, x[::2])
    x.flags.writeable = False
    with pytest.raises(TypeError, match="read-only array"):
        host.launch("reverse", 1, 64, x)


def run_sanitized(dtype_or_fault: str) -> subprocess.CompletedProcess[str]:
    """Run ``cuda_sanitized.py`` with the address sanitizer, for all checks in a dtype or for one fault."""
    library = subprocess.run([compiler(), "-print-file-name=libasan.so"], capture_output=True, text=True, check=True)
    path = library.stdout.strip()
    if not Path(path).is_absolute():
        pytest.skip("needs the library of g++'s address sanitizer, libasan")
    environment = {
        **os.environ, "LD_PRELOAD": path, "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = [sys.executable, str(Path(__file__).parents[1] / "cuda_sanitized.py"), dtype_or_fault]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_address_sanitizer_reports_no_error_in_the_kernels(dtype: str) -> None:
    """All checks of the kernels, in a sanitized build, on arrays that end at the end of their heap block."""
    process = run_sanitized(dtype)
    assert process.returncode == 0, process.stderr[-4000:]
    assert process.stdout.split() == ["all", "checks", "passed"]


@pytest.mark.slow
def test_the_address_sanitizer_reports_accesses_beyond_the_end_of_an_array() -> None:
    """The kernels lack a bounds check: one reads and another writes a number beyond the end of an array."""
    for fault in ("reads", "writes"):
        process = run_sanitized(fault)
        assert process.returncode != 0
        assert "AddressSanitizer: heap-buffer-overflow" in process.stderr
        assert {"reads": "READ of size", "writes": "WRITE of size"}[fault] in process.stderr


# --- dynamic shared memory, asynchronous copies, clusters ----------------------------------------------------------

CLUSTER_HEAD = """#define CLUSTERED
typedef float real;
extern "C" __global__ void IN_CLUSTERS_OF(4) __launch_bounds__(64) """
ROTATE = (
    CLUSTER_HEAD
    + """rotate(const float* x, float* y) {
    DYNAMIC_SHARED(pool);
    __shared__ float own[64];
    const int rank = rank_in_cluster(), i = threadIdx.x, at = 64 * blockIdx.x + i;
    copy_async<4>(pool + i, x + at);
    await_copies();
    own[i] = 1;
    sync_cluster();
    const float other[1] = {load_peer(pool + i, (rank + 1) % 4)};
    sync_cluster();
    store_peer(pool + i, (rank + 2) % 4, other);
    sync_cluster();
    y[at] = pool[i] + own[63 - i];
}"""
)


def rotate(source: str, build: str, order: str = "forward") -> np.ndarray:
    """Run the kernel ``rotate`` with two clusters of four blocks, and return its result, shape (2, 4, 64)."""
    host = Host("float32", build=build, source=source)
    host.order = order
    x, y = np.arange(512, dtype=np.float32), np.zeros(512, np.float32)
    host.launch("rotate", 8, 64, x, y, shared=256)
    return y.reshape(2, 4, 64)


@pytest.mark.parametrize("build", ["fast", "checked"])
@pytest.mark.parametrize("order", ORDERS)
def test_blocks_of_a_cluster_access_each_others_shared_memory(order: str, build: str) -> None:
    expected = np.roll(np.arange(512).reshape(2, 4, 64), 1, axis=1) + 1
    np.testing.assert_array_equal(rotate(ROTATE, build, order), expected)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sync_cluster();\n    const", "__syncthreads();\n    const", "that may not have started"),
        ("sync_cluster();\n    store", "__syncthreads();\n    store", "without a barrier between"),
        ("sync_cluster();\n    y", "__syncthreads();\n    y", "without a barrier|has ended|ends while another"),
        ("    own[i] = 1;", "    own[i] = 1;\n    if (rank == 2) return;", "which block 2 never reaches|has ended"),
        ("    own[i] = 1;", "    own[i] = 1;\n    if (i == 2) return;", "which thread 2 never reaches"),
        ("    own[i] = 1;", "    if (rank != 1) own[i] = 1;", "was not written"),
        ("    await_copies();", "", "ends before its asynchronous copies"),
        ("copy_async<4>", "copy_async<8>", "not aligned|out of bounds|without a barrier"),
        ("(rank + 2) % 4", "rank + 2", "outside the cluster"),
        ("load_peer(pool + i,", "load_peer(pool + i + 1,", "outside its dynamic shared memory"),
        ("load_peer(pool + i,", "load_peer(own + i,", "outside its dynamic shared memory"),
    ],
)  # fmt: skip
def test_operations_that_clusters_forbid_are_faults(old: str, new: str, message: str, order: str) -> None:
    assert old in ROTATE
    with pytest.raises(KernelFault, match=message):
        rotate(ROTATE.replace(old, new), "checked", order)
