"""The operation in which a mutant's graph first differs from the sound build's."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from pytest_quantgate.artifacts.texts import built_in_text
from pytest_quantgate.config.machines import EngineSettings
from pytest_quantgate.config.settings import EVALUATION_TEXT
from pytest_quantgate.diagnosis.locate import WINDOW, Location, locate
from pytest_quantgate.diagnosis.sides import Side
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Quantize
from pytest_quantgate.errors import CellError
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import FILE_TYPES

CONDITIONS = ((WINDOW, True), (1, True), (WINDOW, False))
"""Tokens in a batch, and whether weights are repacked, in the order in which they are tried."""


def first_difference(
    sound: Path, mutant: Path, models: Sequence[str], formats: Sequence[str]
) -> str:
    """Return where two interpreters' libraries first differ on equal files, "" for nowhere.

    All conditions are tried in each model and format until one shows a difference.
    """
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        text = folder / "text.txt"
        text.write_bytes(built_in_text(EVALUATION_TEXT).data)
        engines = {
            str(python): LlamaCppPython(python=str(python), log=folder / "log", stall_s=300)
            for python in (sound, mutant)
        }
        for engine in engines.values():
            stack.callback(engine.close)
        for first, second in _sides(engines[str(sound)], folder, sound, mutant, models, formats):
            try:
                location = locate(
                    first,
                    second,
                    text=text,
                    chunk=0,
                    n_ctx=512,
                    n_tokens=WINDOW,
                    engine_of=lambda side: engines[str(side.engine.python)],
                )
            except CellError as error:
                return f"not computed: {str(error).splitlines()[0]}"
            if location.further or location.origin.value == "fused":
                return _told(location)
    return ""


def _sides(
    engine: LlamaCppPython,
    folder: Path,
    sound: Path,
    mutant: Path,
    models: Sequence[str],
    formats: Sequence[str],
) -> Iterator[tuple[Side, Side]]:
    for model in models:
        for name in formats:
            path = folder / f"{model}-{name}.gguf"
            request = Quantize(
                source=str(EMBEDDED / f"{model}.gguf"),
                destination=str(path),
                file_type=FILE_TYPES[name].number,
                overrides=(),
                allow_requantize=False,
                n_threads=1,
            )
            engine.ask(request)
            for n_ubatch, repack in CONDITIONS:
                yield tuple(  # type: ignore[misc]  # two of them
                    Side(
                        name=f"{model} {name}",
                        path=path,
                        engine=EngineSettings(python=str(python)),
                        n_ubatch=n_ubatch,
                        repack=repack,
                    )
                    for python in (sound, mutant)
                )


def _told(location: Location) -> str:
    side = location.first
    where = f"{side.name}, {'one token' if side.n_ubatch == 1 else f'{side.n_ubatch} tokens'}"
    where += "" if side.repack else ", not repacked"
    if not location.further:
        return f"fused nodes ({where})"
    node = location.further[0]
    return f"{node.operation} {' × '.join(node.source_types)} → {node.name} ({where})"
