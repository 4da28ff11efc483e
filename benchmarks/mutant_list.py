"""The mutants of benchmarks/mutants.toml."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from mutant_build import Edit


class Expected(Enum):
    """What the gate should say of a mutant; the value is what the table says."""

    QUANTIZER = "quantizer"
    RUNTIME = "runtime"
    TOKENIZER = "tokenizer"
    CRASH = "crash"
    HARMLESS = "nothing: it is as right as the original"


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """A mutant: an edit, what it does, and the formats whose way it is on.

    ``resembles`` is a thread of llama.cpp with a regression of this kind; ``why_harmless`` the
    reason why a mutant that may change bits is no fault.
    """

    name: str
    what: str
    edit: Edit
    expected: Expected
    formats: tuple[str, ...]
    resembles: str = ""
    why_harmless: str = ""


def _read(row: dict[str, Any]) -> Mutant:
    edit = Edit(**{name: row.pop(name) for name in ("file", "after", "old", "new")})
    expected, formats = Expected[row.pop("expected").upper()], tuple(row.pop("formats"))
    return Mutant(edit=edit, expected=expected, formats=formats, **row)


_TABLE = Path(__file__).with_name("mutants.toml")
MUTANTS = tuple(map(_read, tomllib.loads(_TABLE.read_text(encoding="utf-8"))["mutant"]))
