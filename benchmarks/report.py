"""Write the tables of the README from the results under ``benchmarks/results/``: ``python -m benchmarks.report``."""

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def steps_table(content: dict[str, Any], one_thread: dict[str, Any]) -> str:
    """Return the table of ``steps.json`` and the line that says where it was measured."""
    first = next(iter(content["results"].values()))
    pairs = [pair for pair in first["ratios"] if pair.endswith("scikit-learn")]
    head = ["network", "batch", *(f"{who} µs" for who in first["microseconds"]), *pairs]
    head += [f"{pair}, one thread" for pair in pairs]
    rows = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    for name, r in content["results"].items():
        times = [f"{us:,.0f}" if us >= 20 else f"{us:.1f}" for us in r["microseconds"].values()]
        ratios = [
            f"{median:.2f} ({least:.2f} to {most:.2f})"
            for run in (r, one_thread["results"][name])
            for least, median, most in (run["ratios"][pair] for pair in pairs)
        ]
        cells = [f"{name}, {r['network']}", str(r["batch"]), *times, *ratios]
        rows.append(f"| {' | '.join(cells)} |")
    m = content["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in m["versions"].items() if version)
    where = (
        f"{m['processor']}, {m['cores']} cores, Python {m['python']}, {versions}; {m['date']}, commit {m['commit']}."
    )
    return "\n".join([*rows, "", where])


def fill(readme: str) -> str:
    """Return the README with its tables made anew."""
    names = ("steps.json", "steps-one-thread.json")
    table = steps_table(*(json.loads((RESULTS / name).read_text(encoding="utf-8")) for name in names))
    return re.sub(
        r"(<!-- steps -->\n).*?(<!-- /steps -->)", lambda m: f"{m[1]}{table}\n{m[2]}", readme, flags=re.DOTALL
    )


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(fill(path.read_text(encoding="utf-8")), encoding="utf-8")
