"""One table of the ``--quant-*`` options: the command line, the overrides and the docs follow it.

Nothing heavy is imported here: pytest's plugin loads this module in every run.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any


class Takes(Enum):
    """What an option takes."""

    NOTHING = "nothing"
    ONE = "one value"
    LIST = "a comma-separated list, which a repeated option continues"
    EACH = "one value each time"


@dataclass(frozen=True, kw_only=True)
class Option:
    """One option, ``--quant-`` and its ``name``.

    ``field`` is its attribute in :class:`Overrides` where it stands ``instead_of`` a setting, and
    its destination in pytest's options. With ``of_matrix`` the setting is the profile's and says
    which cells there are.
    """

    name: str
    field: str
    help: str
    takes: Takes = Takes.NOTHING
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    instead_of: str | None = None
    of_matrix: bool = False
    is_number: bool = False

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return f"--quant-{self.name}"

    @property
    def dest(self) -> str:
        """Its destination in pytest's options."""
        return f"quant_{self.field}"

    def parser_arguments(self) -> dict[str, Any]:
        """Return what argparse is given; a list is comma-separated, so that it eats no path."""
        arguments: dict[str, Any] = {"dest": self.dest, "help": self.help}
        if self.takes is Takes.NOTHING:
            return arguments | {"action": "store_true"}
        if self.choices is not None:
            return arguments | {"choices": self.choices, "default": self.choices[0]}
        if self.takes in (Takes.LIST, Takes.EACH):
            arguments["action"] = "append"
        if self.is_number:
            arguments["type"] = int
        return arguments | {"metavar": self.metavar}

    def read(self, given: Any) -> Any:
        """Return what argparse gave as the value of an override."""
        if self.takes is Takes.LIST and given is not None:
            items = (item.strip() for text in given for item in text.split(","))
            return tuple(dict.fromkeys(item for item in items if item))
        return tuple(given) if self.takes is Takes.EACH and given is not None else given


OPTIONS = (
    Option(
        name="matrix",
        field="matrix",
        help="add the built-in suite for the active profile; without paths, run only it",
    ),
    Option(
        name="plan",
        field="plan",
        help="print the cells, disk, memory and minutes that a run would take; run nothing",
    ),
    Option(
        name="calibrate",
        field="calibrate",
        help="instead of the gate, measure how far settings that should not matter (threads,"
        " batch sizes, repacked weights) move each cell, sweep it too, and warn about limits below"
        " what either moves",
    ),
    Option(
        name="sweep",
        field="sweep",
        help="instead of the gate, compare each cell under many conditions (batch sizes, flash"
        " attention, types of keys and values, lengths, devices) with a reference condition, and"
        " name the smallest that fails",
    ),
    Option(
        name="fresh",
        field="fresh",
        help="measure everything anew, instead of reading from the cache what an earlier run"
        " measured with the same files, engine, hardware and settings; speed is always measured",
    ),
    Option(
        name="durations",
        field="durations",
        takes=Takes.ONE,
        metavar="N",
        is_number=True,
        help="print the N slowest cells and where their time went, by stage; 0 is all cells",
    ),
    Option(
        name="codecs",
        field="codecs",
        help="add the property tests of the engine's codecs; without paths, run only them",
    ),
    Option(
        name="codec-profile",
        field="codec_profile",
        takes=Takes.ONE,
        choices=("quick", "deep"),
        help="how many examples each property of a codec is tested with",
    ),
    Option(
        name="profile",
        field="profile",
        takes=Takes.ONE,
        metavar="NAME",
        instead_of="profile",
        help="the profile to run",
    ),
    Option(
        name="model",
        field="models",
        takes=Takes.LIST,
        metavar="LIST",
        instead_of="models",
        of_matrix=True,
        help="models instead of the profile's: names, paths of GGUF files, package:NAME/FILE,"
        " embedded:NAME, hf:ORG/REPO/FILE, shape:NAME",
    ),
    Option(
        name="formats",
        field="formats",
        takes=Takes.LIST,
        metavar="LIST",
        instead_of="formats",
        of_matrix=True,
        help="formats and recipes instead of the profile's, such as Q8_0,Q4_K_M",
    ),
    Option(
        name="parts",
        field="parts",
        takes=Takes.LIST,
        metavar="LIST",
        instead_of="parts",
        of_matrix=True,
        help="formats to measure by tensor group too: the experts alone, attention alone, …",
    ),
    Option(
        name="devices",
        field="devices",
        takes=Takes.LIST,
        metavar="LIST",
        instead_of="devices",
        of_matrix=True,
        help="devices instead of the profile's, such as cpu,gpu",
    ),
    Option(
        name="text",
        field="texts",
        takes=Takes.LIST,
        metavar="LIST",
        instead_of="texts",
        of_matrix=True,
        help="texts instead of the profile's: names, or paths of .txt, .raw or .md files",
    ),
    Option(
        name="imatrix",
        field="imatrices",
        takes=Takes.LIST,
        metavar="LIST",
        instead_of="imatrices",
        of_matrix=True,
        help="importance matrices instead of the profile's: none, names, or .gguf files",
    ),
    Option(
        name="engine",
        field="engine",
        takes=Takes.ONE,
        metavar="ENGINE",
        instead_of="engine",
        of_matrix=True,
        help="the engine to measure: a name, python=INTERPRETER or tools=FOLDER",
    ),
    Option(
        name="against",
        field="against",
        takes=Takes.ONE,
        metavar="ENGINE",
        instead_of="against",
        of_matrix=True,
        help="the old engine: measure both in this run and compare the new one with it, instead of"
        " with stored baselines",
    ),
    Option(
        name="report",
        field="reports",
        takes=Takes.EACH,
        metavar="PATH",
        instead_of="report",
        help="write the run record (.json) or a report of it (.md, .html); may be repeated",
    ),
    Option(
        name="shard",
        field="shard",
        takes=Takes.ONE,
        metavar="K/N",
        help="measure one shard of the matrix, such as 2/4, or auto to take it from the array or"
        " parallel job of this run; quantgate merge joins the records",
    ),
    Option(
        name="cache",
        field="cache_dir",
        takes=Takes.ONE,
        metavar="DIR",
        instead_of="cache_dir",
        help="the folder of the cache",
    ),
    Option(
        name="reason",
        field="reason",
        takes=Takes.ONE,
        metavar="TEXT",
        help="why new baselines are accepted; required with --snapshot-update, and stored",
    ),
)


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """What the command line says instead of the configuration; None says nothing."""

    profile: str | None = None
    models: tuple[str, ...] | None = None
    formats: tuple[str, ...] | None = None
    parts: tuple[str, ...] | None = None
    devices: tuple[str, ...] | None = None
    texts: tuple[str, ...] | None = None
    imatrices: tuple[str, ...] | None = None
    engine: str | None = None
    against: str | None = None
    shard: str | None = None
    reports: tuple[str, ...] | None = None
    cache_dir: str | None = None
    fresh: bool = False
    sweep: bool = False

    @classmethod
    def read(cls, given: Callable[[str], Any]) -> Overrides:
        """Return the overrides, ``given`` being what argparse has for an option's destination."""
        names = {field.name for field in fields(cls)}
        return cls(**{o.field: o.read(given(o.dest)) for o in OPTIONS if o.field in names})

    @property
    def of_matrix(self) -> dict[str, Any]:
        """What is said of the profile's own settings, by the setting's name."""
        values = {
            option.field: getattr(self, option.field) for option in OPTIONS if option.of_matrix
        }
        return {field: value for field, value in values.items() if value is not None}

    @property
    def changes_cells(self) -> bool:
        """Whether other cells than the profile's own are asked for, whatever the engine."""
        return bool(self.of_matrix.keys() - {"engine", "against"})

    @property
    def command(self) -> str:
        """The command that runs the matrix over the same cells, those of all shards."""
        words = ["pytest", "--quant-matrix"]
        for option in OPTIONS:
            value = getattr(self, option.field, None)
            if value is not None and (option.of_matrix or option.field == "profile"):
                words += [option.flag, value if isinstance(value, str) else ",".join(value)]
        return shlex.join(words)
