"""Put small faults into llama.cpp's own source, and see what the gate says of each.

    python benchmarks/mutants.py --source llama.cpp --work work --output mutants.jsonl
    python benchmarks/mutants.py --table mutants.jsonl

Each mutant of mutants.toml is built (mutant_build.py) and held against the sound build of the
same source in one run, as ``--quant-against`` does, with both embedded models in the formats that
it concerns, on the default profile's chunks, batches of other sizes included. Beside the verdict
stands what llama.cpp's own checks say: its test of the quantization functions, a perplexity that
is too large, and the text that a model writes. With ``--locate`` the operation is looked for in
which a mutant of the runtime first differs.

The output has a line of JSON a mutant; those that are there already are not run again. ``--jobs``
mutants are built and measured at once, on one thread each.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from queue import Queue

from mutant_build import Build, BuildError, write_interpreter
from mutant_list import MUTANTS, Expected, Mutant
from mutant_locate import first_difference
from mutant_table import Outcome, table

from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import FILE_TYPES
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.record_file import read_record
from pytest_quantgate.results.verdicts import VerdictKind

MODELS = ("olmoe-mini", "lfm2moe-mini")
CHUNKS = 16
TEST = "test-quantize-fns"
TIMEOUT_S = 900.0


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all mutants are held against.

    ``test`` is the compiled test of llama.cpp. Of the sound build, filled before the mutants are
    run: ``texts`` by model and format, ``cells`` by id. ``locates`` asks for the operations.
    """

    build: Build
    work: Path
    test: Path
    locates: bool = False
    texts: dict[str, str] = field(default_factory=dict)
    cells: dict[str, CellRecord] = field(default_factory=dict)

    @property
    def sound(self) -> Path:
        """The interpreter with the sound libraries."""
        return self.build.libraries / "python"


def run_gate(bench: Bench, python: Path, formats: Sequence[str], place: Path) -> Path:
    """Hold an interpreter against the sound one; return the path of the run's record.

    ``place`` has a folder for temporary files of its own: the lock there keeps runs from measuring
    on one processor at the same time, which is for the sake of speed alone.
    """
    (place / "tmp").mkdir(parents=True, exist_ok=True)
    (place / "pyproject.toml").write_text(
        f"""
[tool.quantgate]
profile = "mutants"
cache_dir = "{bench.work / "cache"}"
[tool.quantgate.profiles.mutants]
models = {json.dumps(MODELS)}
formats = {json.dumps(["F16", *formats])}
chunks = {CHUNKS}
n_threads = 1
batch_geometry = true
gate = true
""",
        encoding="utf-8",
    )
    record = place / "record.json"
    record.unlink(missing_ok=True)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "--quant-matrix", "-q", "-p", "no:cacheprovider"),
            *(f"--quant-engine=python={python}", f"--quant-against=python={bench.sound}"),
            f"--quant-report={record}",
        ],
        cwd=place,
        env=_environment(TMPDIR=str(place / "tmp")),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if not record.is_file():
        raise BuildError(f"no record: {(done.stdout + done.stderr)[-400:]}")
    return record


def _environment(**further: str) -> dict[str, str]:
    """Return an environment for one thread, without what names libraries of this process."""
    kept = {name: value for name, value in os.environ.items() if name != "LLAMA_CPP_LIB_PATH"}
    return {**kept, "OMP_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1", **further}


def run_test(bench: Bench, libraries: Path) -> str:
    """Return what llama.cpp's test of its quantization functions says: "" is passed."""
    done = subprocess.run(
        [str(bench.test)],
        env=_environment(LD_LIBRARY_PATH=str(libraries)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    failed = [line.split()[0] for line in done.stdout.splitlines() if "FAILED" in line]
    return " ".join(dict.fromkeys(failed)) or ("" if done.returncode == 0 else "crashed")


def write_text(libraries: Path, model: str, file_type: int) -> str:
    """Return the tokens that a model writes with some libraries, "" where that fails."""
    script = Path(__file__).with_name("greedy_text.py")
    done = subprocess.run(
        [sys.executable, str(script), str(EMBEDDED / f"{model}.gguf"), str(file_type)],
        env=_environment(LLAMA_CPP_LIB_PATH=str(libraries)),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def write_texts(libraries: Path, formats: Sequence[str]) -> dict[str, str]:
    """Return what each model writes in each format."""
    return {
        f"{model} {name}": write_text(libraries, model, FILE_TYPES[name].number)
        for model in MODELS
        for name in formats
    }


def examine(bench: Bench, mutant: Mutant, slot: Path) -> Outcome:
    """Build a mutant, and ask the gate and llama.cpp's own checks."""
    started_s = time.monotonic()
    path = bench.build.source / mutant.edit.file
    line = mutant.edit.line(path.read_text(encoding="utf-8"))
    libraries = bench.work / "mutants" / mutant.name
    shutil.rmtree(libraries, ignore_errors=True)
    try:
        bench.build.mutate(mutant.edit, libraries)
        python = write_interpreter(libraries)
        built_s = time.monotonic() - started_s
        run = read_record(run_gate(bench, python, mutant.formats, slot))
        unusable = [cell for cell in run.cells if cell.kind is VerdictKind.UNAVAILABLE]
        if unusable:
            raise BuildError(unusable[0].reason)
        texts = write_texts(libraries, mutant.formats)
        failed = run_test(bench, libraries)
        located = ""
        if bench.locates and mutant.expected in (Expected.RUNTIME, Expected.HARMLESS):
            located = first_difference(bench.sound, python, MODELS, mutant.formats)
    except (BuildError, subprocess.TimeoutExpired) as error:
        return Outcome.of_problem(mutant, line, str(error))
    finally:
        if libraries.exists():
            shutil.rmtree(libraries)
    return Outcome.of_cells(
        mutant,
        line,
        run.cells,
        is_bit_equal=all(is_bit_equal(cell, bench.cells[cell.id]) for cell in run.cells),
        ppl_ratio=max(ppl_ratio(cell, bench.cells[cell.id]) for cell in run.cells),
        failed_tests=failed,
        located=located,
        other_texts=tuple(key for key, text in texts.items() if text != bench.texts[key]),
        build_s=built_s,
        seconds_s=time.monotonic() - started_s,
    )


def is_bit_equal(cell: CellRecord, sound: CellRecord) -> bool:
    """Return whether file, sums of all chunks and divergences between batches are the same."""
    pairs = [
        (
            record.tensor_data_sha256,
            list(record.chunks.nll_sum_nats),
            record.measured.get("batches"),
        )
        for record in (cell, sound)
    ]
    return pairs[0] == pairs[1]


def ppl_ratio(cell: CellRecord, sound: CellRecord) -> float:
    """Return how many times the sound perplexity a cell's is, 1 where it has none."""
    return 1.0 if cell.ppl is None or sound.ppl is None else cell.ppl / sound.ppl


@contextmanager
def borrow(slots: Queue[Path]) -> Iterator[Path]:
    """Lend a place that no other mutant uses."""
    slot = slots.get()
    try:
        yield slot
    finally:
        slots.put(slot)


def prepare(
    source: Path, work: Path, mutants: Sequence[Mutant], jobs: int, *, locates: bool
) -> Bench:
    """Build the sound llama.cpp, hold it against itself, and let it write its texts.

    Raises:
        BuildError: it is not as good as itself.

    """
    build = Build(source, work / "build")
    build.make(jobs)
    write_interpreter(build.libraries)
    formats = tuple(dict.fromkeys(name for mutant in mutants for name in mutant.formats))
    bench = Bench(build=build, work=work, test=build.make_test(TEST), locates=locates)
    with ThreadPoolExecutor(jobs) as pool:
        for texts in pool.map(lambda name: write_texts(build.libraries, [name]), formats):
            bench.texts.update(texts)
        records = pool.map(
            lambda name: run_gate(bench, bench.sound, [name], work / f"sound-{name}"), formats
        )
        for record in records:
            bench.cells.update({cell.id: cell for cell in read_record(record).cells})
    red = [cell.id for cell in bench.cells.values() if cell.is_red]
    if red or run_test(bench, build.libraries):
        raise BuildError(f"the sound build is red against itself: {', '.join(red) or TEST}")
    return bench


def main() -> int:
    """Run what is asked for; 1 where a mutant was missed or the sound build is red."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--table", type=Path, help="print the table of an output, and run nothing")
    parser.add_argument("--source", type=Path, help="llama.cpp's source")
    parser.add_argument("--work", type=Path, help="for builds and caches; kept from run to run")
    parser.add_argument("--output", type=Path, help="a line of JSON a mutant")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--locate", action="store_true", help="name the first wrong operation")
    parser.add_argument("--names", help="of mutants, separated by commas; otherwise all")
    arguments = parser.parse_args()
    if arguments.table is not None:
        print(table(Outcome.read_all(arguments.table)))
        return 0
    if None in (arguments.source, arguments.work, arguments.output):
        parser.error("--source, --work and --output say where")
    names = set(arguments.names.split(",")) if arguments.names else {m.name for m in MUTANTS}
    work: Path = arguments.work.resolve()
    output: Path = arguments.output
    done = {outcome.name for outcome in Outcome.read_all(output) if not outcome.problem}
    mutants = [mutant for mutant in MUTANTS if mutant.name in names - done]
    bench = prepare(arguments.source, work, mutants, arguments.jobs, locates=arguments.locate)
    slots: Queue[Path] = Queue()
    for number in range(arguments.jobs):
        slots.put(work / f"slot-{number}")

    def one(mutant: Mutant) -> None:
        with borrow(slots) as slot:
            outcome = examine(bench, mutant, slot)
        with output.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(outcome)) + "\n")
        print(f"{outcome.name}: {outcome.short} ({outcome.seconds_s:.0f} s)", flush=True)

    with ThreadPoolExecutor(arguments.jobs) as pool:  # the longest first
        list(pool.map(one, sorted(mutants, key=lambda mutant: -len(mutant.formats))))
    outcomes = Outcome.read_all(output)
    print(table(outcomes))
    return 0 if all(outcome.is_right for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
