"""Plant faults that only one condition shows in llama.cpp's source, and sweep each build.

    python benchmarks/sweep_faults.py --source llama.cpp --work work

Each fault is built as the mutants are (mutant_build.py) and swept with ``--quant-sweep``; the
sweep should name the condition under which alone it shows. The sound build is swept too. Prints a
Markdown table, and exits with 1 where a fault was missed or named by another condition, or the
sound build is red.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mutant_build import Build, BuildError, Edit, write_interpreter

from pytest_quantgate.results.measurements.sweep import SweepMeasurement
from pytest_quantgate.results.record import CellRecord
from pytest_quantgate.results.record_file import read_record

OPS = "ggml/src/ggml-cpu/ops.cpp"
QUANTS = "ggml/src/ggml-quants.c"
DOTS = "ggml/src/ggml-cpu/arch/x86/quants.c"
NORM = "static void ggml_compute_forward_rms_norm_f32("


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault, and the condition that the sweep should name."""

    what: str
    edit: Edit
    condition: str
    format: str = "Q8_0"


def _edit(file: str, after: str, old: str, new: str) -> Edit:
    return Edit(file=file, after=after, old=old, new=new)


FAULTS = {
    "batch-3": Fault(
        what="RMS norm of exactly three tokens",
        edit=_edit(OPS, NORM, "(mean + eps)", "(ne01 == 3 ? 1.5f*mean : mean + eps)"),
        condition="n_ubatch 3",
    ),
    "late": Fault(
        what="positions from 700 on, with and without flash attention",
        edit=_edit(
            OPS,
            "static void ggml_compute_forward_rope_flt(",
            "const int64_t p = pos[i2];",
            "const int64_t p = pos[i2] < 700 ? pos[i2] : pos[i2] + 700;",
        ),
        condition="n_ctx 1024",
    ),
    "keys": Fault(
        what="the fifth bit of keys in Q5_1",
        edit=_edit(DOTS, "void ggml_vec_dot_q5_1_q8_1(", "epi8(0x10)", "epi8(0x00)"),
        condition="type_k Q5_1",
    ),
    "values": Fault(
        what="the second half of a block of values in IQ4_NL",
        edit=_edit(QUANTS, "void dequantize_row_iq4_nl(", "qs[j] >>  4]", "qs[j] & 0xf]"),
        condition="type_v IQ4_NL",
    ),
    "no-flash": Fault(
        what="the scale of scores without flash attention",
        edit=_edit(
            OPS,
            "static void ggml_compute_forward_soft_max_f32(",
            "ggml_vec_scale_f32(ne00, wp, scale);",
            "ggml_vec_scale_f32(ne00, wp, src1 ? 0.5f*scale : scale);",
        ),
        condition="flash attention off",
    ),
    "no-repack": Fault(
        what="MXFP4's dot product, which repacked weights do not use",
        edit=_edit(DOTS, "void ggml_vec_dot_mxfp4_q8_0(", "HALF(x[ib + 1].e)", "HALF(x[ib + 0].e)"),
        condition="not repacked",
        format="MXFP4_MOE",
    ),
    "threads": Fault(
        what="RMS norm of three threads",
        edit=_edit(OPS, NORM, "(mean + eps)", "(nth == 3 ? 1.5f*mean : mean + eps)"),
        condition="n_threads 3",
    ),
}
SOUND = ("olmoe-mini", "lfm2moe-mini", "smollm2")


def sweep(python: Path, model: str, name: str, place: Path, n_threads: int) -> CellRecord:
    """Sweep one cell with an interpreter."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "pyproject.toml").write_text(
        f"""
[tool.quantgate]
profile = "sweep"
cache_dir = "{place.parent / "cache"}"
[tool.quantgate.profiles.sweep]
models = ["{model}"]
formats = ["{name}"]
n_threads = {n_threads}
""",
        encoding="utf-8",
    )
    record = place / "record.json"
    record.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "--quant-sweep", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--quant-engine=python={python}", f"--quant-report={record}"],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
    )
    if not record.is_file():
        raise BuildError((done.stdout + done.stderr)[-400:])
    return read_record(record).cells[-1]


def named(cell: CellRecord) -> str:
    """Return the condition that a sweep names, "" for none."""
    quoted = re.match(r"'([^']+)'", cell.reason) if cell.is_red else None
    return quoted.group(1) if quoted else ""


def main() -> int:
    """Sweep all faults and the sound build; 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="llama.cpp's source")
    parser.add_argument("--work", type=Path, required=True, help="for builds and caches")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--threads", type=int, default=2, help="of the reference condition")
    parser.add_argument("--names", help=f"of {', '.join(['sound', *FAULTS])}; otherwise all")
    arguments = parser.parse_args()
    names = arguments.names.split(",") if arguments.names else ["sound", *FAULTS]
    work: Path = arguments.work.resolve()
    build = Build(arguments.source, work / "build")
    build.make(arguments.jobs)
    sound = write_interpreter(build.libraries)
    n_wrong = 0
    print(
        "| fault | condition | named | mean KLD, nats | conditions | s |\n|---|---|---|--:|--:|--:|"
    )
    runs: list[tuple[str, Fault | None, str]] = [
        (f"none: {model}", None, model) for model in SOUND if "sound" in names
    ]
    runs += [(FAULTS[name].what, FAULTS[name], "olmoe-mini") for name in names if name in FAULTS]
    for number, (what, fault, model) in enumerate(runs):
        started_s = time.monotonic()
        python = sound
        if fault is not None:
            folder = work / "faults" / (fault.condition.replace(" ", "-"))
            build.mutate(fault.edit, folder)
            python = write_interpreter(folder)
        format_name = "Q4_K_M" if fault is None else fault.format
        place = work / f"sweep-{number}"
        cell = sweep(python, model, format_name, place, arguments.threads)
        measured = cell.measured["sweep"]
        assert isinstance(measured, SweepMeasurement)
        expected, found = "" if fault is None else fault.condition, named(cell)
        n_wrong += (found, cell.is_red) != (expected, fault is not None)
        furthest = max(point.mean_kld_nats for point in measured.points if not point.cache_error)
        compared = sum(not point.problem for point in measured.points)
        print(
            f"| {what} | {expected or '–'} | {found or '–'} | {furthest:.2g} | {compared}"
            f" | {time.monotonic() - started_s:.0f} |",
            flush=True,
        )
    print(json.dumps({"runs": len(runs), "wrong": n_wrong}))
    return 1 if n_wrong else 0


if __name__ == "__main__":
    sys.exit(main())
