"""Questions of an engine itself: what it is, and which devices it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pytest_quantgate.engines.messages.base import Message, Request

UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class Identity(Message):
    """An engine's own account of itself.

    ``quantizer_sha256`` is over the libraries that make files, ``library_sha256`` over all that
    compute; ``system_info`` is llama.cpp's line of instruction sets and build options;
    ``devices`` are the devices that its backends list. ``commit`` is llama.cpp's, and
    ``build_options`` are CMake's and the compiler; both as far as the build tells them.
    ``surroundings_sha256`` is over what else may choose kernels: variables of the environment that
    ggml, llama.cpp and their backends read, and the GPUs with their driver.
    """

    kind: str
    version: str
    llama_cpp_version: str
    python_version: str
    platform: str
    cpu_name: str
    system_info: str
    library_sha256: str
    quantizer_sha256: str
    devices: tuple[str, ...]
    commit: str = UNKNOWN
    build_options: str = UNKNOWN
    surroundings_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Identify(Request[Identity]):
    """Ask what the engine is."""

    reply: ClassVar[type[Message]] = Identity


@dataclass(frozen=True, kw_only=True)
class EngineDevice(Message):
    """A device; the description is empty and the memory 0 where the engine does not tell.

    ``splits_rows``: whether the build can split rows of a tensor over it (``split_mode = "row"``),
    None where the engine does not tell.
    """

    name: str
    description: str = ""
    free_bytes: int = 0
    total_bytes: int = 0
    splits_rows: bool | None = None


@dataclass(frozen=True, kw_only=True)
class DevicesListed(Message):
    """The devices of the engine's backends."""

    devices: tuple[EngineDevice, ...]


@dataclass(frozen=True, kw_only=True)
class ListDevices(Request[DevicesListed]):
    """Ask which devices the engine's backends list."""

    reply: ClassVar[type[Message]] = DevicesListed
