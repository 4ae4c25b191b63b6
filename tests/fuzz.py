"""Fuzz the readers of files for as long as one likes: ``python tests/fuzz.py --minutes 60``.

Each target takes turns, with new seeds, until the time is over. What brings a reader down is made as small as possible
and kept under ``--keep``, beside the traceback; it belongs, with a name, among the tests then. The exit status is the
number of targets that fell.
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


def fuzz(target: Target, until: float, number: int, folder: Path, counts: Counter[str]) -> bytes | None:
    """Try a target till a time has come; return the file that brought it down, if one did."""
    culprit: list[bytes] = []

    @seed(number)
    @settings(max_examples=2000, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(target.files)
    def hold(content: bytes) -> None:
        if time.monotonic() > until and not culprit:
            return
        try:
            counts["read" if target.hold(content, folder) else "refused"] += 1
        except BaseException:
            culprit[:] = [content]
            raise

    try:
        hold()
    except KeyboardInterrupt:
        raise
    except BaseException:
        counts["fell"] += 1
        traceback.print_exc()
        return culprit[0] if culprit else b""
    return None


def main() -> int:
    """Fuzz, say how many files were tried, and return how many targets fell."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--target", action="append", help="by default all")
    parser.add_argument("--seed", type=int, default=None, help="by default another one each time")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-found"), help="where files go that a reader fell over")
    args = parser.parse_args()
    targets = [t for name, t in load_targets().items() if args.target is None or name in args.target]
    if not targets:
        parser.error(f"no such target; there are {', '.join(load_targets())}")
    rng, began, fallen = random.Random(args.seed), time.monotonic(), set()
    counts: dict[str, Counter[str]] = {target.name: Counter() for target in targets}
    end = began + 60 * args.minutes
    turn = min(60.0, 60 * args.minutes / len(targets))
    with tempfile.TemporaryDirectory() as folder:
        while (now := time.monotonic()) < end:
            for target in targets:
                content = fuzz(target, min(end, now + turn), rng.getrandbits(32), Path(folder), counts[target.name])
                now = time.monotonic()
                if content is not None:
                    fallen.add(target.name)
                    args.keep.mkdir(exist_ok=True)
                    name = f"{target.name.replace(' ', '-')}-{hashlib.sha256(content).hexdigest()[:12]}{target.suffix}"
                    (args.keep / name).write_bytes(content)
    outcome = {"minutes": round((time.monotonic() - began) / 60, 1), "targets": {n: dict(c) for n, c in counts.items()}}
    sys.stdout.write(json.dumps(outcome, indent=2) + "\n")
    return len(fallen)


if __name__ == "__main__":
    sys.exit(main())
