"""Print pip constraints that pin the dependencies of the tests to the lowest versions that pyproject.toml declares."""

import re
import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = project["optional-dependencies"]
tested_extras = ["test", *re.findall(r"\w+", extras["all"][0].partition("[")[2])]
for requirement in project["dependencies"] + [line for extra in tested_extras for line in extras[extra]]:
    sys.stdout.write(requirement.replace(">=", "==") + "\n")
