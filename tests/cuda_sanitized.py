"""Run all checks, or one check of a faulty kernel, under the address sanitizer; test_cuda_shim.py runs this script."""

import sys

import numpy as np
from cuda_checks import CHECKS
from cuda_inference_checks import INFERENCE_CHECKS
from cuda_shim import Host
from cuda_stage_checks import STAGE_CHECKS
from cuda_step_checks import STEP_CHECKS

from deepnotes_cupy.sources import program

ALL = CHECKS | STEP_CHECKS | STAGE_CHECKS | INFERENCE_CHECKS
FAULTS = {
    "reads": ("dense.cu", "c >= tile.columns ? 0 : ", "", "activation_backward"),
    "writes": ("rounding.cu", "if (k + i < count) out", "out", "rounding"),
}
"""Out-of-bounds accesses by name: the source file, the text to replace, its replacement, and the check to run."""


def main(dtype_or_fault: str) -> None:
    """Run all checks with a dtype, or the check for a fault of FAULTS, which must end this process with an error."""
    with np.errstate(all="ignore"):
        if dtype_or_fault in FAULTS:
            file, old, new, check = FAULTS[dtype_or_fault]
            source = program(file)
            assert old in source
            ALL[check](Host("float32", build="sanitized", source=source.replace(old, new)))
        else:
            host = Host(dtype_or_fault, build="sanitized")
            for run_check in ALL.values():
                run_check(host)
    sys.stdout.write("all checks passed\n")


if __name__ == "__main__":
    main(sys.argv[1])
