"""An engine's account of itself, as a run record has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pydantic import TypeAdapter

from pytest_quantgate.engines.messages import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class KnownFormats:
    """The formats that an engine writes and the tensor types it knows, and why not others."""

    writes: tuple[str, ...] = ()
    tensor_types: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class EngineFacts:
    """What reports say of an engine in sentences; its other fields stand in tables as they are.

    An engine that could not be asked has no ``version``.
    """

    kind: str = ""
    version: str = ""
    llama_cpp_version: str = ""
    commit: str = ""
    cpu_name: str = UNKNOWN
    formats: KnownFormats | None = None

    @classmethod
    def read(cls, plain: Mapping[str, Any] | None) -> EngineFacts:
        """Read a record's account; what it lacks is unknown.

        Raises:
            ValidationError: a field of another type.

        """
        return TypeAdapter(cls).validate_python(plain or {})

    @property
    def name(self) -> str:
        """The kind and the version."""
        return f"{self.kind} {self.version}".strip() if self.version else "unknown engine"
