"""The CuPy backend: arrays on one GPU, equations as fused kernels, Programs and Inferences as launches of our own."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any
from weakref import WeakSet

import numpy as np

from deepnotes.backends import NOTES, Inference, Layer, Layout, Plan, Program
from deepnotes_cupy.base import DeviceBackend
from deepnotes_cupy.device import Device
from deepnotes_cupy.eager_kernels import kernels
from deepnotes_cupy.inference import CupyInference, SectionedInference
from deepnotes_cupy.lowering import supported
from deepnotes_cupy.program import CupyProgram
from deepnotes_cupy.sectioned_program import SectionedProgram
from deepnotes_cupy.streaming import STAGE, HostSamples

SHARE = 0.3
"""The share of the free memory above which samples stay on the host; checking them takes as much again."""
SMALL = 1 << 25
"""Bytes that are always below that share, and for which no Program has to release its training data."""


class CupyBackend(DeviceBackend):
    """Arrays on one device.

    Parameters
    ----------
    device : Device
    matmul_precision : {"highest", "high", "bfloat16", "float16"}
        How float32 products are computed; float64 is always float64.
    loss_scale : float, "dynamic" or None
        For float16 only.
    resident_bytes : int or None
        Samples, targets or weights larger than this stay on the host; by default those larger than a good part of the
        free memory.
    """

    def __init__(
        self,
        device: Device,
        matmul_precision: str = "highest",
        loss_scale: Any = None,
        resident_bytes: int | None = None,
    ) -> None:
        self.device = device
        self.matmul_precision, self.loss_scale, self.resident_bytes = matmul_precision, loss_scale, resident_bytes
        self.stage_bytes = STAGE
        self._programs: WeakSet[CupyProgram] = WeakSet()
        if not device.keeps_subnormals:
            self.known_gaps = {"semantics.subnormals": "CuPy compiles with -ftz=true: float32 takes subnormals for 0"}
        super().__init__("cupy", device.xp, kernels(self))

    def compile(self, plan: Plan) -> Program | None:
        """Return the Program of captured steps, or the eager one if a part has no kernel, on this device."""
        if supported().has_plan(plan) and plan.objective == NOTES:
            program = CupyProgram(self, plan)
            self._programs.add(program)
            return program
        _log_eager(plan)
        return SectionedProgram(self, plan)

    def compile_inference(self, layers: Sequence[Layer], layout: Layout, dtype: str) -> Inference | None:
        """Return the fused forward pass, or the eager one if a part has no kernel, on this device."""
        if supported().has_layers(layers):
            return CupyInference(self, layers, layout, dtype)
        _log_eager(layers)
        return SectionedInference(self, layers, layout, dtype)

    def warmup(self, dtypes: Sequence[str] = ("float32", "float64")) -> Iterator[str]:
        """Compile all kernels for each dtype, and run what trains and predicts; see :meth:`Backend.warmup`."""
        from deepnotes_cupy.warmup import warmup

        yield from warmup(self, dtypes)

    def execution_context(self) -> AbstractContextManager[None]:
        """Return the context for computing on this backend's arrays; see :meth:`Backend.execution_context`."""
        return self.device.section()

    # --- to the device and back -------------------------------------------------------------------------------------

    def from_numpy(self, x: np.ndarray, dtype: Any = None) -> Any:
        """Return a copy of the host array `x` on the device, in its own order of elements."""
        host = np.asarray(x, None if dtype is None else np.dtype(dtype))
        turned = host.ndim == 2 and host.T.flags.c_contiguous and not host.flags.c_contiguous
        flat = np.ascontiguousarray(host.T if turned else host).reshape(-1)
        with self.device.section():
            held = self.device.empty(flat.size, str(flat.dtype))
            if flat.size:
                self.device.upload(flat, held)
            return held.reshape(host.T.shape).T if turned else held.reshape(host.shape)

    def from_samples(self, x: np.ndarray) -> Any:
        """Return samples, laid out by sample, on the device, or unchanged on the host if they are too large."""
        if x.nbytes > SMALL:
            for program in list(self._programs):
                program.release_data()
        if self.resident_bytes is None:  # asking for the free memory takes longer than sending a few samples
            stays = x.nbytes > SMALL and x.nbytes > SHARE * self.device.free()
        else:
            stays = x.nbytes > self.resident_bytes
        return HostSamples(self, x) if stays else self.from_numpy(x)

    def to_numpy(self, x: Any) -> np.ndarray:
        """Return a copy on the host; host arrays are returned unchanged."""
        if not self.is_array(x):
            return np.asarray(x)
        with self.device.section():
            return self.device.download(x)

    def write(self, flat: Any, start: int, values: Any) -> Any:
        """Write `values`, shape (k,), into `flat`, shape (p,), from `start` on, and return `flat`."""
        if values is not flat:
            with self.device.section():
                flat[start : start + values.shape[0]] = values
        return flat

    def describe(self) -> str:
        """Return versions and devices."""
        return self.device.describe()


def _log_eager(what: object) -> None:
    logging.getLogger("deepnotes").debug("cupy: %s has parts that there is no kernel for, so it runs eagerly", what)
