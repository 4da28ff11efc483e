"""A file of published claims: one figure or statement a line, in words of our own."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.results.baseline_store import shipped_folder
from pytest_quantgate.storage.parsing import first_problem, parse_json

Kind = Literal[
    "size",
    "perplexity",
    "speed",
    "speed_ratio",
    "speed_order",
    "experts",
    "active_experts",
    "domain_ppl",
    "imatrix_gain",
    "imatrix_domain",
    "element_types",
    "ppl_order",
    "practice",
    "option",
    "build",
]


class Claim(BaseModel):
    """One claim.

    ``low`` to ``high``, in ``unit``, is what was published, and ``tolerance`` how far a
    measurement may lie outside and still reproduce it: half of the last digit for sizes, a part
    of the figure for what was measured. ``model`` is a shape's name; ``device`` a word of the
    hardware's name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    kind: Kind
    says: str
    unit: str
    model: str | None = None
    format: str | None = None
    other_format: str | None = None
    device: str | None = None
    domain: str | None = None
    program: str | None = None
    option: str | None = None
    low: float | None = None
    high: float | None = None
    tolerance: float = 0.0

    def holds(self, measured: float) -> bool:
        """Return whether a measurement reproduces the figure."""
        if self.low is None or self.high is None:
            return False
        slack = self.tolerance + 1e-9
        return self.low - slack <= measured <= self.high + slack

    @property
    def figure(self) -> str:
        """What was published, as a person reads it; empty for a statement without a figure."""
        if self.low is None or self.high is None:
            return ""
        numbers = f"{self.low:g}" if self.low == self.high else f"{self.low:g} to {self.high:g}"
        return f"{numbers} {self.unit}"


class ClaimsFile(BaseModel):
    """A publication's claims."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1]
    title: str
    claims: tuple[Claim, ...]


def published_folder() -> Path:
    """Return the folder of the claims that ship with this package."""
    return shipped_folder() / "published"


def read_claims(name: str) -> ClaimsFile:
    """Read a file of claims: a path, or the name of one that ships.

    Raises:
        ConfigError: no such file, no JSON, or a field that is missing or wrong.

    """
    path = Path(name)
    if not path.is_file():
        shipped = published_folder() / f"{name}.json"
        if not shipped.is_file():
            valid = ", ".join(sorted(item.stem for item in published_folder().glob("*.json")))
            raise ConfigError(f"no claims {name!r}: no such file; that ship here: {valid}")
        path = shipped
    try:
        return ClaimsFile.model_validate(parse_json(path.read_bytes()))
    except (OSError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise ConfigError(f"the claims {path} are damaged: {first_problem(error)}") from error
        raise ConfigError(f"the claims {path} cannot be read: {error}") from error
