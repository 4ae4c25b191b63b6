"""NVRTC compiles the CUDA kernels for each architecture, without a GPU, and no register spills."""

import re
from pathlib import Path
from typing import Any

import literature
import pytest
from cuda_nvrtc import ARCHITECTURES, compile_all, compile_source, nvrtc, table

import deepnotes as dn
from deepnotes.backends import ACTIVATIONS, LOSSES, OPTIMIZERS, Layout, Plan
from deepnotes_cupy import resident
from deepnotes_cupy.lowering import FeatureRow, lower, lower_activation, lower_loss, lower_plan, lower_update
from deepnotes_cupy.small_networks import program_of
from deepnotes_cupy.sources import REAL, Kernel, kernels

EXTRA = 'needs CuPy and NVRTC: pip install "deepnotes[nvrtc]"'
pytest.importorskip("cupy", reason=EXTRA)
LIBRARY = [
    *(dn.Activation(name) for name in ACTIVATIONS if name != "identity"),
    *map(dn.Loss, LOSSES),
    dn.SGD(),
    *(kind() for kind in OPTIMIZERS.values()),
]
PARTS = [*LIBRARY, *literature.ACTIVATIONS, *literature.LOSSES, *literature.OPTIMIZERS]
ELEMENTWISE = [
    *(dn.Activation(name) for name in ACTIVATIONS if name not in ("identity", "softmax", "log_softmax")),
    *(part for part in literature.ACTIVATIONS if lower_activation(part, "float32", 3).forward_stage),
]
DEVICE_ARCHITECTURES = [architecture for architecture in ARCHITECTURES if architecture.startswith("sm_")]


@pytest.fixture(scope="module", autouse=True)
def _skip_without_nvrtc() -> None:
    try:
        nvrtc()
    except ImportError as error:
        pytest.skip(f"{EXTRA} ({error})")


PLANS = {
    "relu": (["relu"], "softmax", "categorical_cross_entropy", dn.Adam()),
    "library": (["tanh", "gelu", "leaky_relu"], "sigmoid", "half_poisson_deviance", dn.SGD(momentum=0.9)),
    "literature": (
        [literature.Mish(), literature.LogSoftmax()],
        "identity",
        literature.LogCosh(),
        literature.AMSGrad(),
    ),
}
"""Hidden activations, the last activation, the loss and the optimizer of networks."""


def plan_of(parts: tuple[Any, ...], dtype: str) -> Plan:
    """Return the plan of a network with these parts; after the first hidden layer, there is dropout."""
    hidden, last, loss, optimizer = parts
    first, *others = (dn.Dense(8, g) for g in hidden)
    layers = first, dn.Dropout(0.2), *others, dn.Dense(3, last)
    return Plan(4, layers, dtype, 0, dn.Loss(loss) if isinstance(loss, str) else loss, optimizer)


def resident_kernel(blocks: int, parts: tuple[Any, ...], dtype: str) -> Kernel:
    """Return the kernel that trains a network with these parts in shared memory."""
    plan = plan_of(parts, dtype)
    return resident.kernel(blocks, resident.layer_rows(plan, lower_plan(plan)).parts)


@pytest.mark.parametrize("architecture", DEVICE_ARCHITECTURES)
@pytest.mark.parametrize("dtype", REAL)
def test_every_kernel_compiles_without_spilling_registers(dtype: str, architecture: str) -> None:
    """No kernel has a stack frame, and 512 threads (or a block, if it has more) fit into 65,536 registers."""
    result = compile_all()[dtype, architecture].result()
    assert result.code, result.log
    assert not re.findall(r"^.*\b(?:warning|error)\b.*$", result.log, re.MULTILINE)
    assert result.usage.keys() == kernels().keys()
    for name, usage in result.usage.items():
        assert (usage.spilled, usage.stack) == (0, 0), (name, usage)
        assert usage.registers * max(kernels()[name].threads, 512) <= 65536, (name, usage)
        assert usage.shared <= 48 * 1024, (name, usage)


@pytest.mark.parametrize("blocks", [1, resident.BLOCKS])
@pytest.mark.parametrize("architecture", DEVICE_ARCHITECTURES)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("parts", PLANS.values(), ids=PLANS)
def test_the_kernel_for_training_in_shared_memory_compiles(
    parts: tuple[Any, ...], dtype: str, architecture: str, blocks: int
) -> None:
    """A block fits into a multiprocessor."""
    if blocks > 1 and architecture == "sm_80":
        pytest.skip("clusters need compute capability 9.0")
    result = compile_source(resident_kernel(blocks, parts, dtype).source, dtype, architecture)
    assert result.code, result.log
    assert not re.findall(r"^.*\b(?:warning|error)\b.*$", result.log, re.MULTILINE)
    usage = result.usage["train_resident"]
    assert usage.registers * resident.THREADS[blocks] <= 65536, usage
    assert usage.shared <= resident.STATIC_BYTES
    assert usage.spilled <= (128 if dtype == "float64" else 0), usage


@pytest.mark.parametrize("blocks", [1, resident.BLOCKS])
def test_training_in_shared_memory_copies_asynchronously_and_reads_no_stale_number(blocks: int) -> None:
    """Nothing is read through the cache for constants; there are instructions for clusters only if there is one."""
    kernel = resident_kernel(blocks, PLANS["literature"], "float32")
    text = compile_source(kernel.source, "float32", "compute_90").code.decode()
    assert "cp.async" in text
    assert "ld.global.nc" not in text
    for instruction in ("barrier.cluster", "mapa.shared::cluster", ".reqnctapercluster"):
        assert (instruction in text) == (blocks > 1), instruction


@pytest.mark.parametrize("architecture", DEVICE_ARCHITECTURES)
@pytest.mark.parametrize("dtype", REAL)
def test_the_kernel_for_small_networks_compiles(dtype: str, architecture: str) -> None:
    """A block fits into a multiprocessor, all of whose shared memory it may take."""
    plan = plan_of((["relu", "gelu", literature.Mish()], "softmax", "categorical_cross_entropy", dn.Adam()), dtype)
    kernel = program_of(lower(plan.layers, plan.layout, dtype, training=False), dtype).kernel
    result = compile_source(kernel.source, dtype, architecture)
    assert result.code, result.log
    assert not re.findall(r"^.*\b(?:warning|error)\b.*$", result.log, re.MULTILINE)
    usage = result.usage["predict_resident"]
    assert (usage.spilled, usage.stack) == (0, 0), usage
    assert usage.registers * kernel.threads <= 65536, usage


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("part", [dn.Activation("silu"), dn.Adam()], ids=lambda part: type(part).__name__)
def test_generated_kernels_access_memory_16_bytes_at_a_time_and_do_not_compute_in_double_precision(
    part: Any, dtype: str
) -> None:
    text = compile_source(generated_kernel(part, dtype).source, dtype, "compute_75").code.decode()
    bodies = dict(zip(*[iter(re.split(r"\.visible \.entry (\w+)\(", text)[1:])] * 2, strict=True))
    pack = "v4.f32" if dtype == "float32" else "v2.f64"
    for name in ("bias_activation", "activation_backward", "update"):
        if body := bodies.get(name):
            assert re.search(rf"ld\.global\.(nc\.)?{pack}", body), name
            assert re.search(rf"st\.global\.{pack}", body), name
            assert name == "update" or dtype == "float64" or ".f64" not in body


@pytest.mark.thinned(8)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("part", PARTS, ids=lambda part: type(part).__name__)
def test_generated_kernels_compile_without_spilling_registers(part: Any, dtype: str) -> None:
    kernel = generated_kernel(part, dtype)
    for architecture in DEVICE_ARCHITECTURES:
        result = compile_source(kernel.source, dtype, architecture)
        assert result.code, result.log
        assert not re.findall(r"^.*\b(?:warning|error)\b.*$", result.log, re.MULTILINE)
        assert kernel.name in result.usage
        for name, usage in result.usage.items():
            assert (usage.spilled, usage.stack) == (0, 0), (name, usage)
            assert usage.registers * 512 <= 65536, (name, usage)


@pytest.mark.thinned(8)
@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("part", ELEMENTWISE, ids=str)
def test_stages_compile_without_spilling_registers(part: Any, dtype: str) -> None:
    """Two blocks fit into a multiprocessor."""
    stage = lower_activation(part, dtype, 3).forward_stage
    assert stage is not None
    for architecture in DEVICE_ARCHITECTURES:
        result = compile_source(stage.kernel.source, dtype, architecture)
        assert result.code, result.log
        assert not re.findall(r"^.*\b(?:warning|error)\b.*$", result.log, re.MULTILINE)
        assert result.usage.keys() == {"forward_stage", "backward_stage"}
        for name, usage in result.usage.items():
            assert (usage.spilled, usage.stack) == (0, 0), (name, usage)
            assert usage.registers * 512 <= 65536, (name, usage)
            assert usage.shared <= 48 * 1024, (name, usage)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("outputs", [64, 128, 1000])
def test_kernels_for_many_outputs_compile_without_spilling_registers(outputs: int, dtype: str) -> None:
    last = dn.Dense(outputs, "softmax")
    for kernel in (
        lower_activation(last.g, dtype, outputs).forward.kernel,
        lower_activation(literature.LogSoftmax(), dtype, outputs).forward.kernel,
        lower_loss(dn.Loss("categorical_cross_entropy"), last, dtype, outputs).launch.kernel,
    ):
        for architecture in DEVICE_ARCHITECTURES:
            result = compile_source(kernel.source, dtype, architecture)
            assert result.code, result.log
            for name, usage in result.usage.items():
                assert (usage.spilled, usage.stack) == (0, 0), (name, usage)


@pytest.mark.parametrize("dtype", REAL)
@pytest.mark.parametrize("n", [10, 100, 1000])
@pytest.mark.parametrize(
    "layer", [dn.LayerNorm(), dn.RMSNorm(), dn.PReLU(), dn.Gate("silu")], ids=lambda layer: type(layer).__name__
)
def test_kernels_of_layers_by_feature_compile_without_spilling_registers(layer: dn.Layer, n: int, dtype: str) -> None:
    layers = [layer, dn.Dense(1)]  # a network has a layer with parameters
    row, _ = lower(layers, Layout(2 * n if isinstance(layer, dn.Gate) else n, layers), dtype, training=True)
    assert isinstance(row, FeatureRow)
    for architecture in DEVICE_ARCHITECTURES:
        result = compile_source(row.forward.kernel.source, dtype, architecture)
        assert result.code, result.log
        assert not re.findall(r"^.*\b(?:warning|error)\b.*$", result.log, re.MULTILINE)
        assert result.usage.keys() == {"feature_forward", "feature_backward"}
        for name, usage in result.usage.items():
            assert (usage.spilled, usage.stack) == (0, 0), (name, usage)


@pytest.mark.parametrize(("outputs", "held"), [(64, 2), (128, 4)])
def test_the_outputs_of_a_sample_are_read_once(outputs: int, held: int) -> None:
    """The backward pass of softmax loads each element of dA and A once, though it needs them in two loops."""
    kernel = lower_activation(dn.Activation("softmax"), "float32", outputs).backward.kernel
    text = compile_source(kernel.source, "float32", "compute_90").code.decode()
    body = re.split(r"\.visible \.entry (\w+)\(", text)
    assert body[body.index("row_backward") + 1].count("ld.global") == 2 * held


def generated_kernel(part: Any, dtype: str) -> Kernel:
    """Return a kernel that is generated for a part; its program holds all kernels of the part."""
    if isinstance(part, dn.Optimizer):
        return lower_update(part, dtype).launch.kernel
    if isinstance(part, dn.LossFunction):
        return lower_loss(part, dn.Dense(3), dtype, 3).launch.kernel
    return lower_activation(part, dtype, 3).forward.kernel


@pytest.mark.parametrize("dtype", REAL)
def test_memory_is_accessed_16_bytes_at_a_time(dtype: str) -> None:
    """The PTX of each kernel that processes arrays has loads and stores of 16 bytes."""
    result = compile_all()[dtype, "compute_75"].result()
    assert result.code, result.log
    text = result.code.decode()
    bodies = dict(zip(*[iter(re.split(r"\.visible \.entry (\w+)\(", text)[1:])] * 2, strict=True))
    assert bodies.keys() == kernels().keys()
    pack = "v4.f32" if dtype == "float32" else "v2.f64"
    for name in ("gather", "bias_activation", "activation_backward", "dropout", "add_arrays"):
        assert re.search(rf"ld\.global\.(nc\.)?{pack}", bodies[name]), name
        if name != "activation_backward":  # of the identity, whose dZ is dA
            assert re.search(rf"st\.global\.{pack}", bodies[name]), name
    for name in ("forward_stage", "backward_stage"):
        assert re.search(rf"ld\.global\.(nc\.)?{pack}", bodies[name]), name
        assert f"ld.shared.{pack}" in bodies[name], name
        assert re.search(rf"\.shared \.align 16 \S+ \S*{name}\S*shared", text), name
    assert "st.global.v4.u32" in bodies["round16"]
    assert f"ld.global.{pack}" in bodies["gradient_norm"]
    assert not re.search(r"\batom\.|\bred\.", text)  # no atomics, so no sum depends on the order of threads
    if dtype == "float32":  # elementwise kernels do not compute in double precision by mistake
        for name in ("gather", "bias_activation", "activation_backward", "dropout"):
            assert ".f64" not in bodies[name], name


def test_the_documented_table_of_registers_matches_nvrtc() -> None:
    """docs/cuda.md has the table that ``python tests/cuda_nvrtc.py`` prints, for the version of NVRTC that it names."""
    head, _, *rows = lines = list(table())
    assert head.count("|") == 3 + 2 * len(DEVICE_ARCHITECTURES)
    assert len(rows) == len(kernels())
    page = (Path(__file__).parents[2] / "docs" / "cuda.md").read_text(encoding="utf-8")
    if f"as reported by NVRTC {'.'.join(map(str, nvrtc().getVersion()))} (" in page:
        assert "\n".join(lines) in page


def test_the_compiler_is_nvrtc_and_not_nvcc() -> None:
    """NVRTC refuses host headers and unmarked functions, which nvcc accepts."""
    result = compile_source("#include <vector>\nint f() { return 1; }", "float32", "sm_80")
    assert not result.code
    assert "vector" in result.log


def test_spills_are_reported() -> None:
    """The kernel needs more registers than its launch bounds allow."""
    loads = "".join(f"v[{i}] = x[{i} * 37 + threadIdx.x];" for i in range(64))
    stores = "".join(f"x[threadIdx.x * 64 + {i}] = v[{63 - i}] * v[{i}];" for i in range(64))
    head = 'extern "C" __global__ void __launch_bounds__(1024, 2) hoard(float* x)'
    source = f"{head} {{ float v[64]; {loads} __syncthreads(); {stores} }}"
    result = compile_source(source, "float32", "sm_80")
    assert result.code, result.log
    assert result.usage["hoard"].spilled > 0
