"""CupyBackend: arrays on one GPU, fused kernels for equations, and compiled Programs and Inferences."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet

import numpy as np

from deepnotes.backends import NOTES, Inference, Layer, Layout, Plan, Program
from deepnotes_cupy.base import DeviceBackend
from deepnotes_cupy.comparisons import largest
from deepnotes_cupy.device import Device
from deepnotes_cupy.eager_kernels import kernels
from deepnotes_cupy.inference import CupyInference, SectionedInference, weighted_sums
from deepnotes_cupy.lowering import SUPPORTED
from deepnotes_cupy.nccl import nccl_sum
from deepnotes_cupy.program import CupyProgram
from deepnotes_cupy.sectioned_program import SectionedProgram
from deepnotes_cupy.streaming import BUFFER_BYTES, HostSamples, upload

RESIDENT_SHARE = 0.3
"""Samples larger than this fraction of the free memory stay on the host: checks of samples on the device copy them."""
SMALL = 1 << 25
"""Samples of up to this many bytes are always moved to the device, without releasing the data of other Programs."""


class CupyBackend(DeviceBackend):
    """Arrays on one device.

    Parameters
    ----------
    device : Device
    matmul_precision : {"highest", "high", "bfloat16", "float16"}
        How float32 matrix products are computed; float64 products are always computed in float64.
    loss_scale : float, "dynamic" or None
        For float16 only.
    resident_bytes : int or None
        Arrays of samples, targets or weights that are larger than this stay on the host. By default, the limit is
        :data:`RESIDENT_SHARE` times the free memory.
    driver : {"auto", "graph", "resident"}
        How networks are trained, see :func:`deepnotes_cupy.create`.
    """

    def __init__(
        self,
        device: Device,
        matmul_precision: str = "highest",
        loss_scale: Any = None,
        resident_bytes: int | None = None,
        driver: str = "auto",
    ) -> None:
        self.device, self.driver = device, driver
        self.matmul_precision, self.loss_scale, self.resident_bytes = matmul_precision, loss_scale, resident_bytes
        self.stage_bytes = BUFFER_BYTES
        self._programs: WeakSet[CupyProgram] = WeakSet()
        if not device.keeps_subnormals:
            self.known_gaps = {
                "semantics.subnormals": "CuPy compiles with -ftz=true: float32 subnormals are flushed to 0"
            }
        super().__init__("cupy", device.xp, kernels(self))

    def compile(self, plan: Plan) -> Program | None:
        """Return a Program that captures steps as CUDA graphs, or an eager one if a part of the plan has no kernel."""
        if SUPPORTED.has_plan(plan) and plan.objective == NOTES:
            program = CupyProgram(self, plan)
            self._programs.add(program)
            return program
        _log_eager(plan)
        return SectionedProgram(self, plan)

    def compile_inference(self, layers: Sequence[Layer], layout: Layout, dtype: str) -> Inference | None:
        """Return the fused forward pass, or the eager one if a layer has no kernel."""
        if SUPPORTED.has_layers(layers, layout.sizes[0]):
            return CupyInference(self, layers, layout, dtype)
        _log_eager(layers)
        return SectionedInference(self, layers, layout, dtype)

    def warmup(self, dtypes: Sequence[str] = ("float32", "float64")) -> Iterator[str]:
        """Compile all kernels for each dtype, then train and predict once; see :meth:`Backend.warmup`."""
        from deepnotes_cupy.warmup import warmup

        yield from warmup(self, dtypes)

    def execution_context(self) -> AbstractContextManager[None]:
        """Return the context for computing on this backend's arrays; see :meth:`Backend.execution_context`."""
        return self.device.section()

    def array_sum(self, ranks: Any) -> Any:
        """Return a function that sums arrays over the GPUs of several processes by NCCL, or None without NCCL."""
        return nccl_sum(self.device, ranks)

    # --- transfers -------------------------------------------------------------------------------------

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        """Return a copy of the host array `x` on the device, in the same memory layout (C or Fortran order)."""
        host = np.asarray(x, None if dtype is None else np.dtype(dtype))
        transposed = host.ndim == 2 and host.T.flags.c_contiguous and not host.flags.c_contiguous
        flat = np.ascontiguousarray(host.T if transposed else host).reshape(-1)
        with self.device.section():
            copy = self.device.empty(flat.size, str(flat.dtype))
            if flat.size:
                upload(self.device, flat, copy)
            return copy.reshape(host.T.shape).T if transposed else copy.reshape(host.shape)

    def from_samples(self, x: np.ndarray) -> Any:
        """Return samples as an array on the device or, if they take too much memory, as HostSamples."""
        if x.nbytes > SMALL:
            for program in list(self._programs):
                program.release_data()
        if self.resident_bytes is None:  # asking for the free memory takes longer than copying a few samples
            too_large = x.nbytes > SMALL and x.nbytes > RESIDENT_SHARE * self.device.free_bytes()
        else:
            too_large = x.nbytes > self.resident_bytes
        return HostSamples(self, x) if too_large else self.from_numpy(x)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return a copy of `x` on the host, or `x` itself if it is a host array."""
        if not self.is_array(x):
            return np.asarray(x)
        with self.device.section():
            return self.device.download(x)

    def weighted_mean(self, x: Any, w: Any = None) -> float:
        """Return the weighted mean, for which only some sums are moved to the host."""
        with self.device.section():
            arrays = [a if a is None or self.is_array(a) else self.from_numpy(np.asarray(a)) for a in (x, w)]
            total, weight = weighted_sums(self.device, *arrays)
        return total / weight

    def all_finite(self, x: Any) -> bool:
        """Return whether all elements are finite, in one pass over the memory if it has no gaps."""
        flags = x.flags
        if x.dtype.kind != "f" or x.dtype.itemsize < 4 or not x.size or not (flags.c_contiguous or flags.f_contiguous):
            return super().all_finite(x)
        with self.device.section():
            return bool(np.isfinite(largest(self.device, (x if flags.c_contiguous else x.T).reshape(-1))))

    def write(self, flat: Any, start: int, values: Any) -> Any:
        """Write `values`, shape (k,), into `flat`, shape (p,), from `start` on, and return `flat`."""
        if values is not flat:
            with self.device.section():
                flat[start : start + values.shape[0]] = values
        return flat

    def describe(self) -> str:
        """Return the versions of CuPy, CUDA, the driver and cuBLAS, and a list of the devices."""
        return self.device.describe()


def _log_eager(plan_or_layers: object) -> None:
    """Log that a plan or some layers run eagerly."""
    logging.getLogger("deepnotes").debug("cupy: %s has a part without a kernel, so it runs eagerly", plan_or_layers)
