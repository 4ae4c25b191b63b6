"""The time of one Adam step over width and batch, 8 to 8192 neurons in two layers and 1 to 65,536 samples.

    python -m benchmarks.sweep --seconds 240 --json benchmarks/results/sweep.json

Every backend, with 1, 2, 4, ... and all threads where it can be told. The least work comes first; what is too large for
the memory, takes too long or comes when the time is up is named with its reason.
"""

from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.backends.registry import get_backend
from deepnotes.testing.bench.contenders import contenders
from deepnotes.testing.bench.sweep import Point, grid, sweep


def main() -> None:
    """Measure, print a table, and write the results if requested."""
    line = parser(__doc__, rounds=5)
    line.add_argument("--seconds", type=float, default=240.0, help="about how long all may take; default: 240")
    line.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="default: float32")
    options = Options(line)
    taking_part = contenders([get_backend(name) for name in options.backends])

    def tell(point: Point, number: int, left: float) -> None:
        options.says(f"{number + 1}: {point.case.network}, batch {point.case.batch:,}; {left:.0f} s left")

    points = grid(options.given.dtype)
    found = sweep(points, taking_part, options.limits, options.given.seconds, options.rounds, tell)
    what = f"one Adam step of w-w-w over width and batch, {options.given.dtype}"
    publish("sweep", what, {"points": found}, options.json, ceilings=options.ceilings)


if __name__ == "__main__":
    main()
