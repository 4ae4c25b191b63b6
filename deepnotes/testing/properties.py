"""Checks of equations on inputs that Hypothesis chooses, with worst-case bounds, since these inputs are not random."""

from typing import Any

import numpy as np
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from deepnotes.backends.base import Backend
from deepnotes.testing.calls import CALLS, VARIANTS, Draw, call
from deepnotes.testing.checks import DTYPES, Trial
from deepnotes.testing.inputs import LAYOUTS

STYLES = ("random", "constant", "integers", "signs", "equal columns")


class StyledDraw(Draw):
    """Draws numbers of one style.

    Parameters
    ----------
    rng : numpy.random.Generator
    style : str
        One of `STYLES`.
    """

    def __init__(self, rng: np.random.Generator, style: str) -> None:
        super().__init__(rng)
        self.style = style

    def real(self, *shape: int) -> np.ndarray:
        """Return numbers of the style."""
        if self.style == "constant":
            return np.full(shape, self.rng.normal(0, 3))
        if self.style == "integers":
            return self.rng.integers(-9, 10, shape).astype(np.float64)
        if self.style == "signs":
            return self.rng.choice([-1.0, 0.0, 1.0], shape)
        if self.style == "equal columns" and len(shape) == 2:
            return np.repeat(self.rng.normal(0, 3, (shape[0], 1)), shape[1], axis=1)
        return super().real(*shape)

    def weights(self, *shape: int) -> np.ndarray:
        """Return numbers of the style; for "random", they are normally distributed."""
        return self.real(*shape) if self.style != "random" else super().weights(*shape)


def check_equations(backend: Backend, examples: int, random: bool = False) -> None:
    """Check equations against the reference on inputs from Hypothesis, which reports the smallest input that fails.

    Parameters
    ----------
    backend : Backend
    examples : int
        The number of inputs. If the Hypothesis profile asks for more examples than the default of 100, this number
        grows in proportion.
    random : bool, default False
        Whether inputs follow ``--hypothesis-seed``, or differ in each run; by default they are the same in every run.

    Raises
    ------
    Failure
    """
    sizes = st.integers(1, 40)

    @settings(
        max_examples=max(examples, examples * settings().max_examples // 100), deadline=None, derandomize=not random,
        database=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(
        name=st.sampled_from(sorted(CALLS)),
        n=sizes,
        k=sizes,
        m=sizes,
        dtype=st.sampled_from(DTYPES),
        layout=st.sampled_from(sorted(LAYOUTS)),
        style=st.sampled_from(STYLES),
        seed=st.integers(0, 2**32 - 1),
    )
    @example("linear", 1, 40, 1, "float32", "C order", "constant", 0)  # rounding errors that add up
    @example("weight_gradient", 3, 37, 3, "float32", "Fortran order", "constant", 1)
    @example("softmax", 1, 1, 5, "float32", "C order", "integers", 0)  # one class
    @example("relu_backward", 4, 1, 9, "float64", "backwards", "signs", 2)  # ties at the kink
    @example("mean_absolute_error_derivative", 2, 1, 9, "float32", "sliced", "signs", 3)
    @example("clip_by_global_norm", 1, 1, 1, "float32", "C order", "constant", 4)
    def check_example(name: str, n: int, k: int, m: int, dtype: str, layout: str, style: str, seed: int) -> None:
        trial = Trial(backend, name)
        if dtype not in trial.dtypes or (name == "philox" and not trial.has_int64):
            return
        variants: list[dict[str, Any]] = [{}, *VARIANTS.get(name, [])]
        for options in variants:
            arguments = CALLS[name](StyledDraw(np.random.default_rng(seed), style), n, k, m)
            where = f"{name} {dtype} ({n}, {k}, {m}) {layout} {style} {options or ''} seed {seed}"
            trial.check(call(name, options), arguments, dtype, where, LAYOUTS[layout], random=False)

    check_example()


def wants_random_inputs(config: Any) -> bool:
    """Return whether pytest was given ``--hypothesis-seed`` or ``--hypothesis-profile``."""
    return any(config.getoption(name, None) is not None for name in ("--hypothesis-seed", "--hypothesis-profile"))
