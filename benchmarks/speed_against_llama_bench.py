r"""In-process speed against llama-bench's, on the same file, threads and lengths.

Each pair is one fresh worker process and one llama-bench process, which take turns in the order
A B, B A; a process is as fast as its median run, and what is compared is the median over the pairs.

    QUANTGATE_LLAMA_BIN=llama.cpp/build/bin python benchmarks/speed_against_llama_bench.py \
        --out against.jsonl

The models are SmolLM2 and a shape of OLMoE with 4 layers, both as Q4_K_M, unless ``--model`` names
files.

llama-bench must be built with the options of the llama-cpp-python that is measured. Each pair is
one line of the file; started again, the script goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from kept_lines import read_lines

from pytest_quantgate import stats
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.engines.devices import default_threads
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import MeasureSpeed
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.results.hardware import OutsideLoad
from pytest_quantgate.results.measurements.speed import PHASES

BAR = 0.03
"""The medians of both sides may differ by so much."""


def in_process(engine: LlamaCppPython, request: MeasureSpeed) -> dict[str, float]:
    """Return tokens per second of a fresh worker, and what Python took beside each token."""
    reply = engine.ask(request)
    beside_ns = [
        (whole - pure) / request.n_decode
        for pure, whole in zip(reply.decode_ns, reply.decode_loop_ns, strict=True)
    ]
    return {
        "prefill": 1e9 * request.n_prompt / median(reply.prefill_ns),
        "decode": 1e9 * request.n_decode / median(reply.decode_ns),
        "python_us_a_token": median(beside_ns) / 1e3,
    }


def llama_bench(program: Path, request: MeasureSpeed) -> dict[str, float]:
    """Return tokens per second of llama-bench."""
    arguments: dict[str, object] = {
        "-m": request.model,
        "-p": request.n_prompt,
        "-n": request.n_decode,
        "-r": request.repetitions,
        "-t": request.n_threads,
        "-b": request.n_batch,
        "-ub": request.n_ubatch,
        "-fa": 1,
        "-ngl": 0,
        "-o": "json",
    }
    command = [str(program), *(str(part) for pair in arguments.items() for part in pair)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    tests: list[dict[str, Any]] = json.loads(done.stdout)
    rates = {}
    for test in tests:
        tokens = test["n_prompt"] or test["n_gen"]
        phase = "prefill" if test["n_prompt"] else "decode"
        rates[phase] = 1e9 * tokens / median(test["samples_ns"])
    return rates


def summarize(name: str, pairs: list[dict[str, Any]]) -> bool:
    """Print a model's rows, and return whether both phases are within the bar."""
    within = True
    for phase in PHASES:
        ours = [pair["in_process"][phase] for pair in pairs]
        theirs = [pair["llama_bench"][phase] for pair in pairs]
        off = median(ours) / median(theirs) - 1
        low, high = stats.ppl_ratio_interval(stats.slowdown(ours, theirs))
        within = within and abs(off) <= BAR
        print(
            f"| {name} | {phase} | {median(ours):,.1f} | {median(theirs):,.1f} | {100 * off:+.2f} %"
            f" | {100 * low:+.1f} to {100 * high:+.1f} % |"
        )
    beside = median(pair["in_process"]["python_us_a_token"] for pair in pairs)
    others = [pair["outside_cores"] for pair in pairs if pair["outside_cores"] is not None]
    print(
        f"\n{name}: {len(pairs)} pairs; Python took {beside:.1f} µs beside each token, outside of"
        f" the clock; others used up to {max(others, default=0.0):.1f} cores\n"
    )
    return within


SHAPE = """
[tool.quantgate.models.olmoe-4-layers.shape]
architecture = "olmoe"
layers = 4
hidden = 2048
feed_forward = 1024
heads = 16
kv_heads = 16
vocabulary = 50_304
experts = 64
experts_used = 8

[tool.quantgate.profiles.default]
models = ["smollm2", "olmoe-4-layers"]
formats = ["Q4_K_M"]
"""


def own_models(cache: str | None) -> dict[str, Path]:
    """Return the files of the two models, quantized now if the cache has them not."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyproject.toml").write_text(SHAPE, encoding="utf-8")
        run = Session(
            load_settings(Path(folder), Overrides(cache_dir=cache)), "speed-against-llama-bench"
        )
        try:
            # A model's own full precision may be among its cells.
            wanted = [cell for cell in run.matrix.cells if cell.format.name == "Q4_K_M"]
            return {cell.model: run.artifacts.file(run.resolve(cell)).path for cell in wanted}
        finally:
            run.close()


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file of one line a pair")
    parser.add_argument("--model", action="append", metavar="NAME=FILE")
    parser.add_argument("--cache", help="folder for the two models' files")
    parser.add_argument("--runs", type=int, default=10, help="pairs a model")
    parser.add_argument("--prefill", type=int, default=512)
    parser.add_argument("--decode", type=int, default=128)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=default_threads())
    options = parser.parse_args()
    program = Path(os.environ["QUANTGATE_LLAMA_BIN"]) / "llama-bench"
    log = Path(tempfile.mkdtemp()) / "worker.log"
    engine = LlamaCppPython(python=None, log=log, stall_s=600)
    results = {}
    if options.model:
        named = (given.partition("=") for given in options.model)
        models = {name: Path(path).resolve() for name, _, path in named}
    else:
        models = own_models(options.cache)
    for name, path in models.items():
        request = MeasureSpeed(
            model=str(path),
            device="cpu",
            n_prompt=options.prefill,
            n_decode=options.decode,
            n_depth=0,
            repetitions=options.repetitions,
            n_batch=2048,
            n_ubatch=512,
            n_threads=options.threads,
            flash_attention=True,
            type_k=TENSOR_TYPES["F16"].number,
            type_v=TENSOR_TYPES["F16"].number,
        )
        settings: dict[str, object] = {
            "name": name,
            "prefill": options.prefill,
            "decode": options.decode,
            "repetitions": options.repetitions,
            "threads": options.threads,
        }
        pairs = read_lines(options.out, settings)
        for number in range(len(pairs), options.runs):
            sides: dict[str, dict[str, float]] = {}
            load = OutsideLoad()
            used_s = sum(os.times()[2:4])
            with hold_device("cpu"):
                for side in stats.interleaved(number):
                    if side == 0:
                        sides["in_process"] = in_process(engine, request)
                    else:
                        sides["llama_bench"] = llama_bench(program, request)
            outside = load.cores(sum(os.times()[2:4]) - used_s)
            pairs.append({"settings": settings, "outside_cores": outside, **sides})
            with options.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(pairs[-1]) + "\n")
        results[name] = pairs[: options.runs]
    print("| model | phase | in process t/s | llama-bench t/s | off | 95 % of the pairs' mean |")
    print("|---|---|--:|--:|--:|---|")
    missed = [name for name, pairs in results.items() if not summarize(name, pairs)]
    print(f"within {100 * BAR:.0f} %: {'all' if not missed else f'not {missed}'}")


if __name__ == "__main__":
    main()
