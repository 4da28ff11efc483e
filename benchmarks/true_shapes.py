"""Sizes, and prefill and decode speeds, of two mixtures of experts at their true shapes.

``python benchmarks/true_shapes.py --device CUDA0`` makes LFM2-8B-A1B and OLMoE-1B-7B with
pseudo-random weights in F16, Q4_K_M and MXFP4_MOE (49 GB in the cache's folder) and measures each
format's speed in fresh processes interleaved with F16's. One model at a time: ``--models``; the
sizes alone, without a file: ``--sizes``. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import uuid
from pathlib import Path

from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.speed import measure_speed
from pytest_quantgate.results.measurements.speed import PHASES, SpeedMeasurement

SETTINGS = """
[tool.quantgate]
cache_dir = {cache!r}
cache_max_gib = 56
stall_s = 900
profile = "shapes"
[tool.quantgate.devices.measured]
backend = {device!r}
[tool.quantgate.profiles.shapes]
models = {models!r}
formats = {formats!r}
devices = ["measured"]
speed_processes = {processes}
speed_repetitions = {repetitions}
speed_decode_tokens = {decode}
"""


def speeds(measured: SpeedMeasurement) -> list[str]:
    """Return each phase's tokens per second, and its ratio to F16 with the interval of 95 %."""
    columns = []
    for phase in PHASES:
        columns.append(f"{measured.tokens_per_s(phase):,.1f}")
        ratio = measured.vs_reference(phase)
        columns.append("" if ratio is None else "{:.3f} [{:.3f}, {:.3f}]".format(*ratio))
    return columns


def report(run: Session, *, with_speed: bool) -> None:
    """Measure each cell and print its row."""
    heads = ["model", "format", "bytes"]
    if with_speed:
        heads += ["prefill t/s", "vs F16", "decode t/s", "vs F16", "file s"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}", flush=True)
    for cell in run.matrix.cells:
        n_bytes = run.artifacts.described_file(run.resolve(cell)).header.n_bytes
        row = [cell.model, cell.format.name, f"{n_bytes:,}"]
        if with_speed:
            began_s = time.perf_counter()
            run.artifacts.file(run.resolve(cell))
            made_s = time.perf_counter() - began_s
            row += [*speeds(measure_speed(run, run.resolve(cell))), f"{made_s:.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="cpu, or a name as CUDA0")
    parser.add_argument("--models", default="olmoe-1b-7b,lfm2-8b-a1b")
    parser.add_argument("--formats", default="F16,Q4_K_M,MXFP4_MOE")
    parser.add_argument("--processes", type=int, default=5, help="fresh processes a side")
    parser.add_argument("--repetitions", type=int, default=3, help="runs a process")
    parser.add_argument("--decode-tokens", type=int, default=128)
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "true-shapes")
    parser.add_argument("--sizes", action="store_true", help="the sizes alone")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        settings = SETTINGS.format(
            cache=str(options.cache.resolve()),
            device=options.device,
            models=options.models.split(","),
            formats=options.formats.split(","),
            processes=options.processes,
            repetitions=options.repetitions,
            decode=options.decode_tokens,
        )
        (Path(folder) / "pyproject.toml").write_text(settings, encoding="utf-8")
        run = Session(load_settings(Path(folder)), uuid.uuid4().hex)
        try:
            report(run, with_speed=not options.sizes)
        finally:
            run.close()


if __name__ == "__main__":
    main()
