"""Level 2: every equation, in both dtypes and for all shapes and layouts, is within its derived error bound."""

from deepnotes.equations import EQUATIONS
from deepnotes.testing.calls import CALLS, VARIANTS, Draw, call
from deepnotes.testing.checks import CheckFunction, NotApplicable, Trial, check
from deepnotes.testing.inputs import LARGE, LAYOUTS, PRODUCTS, SHAPES

PRODUCT_LIKE = {"linear", "weight_gradient", "input_gradient", "bias_gradient", "gather"}
"""Equations whose arguments have three sizes: n, k and m."""
LARGE_PRODUCTS = {"linear", "weight_gradient", "input_gradient"}
"""Equations that are also checked on matrices larger than a cache."""
REQUIREMENTS = dict.fromkeys(("dropout_mask", "dropout_mask_from", "philox"), "the same bits on every backend")
"""The requirements on equations whose results have to be exact."""


def _sizes(trial: Trial, name: str) -> list[tuple[int, int, int]]:
    sizes = PRODUCTS if name in PRODUCT_LIKE else [(n, 3, m) for n, m in SHAPES]
    return sizes[:5] if trial.quick else sizes


def make_equation_check(name: str) -> CheckFunction:
    """Return the check of one equation."""

    def run(trial: Trial) -> None:
        if name == "philox" and not trial.has_int64:
            raise NotApplicable("the backend has no int64; dropout_mask checks the words that it computes in uint32")
        draw = Draw(trial.rng)
        for options in [{}, *VARIANTS.get(name, [])]:
            with_options = ", ".join(["", *(f"{k}={v}" for k, v in options.items())])
            for dtype in trial.dtypes:
                for sizes in _sizes(trial, name):
                    trial.check(call(name, options), CALLS[name](draw, *sizes), dtype, f"{dtype} {sizes}{with_options}")
                for layout, to_layout in LAYOUTS.items():
                    where = f"{dtype} (6, 9, 11) {layout}{with_options}"
                    random = layout != "broadcast"
                    trial.check(call(name, options), CALLS[name](draw, 6, 9, 11), dtype, where, to_layout, random)
        if name in LARGE_PRODUCTS and not trial.quick:
            arguments = CALLS[name](Draw(trial.rng), *LARGE)
            trial.check(call(name, {}), arguments, "float32", f"float32 {LARGE}")

    return run


for _name in EQUATIONS:
    check(f"equations.{_name}", REQUIREMENTS.get(_name, "within the bound of its rounding errors"))(
        make_equation_check(_name)
    )
