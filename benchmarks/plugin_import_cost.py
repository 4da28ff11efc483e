"""What the plugin costs a pytest run that doesn't ask for it.

Starts ``pytest`` on one empty test under ``-X importtime`` some twenty times and adds up the
time that Python spent in this package's own modules (the best run counts: others were
disturbed). A further, plain run says whether numpy, scipy, pydantic or llama_cpp were imported.
Exits with 1 when they were, or when the cost is above the target.

Python reports no time for a module that ``importlib.import_module`` loads, and that is how
pytest loads an entry point; so in the timed runs that function is an ``import`` statement's.

    python benchmarks/plugin_import_cost.py [--runs 20]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

TARGET_MS = 15.0
HEAVY = ("numpy", "scipy", "pydantic", "llama_cpp")
PACKAGE = "pytest_quantgate"
ENTRY = "pytest_quantgate.plugin"

_LINE = re.compile(r"^import time:\s*(\d+) \|\s*(\d+) \| +(\S+)$", re.MULTILINE)


REPORTED_START = """
import importlib, sys

original = importlib.import_module

def import_module(name, package=None):
    if name.startswith("."):
        return original(name, package)
    __import__(name)
    return sys.modules[name]

importlib.import_module = import_module
import pytest
sys.exit(pytest.main())
"""

TEST = f"""
import sys

def test_nothing():
    print("imported:", *(name for name in {HEAVY} if name in sys.modules))
"""


@dataclass(frozen=True, kw_only=True)
class Imports:
    """One run: microseconds in our modules, and in the plugin with all that it imports."""

    own_us: int
    with_others_us: int
    modules: tuple[str, ...]


def run_pytest(folder: Path, *, importtime: bool) -> subprocess.CompletedProcess[str]:
    """Run pytest on the empty test."""
    start = ["-X", "importtime", "-c", REPORTED_START] if importtime else ["-m", "pytest"]
    done = subprocess.run(
        [sys.executable, *start, "-s", "-p", "no:cacheprovider"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        sys.exit(f"pytest failed:\n{done.stdout}{done.stderr[-2000:]}")
    return done


def measure(folder: Path) -> Imports:
    """Time the imports of one run."""
    done = run_pytest(folder, importtime=True)
    rows = {name: (int(own), int(total)) for own, total, name in _LINE.findall(done.stderr)}
    modules = tuple(name for name in rows if name.split(".")[0] == PACKAGE)
    return Imports(
        own_us=sum(rows[name][0] for name in modules),
        with_others_us=rows[ENTRY][1],
        modules=modules,
    )


def imported_heavy(folder: Path) -> list[str]:
    """Return which of the heavy packages a plain run has imported by the time of its test."""
    done = run_pytest(folder, importtime=False)
    if "quantgate-" not in done.stdout:
        sys.exit("pytest did not load the plugin: install the package first")
    line = next(line for line in done.stdout.splitlines() if "imported:" in line)
    return [name for name in HEAVY if name in line.split()]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "test_nothing.py").write_text(TEST, encoding="utf-8")
        heavy = imported_heavy(folder)  # this run also writes the byte code
        results = [measure(folder) for _ in range(runs)]
    best = min(results, key=lambda result: result.own_us)
    least = min(result.with_others_us for result in results)
    print(f"| plain `pytest`, best of {runs} | ms |")
    print("|---|--:|")
    print(f"| {len(best.modules)} modules of {PACKAGE} | {best.own_us / 1000:.1f} |")
    print(f"| the same with all that the plugin is the first to import | {least / 1000:.1f} |")
    print()
    print(f"modules: {', '.join(best.modules)}")
    print(f"of {', '.join(HEAVY)} imported: {', '.join(heavy) or 'none'}")
    ok = not heavy and best.own_us <= 1000 * TARGET_MS
    print(f"target: none of these, at most {TARGET_MS:g} ms: {'met' if ok else 'MISSED'}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
