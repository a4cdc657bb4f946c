"""How long the scripts take before they work: `--help`, and the imports that a run needs, with and
without torch.

python -m benchmarks.startup
"""

import argparse
import ast
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.timing import finish

COLUMNS = ("script", "--help s", "imports s", "of it beyond torch s")
IMPORT = """
import importlib, json, sys, time
start = time.perf_counter()
import torch
beyond = time.perf_counter()
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
end = time.perf_counter()
print(json.dumps([end - start, end - beyond]))
"""


def project_modules(script: Path) -> list[str]:
    """What a script imports from this project, in functions too."""
    found = {
        node.module
        for node in ast.walk(ast.parse(script.read_text()))
        if isinstance(node, ast.ImportFrom)
    }
    return sorted(
        name for name in found if name and name.split(".")[0] in ("dg", "edm", "guided_diffusion")
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", help="also write the rows as JSON")
    options = parser.parse_args()
    rows = []
    for script in sorted(Path().glob("*.py")):
        helps, imports = [], []
        for _ in range(options.rounds):
            start = time.perf_counter()
            subprocess.run(
                [sys.executable, script, "--help"], check=True, stdout=subprocess.DEVNULL
            )
            helps.append(time.perf_counter() - start)
            command = [sys.executable, "-c", IMPORT, json.dumps(project_modules(script))]
            imports.append(
                json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
            )
        seconds = [
            statistics.median(helps),
            *(statistics.median(column) for column in zip(*imports, strict=True)),
        ]
        rows.append(dict(zip(COLUMNS, [script.name, *seconds], strict=True)))
    finish("benchmarks.startup", rows, COLUMNS, "cpu", options.out)


if __name__ == "__main__":
    main()
