"""How often two engines of the same build compare as no change.

    python benchmarks/same_build.py --against PYTHON [--runs N] --out lines.jsonl

PYTHON is the interpreter of another environment with the same llama-cpp-python. Each run is a
``pytest --quant-matrix --quant-against`` of its own over both embedded models, with an empty
cache, so that every file is made and every chunk is scored by each side anew. A run counts as no
change where each cell is PASS, and its token ids, its tensors and each chunk's log-likelihood are
equal bit for bit. Prints how many of the runs were.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from pytest_quantgate.gate.compare.comparison import compare_engines
from pytest_quantgate.results.record_file import read_record

CONFIGURATION = """\
[tool.quantgate.engines.same]
python = {python}
[tool.quantgate.profiles.default]
models = ["olmoe-mini", "lfm2moe-mini"]
formats = {formats}
chunks = {chunks}
"""


def run_once(python: str, formats: list[str], chunks: int, support: Path) -> dict[str, object]:
    """Compare once, in a folder of its own; return what is printed and kept of it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(support, folder / "cache" / "support")
        (folder / "pyproject.toml").write_text(
            CONFIGURATION.format(
                python=json.dumps(python), formats=json.dumps(formats), chunks=chunks
            ),
            encoding="utf-8",
        )
        finished = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "--quant-matrix", "--quant-against=same"),
                *("--quant-report=record.json", "--quant-cache=cache"),
            ],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if not (folder / "record.json").is_file():
            raise SystemExit(finished.stdout + finished.stderr)
        record = read_record(folder / "record.json")
        shutil.copytree(folder / "cache" / "support", support, dirs_exist_ok=True)
    found = compare_engines(record)
    assert found is not None
    return {
        "verdicts": {cell.id: cell.verdict for cell in record.cells},
        "moved": [change.new.id for change in found.moved],
        "compared": sum(change.is_compared for change in found.cells),
        "old": record.against and record.against["library_sha256"],
        "new": record.engine["library_sha256"],
        "seconds_s": round(record.seconds_s, 1),
        "exit": finished.returncode,
    }


def is_no_change(line: dict[str, object], n_cells: int) -> bool:
    """Tell whether every cell was compared, none moved, and all passed."""
    verdicts = line["verdicts"]
    assert isinstance(verdicts, dict)
    return (
        line["exit"] == 0
        and line["old"] == line["new"]
        and line["compared"] == n_cells == len(verdicts)
        and not line["moved"]
        and set(verdicts.values()) == {"PASS"}
    )


def main() -> None:
    """Run what is missing of the runs, and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", required=True, metavar="PYTHON")
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--formats", default="F16,Q8_0,Q4_K_M,MXFP4_MOE")
    parser.add_argument("--chunks", type=int, default=4)
    parser.add_argument("--out", type=Path, required=True, help="file of one line a run")
    arguments = parser.parse_args()
    formats = arguments.formats.split(",")
    lines = []
    if arguments.out.is_file():
        lines = [json.loads(line) for line in arguments.out.read_text().splitlines()]
    with tempfile.TemporaryDirectory() as support:
        while len(lines) < arguments.runs:
            lines.append(run_once(arguments.against, formats, arguments.chunks, Path(support)))
            with arguments.out.open("a") as stream:
                stream.write(json.dumps(lines[-1]) + "\n")
    n_same = sum(is_no_change(line, 2 * len(formats)) for line in lines)
    print(f"{n_same} of {len(lines)} runs: no change in any of {2 * len(formats)} cells")


if __name__ == "__main__":
    main()
