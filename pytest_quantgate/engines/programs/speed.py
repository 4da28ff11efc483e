"""Times prefill and decoding with llama-bench."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytest_quantgate.engines.engine import OnReply
from pytest_quantgate.engines.messages import MeasureSpeed, Progress, SpeedMeasured
from pytest_quantgate.engines.messages.placement import read_placement
from pytest_quantgate.engines.programs.folder import BENCH, Argument, ProgramFolder
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.gguf.formats import TENSOR_TYPES

_TYPE_NAMES = {row.number: name.lower() for name, row in TENSOR_TYPES.items()}

Times = tuple[tuple[int, ...], tuple[int, ...]]


def read_bench(text: str) -> Times | None:
    """Return the nanoseconds of each run of prefill and of decoding from ``-o json``.

    Fields come and go between versions, so only what is needed is read; None where it is not
    there.
    """
    prefill: tuple[int, ...] = ()
    decode: tuple[int, ...] = ()
    try:
        tests: list[dict[str, Any]] = json.loads(text)
        for test in tests:
            times = tuple(int(value) for value in test["samples_ns"])
            if test["n_prompt"] and not test["n_gen"]:
                prefill = times
            elif test["n_gen"] and not test["n_prompt"]:
                decode = times
    except (ValueError, KeyError, TypeError):
        return None
    return (prefill, decode) if prefill and decode else None


class ProgramTimer:
    """Times with llama-bench; a program is a fresh process by itself."""

    def __init__(self, programs: ProgramFolder, arguments: Sequence[str]) -> None:
        self._programs = programs
        self._arguments = tuple(arguments)

    def measure(self, request: MeasureSpeed, on_reply: OnReply) -> SpeedMeasured:
        """Run one llama-bench.

        Its threads wait as it has it by itself, and it warms up once. What it does not tell, how
        long the file took to load and what the device calls itself, stays empty.

        Raises:
            CellError: what went wrong; ``CellUnsupported`` for further arguments, which are
                llama-perplexity's, and for repacking that cannot be turned off.

        """
        if self._arguments:
            raise CellUnsupported(
                f"arguments {' '.join(self._arguments)!r} are llama-perplexity's, so the speed of"
                " llama-bench would be of other settings; measure it with an engine without them"
            )
        done, total = 0, 2 * request.repetitions
        cpu_s = sum(os.times()[2:4])

        def on_line(line: str) -> None:
            nonlocal done
            if " run " in line:  # "prompt run 2/5" of --progress
                done = min(done + 1, total)
            on_reply(Progress(what="speed", done=done, total=total))

        with tempfile.TemporaryDirectory() as folder:
            output = Path(folder) / "bench.json"
            code = self._programs.run(
                BENCH, self._pinned(request), on_line, output, quiet_threads=False
            )
            times = read_bench(output.read_text(encoding="utf-8", errors="replace"))
        if times is None:
            raise self._programs.failure(BENCH, code)
        return SpeedMeasured(
            process_id=0,
            load_s=None,
            prefill_ns=times[0],
            decode_ns=times[1],
            prefill_warmup_ns=(),
            decode_warmup_ns=(),
            prefill_is_warm=True,
            decode_is_warm=True,
            decode_loop_ns=(),
            cpu_s=sum(os.times()[2:4]) - cpu_s,
            device_description="",
            driver="",
        )

    def _check_repack(self) -> None:
        """Check that repacking can be turned off; an older llama-bench would refuse the option.

        Raises:
            CellUnsupported: it cannot.

        """
        options = self._programs.read_all(
            BENCH, ["--help"], lambda line: line if "--repack" in line else None
        )
        if not options:
            raise CellUnsupported(
                "this llama-bench is too old to load a model without repacked weights; take a"
                " newer engine"
            )

    def _pinned(self, request: MeasureSpeed) -> list[Argument]:
        placement = read_placement(request.device)
        layers = placement.n_gpu_layers
        pinned: dict[str, Argument] = {
            "-m": request.model,
            "-p": request.n_prompt,
            "-n": request.n_decode,
            "-d": request.n_depth,
            "-r": request.repetitions,
            "-b": request.n_batch,
            "-ub": request.n_ubatch,
            "-t": request.n_threads,
            "-fa": "on" if request.flash_attention else "off",
            "-ctk": _TYPE_NAMES[request.type_k],
            "-ctv": _TYPE_NAMES[request.type_v],
            "-dev": "/".join(placement.devices) or "none",
            "-ngl": 0 if placement.is_cpu else 999 if layers is None else layers,
            "-sm": placement.split_mode,
            "-o": "json",
        }
        if not (placement.repack and request.repack):
            self._check_repack()
            pinned["--repack"] = 0  # on by default; older ones do not know the word
        if placement.tensor_split:
            pinned["-ts"] = "/".join(f"{share:g}" for share in placement.tensor_split)
        return [*(part for pair in pinned.items() for part in pair), "--progress"]
