"""An engine's account of itself, kept by all that it is made from.

To ask for it takes a process that loads the libraries and, in a build for GPUs, starts their
driver: a second or more, which a run that measures nothing need not spend.
"""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

from pytest_quantgate.engines.messages import Identity, from_wire
from pytest_quantgate.engines.worker.host import VARIABLES, nvidia_driver
from pytest_quantgate.storage.atomic import read_json, write_json
from pytest_quantgate.storage.hashes import FileState
from pytest_quantgate.storage.keys import code_sha256, key_of

_LIBRARY_PATH = "LLAMA_CPP_LIB_PATH"
_LOADER_VARIABLES = ("LD_LIBRARY_PATH", "LD_PRELOAD")
_CHANGING = ("cpu MHz", "bogomips", "processor", "core id", "apicid", "initial apicid")
_GPUS = Path("/proc/driver/nvidia/gpus")


def identity_key() -> str | None:
    """Return the key of all that makes this interpreter's engine; None where that is not known."""
    spec = find_spec("llama_cpp")
    if sys.platform != "linux" or spec is None or spec.origin is None:
        return None
    package = Path(spec.origin).parent
    libraries = Path(os.environ.get(_LIBRARY_PATH) or package / "lib")
    beside = package.parent / "lib" / "cmake" / "ggml" / "ggml-config.cmake"
    try:
        files = [Path(spec.origin), *([beside] if beside.exists() else [])]
        files += sorted(path for path in libraries.iterdir() if path.is_file())
        return key_of(
            kind="identity",
            code=code_sha256("engines"),
            python=[sys.executable, sys.version, platform.machine()],
            files=[[str(path), asdict(FileState.of(path))] for path in files],
            variables=_variables(),
            cpu=_processor(),
            gpus=_nvidia_gpus(),
        )
    except OSError:
        return None


def _variables() -> list[str]:
    named = (*VARIABLES, *_LOADER_VARIABLES)
    return sorted(f"{name}={value}" for name, value in os.environ.items() if name.startswith(named))


def _processor() -> list[str]:
    """Return what Linux says of the first processor, but for what changes all the time."""
    first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    return [line for line in first.splitlines() if not line.startswith(_CHANGING)]


def _nvidia_gpus() -> list[str]:
    """Return the driver, each GPU as it names itself, and the devices that may be opened."""
    gpus = [path.read_text(encoding="utf-8") for path in sorted(_GPUS.glob("*/information"))]
    nodes = [str(path) for path in sorted(Path("/dev").glob("nvidia*")) if os.access(path, os.R_OK)]
    return [nvidia_driver(), *gpus, *nodes]


def read_identity(folder: Path, key: str) -> Identity | None:
    """Return the identity that is kept under a key, None where there is none."""
    kept = read_json(folder / f"{key}.json")
    if not isinstance(kept, dict):
        return None
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in kept.items()}
    try:
        identity = from_wire((Identity.__name__, values))
    except ValueError:
        return None
    return identity if isinstance(identity, Identity) else None


def keep_identity(folder: Path, key: str, identity: Identity) -> None:
    """Keep an identity, unless it has devices of which the key says nothing."""
    known = ("CPU", "BLAS", "CUDA") if any(_GPUS.glob("*/information")) else ("CPU", "BLAS")
    if all(name.startswith(known) for name in identity.devices):
        write_json(folder / f"{key}.json", asdict(identity))
