"""Which engines answer, what they are, which devices they have, and whether they compute."""

from __future__ import annotations

import math
import re
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pytest_quantgate.artifacts.texts import built_in_text
from pytest_quantgate.cli.doctor.deadline import within
from pytest_quantgate.cli.doctor.findings import Finding, Section, error, warning
from pytest_quantgate.cli.doctor.installed import PORTABLE
from pytest_quantgate.config.schema import EngineSettings
from pytest_quantgate.config.settings import EVALUATION_TEXT, Settings
from pytest_quantgate.engines.devices import default_threads
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.engines.inventory import DeviceFound, device_lines, list_devices
from pytest_quantgate.engines.messages import (
    Identity,
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

NAME = "Engines"

ANSWER_S = 15.0
"""How long one engine may take to tell what it is and to compute a chunk."""

ALL_S = 30.0
"""How long all engines may take together; those that are left then are not asked."""

_MODEL, _FORMAT, _N_CTX = "olmoe-mini", "Q8_0", 64
_SIGNALS = re.compile(r"SIGSEGV|SIGILL|SIGBUS|0xC0000005|0xC000001D", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an engine told in time."""

    identity: Identity
    devices: tuple[DeviceFound, ...]
    seconds_s: float


def open_engine(settings: Settings, name: str, log: Path, stall_s: float) -> Engine:
    """Make an engine of the configuration, which is not started before it is asked."""
    return make_engine(
        settings.engines[name],
        root=settings.root,
        log=log,
        stall_s=stall_s,
        sha256_of=file_sha256,
    )


def examine_engines(settings: Settings, answers: dict[str, Answer]) -> Section:
    """Ask every engine of the configuration, the profile's first, the unconfigured one last.

    What those told that answered is put into ``answers``.
    """
    against = settings.profile.against
    wanted = [settings.profile.engine, *([against] if against is not None else [])]
    others = sorted(set(settings.engines) - set(wanted), key=lambda name: (name == "default", name))
    names = [*wanted, *others]
    lines: list[str] = []
    findings: list[Finding] = []
    facts: dict[str, Any] = {}
    until_s = time.monotonic() + ALL_S
    for name in names:
        left_s = until_s - time.monotonic()
        if left_s < 1:
            lines.append(f"{name}: not asked, the others took {ALL_S:.0f} s")
            facts[name] = {"error": "not asked"}
            continue
        tell = error if name in wanted else warning
        answer, problem = ask_engine(settings, name, min(ANSWER_S, left_s))
        if answer is not None:
            answers[name] = answer
            lines += _answer_lines(name, answer, problem is None)
            facts[name] = {
                "identity": asdict(answer.identity),
                "devices": [asdict(device) for device in answer.devices],
            }
        if problem is not None:
            first = str(problem).strip().partition("\n")[0]
            if answer is None:
                lines.append(f"{name}: {first}")
                facts[name] = {"error": first}
            findings.append(
                tell(f"engine {name!r}: {_told(problem)}", _mend(settings, name, problem))
            )
    return Section(name=NAME, lines=tuple(lines), findings=tuple(findings), facts=facts)


def ask_engine(
    settings: Settings, name: str, deadline_s: float
) -> tuple[Answer | None, CellError | None]:
    """Ask an engine what it is, and have it quantize and score a little.

    Returns:
        What it told, None if nothing; and what went wrong, None if nothing.

    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        told: list[Answer] = []

        def work() -> None:
            began_s = time.monotonic()
            engine = open_engine(settings, name, Path(folder) / "engine.log", deadline_s)
            try:
                identity, devices = engine.identity(), list_devices(engine)
                took_s = time.monotonic() - began_s
                told.append(Answer(identity=identity, devices=devices, seconds_s=took_s))
                compute_a_little(engine, Path(folder))
            finally:
                engine.close()

        try:
            within(deadline_s, work)
        except CellError as problem:
            return (told[0] if told else None), problem
        return told[0], None


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


def _answer_lines(name: str, answer: Answer, computes: bool) -> list[str]:
    identity = answer.identity
    what = f"{identity.kind} {identity.version}".rstrip()
    if identity.llama_cpp_version and identity.llama_cpp_version not in identity.version:
        what += f", llama.cpp {identity.llama_cpp_version}"
    done = "quantizes and computes" if computes else "does not compute"
    return [
        f"{name}: {what}, {done} ({answer.seconds_s:.1f} s to answer)",
        *(f"  {line}" for line in device_lines(answer.devices)),
        f"  {identity.system_info}" if identity.system_info else "  tells no instruction sets",
    ]


def _told(problem: CellError) -> str:
    first = str(problem).strip().partition("\n")[0].removesuffix("Last log lines:").rstrip(" .")
    if isinstance(problem, CellCrashed) and _SIGNALS.search(first):
        return (
            f"{first}. A build for the instruction sets of another CPU dies so, and on a CPU with"
            " AMX a native build of GCC 12 or older: see docs/troubleshooting.md"
        )
    return first


def _mend(settings: Settings, name: str, problem: CellError) -> str | None:
    """Return the command for what is known; None leaves it to the message."""
    engine: EngineSettings = settings.engines[name]
    python = shlex.quote(engine.python or sys.executable)
    if isinstance(problem, CellCrashed) and _SIGNALS.search(str(problem).partition("\n")[0]):
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
    return None
