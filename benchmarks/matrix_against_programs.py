"""Times the whole matrix against the same work done with llama.cpp's own programs.

    QUANTGATE_LLAMA_BIN=FOLDER python benchmarks/matrix_against_programs.py [--formats LIST] …

One side is ``pytest --quant-matrix`` with an empty cache. The other is what a person would type
for the same table: ``llama-quantize`` to F16, ``llama-perplexity --kl-divergence-base`` on it,
then for each other format ``llama-quantize`` and ``llama-perplexity --kl-divergence``. Both read
the same text, decode the same chunks in the text's order with batches of 512, the same threads
and flash attention, and start from the same file. The sides take turns (A B, then B A, …).

They don't do all the same: the programs also give the divergence from F16, which costs them a
base file and some time (``--plain`` leaves it out); the plugin also keeps every token's
log-likelihood, hashes the files and every tensor, and judges.

The text is QUANTGATE_WIKITEXT, or the one that ships with the package. Prints a Markdown table,
and how far the perplexities of the two sides are apart, which is what shows that they measured
the same.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from pytest_quantgate.artifacts.models import find_model
from pytest_quantgate.artifacts.texts import built_in_text
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.gguf.formats import DEFAULT_FORMATS

N_CTX = 512
REFERENCE = "F16"

_PLAIN_PPL = re.compile(r"Final estimate: PPL = ([0-9.]+)")
_PAIRED_PPL = re.compile(r"Mean PPL\(Q\)\s*:\s*([0-9.]+)")


@dataclass(kw_only=True)
class Usage:
    """What processes took: added up over those that ran one after the other."""

    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_bytes: int = 0


@dataclass(kw_only=True)
class Side:
    """One pass of one side; ``ppl`` by format."""

    usage: Usage
    disk_bytes: int
    ppl: dict[str, float] = field(default_factory=dict)


def watch(command: list[str], usage: Usage, **options: Any) -> str:
    """Run a command, add what its whole process tree took, and return what it printed."""
    started = time.perf_counter()
    cpu_s: dict[int, float] = {}
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output:
        child = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, **options)
        root = psutil.Process(child.pid)
        while child.poll() is None:
            held = 0
            try:
                for process in [root, *root.children(recursive=True)]:
                    held += process.memory_info().rss
                    times = process.cpu_times()
                    cpu_s[process.pid] = times.user + times.system
            except psutil.NoSuchProcess:
                pass
            usage.peak_bytes = max(usage.peak_bytes, held)
            time.sleep(0.1)
        usage.wall_s += time.perf_counter() - started
        usage.cpu_s += sum(cpu_s.values())
        output.seek(0)
        text = output.read()
    if child.returncode != 0:
        sys.exit(f"{' '.join(command)} exited with {child.returncode}:\n{text[-3000:]}")
    return text


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@dataclass(frozen=True, kw_only=True)
class Work:
    """What both sides do."""

    source: Path
    text: Path
    formats: tuple[str, ...]
    chunks: int
    threads: int
    plain: bool
    programs: Path

    def with_pytest(self, folder: Path) -> Side:
        """Run the matrix with an empty cache."""
        formats = ", ".join(f'"{name}"' for name in self.formats)
        (folder / "pyproject.toml").write_text(
            f"""
[tool.quantgate.models.model]
source = '{self.source}'
[tool.quantgate.texts.text]
source = '{self.text}'
[tool.quantgate.profiles.benchmark]
models = ["model"]
texts = ["text"]
formats = [{formats}]
n_ctx = {N_CTX}
n_threads = {self.threads}
chunks = {self.chunks}
chunk_order = "text"
""",
            encoding="utf-8",
        )
        cache, report = folder / "cache", folder / "record.json"
        usage = Usage()
        options = ["--quant-profile", "benchmark", "--quant-cache", str(cache)]
        options += ["--quant-report", str(report), "-p", "no:cacheprovider"]
        watch([sys.executable, "-m", "pytest", "--quant-matrix", *options], usage, cwd=folder)
        record = json.loads(report.read_bytes())
        ppl = {cell["format"]: float(cell["ppl"]) for cell in record["cells"]}
        return Side(usage=usage, disk_bytes=folder_bytes(cache), ppl=ppl)

    def with_programs(self, folder: Path) -> Side:
        """Do the same with llama.cpp's programs."""
        usage = Usage()
        side = Side(usage=usage, disk_bytes=0)
        base, reference = folder / "base.dat", folder / f"{REFERENCE}.gguf"
        threads = str(self.threads)
        settings = ["-f", str(self.text), "-c", str(N_CTX), "-b", "512", "-ub", "512"]
        settings += ["-t", threads, "-fa", "on", "--chunks", str(self.chunks)]
        quantize, perplexity = (
            str(self.programs / name) for name in ("llama-quantize", "llama-perplexity")
        )

        def quantized(source: Path, name: str) -> Path:
            path = folder / f"{name}.gguf"
            command = [quantize, "--allow-requantize", str(source), str(path), name, threads]
            watch(command, usage)
            return path

        def measured(path: Path, options: list[str], pattern: re.Pattern[str]) -> float:
            output = watch([perplexity, "-m", str(path), *settings, *options], usage)
            found = pattern.search(output)  # the program also exits with 0 where it failed
            if found is None:
                sys.exit(f"llama-perplexity gave no perplexity:\n{output[-3000:]}")
            return float(found[1])

        quantized(self.source, REFERENCE)
        save = [] if self.plain else ["--kl-divergence-base", str(base)]
        side.ppl[REFERENCE] = measured(reference, save, _PLAIN_PPL)
        for name in self.formats:
            if name == REFERENCE:
                continue
            path = quantized(reference, name)
            if self.plain:
                side.ppl[name] = measured(path, [], _PLAIN_PPL)
            else:
                side.ppl[name] = measured(path, [*save, "--kl-divergence"], _PAIRED_PPL)
        side.disk_bytes = folder_bytes(folder)
        return side


def rows(name: str, sides: list[Side]) -> str:
    """Return the table's row of one side: each pass's time, the best pass's other figures."""
    best = min(sides, key=lambda side: side.usage.wall_s)
    walls = ", ".join(f"{side.usage.wall_s:.0f}" for side in sides)
    usage = best.usage
    return (
        f"| {name} | {walls} | {usage.cpu_s:.0f} | {usage.peak_bytes / 1e6:,.0f}"
        f" | {best.disk_bytes / 1e6:,.0f} |"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--formats", default=",".join(DEFAULT_FORMATS), help="F16 among them")
    parser.add_argument("--chunks", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2, help="passes a side")
    parser.add_argument("--plain", action="store_true", help="programs without the divergence")
    arguments = parser.parse_args()
    programs = os.environ.get("QUANTGATE_LLAMA_BIN")
    if programs is None or not (Path(programs) / "llama-perplexity").is_file():
        parser.error("set QUANTGATE_LLAMA_BIN to the folder of llama-quantize and llama-perplexity")
    formats = tuple(arguments.formats.split(","))
    if REFERENCE not in formats:
        parser.error(f"--formats {arguments.formats}: {REFERENCE} must be among them")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        source = find_model("smollm2", load_settings(scratch)).any_file.files[0]
        text = scratch / "text.txt"
        given = os.environ.get("QUANTGATE_WIKITEXT")
        text.write_bytes(Path(given).read_bytes() if given else built_in_text("evaluation").data)
        work = Work(
            source=source,
            text=text,
            formats=formats,
            chunks=arguments.chunks,
            threads=arguments.threads,
            plain=arguments.plain,
            programs=Path(programs).resolve(),
        )
        ours: list[Side] = []
        theirs: list[Side] = []
        turns = [(work.with_pytest, ours), (work.with_programs, theirs)]
        for number in range(arguments.rounds):
            for measure, sides in turns if number % 2 == 0 else reversed(turns):
                with tempfile.TemporaryDirectory(dir=scratch) as folder:
                    sides.append(measure(Path(folder)))
                print(f"{len(ours)} + {len(theirs)} passes done", file=sys.stderr)
    what = "perplexity" if arguments.plain else "perplexity and divergence"
    print(
        f"{len(formats)} formats of SmolLM2-135M, {arguments.chunks} chunks of {N_CTX} tokens,"
        f" {arguments.threads} threads, text {'WikiText-2' if given else 'evaluation'}\n"
    )
    print("| | wall s, each pass | CPU s | peak memory MB | disk MB |")
    print("|---|--:|--:|--:|--:|")
    print(rows("`pytest --quant-matrix`, cold cache", ours))
    print(rows(f"llama.cpp's programs, {what}", theirs))
    apart = max(
        abs(side.ppl[name] / other.ppl[name] - 1)
        for side in ours
        for other in theirs
        for name in formats
    )
    print(f"\nPerplexities of the two sides: at most {apart:.1e} apart (relative).")


if __name__ == "__main__":
    main()
