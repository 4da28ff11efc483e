"""How often the speed gate raises a false alarm, and whether it sees a planted slowdown.

A comparison is what a cell's speed is: interleaved fresh worker processes of two sides, judged
with the gate's own rules at a margin of 10 %, while another process keeps one core busy. In the
first part both sides are the same file and engine; in the second the worker of one side spins for
a quarter of each decoded token's time, which makes decoding 20 % slower and leaves prefill alone.

    python benchmarks/speed_false_alarms.py --out false_alarms.jsonl --planted 0
    python benchmarks/speed_false_alarms.py --out false_alarms.jsonl --quiet

Beside a busy core no comparison of a file with itself may be REGRESSED. On a quiet machine at least
95 of 100 must be PASS, in a median of at most 10 pairs, and a slower decoder REGRESSED in 19 of 20,
in a median of at most 16. It exits with 1 where one of these bars is missed.

Each comparison is one line of the file; started again, the script goes on where it ended.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from kept_lines import read_lines

from pytest_quantgate import stats
from pytest_quantgate.engines.devices import default_threads
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import MeasureSpeed
from pytest_quantgate.gate.judges.speed import judge_against_reference
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.metrics.speed import Sides, process_speed, run_interleaved
from pytest_quantgate.results.hardware import Fingerprint, OutsideLoad, host_state
from pytest_quantgate.results.measurements.speed import PHASES, ProcessSpeed, SpeedMeasurement
from pytest_quantgate.results.verdicts import Judgement, VerdictKind

MARGIN = 0.1
SLOWER = "slower_worker"
SLOWER_SOURCE = '''
"""Serves as the worker does, but spins for a quarter of each decoded token's time."""

import time

from pytest_quantgate.engines.worker.serve import serve as served  # first: loads llama.cpp
from pytest_quantgate.engines.worker import speed

decode_at_full_speed = speed.Sequence._decode


def decode(sequence):
    elapsed = decode_at_full_speed(sequence)
    if sequence._batch.n_tokens > 1:
        return elapsed
    began = time.perf_counter_ns()
    while time.perf_counter_ns() - began < elapsed // 4:
        pass
    return elapsed + time.perf_counter_ns() - began


def serve(channel):
    speed.Sequence._decode = decode
    served(channel)
'''


@contextmanager
def one_core_busy() -> Iterator[None]:
    """Run a process that never rests."""
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        busy.terminate()
        busy.wait()


def fresh_process(engine: LlamaCppPython, request: MeasureSpeed) -> ProcessSpeed:
    """Measure once in a process of its own."""
    return process_speed(engine.ask(request))


def judged(measured: SpeedMeasurement, phase: str) -> Judgement:
    """Judge a phase as the gate does."""
    (judgement,) = judge_against_reference(measured, phase, 1 - MARGIN)
    return judgement


def compare(
    sides: Sequence[Callable[[], ProcessSpeed]], request: MeasureSpeed, looks: tuple[int, ...]
) -> dict[str, object]:
    """Run one comparison and return each phase's verdict, ratio and number of pairs."""
    before, load, began_s = host_state(), OutsideLoad(), time.monotonic()

    def so_far(both: Sides) -> SpeedMeasurement:
        return SpeedMeasurement(
            prefill_tokens=request.n_prompt,
            decode_tokens=request.n_decode,
            depth=0,
            n_batch=request.n_batch,
            n_ubatch=request.n_ubatch,
            cell=tuple(both[1]),
            reference=tuple(both[0]),
            looks=looks,
            fingerprint=Fingerprint(
                cpu="", build="", n_threads=request.n_threads, device="cpu", driver=""
            ),
            host_before=before,
            host_after=host_state(),
            outside_cores=load.cores(0.0),
            seconds_s=time.monotonic() - began_s,
        )

    def decided(both: Sides) -> dict[str, bool]:
        measured, undecided = so_far(both), VerdictKind.INCONCLUSIVE
        return {phase: judged(measured, phase).verdict is not undecided for phase in PHASES}

    both = run_interleaved(sides, looks, MARGIN, 60.0, lambda _done: None, decided)
    measured = so_far(both)
    line: dict[str, object] = {
        "pairs": len(measured.cell),
        "seconds_s": round(measured.seconds_s, 2),
    }
    for phase in PHASES:
        judgement = judged(measured, phase)
        found = stats.slowdown(measured.reference_rates(phase), measured.rates(phase))
        line[phase] = {
            "verdict": judgement.verdict.value,
            "ratio": judgement.estimate,
            "standard_error": found.standard_error,
            "rates": [measured.reference_rates(phase), measured.rates(phase)],
        }
    line["host"] = asdict(measured.host_after)
    return line


def summarize(what: str, lines: list[dict[str, Any]]) -> None:
    """Print how many comparisons got which verdict, after how many pairs."""
    pairs = [line["pairs"] for line in lines]
    after = f", pairs {min(pairs)} to {max(pairs)}, median {np.median(pairs):g}" if pairs else ""
    print(f"{what}: {len(lines)} comparisons{after}")
    for phase in PHASES:
        verdicts = Counter(line[phase]["verdict"] for line in lines)
        ratios = sorted(line[phase]["ratio"] for line in lines)
        if ratios:
            print(
                f"  {phase:8s} {dict(sorted(verdicts.items()))}, ratio {ratios[0]:.3f} to"
                f" {ratios[-1]:.3f}, median {ratios[len(ratios) // 2]:.3f}"
            )


def missed_of_the_same(lines: list[dict[str, Any]], *, is_quiet: bool) -> list[str]:
    """Return which bars the comparisons of a file with itself miss."""
    if not lines:
        return []
    said = [{line[phase]["verdict"] for phase in PHASES} for line in lines]
    alarms, passed = sum("REGRESSED" in one for one in said), said.count({"PASS"})
    missed = [f"{alarms} false alarms, at most 0"] if alarms else []
    if not is_quiet:
        return missed
    median = float(np.median([line["pairs"] for line in lines]))
    if passed < 0.95 * len(lines):
        missed.append(f"{passed} of {len(lines)} PASS in both phases, at least 95 %")
    if median > 10:
        missed.append(f"a median of {median:g} pairs, at most 10")
    return missed


def missed_of_planted(lines: list[dict[str, Any]]) -> list[str]:
    """Return which bars the comparisons with a slower decoder miss."""
    if not lines:
        return []
    seen = sum(line["decode"]["verdict"] == "REGRESSED" for line in lines)
    median = float(np.median([line["pairs"] for line in lines]))
    missed = []
    if seen < 0.95 * len(lines):
        missed.append(f"{seen} of {len(lines)} slower decoders REGRESSED, at least 95 %")
    if median > 16:
        missed.append(f"a median of {median:g} pairs, at most 16")
    return missed


def simulate(request: MeasureSpeed, looks: tuple[int, ...], runs: int) -> None:
    """Print what the gate says of processes whose speeds scatter by a known amount."""
    random = np.random.default_rng(1)

    def process(rate: float, scatter: float) -> ProcessSpeed:
        times_ns = [
            (int(1e9 * tokens / rate * np.exp(random.normal(0, scatter))),)
            for tokens in (request.n_prompt, request.n_decode)
        ]
        return ProcessSpeed(
            load_s=None,
            prefill_ns=times_ns[0],
            decode_ns=times_ns[1],
            prefill_warmup_ns=(),
            decode_warmup_ns=(),
            prefill_is_warm=True,
            decode_is_warm=True,
        )

    print("| scatter | ratio | PASS | INCONCLUSIVE | REGRESSED | pairs: median | mean |")
    print("|--:|--:|--:|--:|--:|--:|--:|")
    for scatter in (0.01, 0.02, 0.03, 0.05, 0.08):
        for ratio in (1.0, 0.8):
            sides = [partial(process, rate, scatter) for rate in (100.0, 100.0 * ratio)]
            lines = [compare(sides, request, looks) for _ in range(runs)]
            said = Counter(line["decode"]["verdict"] for line in lines)  # type: ignore[index]
            shares = " | ".join(
                f"{100 * said[name] / runs:.1f} %" for name in ("PASS", "INCONCLUSIVE", "REGRESSED")
            )
            pairs = [int(str(line["pairs"])) for line in lines]
            print(
                f"| {100 * scatter:.0f} % | {ratio} | {shares} | {np.median(pairs):.0f} |"
                f" {np.mean(pairs):.1f} |",
                flush=True,
            )


def simulate_sessions(looks: tuple[int, ...], runs: int) -> None:
    """Print what is said against a stored baseline where whole sessions scatter too."""
    random = np.random.default_rng(2)
    within = 0.02

    def session(scatter: float, n_processes: int, mean: float = 0.0) -> npt.NDArray[np.float64]:
        return np.asarray(
            np.exp(mean + random.normal(0, scatter) + random.normal(0, within, n_processes))
        )

    def known(scatter: float) -> stats.SessionMean:
        estimate = stats.slowness(session(scatter, looks[0]))
        return stats.SessionMean(mean=-estimate.mean, variance=estimate.standard_error**2)

    print("| sessions scatter | known sessions | ratio | PASS | REGRESSED | processes: median |")
    print("|--:|--:|--:|--:|--:|--:|")
    for scatter in (0.0, 0.01, 0.02, 0.04):
        for n_known in (0, 5, 10):
            for ratio in (1.0, 1 - MARGIN, 0.8):
                said: Counter[stats.Outcome] = Counter()
                ended = []
                for _ in range(runs):
                    group = [known(scatter) for _ in range(n_known)]
                    between = stats.session_scatter([group])
                    before, after = session(scatter, 10), session(scatter, looks[-1], np.log(ratio))
                    for look in looks:
                        estimate = stats.slowdown_unpaired(before, after[:look], between=between)
                        outcome = stats.decide_slowdown(
                            estimate, -float(np.log1p(-MARGIN)), looks, look
                        ).outcome
                        if outcome is not stats.Outcome.UNDECIDED:
                            break
                    said[outcome] += 1
                    ended.append(look)
                shares = " | ".join(
                    f"{100 * said[outcome] / runs:.1f} %"
                    for outcome in (stats.Outcome.INSIDE, stats.Outcome.OUTSIDE)
                )
                print(
                    f"| {100 * scatter:.0f} % | {n_known} | {ratio} | {shares} |"
                    f" {np.median(ended):.0f} |",
                    flush=True,
                )


def main() -> int:
    """Run what is missing, and print the counts; 1 where a bar is missed."""
    mini = EMBEDDED / "olmoe-mini.gguf"
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("false_alarms.jsonl"), help="file of one line a comparison"
    )
    parser.add_argument("--runs", type=int, default=100, help="comparisons of a file with itself")
    parser.add_argument("--planted", type=int, default=20, help="comparisons with a slower side")
    parser.add_argument("--model", type=Path, default=mini)
    parser.add_argument("--prefill", type=int, default=192)
    parser.add_argument("--decode", type=int, default=96)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--processes", type=int, default=40, help="at most, a side")
    parser.add_argument(
        "--threads",
        type=int,
        default=max(1, default_threads() - 1),
        help="the busy process has the core that is left",
    )
    parser.add_argument("--simulate", type=int, metavar="N", help="only draw N times a row")
    parser.add_argument(
        "--simulate-sessions", type=int, metavar="N", help="likewise, against a stored baseline"
    )
    parser.add_argument("--quiet", action="store_true", help="without the busy process")
    options = parser.parse_args()
    request = MeasureSpeed(
        model=str(options.model),
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
    looks = stats.process_looks(options.processes)
    if options.simulate_sessions:
        simulate_sessions(looks, options.simulate_sessions)
        return 0
    if options.simulate:
        simulate(request, looks, options.simulate)
        return 0
    log = Path(tempfile.mkdtemp()) / "worker.log"
    usual = LlamaCppPython(python=None, log=log, stall_s=300)
    slower = LlamaCppPython(
        python=None,
        log=log,
        stall_s=300,
        entry=f"{SLOWER}:serve",
        extra_sources=[(SLOWER, (False, SLOWER_SOURCE))],
    )
    missed: list[str] = []
    for what, wanted, second in (
        ("the same on both sides", options.runs, usual),
        ("decoding 20 % slower", options.planted, slower),
    ):
        settings: dict[str, object] = {
            "what": what,
            "busy": not options.quiet,
            "model": options.model.name,
            "prefill": options.prefill,
            "decode": options.decode,
            "repetitions": options.repetitions,
            "processes": options.processes,
            "threads": options.threads,
        }
        lines = read_lines(options.out, settings)
        sides = [partial(fresh_process, engine, request) for engine in (usual, second)]
        for _ in range(len(lines), wanted):
            with hold_device("cpu"):
                if options.quiet:
                    line = compare(sides, request, looks)
                else:
                    with one_core_busy():
                        line = compare(sides, request, looks)
            lines.append({"settings": settings, **line})
            with options.out.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(lines[-1]) + "\n")
        lines = lines[:wanted]
        summarize(f"{what}, {'quiet' if options.quiet else 'one core busy'}", lines)
        missed += (
            missed_of_the_same(lines, is_quiet=options.quiet)
            if second is usual
            else missed_of_planted(lines)
        )
    print(f"missed: {'; '.join(missed) or 'nothing'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
