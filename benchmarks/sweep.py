"""Time an Adam step for a grid of widths (8 to 8192 neurons in two layers) and batch sizes (1 to 65,536 samples).

    python -m benchmarks.sweep --seconds 240 --json benchmarks/results/sweep.json

A backend whose number of threads can be set is timed with 1, 2, 4, ... threads and with one per core. The cases with
the least work run first. A case is skipped, and the reason is reported, if it does not fit into memory, takes too long,
or is reached after the time is up.
"""

from benchmarks.options import Options, parser
from benchmarks.report import publish
from deepnotes.backends.registry import get_backend
from deepnotes.testing.bench.contenders import contenders
from deepnotes.testing.bench.sweep import Point, grid, sweep


def main() -> None:
    """Time all cases, print a table, and write the results if requested."""
    command_line = parser(__doc__, rounds=5)
    command_line.add_argument("--seconds", type=float, default=240.0, help="approximate total time; default: 240")
    command_line.add_argument("--dtype", default="float32", choices=["float32", "float64"], help="default: float32")
    options = Options(command_line)
    all_contenders = contenders([get_backend(name) for name in options.backends])

    def on_point(point: Point, number: int, left: float) -> None:
        options.say(f"{number + 1}: {point.case.network}, batch {point.case.batch:,}; {left:.0f} s left")

    points = grid(options.given.dtype)
    results = sweep(points, all_contenders, options.limits, options.given.seconds, options.rounds, on_point)
    what = f"one Adam step of a network w-w-w, by width w and batch size, {options.given.dtype}"
    publish("sweep", what, {"points": results}, options.json, ceilings=options.ceilings)


if __name__ == "__main__":
    main()
