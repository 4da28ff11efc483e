"""Which engines answer, what they are, which devices they have, and whether they compute."""

from __future__ import annotations

import math
import shlex
import signal
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from pytest_quantgate.artifacts.texts import built_in_text
from pytest_quantgate.cli.doctor.deadline import within
from pytest_quantgate.cli.doctor.findings import Section, Severity
from pytest_quantgate.cli.doctor.installed import PORTABLE
from pytest_quantgate.cli.doctor.project import Answer, Project
from pytest_quantgate.config.machines import EngineSettings
from pytest_quantgate.config.settings import EVALUATION_TEXT, Settings
from pytest_quantgate.engines.devices import default_threads
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.engines.inventory import device_lines, list_devices
from pytest_quantgate.engines.messages import (
    Message,
    Quantize,
    Score,
    ScoredChunk,
    SummedChunk,
)
from pytest_quantgate.engines.messages.placement import CPU
from pytest_quantgate.errors import (
    CellCrashed,
    CellError,
    CellInvalid,
    CellTimeout,
    CellUnavailable,
)
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import FILE_TYPES, TENSOR_TYPES
from pytest_quantgate.storage.keys import file_sha256

ANSWER_S = 15.0
"""How long one engine may take to say what it is and to compute a chunk."""

ALL_S = 30.0
"""How long all engines may take together; those that are left then are not asked."""

ROWS_BUILDS = (
    "SYCL builds of llama.cpp can, and those for CUDA and ROCm before build b9890, which removed it"
)
"""Which builds split rows over devices (``split_mode = "row"``)."""

_MODEL, _FORMAT, _N_CTX = "olmoe-mini", "Q8_0", 64
_CPU_FAULTS = frozenset({-signal.SIGSEGV, -signal.SIGILL, -signal.SIGBUS, 0xC0000005, 0xC000001D})
"""Exit codes of a process that an instruction ended; the last two are those of Windows."""


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """What came of asking an engine: its answer, None if there is none, and what went wrong."""

    answer: Answer | None
    problem: CellError | OSError | None


def open_engine(settings: Settings, name: str, log: Path, stall_s: float) -> Engine:
    """Make an engine of the configuration, which is not started before it is asked."""
    return make_engine(
        settings.engines[name],
        root=settings.root,
        log=log,
        stall_s=stall_s,
        sha256_of=file_sha256,
    )


def examine_engines(section: Section, project: Project) -> None:
    """Ask every engine of the configuration, the profile's first, the unconfigured one last."""
    settings = project.settings
    against = settings.profile.against
    needed = [settings.profile.engine, *([against] if against is not None else [])]
    others = sorted(set(settings.engines) - set(needed), key=lambda name: (name == "default", name))
    until_s = time.monotonic() + ALL_S
    for name in [*needed, *others]:
        left_s = until_s - time.monotonic()
        if left_s < 1:
            section.say(f"{name}: not asked, the others took {ALL_S:.0f} s")
            section.facts[name] = {"error": "not asked"}
            continue
        attempt = ask_engine(settings, name, min(ANSWER_S, left_s))
        answer, problem = attempt.answer, attempt.problem
        if answer is not None:
            project.answers[name] = answer
            section.say(*answer_lines(name, answer, computes=problem is None))
            section.facts[name] = {
                "identity": asdict(answer.identity),
                "devices": [asdict(device) for device in answer.devices],
            }
        if problem is not None:
            first = str(problem).strip().partition("\n")[0]
            if answer is None:
                section.say(f"{name}: {first}")
                section.facts[name] = {"error": first}
            severity = Severity.ERROR if name in needed else Severity.WARNING
            mend = _mend(settings, name, problem)
            section.find(severity, f"engine {name!r}: {_explained(problem)}", mend)


def ask_engine(settings: Settings, name: str, deadline_s: float) -> Attempt:
    """Ask an engine what it is, and have it quantize and score a little."""
    answers: list[Answer] = []

    def work(folder: Path) -> None:
        began_s = time.monotonic()
        engine = open_engine(settings, name, folder / "engine.log", deadline_s)
        try:
            identity, devices = engine.identity(), list_devices(engine)
            took_s = time.monotonic() - began_s
            answers.append(Answer(identity=identity, devices=devices, seconds_s=took_s))
            compute_a_little(engine, folder)
        finally:
            engine.close()

    problem: CellError | OSError | None = None
    try:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            within(deadline_s, lambda: work(Path(folder)))
    except (CellError, OSError) as error:  # a full disk, no folder for temporary files
        problem = error
    return Attempt(answer=answers[0] if answers else None, problem=problem)


def compute_a_little(engine: Engine, folder: Path) -> None:
    """Quantize a model that ships here and score a chunk with it, on the processor.

    F16 would not show an engine whose products of quantized matrices are miscompiled.

    Raises:
        CellError: the engine could not, or gave what is no number.

    """
    model, text = folder / f"{_FORMAT}.gguf", folder / "text.txt"
    text.write_bytes(built_in_text(EVALUATION_TEXT).data[: 16 * _N_CTX])
    engine.ask(
        Quantize(
            source=str(EMBEDDED / f"{_MODEL}.gguf"),
            destination=str(model),
            file_type=FILE_TYPES[_FORMAT].number,
            overrides=(),
            allow_requantize=False,
            n_threads=default_threads(),
        )
    )
    sums: list[float] = []

    def on_reply(reply: Message) -> None:
        if isinstance(reply, ScoredChunk | SummedChunk):
            sums.append(reply.nll_sum_nats)

    f16 = TENSOR_TYPES["F16"].number
    engine.ask(
        Score(
            model=str(model),
            device=CPU,
            text=str(text),
            chunks=(0,),
            n_ctx=_N_CTX,
            n_threads=default_threads(),
            flash_attention=True,
            type_k=f16,
            type_v=f16,
            n_batch=_N_CTX,
            n_ubatch=_N_CTX,
        ),
        on_reply,
    )
    if len(sums) != 1 or not math.isfinite(sums[0]):
        raise CellInvalid(f"{_MODEL} in {_FORMAT} gave the sums {sums} for one chunk")


def answer_lines(name: str, answer: Answer, *, computes: bool) -> list[str]:
    """Return what an engine is, its devices and what they can."""
    identity = answer.identity
    what = f"{identity.kind} {identity.version}".rstrip()
    if identity.llama_cpp_version and identity.llama_cpp_version not in identity.version:
        what += f", llama.cpp {identity.llama_cpp_version}"
    done = "quantizes and computes" if computes else "does not compute"
    lines = [
        f"{name}: {what}, {done} ({answer.seconds_s:.1f} s to answer)",
        *(f"  {line}" for line in device_lines(answer.devices)),
    ]
    others = [device for device in answer.devices if device.name != CPU]
    if any(device.splits_rows is not None for device in others):
        able = ", ".join(device.name for device in others if device.splits_rows)
        lines.append(f'  split_mode "row": {able or f"none of them; {ROWS_BUILDS}"}')
    return [*lines, f"  {identity.system_info or 'reports no instruction sets'}"]


def _explained(problem: CellError | OSError) -> str:
    text = str(problem) if isinstance(problem, OSError) else problem.problem
    first = text.strip().partition("\n")[0].rstrip(" .")
    if _is_of_another_cpu(problem):
        return (
            f"{first}. A build for the instruction sets of another CPU dies so, and on a CPU with"
            " AMX a native build of GCC 12 or older: see docs/how-to/troubleshooting.md"
        )
    return first


def _is_of_another_cpu(problem: CellError | OSError) -> bool:
    """Return whether a process died as one does that was built for another processor."""
    return isinstance(problem, CellCrashed) and problem.exit_code in _CPU_FAULTS


def _mend(settings: Settings, name: str, problem: CellError | OSError) -> str:
    """Return the command that fixes it, "" where none is known."""
    engine: EngineSettings = settings.engines[name]
    python = shlex.quote(engine.python or sys.executable)
    if _is_of_another_cpu(problem):
        if engine.tools is not None:
            return "cmake -B build -DGGML_NATIVE=OFF && cmake --build build --config Release -j"
        return (
            f"{PORTABLE} {python} -m pip install --force-reinstall --no-cache-dir --no-deps"
            " llama-cpp-python"
        )
    if isinstance(problem, CellTimeout) and engine.tools is None:
        return f"{python} -c 'import llama_cpp'"
    if isinstance(problem, CellUnavailable) and name != "default":
        return f"change [tool.quantgate.engines.{name}], or remove it"
    return "" if isinstance(problem, OSError) else problem.command
