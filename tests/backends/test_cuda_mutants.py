"""The checks of the CUDA kernels can fail: each mutant has one fault, which its check has to find."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pytest
from cuda_checks import CHECKS
from cuda_inference_checks import INFERENCE_CHECKS
from cuda_shim import Host, KernelFault, compiler
from cuda_stage_checks import STAGE_CHECKS
from cuda_step_checks import STEP_CHECKS

from deepnotes_cupy.sources import program

ALL = CHECKS | STEP_CHECKS | STAGE_CHECKS | INFERENCE_CHECKS


class Mutant(NamedTuple):
    """Kernels with a fault: in the program of `file`, `new` replaces `old`; `check` has to fail with `message`.

    If `file` is empty, or generated kernels contain `old` as well, it is replaced in them.
    """

    fault: str
    file: str
    old: str
    new: str
    check: str
    message: str = ""


RACE, BOUNDS = "without a barrier", "out of bounds"
LOOP = "for (long long i = whole * VEC + first; i < p; i += step)"
MUTANTS = [
    # --- barriers, shuffles and the division of work
    Mutant(
        "no barrier after the sums are stored",
        "dense.cu",
        "= sums[v];\n            __syncthreads();",
        "= sums[v];",
        "activation_backward",
        "shared memory that was not written",
    ),
    Mutant(
        "no barrier within the tree of sums",
        "dense.cu",
        "    }\n                __syncthreads();",
        "    }\n",
        "activation_backward",
        RACE,
    ),
    Mutant(
        "no barrier between the sums of warps and the sum of the block",
        "steps.cu",
        "= largest;\n        __syncthreads();",
        "= largest;",
        "norms",
        "shared memory that was not written",
    ),
    Mutant(
        "a barrier for half of the warps",
        "steps.cu",
        "= largest;\n        __syncthreads();",
        "= largest;\n        if (warp % 2 == 0) __syncthreads();",
        "norms",
        "never reaches",
    ),
    Mutant(
        "a barrier that only one warp reaches",
        "steps.cu",
        "if (warp != 0) return;\n",
        "if (warp != 0) return;\n        __syncthreads();\n",
        "norms",
        "never reaches",
    ),
    Mutant(
        "a shuffle that some lanes skip",
        "",
        "row4 = group.sum(row4);",
        "if (j < m) row4 = group.sum(row4);",
        "softmax",
        "lane",
    ),
    Mutant(
        "all blocks write to the same address",
        "steps.cu",
        "mine = partial + 3 * blockIdx.x;",
        "mine = partial;",
        "norms",
        RACE,
    ),
    Mutant("a weight of 0 has the sign 1", "steps.cu", "l1 * sign(w)", "(w < 0 ? -l1 : l1)", "norms"),
    Mutant("biases have penalties", "steps.cu", "if (i + v < decaying) x[v] = add", "x[v] = add", "norms"),
    Mutant("a category of the column before", "embedding.cu", "j * inputs + column", "j * inputs", "embeddings"),
    Mutant("the first vector for all categories", "embedding.cu", "+ category * apart", "", "embeddings"),
    Mutant("an index that is not checked", "embedding.cu", "x < categories", "true", "embeddings", "outside"),
    Mutant("the last sample is left out", "embedding.cu", "j < end; j++", "j < end - 1; j++", "embeddings"),
    Mutant("samples beyond the last chunk", "embedding.cu", "rows < m ?", "rows < m + rows ?", "embeddings", BOUNDS),
    Mutant("the gradient of another number", "embedding.cu", "+ i - table[0]", "", "embeddings"),
    Mutant(
        "no barrier before the next sum",
        "batch_norm.cu",
        "__syncthreads();  // before",
        "// before",
        "batch_norms",
        RACE,
    ),
    Mutant("a row of threads left out", "batch_norm.cu", "tile.height / 2;", "tile.height / 4;", "batch_norms"),
    Mutant(
        "the variance of the sample", "batch_norm.cu", "static_cast<double>(m) / (m - 1) : 1", "1 : 1", "batch_norms"
    ),
    Mutant("the variance of one sample", "batch_norm.cu", "(m > 1 ? static", "(m > 0 ? static", "batch_norms"),
    Mutant("a derivative with its mean", "batch_norm.cu", "- mean - X_hat", "- X_hat", "batch_norms"),
    Mutant(
        "features beyond the last",
        "batch_norm.cu",
        "end = i < n ? m : 0;\n        double",
        "end = m;\n        double",
        "batch_norms",
        BOUNDS,
    ),
    Mutant("changes are not checked", "steps.cu", "i < size; i += step", "i < p; i += step", "norms"),
    Mutant("one shuffle too few in a warp", "steps.cu", "int offset = 16;", "int offset = 8;", "norms"),
    Mutant(
        "one shuffle too few in a group",
        "",
        "T sum(T x) const {\n        for (int offset = lanes / 2;",
        "T sum(T x) const {\n        for (int offset = lanes / 4;",
        "softmax",
    ),
    Mutant(
        "only half of the tree of sums",
        "dense.cu",
        "int half = tile.height / 2;",
        "int half = tile.height / 4;",
        "activation_backward",
    ),
    # --- bounds, tails, alignment
    Mutant(
        "no bounds check of columns",
        "dense.cu",
        "c < tile.columns;",
        "c <= tile.columns;",
        "bias_and_activation",
        BOUNDS,
    ),
    Mutant(
        "no bounds check of columns in the sums",
        "dense.cu",
        "c >= tile.columns ? 0 : ",
        "",
        "activation_backward",
        BOUNDS,
    ),
    Mutant(
        "no bounds check of prefetched rows",
        "dense.cu",
        "                    if (j + r * tile.height < end) {",
        "{",
        "activation_backward",
        BOUNDS,
    ),
    Mutant("no bounds check of strips", "dense.cu", "if (k < packs) {", "{", "gathers", BOUNDS),
    Mutant("rows beyond the last sample", "", "count = j < m ? n : 0;", "count = n;", "softmax", BOUNDS),
    Mutant(
        "numbers after the last pack are not updated",
        "",
        LOOP,
        "for (long long i = p; i < p; i += step)",
        "updates",
    ),
    Mutant("a tail with one number too many", "", LOOP, LOOP.replace("i < p", "i <= p"), "updates", BOUNDS),
    Mutant("the last pack dropped", "", "k < whole; k += step", "k < whole - 1; k += step", "updates"),
    Mutant(
        "16-byte accesses at any address",
        "dense.cu",
        "(reinterpret_cast<unsigned long long>(p) & 15) == 0",
        "true",
        "bias_and_activation",
        "not aligned",
    ),
    Mutant(
        "numbers after the last pack of a mask are not written",
        "dropout.cu",
        "if (4 * k + v < count) out",
        "if (false) out",
        "masks",
    ),
    Mutant("no bounds check in a mask's tail", "dropout.cu", "if (4 * k + v < count) out", "out", "masks", BOUNDS),
    Mutant(
        "no bounds check in the tail of rounding", "rounding.cu", "if (k + i < count) out", "out", "rounding", BOUNDS
    ),
    # --- the last term dropped
    Mutant(
        "the last sample of a chunk dropped",
        "dense.cu",
        "? (chunk + 1) * rows : m;",
        "? (chunk + 1) * rows - 1 : m;",
        "activation_backward",
    ),
    Mutant(
        "numbers beyond the registers dropped",
        "",
        "int i = group.lane + HELD * group.lanes;",
        "int i = group.lane + (HELD + 1) * group.lanes;",
        "softmax",
    ),
    Mutant("the last warp's sum dropped", "steps.cu", "first = lane < warps ?", "first = lane < warps - 1 ?", "norms"),
    # --- NaN
    Mutant("ReLU loses NaN", "", "return x > y || x != x ? x : y;", "return x > y ? x : y;", "nan_and_infinity"),
    Mutant("maxima lose NaN", "steps.cu", "x > y || x != x ? x : y", "fmax(x, y)", "norms"),
    Mutant("minima lose NaN", "", "return x < y || x != x ? x : y;", "return x < y ? x : y;", "losses_of_nan"),
    Mutant(
        "a dropped NaN is 0",
        "dropout.cu",
        "a[v] *= factors[part + v];",
        "a[v] = factors[part + v] ? a[v] * factors[part + v] : real(0);",
        "masks",
    ),
    Mutant(
        "a NaN becomes infinity in 16 bits",
        "rounding.cu",
        "return sign | 0x7e00u;",
        "return sign | 0x7c00u;",
        "rounding",
    ),
    # --- formulas
    Mutant(
        "tanh by the unstable formula",
        "",
        "= tanh(x0);",
        "= 2 / (1 + exp(-2 * x0)) - 1;",
        "bias_and_activation",
    ),
    Mutant("no option", "", "= options[0];", "= 0.5;", "bias_and_activation"),
    Mutant("no bias in the logits", "", "if (b) Z[at] += b[i];", "", "cross_entropies"),
    Mutant("outputs that are not written", "", "if (A) A[at] = ", "if (false) A[at] = ", "cross_entropies"),
    Mutant("a sum instead of the mean", "dense.cu", "= scale * scratch", "= scratch", "activation_backward"),
    Mutant("softmax without the maximum", "", "= x0 - row1;", "= x0;", "softmax"),
    Mutant("0 times minus infinity gives NaN", "", "x15 = x12 ? x11 : x14;", "x15 = x14;", "losses_of_nan"),
    Mutant(
        "no sample weights in the derivative",
        "",
        "D[at] = x17 * scale;",
        "D[at] = x17;",
        "cross_entropies",
    ),
    Mutant("another sample's weight", "", "w ? w[j] : real(1)", "w ? w[0] : real(1)", "cross_entropies"),
    Mutant("biases decay, too", "", "decays[v] = i + v < decaying;", "decays[v] = 1;", "updates"),
    Mutant("a whole pack decays", "", "decays[v] = i + v < decaying;", "decays[v] = i < decaying;", "updates"),
    Mutant("no clipping", "", "x[v] *= clip;", "", "updates"),
    Mutant(
        "an update after the stop",
        "",
        "if (control->stopped) return;\n    const double options",
        "const double options",
        "updates",
    ),
    Mutant(
        "sums of an epoch after the stop",
        "steps.cu",
        "if (control->stopped) return;\n    double* mine",
        "double* mine",
        "epochs",
    ),
    Mutant(
        "sums that go on in the next epoch",
        "steps.cu",
        "control->loss_sum = control->weight_sum = 0;\n",
        "",
        "epochs",
    ),
    Mutant("the same row for all epochs", "steps.cu", "control->epoch += 1;\n", "", "epochs"),
    Mutant("a decision after the stop", "steps.cu", "if (control->stopped) return;\n    Totals", "Totals", "verdicts"),
    Mutant(
        "squares that overflow",
        "steps.cu",
        "const double norm = isfinite(square) ? sqrt(square) : largest;",
        "const double norm = sqrt(real(square));",
        "verdicts",
    ),
    Mutant(
        "clipping of small gradients",
        "steps.cu",
        "clip_norm > 0 && norm > clip_norm ? clip_norm / norm : 1.0",
        "clip_norm > 0 ? clip_norm / norm : 1.0",
        "verdicts",
    ),
    Mutant("noise from the lower halves only", "dropout.cu", "+ (words[i] >> 16)", "+ (words[i] & 0xffffu)", "noises"),
    Mutant("shortcuts without the rest of a pack", "dense.cu", LOOP, "for (long long i = p; i < p; i++)", "shortcuts"),
    Mutant("the sum of a shortcut forgets an array", "dense.cu", "a[v] += b[v];", "a[v] = b[v];", "shortcuts"),
    Mutant("parameters of a layer by feature are shifted", "", "p[1 * n + i]", "p[n - 1 + i]", "layers_by_feature"),
    Mutant("Philox with nine rounds", "dropout.cu", "round < 10", "round < 9", "masks"),
    Mutant("only the low word of the step", "dropout.cu", "static_cast<unsigned>(step >> 32)", "0u", "masks"),
    Mutant(
        "ties are rounded away from zero",
        "rounding.cu",
        "(bits + 0x7fffu + (bits >> 16 & 1)) >> 16",
        "(bits + 0x8000u) >> 16",
        "rounding",
    ),
    # --- predictions
    Mutant(
        "no barrier between the layers",
        "",
        "layer, at, from, to, width, samples);\n            __syncthreads();",
        "layer, at, from, to, width, samples);",
        "whole_networks",
    ),
    Mutant(
        "no barrier after X is loaded",
        "",
        "        __syncthreads();\n        at = W;",
        "        at = W;",
        "whole_networks",
    ),
    Mutant(
        "no barrier after an activation",
        "",
        "EACH_ACTIVATION(CASE)\n                }\n                __syncthreads();",
        "EACH_ACTIVATION(CASE)\n                }",
        "whole_networks",
        RACE,
    ),
    Mutant(
        "no barrier before the next samples",
        "",
        "A[i * width + j];\n        }\n        __syncthreads();",
        "A[i * width + j];\n        }",
        "whole_networks",
        RACE,
    ),
    Mutant(
        "neurons of the padding are not 0",
        "",
        "!exists ? real(0) : is_relu",
        "is_relu",
        "special_numbers_stay_in_their_samples",
    ),
    Mutant("samples beyond the end", "", "&& j < count ?", "?", "whole_networks", BOUNDS),
    Mutant("b of the last layer", "", "i < n && entry[B_AT] >= 0", "i < n", "whole_networks"),
    Mutant("one sample too many", "", "if (lane < m) {", "if (lane <= m) {", "few_samples", BOUNDS),
    Mutant("a factor without gaps", "", "j * ((n + ROW - 1) / ROW * ROW) + i", "j * n + i", "factors"),
    # --- stages
    Mutant(
        "no barrier before a slice is read",
        "stages.cu",
        "(right);\n        __syncwarp();",
        "(right);",
        "forward_stages",
        "not written",
    ),
    Mutant(
        "no barrier before the next slice", "stages.cu", "        __syncwarp();\n    }", "    }", "forward_stages", RACE
    ),
    Mutant(
        "no barrier before sums replace slices",
        "stages.cu",
        "__syncthreads();  // the sums",
        "// the sums",
        "forward_stages",
        RACE,
    ),
    Mutant(
        "no barrier after the sums of warps",
        "stages.cu",
        "    __syncthreads();\n#pragma unroll\n    for (int v",
        "#pragma unroll\n    for (int v",
        "forward_stages",
        "not written",
    ),
    Mutant(
        "no barrier before the next tile",
        "stages.cu",
        "__syncthreads();  // before the next",
        "// before the next",
        "stages_on_other_grids",
        "",
    ),
    Mutant("the sums of all warps but one", "stages.cu", "w < STAGE_WARPS", "w < STAGE_WARPS - 1", "forward_stages"),
    Mutant(
        "the last terms are left out",
        "stages.cu",
        "term < terms; term",
        "term + SLICE <= terms; term",
        "forward_stages",
    ),
    Mutant(
        "a slice of the round before",
        "stages.cu",
        "fetch(first, sample, term + ROUND)",
        "fetch(first, sample, term)",
        "forward_stages",
    ),
    Mutant(
        "terms beyond the end", "stages.cu", "exists && column + i < columns ?", "exists ?", "forward_stages", BOUNDS
    ),
    Mutant("samples beyond the end", "stages.cu", "exists && column + i", "column + i", "forward_stages", BOUNDS),
    Mutant("rows of packs beyond the end", "stages.cu", "if (exists && packs", "if (packs", "forward_stages", BOUNDS),
    Mutant("columns of packs beyond the end", "stages.cu", "&& column < columns) {", ") {", "forward_stages", BOUNDS),
    Mutant(
        "alignment is not checked",
        "stages.cu",
        "% VEC == 0 && aligned(numbers)",
        "% VEC == 0",
        "forward_stages",
        "not aligned",
    ),
    Mutant("no bias", "stages.cu", "if (b) z[v] += b[i + v];", "", "forward_stages"),
    Mutant(
        "neurons beyond the end", "stages.cu", "if (j < m && i + v < n) A[", "if (j < m) A[", "forward_stages", BOUNDS
    ),
    Mutant("samples in the mean that do not exist", "stages.cu", "d[v] = 0;", "d[v] = 1;", "backward_stages"),
    Mutant(
        "half of a tile in the mean",
        "stages.cu",
        "half = STAGE_SAMPLES / 2",
        "half = STAGE_SAMPLES / 4",
        "backward_stages",
    ),
    Mutant(
        "no barrier within the mean",
        "stages.cu",
        "STAGE_NEURONS];\n                    }\n                __syncthreads();",
        "STAGE_NEURONS];\n                    }",
        "backward_stages",
        RACE,
    ),
    Mutant("the derivative of another sample", "", "z[v] = Z[j * n + i + v]", "z[v] = Z[i + v]", "backward_stages"),
]
"""Mutants of the kernels, with one fault each."""


def make_host(mutant: Mutant) -> Host:
    """Return the kernels with the fault of a mutant."""
    source = program(mutant.file) if mutant.file else ""
    assert mutant.old in source or not source, f"{mutant.fault}: the source has changed"
    return Host("float32", checked=True, source=source, fault=(mutant.old, mutant.new))


@pytest.fixture(scope="module", autouse=True)
def compiled() -> None:
    """Compile all mutants in parallel."""
    compiler()
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda mutant: make_host(mutant).compile(), MUTANTS))


@pytest.mark.slow
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.fault)
def test_each_fault_is_found(mutant: Mutant) -> None:
    host = make_host(mutant)
    with np.errstate(all="ignore"), pytest.raises((AssertionError, KernelFault), match=mutant.message or None):
        ALL[mutant.check](host)
