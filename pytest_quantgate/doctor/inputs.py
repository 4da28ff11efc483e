"""Whether what the profile names is there: devices, models, texts, importance matrices, a token."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_quantgate.artifacts.cache import file_sha256
from pytest_quantgate.artifacts.imatrix import read_header
from pytest_quantgate.config import NO_IMATRIX, Settings
from pytest_quantgate.doctor.deadline import within
from pytest_quantgate.doctor.engines import Answer
from pytest_quantgate.doctor.findings import Finding, Section, error, warning
from pytest_quantgate.errors import CellError, ConfigError
from pytest_quantgate.models.gguf_file import GgufFile
from pytest_quantgate.models.hub import ask_for, has_token, parse_hub_source
from pytest_quantgate.models.source import Model, find_model
from pytest_quantgate.texts import check_held_out, domain_of, load_text

NAME = "Devices, models and texts of the profile"

HUB_S = 10.0
"""How long the hub may take for one model."""

HASHED_BYTES = 1 << 29
"""Files above this are not hashed here: half a gigabyte is a second or two."""


class Models:
    """The models that are here, each looked for once; no hub is asked."""

    def __init__(self) -> None:
        self._found: dict[str, Model | str] = {}

    def find(self, settings: Settings, name: str) -> Model | str:
        """Return a model, or in one line why it is not here."""
        if name not in self._found:
            try:
                self._found[name] = find_model(name, settings, is_offline=True)
            except (ConfigError, CellError) as problem:
                self._found[name] = str(problem)
        return self._found[name]

    def sources(self, settings: Settings) -> dict[str, GgufFile]:
        """Return the sources of the profile's models that are here and have one."""
        found = {name: self.find(settings, name) for name in settings.profile.models}
        return {
            name: model.source
            for name, model in found.items()
            if isinstance(model, Model) and model.source is not None
        }


@dataclass
class _Told:
    lines: list[str]
    findings: list[Finding]
    facts: dict[str, Any]


def examine_inputs(
    settings: Settings, models: Models, answers: Mapping[str, Answer], *, is_online: bool
) -> Section:
    """Look for everything that the profile names.

    Args:
        settings: checked settings.
        models: finds models.
        answers: what the engines told.
        is_online: whether the hub may be asked for models that are not here.

    """
    told = _Told(lines=[], findings=[], facts={})
    _devices(settings, answers.get(settings.profile.engine), told)
    for name in settings.profile.models:
        _model(settings, name, models.find(settings, name), told, is_online=is_online)
    _texts(settings, told)
    _imatrices(settings, told)
    _token(settings, told)
    return Section(
        name=NAME, lines=tuple(told.lines), findings=tuple(told.findings), facts=told.facts
    )


def _devices(settings: Settings, answer: Answer | None, told: _Told) -> None:
    there = None if answer is None else [device.name for device in answer.devices]
    for name in settings.profile.devices:
        wanted = settings.devices[name].names
        missing = [] if there is None else [item for item in wanted if item not in there]
        state = "the engine does not tell" if there is None else "there"
        if missing and there is not None:
            state = f"UNAVAILABLE: the engine has no {missing[0]}"
            told.findings.append(
                error(
                    f"device {name!r}: engine {settings.profile.engine!r} has no {missing[0]!r};"
                    f" there are: {', '.join(there)}",
                    f"quantgate devices --engine {settings.profile.engine}",
                )
            )
        told.lines.append(f"device {name} ({', '.join(wanted)}): {state}")
        told.facts[f"device {name}"] = not missing and there is not None


def _model(
    settings: Settings, name: str, found: Model | str, told: _Told, *, is_online: bool
) -> None:
    told.facts[f"model {name}"] = isinstance(found, Model)
    if isinstance(found, str):
        first = found.partition("\n")[0]
        told.lines.append(f"model {name}: UNAVAILABLE")
        hub = _hub_sources(settings, name)
        if hub and is_online:
            try:
                n_bytes = within(HUB_S, lambda: sum(_ask(settings, name, item) for item in hub))
            except CellError as problem:
                told.findings.append(error(str(problem)))
                return
            told.lines[-1] += f"; {n_bytes / 1e9:,.2f} GB are on the hub, a run downloads them"
            return
        told.findings.append(error(first))
        return
    if found.shape is not None:
        kind = "a shape: sizes and speed, no quality"
    else:
        files = [found.source] if found.source is not None else list(found.files.values())
        n_bytes = sum(file.n_bytes for file in files)
        types = [found.source.main_type()] if found.source is not None else list(found.files)
        kind = f"{', '.join(types)}, {n_bytes / 1e6:,.0f} MB"
        kind += "; quantized before: a fault detector" if found.is_requantized else ""
        kind += "; a miniature: a fault detector" if found.is_miniature else ""
    told.lines.append(f"model {name}: {kind}")
    _pins(found, told)


def _hub_sources(settings: Settings, name: str) -> list[str]:
    model = settings.models[name]
    sources = [model.source or "", *(model.files or {}).values()]
    return [source.removeprefix("hf:") for source in sources if source.startswith("hf:")]


def _ask(settings: Settings, name: str, source: str) -> int:
    return ask_for(parse_hub_source(source, name), settings.root, name)


def _pins(model: Model, told: _Told) -> None:
    """Hold files that are not too large against the SHA-256 that the configuration wants."""
    for key, pinned in model.pinned_sha256.items():
        file = model.files[key] if key else model.source
        assert file is not None
        if len(file.files) > 1 or file.n_bytes > HASHED_BYTES:
            told.lines.append(f"  its SHA-256 is checked by a run ({file.n_bytes / 1e9:,.1f} GB)")
            continue
        digest = file_sha256(file.files[0])
        if digest != pinned.lower():
            told.findings.append(
                error(
                    f"model {model.name!r}: {file.files[0]} has the SHA-256 {digest}, not the"
                    f" pinned {pinned}; get the right file or change its sha256 under"
                    f" [tool.quantgate.models.{model.name}]"
                )
            )


def _texts(settings: Settings, told: _Told) -> None:
    n_ctx = settings.profile.n_ctx
    for name in settings.profile.texts:
        try:
            text = load_text(name, settings.texts, settings.root)
        except ConfigError as problem:
            told.lines.append(f"text {name}: UNAVAILABLE")
            told.findings.append(error(str(problem)))
            told.facts[f"text {name}"] = False
            continue
        what = f"{len(text.data):,} bytes"
        what += f", {len(text.documents)} documents" if text.documents else ""
        what += f", {len(text.domains)} domains" if text.domains else ""
        told.lines.append(f"text {name}: {what}")
        told.facts[f"text {name}"] = True
        # A token has at least a byte, so this is certain and not all.
        if len(text.data) < 2 * n_ctx:
            told.findings.append(
                error(
                    f"text {name!r} has {len(text.data):,} bytes, fewer than two chunks of"
                    f" {n_ctx} tokens; take a longer one or set a smaller n_ctx"
                )
            )


def _imatrices(settings: Settings, told: _Told) -> None:
    for name in settings.profile.imatrices:
        if name == NO_IMATRIX:
            continue
        wanted = settings.imatrices[name]
        try:
            if wanted.file is not None:
                header = read_header(name, settings.root / Path(wanted.file).expanduser())
                what = f"a file, {header.n_bytes / 1e6:,.1f} MB"
            else:
                what = f"collected from the text {wanted.text}"
                text = load_text(str(wanted.text), settings.texts, settings.root)
                if wanted.domain is not None:
                    where = f"[tool.quantgate.imatrices.{name}]"
                    text = domain_of(text, wanted.domain, where)
                    what += f", domain {wanted.domain}"
                for scored in settings.profile.texts:
                    check_held_out(name, text, load_text(scored, settings.texts, settings.root))
        except ConfigError as problem:
            told.lines.append(f"importance matrix {name}: UNAVAILABLE")
            told.findings.append(error(str(problem)))
            told.facts[f"importance matrix {name}"] = False
            continue
        told.lines.append(f"importance matrix {name}: {what}")
        told.facts[f"importance matrix {name}"] = True


def _token(settings: Settings, told: _Told) -> None:
    """Tell whether there is a token, and nothing of it; a public model needs none."""
    if not any(_hub_sources(settings, name) for name in settings.profile.models):
        return
    has = has_token()
    told.facts["token"] = has
    state = {True: "there", False: "none", None: "the hub's library is not installed"}[has]
    told.lines.append(f"token of the hub: {state}")
    if has is False:
        told.findings.append(
            warning(
                "models come from a hub and there is no token: those of a gated or private"
                " repository will be UNAVAILABLE",
                "hf auth login",
            )
        )
    if os.environ.get("HF_HUB_OFFLINE"):
        told.lines.append("HF_HUB_OFFLINE is set: a run downloads nothing")
