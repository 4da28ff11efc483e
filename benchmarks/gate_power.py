"""Plant faults in real files and count what the gate says of them.

    python benchmarks/gate_power.py                # faults in SmolLM2, through pytest
    python benchmarks/gate_power.py --same 200     # the same build compared with itself

The first form makes SmolLM2-135M in F16 and Q4_K_M, accepts the clean files' baselines with
``pytest --quant-matrix --snapshot-update``, then runs ``pytest --quant-matrix`` on copies of the
Q4_K_M file with one fault each (fault_list.py) and on workers that fail (faulty_worker.py). The
text is the one that ships with the package, the limits are the default ones. It prints a Markdown
table of verdicts and causes and exits with 1 where a fault was missed.

The second form compares the embedded models with their own baselines in fresh worker processes,
with 1 to 4 threads, half of the time while two processes keep the machine busy, and counts the
verdicts.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Container
from dataclasses import replace
from pathlib import Path
from typing import Any

import faulty_worker
from fault_list import ALL, STALL_S, Fault, all_faults
from planted_faults import tensors_named, truncate
from pydantic import TypeAdapter

from pytest_quantgate.artifacts.models import find_model
from pytest_quantgate.artifacts.texts import built_in_text
from pytest_quantgate.config.settings import EVALUATION_TEXT, load_settings
from pytest_quantgate.engines.devices import default_threads
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Quantize
from pytest_quantgate.gate.loop import answer
from pytest_quantgate.gate.question import Question
from pytest_quantgate.gguf.formats import FILE_TYPES, TENSOR_TYPES
from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.results.baseline_file import dump, parse
from pytest_quantgate.results.verdicts import Cause

FORMAT = "Q4_K_M"


class Bench:
    """A project with clean files, and what pytest says of copies with faults."""

    def __init__(self, folder: Path, chunks: int, n_ctx: int) -> None:
        self.folder = folder
        self._chunks = chunks
        self._n_ctx = n_ctx
        self.text = folder / "text.txt"
        self.text.write_bytes(built_in_text(EVALUATION_TEXT).data)
        self._engine = LlamaCppPython(python=None, log=folder / "make.log", stall_s=300)
        source = find_model("smollm2", load_settings(folder)).any_file.files[0]
        self.full = self._quantize(source, folder / "F16.gguf", "F16")
        self.clean = self._quantize(self.full, folder / "clean.gguf", FORMAT)
        hook = f"""
        from pathlib import Path
        from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython

        def pytest_quantgate_make_engine(name, settings, log):
            source = Path({faulty_worker.__file__!r}).read_text(encoding="utf-8")
            return LlamaCppPython(
                python=None, log=log, stall_s=settings.stall_s, entry="faulty_worker:serve",
                extra_sources=[("faulty_worker", (False, source))],
            )
        """
        lines = [line.removeprefix(" " * 8) for line in hook.splitlines()]
        (folder / "conftest.py").write_text("\n".join(lines), encoding="utf-8")

    def _quantize(
        self, source: Path, path: Path, name: str, overrides: tuple[tuple[str, int], ...] = ()
    ) -> Path:
        self._engine.ask(
            Quantize(
                source=str(source),
                destination=str(path),
                file_type=FILE_TYPES[name].number,
                overrides=overrides,
                allow_requantize=source != getattr(self, "full", None),
                n_threads=default_threads(),
            )
        )
        return path

    def requantize(self, path: Path, lower: Container[int]) -> None:
        """Make a file of the format again, ffn_down of some layers in Q4_0.

        The others' types are pinned: a layer that is overridden does not count in llama.cpp's turn
        of which layers get more bits, so that the later ones would change theirs.
        """
        types = {t.name: t.type.number for t in tensors_named(read_gguf(self.clean), ALL)}
        self._quantize(
            self.full,
            path,
            FORMAT,
            tuple(
                (
                    rf"blk\.{layer}\.ffn_down",
                    TENSOR_TYPES["Q4_0"].number if layer in lower else types[f"blk.{layer}{ALL}"],
                )
                for layer in range(len(types))
            ),
        )

    def close(self) -> None:
        """End the worker that makes files."""
        self._engine.close()

    def pytest(self, models: dict[str, Path], *arguments: str) -> tuple[int, dict[str, Any], str]:
        """Run the matrix on models; return the exit status, the cells by model, and the output."""
        tables = "\n".join(
            f"[tool.quantgate.models.{name}]\n"
            f"files = {{ F16 = '{self.full}', {FORMAT} = '{path}' }}"
            for name, path in models.items()
        )
        looks = [self._chunks // 2, self._chunks]
        (self.folder / "pyproject.toml").write_text(
            f"""
[tool.quantgate]
profile = "faults"
cache_dir = "cache"
stall_s = {STALL_S}
{tables}
[tool.quantgate.texts.text]
source = "text.txt"
[tool.quantgate.profiles.faults]
models = {json.dumps(list(models))}
formats = ["{FORMAT}"]
texts = ["text"]
n_ctx = {self._n_ctx}
chunks = {self._chunks}
looks = {looks}
gate = true
""",
            encoding="utf-8",
        )
        report = self.folder / "report.json"
        report.unlink(missing_ok=True)
        command = [sys.executable, "-m", "pytest", "--quant-matrix", "-p", "no:cacheprovider"]
        done = subprocess.run(
            [*command, "--quant-report", str(report), *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            check=False,
        )
        cells = json.loads(report.read_bytes())["cells"] if report.exists() else []
        return done.returncode, {cell["model"]: cell for cell in cells}, done.stdout + done.stderr

    def accept(self) -> None:
        """Store the clean file's baseline."""
        status, _, output = self.pytest(
            {"clean": self.clean}, "--snapshot-update", "--quant-reason", "clean"
        )
        if status != 0:
            sys.exit(f"the clean files' baseline was not accepted:\n{output}")

    def lend_baseline(self, name: str) -> None:
        """Store the clean file's baseline as that of a model with a fault."""
        (path,) = (self.folder / "baselines" / "clean").iterdir()
        baseline = parse(path.read_text(encoding="utf-8"), str(path))
        key = baseline.key.model_copy(update={"model": name})
        target = self.folder / "baselines" / name / path.name
        target.parent.mkdir()
        target.write_text(dump(baseline.model_copy(update={"key": key})), encoding="utf-8")

    def copy(self, fault: Fault) -> Path:
        """Return a copy of the clean file with a fault."""
        path = self.folder / f"{fault.name}.gguf"
        shutil.copyfile(self.clean, path)
        fault.plant(path)
        return path


def row(what: str, cell: dict[str, Any], *, caught: bool) -> str:
    """Return a table's row, the reason and cause on one line."""
    words = " ".join(told(cell).split()).replace("|Δ|", "Δ").replace("|", "\\|")
    missed = "" if caught else " (MISSED)"
    n_chunks = len(cell["chunks"]["index"])
    return f"| {what} | {cell['verdict']}{missed} | {n_chunks or '–'} | {words} |"


def told(cell: dict[str, Any]) -> str:
    """Return a verdict's words: the cause where there is one, and what the log says left out."""
    reason = str(cell["reason"]).partition(" Last log lines:")[0]
    cause = cell["cause"] and TypeAdapter(Cause).validate_python(cell["cause"])
    return "; ".join(str(said) for said in (reason, cause) if said)


def run_faults(folder: Path, chunks: int, n_ctx: int, names: set[str] | None) -> list[str]:
    """Plant every fault, and print and return what was missed."""
    bench = Bench(folder, chunks, n_ctx)
    try:
        faults = [f for f in all_faults(bench.requantize) if names is None or f.name in names]
        bench.accept()
        models = {"clean": bench.clean}
        for fault in faults:
            models[fault.name] = bench.copy(fault)
            bench.lend_baseline(fault.name)
    finally:
        bench.close()
    status, cells, output = bench.pytest(models)
    if not cells:
        sys.exit(f"pytest gave no report:\n{output}")
    missed = [] if status == 1 else [f"exit status {status}"]
    print("| fault | verdict | chunks used | what the gate says |")
    print("|---|---|--:|---|")
    clean = cells["clean"]
    print(row("none", clean, caught=clean["verdict"] == "PASS"))
    missed += [] if clean["verdict"] == "PASS" else ["none"]
    for fault in faults:
        cell = cells[fault.name]
        caught = fault.is_caught(cell["verdict"], told(cell))
        missed += [] if caught else [fault.name]
        print(row(fault.what, cell, caught=caught), flush=True)
    missed += outside_the_tensors(bench)
    print(f"\n{len(faults) + 2} faults, missed: {', '.join(missed) or 'none'}")
    return missed


def outside_the_tensors(bench: Bench) -> list[str]:
    """Plant what is found before a cell is judged: CRLF in the text, a truncated file."""
    missed = []
    lf = bench.text.read_bytes()
    bench.text.write_bytes(lf.replace(b"\n", b"\r\n"))
    status, cells, _ = bench.pytest({"clean": bench.clean})
    bench.text.write_bytes(lf)
    cell = cells["clean"]
    caught = (status, cell["verdict"]) == (1, "NOT_COMPARABLE") and "CRLF" in cell["reason"]
    print(row("CRLF line ends in the text", cell, caught=caught))
    missed += [] if caught else ["crlf"]
    short = bench.folder / "short.gguf"
    shutil.copyfile(bench.clean, short)
    truncate(short, 0.9)
    status, _, output = bench.pytest({"clean": bench.clean, "short": short})
    line = next((line for line in output.splitlines() if "is truncated" in line), "")
    caught = status == 4 and bool(line)
    refused: dict[str, Any] = {
        "verdict": f"exit status {status}",
        "chunks": {"index": []},
        "cause": None,
    }
    refused["reason"] = line.replace(f"{bench.folder}/", "")
    print(row("a file of 9/10 of its bytes", refused, caught=caught))
    return missed + ([] if caught else ["truncated"])


def compare_with_itself(folder: Path, count: int) -> Counter[str]:
    """Compare the embedded models with their own baselines, and count the verdicts."""
    (folder / "pyproject.toml").write_text(
        """
[tool.quantgate]
profile = "same"
cache_dir = "cache"
[tool.quantgate.profiles.same]
models = ["olmoe-mini", "lfm2moe-mini"]
formats = ["F16", "Q8_0", "Q4_K_M", "MXFP4_MOE"]
n_ctx = 128
chunks = 16
looks = [8, 16]
gate = true
""",
        encoding="utf-8",
    )
    settings = load_settings(folder)
    questions = [
        Question(metric=name, limits=None) for name in ("perplexity", "divergence", "size")
    ]

    def one(number: int, threads: int) -> str:
        profile = settings.profile.model_copy(update={"n_threads": threads})
        run = Session(replace(settings, profile=profile), f"run-{number}")
        try:
            if number < 0:
                for cell in run.matrix.cells:
                    stored = answer(run, cell, [], full=True).candidate
                    assert stored is not None
                    path = run.store.path(stored.key)
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(dump(stored), encoding="utf-8")
                return "stored"
            found = answer(run, run.matrix.cells[number % len(run.matrix.cells)], questions).verdict
        finally:
            run.close()
        if not found.kind.is_green:
            print(f"comparison {number}: {found.kind.value}: {found.reason}; {found.cause}")
        return found.kind.value

    one(-1, 2)
    busy = "while True: pass"
    counts: Counter[str] = Counter()
    for number in range(count):
        turn = number // 8  # every cell meets every number of threads, with and without load
        loads = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(2 * (turn % 2))]
        try:
            counts[one(number, 1 + turn // 2 % 4)] += 1
        finally:
            for load in loads:
                load.kill()
                load.wait()
    return counts


def main() -> int:
    """Run what was asked for; 1 where the gate missed a fault or called the same build worse."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--chunks", type=int, default=16, help="the budget; the first look is half")
    parser.add_argument("--n-ctx", type=int, default=512)
    parser.add_argument("--faults", help="names, separated by commas; all if left out")
    parser.add_argument(
        "--same", type=int, metavar="N", help="N comparisons of a build with itself"
    )
    arguments = parser.parse_args()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        if arguments.same is not None:
            counts = compare_with_itself(Path(name), arguments.same)
            failed = counts["PASS"] != arguments.same
            print(f"{arguments.same} comparisons of the same build: {dict(counts)}")
        else:
            wanted = None if arguments.faults is None else set(arguments.faults.split(","))
            failed = bool(run_faults(Path(name), arguments.chunks, arguments.n_ctx, wanted))
    print(f"{time.perf_counter() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
