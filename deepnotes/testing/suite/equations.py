"""Level 2: every equation, forward and backward, in both dtypes, all shapes and layouts, within its derived bound."""

from deepnotes.equations import EQUATIONS
from deepnotes.testing.calls import CALLS, VARIANTS, Draw, call
from deepnotes.testing.checks import DTYPES, CheckFunction, Trial, check
from deepnotes.testing.inputs import LARGE, LAYOUTS, PRODUCTS, SHAPES

PRODUCT_LIKE = {"linear", "weight_gradient", "input_gradient", "bias_gradient", "gather"}
"""Equations that have three sizes."""
HEAVY = {"linear", "weight_gradient", "input_gradient"}
ABOUT = {"dropout_mask": "the same bits as everywhere", "philox": "the same bits as everywhere"}


def _sizes(trial: Trial, name: str) -> list[tuple[int, int, int]]:
    sizes = PRODUCTS if name in PRODUCT_LIKE else [(n, 3, m) for n, m in SHAPES]
    return sizes[:5] if trial.quick else sizes


def of_equation(name: str) -> CheckFunction:
    """Return the check of one equation."""

    def function(trial: Trial) -> None:
        draw = Draw(trial.rng)
        for options in [{}, *VARIANTS.get(name, [])]:
            told = ", ".join(["", *(f"{k}={v}" for k, v in options.items())])
            for dtype in DTYPES:
                for sizes in _sizes(trial, name):
                    trial.check(call(name, options), CALLS[name](draw, *sizes), dtype, f"{dtype} {sizes}{told}")
                for layout, laid_out in LAYOUTS.items():
                    where = f"{dtype} (6, 9, 11) {layout}{told}"
                    random = layout != "broadcast"
                    trial.check(call(name, options), CALLS[name](draw, 6, 9, 11), dtype, where, laid_out, random)
        if name in HEAVY and not trial.quick:
            arguments = CALLS[name](Draw(trial.rng), *LARGE)
            trial.check(call(name, {}), arguments, "float32", f"float32 {LARGE}")

    return function


for _name in EQUATIONS:
    check(f"equations.{_name}", ABOUT.get(_name, "within the bound of its roundings"))(of_equation(_name))
