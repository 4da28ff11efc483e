"""Times a matrix of files that exist against llama-perplexity on the same files.

    python benchmarks/files_against_programs.py --programs FOLDER F16=REF.gguf Q4_K_M=FILE.gguf …

One side is ``llama-perplexity --kl-divergence-base`` on the first file and ``--kl-divergence`` on
each other one. The other is ``pytest --quant-matrix`` on the same files, text, chunks and batch,
three times: with an empty cache (files never seen), with ``--quant-fresh`` (all measured anew,
files seen before), and again with nothing changed. The sides take turns; medians are printed as
Markdown, with what both sides measured. Let ``LLAMA_CPP_LIB_PATH`` name the programs' folder, so
that both sides are one build. ``--profile`` needs py-spy.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

SETTINGS = """
[tool.quantgate]
cache_dir = '{cache}'
profile = "benchmark"
[tool.quantgate.devices.d]
backend = '{device}'
[tool.quantgate.models.m]
files = {{ {files} }}
[tool.quantgate.texts.t]
source = '{text}'
[tool.quantgate.profiles.benchmark]
models = ["m"]
formats = [{formats}]
devices = ["d"]
texts = ["t"]
chunks = {chunks}
looks = [{chunks}]
chunk_order = "text"
"""

PROFILER = ("py-spy", "record", "-s", "-t", "-r", "40", "-f", "speedscope")

_FIGURES = (
    ("PPL", re.compile(r"(?:Final estimate: PPL =|Mean PPL\(Q\)\s*:)\s*([0-9.]+)")),
    ("mean KLD", re.compile(r"Mean\s+KLD:\s*([0-9.]+)")),
    ("same top %", re.compile(r"Same top p:\s*([0-9.]+)")),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both sides do."""

    files: dict[str, Path]
    text: Path
    chunks: int
    device: str
    threads: int
    programs: Path
    folder: Path
    profile: Path | None


@dataclass(kw_only=True)
class Times:
    """Seconds and peaks of each pass, by what was timed, and what each side measured last."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[str, list[float]] = field(default_factory=dict)
    theirs: dict[str, dict[str, str]] = field(default_factory=dict)
    ours: dict[str, dict[str, float]] = field(default_factory=dict)

    def median(self, what: str) -> float:
        """Return the median of what was timed."""
        return statistics.median(self.seconds[what])


def run_programs(work: Work, times: Times) -> None:
    """Do the programs' side once."""
    placed = ["-t", str(work.threads), "-dev", "none"]
    if work.device != "cpu":
        placed = ["-ngl", "99", "-dev", work.device]
    base = work.folder / "base.dat"
    common = ["-f", str(work.text), "-c", "512", "-b", "512", "-ub", "512", "-fa", "on"]
    common += ["--chunks", str(work.chunks), *placed, "--kl-divergence-base", str(base)]
    outputs = {}
    began = time.perf_counter()
    for number, (name, path) in enumerate(work.files.items()):
        options = ["--kl-divergence"] if number else []
        command = [str(work.programs / "llama-perplexity"), "-m", str(path), *common, *options]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=True)
        outputs[name] = done.stdout + done.stderr
    times.seconds.setdefault("programs", []).append(time.perf_counter() - began)
    base.unlink()
    for name, output in outputs.items():
        found = ((figure, pattern.search(output)) for figure, pattern in _FIGURES)
        times.theirs[name] = {figure: match[1] for figure, match in found if match}


def run_pytest(work: Work, times: Times, what: str, *options: str) -> None:
    """Do our side once."""
    command = [sys.executable, "-m", "pytest", "--quant-matrix", "-q", "-p", "no:cacheprovider"]
    if work.profile is not None:
        trace = work.profile / f"{what.replace(' ', '-')}.json"
        command[:0] = [*PROFILER, "-o", str(trace), "--"]
    command += ["--quant-report", "record.json", *options]
    began = time.perf_counter()
    log = work.folder / f"{what.replace(' ', '-')}.log"
    with log.open("w") as stream:
        child = subprocess.Popen(command, cwd=work.folder, stdout=stream, stderr=subprocess.STDOUT)
        peak, process = 0, psutil.Process(child.pid)
        while child.poll() is None:
            try:
                held = process.memory_info()
                peak = max(peak, held.rss - getattr(held, "shared", 0))
            except psutil.NoSuchProcess:
                break
            time.sleep(0.05)
        child.wait()
    times.seconds.setdefault(what, []).append(time.perf_counter() - began)
    times.peaks.setdefault(what, []).append(peak / 2**20)
    record = json.loads((work.folder / "record.json").read_bytes())
    if len(record["cells"]) != len(work.files):
        sys.exit(f"{log} has other cells:\n{log.read_text()[-3000:]}")
    for cell in record["cells"]:
        figures, divergence = {"PPL": cell["ppl"]}, cell["divergence"]
        if divergence is not None:
            figures["mean KLD"] = divergence["mean_kld_nats"]
            figures["same top %"] = 100 * divergence["same_top"]
        times.ours[cell["format"]] = figures


def write_settings(work: Work) -> None:
    """Write the project's file, with a cache that is empty."""
    cache = work.folder / f"cache-{time.monotonic_ns()}"
    work.folder.joinpath("pyproject.toml").write_text(
        SETTINGS.format(
            cache=cache,
            device=work.device,
            files=", ".join(f"{name} = '{path}'" for name, path in work.files.items()),
            formats=", ".join(f'"{name}"' for name in work.files),
            text=work.text,
            chunks=work.chunks,
        ),
        encoding="utf-8",
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", nargs="+", metavar="FORMAT=FILE", help="the reference first")
    parser.add_argument("--programs", default=os.environ.get("QUANTGATE_LLAMA_BIN"), help="folder")
    parser.add_argument("--text", default=os.environ.get("QUANTGATE_WIKITEXT"), help="file")
    parser.add_argument("--chunks", type=int, default=32)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--profile", type=Path, help="folder for py-spy's profiles of our side")
    given = parser.parse_args()
    if given.programs is None or given.text is None:
        parser.error(
            "set QUANTGATE_LLAMA_BIN and QUANTGATE_WIKITEXT, or give --programs and --text"
        )
    pairs = (item.partition("=") for item in given.files)
    with tempfile.TemporaryDirectory() as folder:
        work = Work(
            files={name: Path(path).resolve() for name, _, path in pairs},
            text=Path(given.text).resolve(),
            chunks=given.chunks,
            device=given.device,
            threads=given.threads,
            programs=Path(given.programs).resolve(),
            folder=Path(folder),
            profile=given.profile,
        )
        measure_and_print(work, given.rounds)


def measure_and_print(work: Work, rounds: int) -> None:
    """Let the sides take turns, and print the table."""
    times = Times()
    for path in work.files.values():  # both sides find the files in memory
        with path.open("rb") as stream:
            while stream.read(1 << 24):
                pass
    for number in range(rounds):
        write_settings(work)
        if number % 2 == 0:
            run_programs(work, times)
        run_pytest(work, times, "files never seen")
        if number % 2 == 1:
            run_programs(work, times)
        run_pytest(work, times, "all measured anew", "--quant-fresh")
        run_pytest(work, times, "nothing changed")
        passes = (f"{what} {seconds[-1]:.1f}" for what, seconds in times.seconds.items())
        print(f"round {number + 1}: {', '.join(passes)}", file=sys.stderr)
    theirs = times.median("programs")
    print("\n| what | seconds, median | each | of the programs | peak MiB of the test run |")
    print("|---|--:|---|--:|--:|")
    for what, seconds in times.seconds.items():
        each = ", ".join(f"{item:.1f}" for item in seconds)
        peak = f"{max(times.peaks[what]):.0f}" if what in times.peaks else ""
        median = times.median(what)
        print(f"| {what} | {median:.2f} | {each} | {median / theirs:.2f} | {peak} |")
    print()
    for name, figures in times.theirs.items():
        for figure, text in figures.items():
            print(f"{name} {figure}: programs {text}, ours {times.ours[name].get(figure)}")


if __name__ == "__main__":
    main()
