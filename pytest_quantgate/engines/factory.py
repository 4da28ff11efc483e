"""From an engine's table in the configuration to the engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pytest_quantgate.config.machines import EngineSettings
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.programs.engine import LlamaPrograms
from pytest_quantgate.storage.environment import path_below


def make_engine(
    engine: EngineSettings,
    *,
    root: Path,
    log: Path,
    stall_s: float,
    sha256_of: Callable[[Path], str],
    identities: Path | None = None,
) -> Engine:
    """Make an engine; nothing is started before it is asked.

    Args:
        engine: what the configuration says.
        root: where relative paths start.
        log: the file for its output.
        stall_s: seconds without a sign of life after which it is ended.
        sha256_of: hashes a file.
        identities: the folder in which an identity is kept; None keeps none.

    """
    if engine.tools is not None:
        return LlamaPrograms(
            folder=path_below(root, engine.tools),
            arguments=engine.arguments,
            log=log,
            stall_s=stall_s,
            sha256_of=sha256_of,
        )
    python = _interpreter(engine.python, root)
    return LlamaCppPython(python=python, log=log, stall_s=stall_s, identities=identities)


def _interpreter(python: str | None, root: Path) -> str | None:
    """Return an interpreter's path; a name without a folder is looked up where programs are.

    Links stay as they are: an environment is known by its interpreter's own place.
    """
    if python is None or not Path(python).parts[1:]:
        return python
    return str(path_below(root, python))
