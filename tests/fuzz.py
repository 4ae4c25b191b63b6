"""Fuzz the file readers for a given time: ``python tests/fuzz.py --minutes 60``.

The targets take turns, with new seeds, until the time is over. A file on which a reader fails is reduced as far as
possible and written to the directory given by ``--keep``; such a file should become a test. The exit status is
the number of targets that failed.
"""

import argparse
import hashlib
import json
import random
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from fuzzing import Target, load_targets
from hypothesis import HealthCheck, given, seed, settings


def fuzz(target: Target, end_time: float, seed_value: int, folder: Path, counts: Counter[str]) -> bytes | None:
    """Fuzz a target until a given time; return the file on which it fails, or None.

    Parameters
    ----------
    target : Target
    end_time : float
        The time at which to stop, on the clock time.monotonic().
    seed_value : int
        The seed.
    folder : Path
        The directory in which the file to read is written.
    counts : Counter
        Updated with the numbers of files that were read, were refused, or caused a failure.
    """
    culprit: list[bytes] = []

    @seed(seed_value)
    @settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.files)
    def try_file(content: bytes) -> None:
        if time.monotonic() > end_time and not culprit:
            return
        try:
            counts["read" if target.check(content, folder) else "refused"] += 1
        except BaseException:
            culprit[:] = [content]
            raise

    try:
        try_file()
    except KeyboardInterrupt:
        raise
    except BaseException:
        counts["failed"] += 1
        traceback.print_exc()
        return culprit[0] if culprit else b""
    return None


def main() -> int:
    """Fuzz the targets, print the numbers of files read and refused, and return the number of targets that failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--target", action="append", help="name of a target; by default all")
    parser.add_argument("--seed", type=int, default=None, help="by default a different one in each run")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz-found"), help="directory for the files on which a reader fails"
    )
    args = parser.parse_args()
    targets = [t for name, t in load_targets().items() if args.target is None or name in args.target]
    if not targets:
        parser.error(f"no such target; the targets are {', '.join(load_targets())}")
    rng, start, failed = random.Random(args.seed), time.monotonic(), set()
    counts: dict[str, Counter[str]] = {target.name: Counter() for target in targets}
    end = start + 60 * args.minutes
    turn = min(60.0, 60 * args.minutes / len(targets))
    with tempfile.TemporaryDirectory() as folder:
        while (now := time.monotonic()) < end:
            for target in targets:
                content = fuzz(target, min(end, now + turn), rng.getrandbits(32), Path(folder), counts[target.name])
                now = time.monotonic()
                if content is not None:
                    failed.add(target.name)
                    args.keep.mkdir(exist_ok=True)
                    name = f"{target.name.replace(' ', '-')}-{hashlib.sha256(content).hexdigest()[:12]}{target.suffix}"
                    (args.keep / name).write_bytes(content)
    minutes = round((time.monotonic() - start) / 60, 1)
    report = {"minutes": minutes, "targets": {name: dict(count) for name, count in counts.items()}}
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
