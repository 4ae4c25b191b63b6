"""Time an Adam step over width and batch size: 8 to 8192 neurons in two layers, 1 to 65,536 samples.

    python -m benchmarks.sweep --seconds 240 --json benchmarks/results/sweep.json

Every backend is timed with 1, 2, 4, ... threads and with one per core, if its number of threads can be set. The least
work comes first. A case that is too large for the memory, takes too long or is reached after the time is up is
reported.
"""

from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.backends.registry import get_backend
from deepnotes.testing.bench.contenders import contenders
from deepnotes.testing.bench.sweep import Point, grid, sweep


def main() -> None:
    """Measure, print a table, and write the results if requested."""
    line = parser(__doc__, rounds=5)
    line.add_argument("--seconds", type=float, default=240.0, help="approximate total time; default: 240")
    line.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="default: float32")
    options = Options(line)
    all_contenders = contenders([get_backend(name) for name in options.backends])

    def on_point(point: Point, number: int, left: float) -> None:
        options.say(f"{number + 1}: {point.case.network}, batch {point.case.batch:,}; {left:.0f} s left")

    points = grid(options.given.dtype)
    found = sweep(points, all_contenders, options.limits, options.given.seconds, options.rounds, on_point)
    what = f"one Adam step of w-w-w over width and batch, {options.given.dtype}"
    publish("sweep", what, {"points": found}, options.json, ceilings=options.ceilings)


if __name__ == "__main__":
    main()
