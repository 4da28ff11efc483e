"""Whether what the profile names is there: devices, models, texts, importance matrices, a token."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_quantgate.artifacts.file_hashes import FileHashes
from pytest_quantgate.artifacts.hub import ask_for, has_token, parse_hub_source
from pytest_quantgate.artifacts.imatrix import read_header
from pytest_quantgate.artifacts.models import Model, find_model, find_source
from pytest_quantgate.artifacts.texts import check_held_out, domain_of, load_text
from pytest_quantgate.cli.doctor.deadline import within
from pytest_quantgate.cli.doctor.engines import Answer
from pytest_quantgate.cli.doctor.findings import Finding, Section, error, warning
from pytest_quantgate.config.settings import NO_IMATRIX, Settings
from pytest_quantgate.errors import CellError, CellTimeout, ConfigError
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.storage.cache import Cache

NAME = "Devices, models and texts of the profile"

HUB_S = 8.0
"""How long the hub may take for all models."""

HASH_S = 8.0
"""For how long files are hashed; no further one is begun then."""

_HASHED_BYTES = 1 << 29  # larger files are not: half a gigabyte is a second or two


_BUILD_OPTIONS = {
    "CUDA": "GGML_CUDA",
    "ROCm": "GGML_HIP",
    "Vulkan": "GGML_VULKAN",
    "SYCL": "GGML_SYCL",
    "Metal": "GGML_METAL",
    "MTL": "GGML_METAL",
}
"""What llama.cpp is built with for the devices of a name."""


class Models:
    """The models that are here, each looked for once; no hub is asked.

    Args:
        cache: may remember the hash of a file.

    """

    def __init__(self, cache: Cache) -> None:
        self._hashes = FileHashes(cache.hashes)
        self._found: dict[str, Model | str] = {}
        self._hashing_s = 0.0

    def find(self, settings: Settings, name: str) -> Model | str:
        """Return a model, or in one line why it is not here."""
        if name not in self._found:
            try:
                self._found[name] = find_model(name, settings, is_offline=True)
            except (ConfigError, CellError, OSError) as problem:
                self._found[name] = str(problem)
        return self._found[name]

    def hash_like(self, file: GgufFile, stored: str) -> str | None:
        """Return a model's hash in a stored one's form where it is known or quickly found."""
        is_slow = file.n_bytes > _HASHED_BYTES or self._hashing_s > HASH_S
        if is_slow and not self._hashes.is_known(file, stored):
            return None
        began_s = time.monotonic()
        digest = self._hashes.like(file, stored)
        self._hashing_s += time.monotonic() - began_s
        return digest

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
    answer = answers.get(settings.profile.engine)
    _devices(settings, answer, told)
    until_s = time.monotonic() + HUB_S if is_online else None
    for name in settings.profile.models:
        found = models.find(settings, name)
        _model(settings, name, found, told, until_s)
        if isinstance(found, Model):
            _pins(models, found, told)
    _memory(settings, models, answer, told)
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
                    _device_command(settings, missing[0], there),
                )
            )
        told.lines.append(f"device {name} ({', '.join(wanted)}): {state}")
        told.facts[f"device {name}"] = not missing and there is not None


def _device_command(settings: Settings, wanted: str, there: Sequence[str]) -> str:
    """Return what builds the engine for a device's backend, if it has none of that backend."""
    engine = settings.engines[settings.profile.engine]
    backend = wanted.rstrip("0123456789")
    has_backend = any(name.startswith(backend) for name in there)
    option = _BUILD_OPTIONS.get(backend)
    if option is None or has_backend:
        return f"quantgate devices --engine {settings.profile.engine}"
    options = f"-D{option}=ON -DGGML_NATIVE=OFF"
    if engine.tools is not None:
        return f"cmake -B build {options} && cmake --build build --config Release -j"
    python = shlex.quote(engine.python or sys.executable)
    return (
        f'CMAKE_ARGS="{options}" {python} -m pip install --force-reinstall --no-cache-dir --no-deps'
        " --no-binary llama-cpp-python llama-cpp-python"
    )


def _model(
    settings: Settings, name: str, found: Model | str, told: _Told, until_s: float | None
) -> None:
    """Tell of a model; the hub is asked until a time, None not at all."""
    told.facts[f"model {name}"] = isinstance(found, Model)
    if isinstance(found, Model):
        told.lines.append(f"model {name}: {_kind(found)}")
        return
    told.lines.append(f"model {name}: UNAVAILABLE")
    hub = _hub_sources(settings, name)
    if not hub or until_s is None:
        told.findings += [error(problem) for problem in _problems(settings, name, found)]
        return
    try:
        left_s = max(0.1, until_s - time.monotonic())
        n_bytes = within(left_s, lambda: sum(_ask(settings, name, item) for item in hub))
    except CellError as problem:
        what = str(problem)
        if isinstance(problem, CellTimeout):
            what = f"model {name!r}: the hub gives {problem}"
        told.findings.append(error(what))
        return
    told.lines[-1] += f"; {n_bytes / 1e9:,.2f} GB are on the hub, a run downloads them"


def _kind(model: Model) -> str:
    if model.shape is not None:
        return "a shape: sizes and speed, no quality"
    files = [model.source] if model.source is not None else list(model.files.values())
    types = [model.source.main_type()] if model.source is not None else list(model.files)
    kind = f"{', '.join(types)}, {sum(file.n_bytes for file in files) / 1e6:,.0f} MB"
    kind += "; quantized before: a fault detector" if model.is_requantized else ""
    return kind + ("; a miniature: a fault detector" if model.is_miniature else "")


def _problems(settings: Settings, name: str, first: str) -> list[str]:
    """Return what is wrong with a model, of existing files with each of them."""
    found = []
    for source in (settings.models[name].files or {}).values():
        try:
            read_gguf(find_source(source, settings.root, name, is_offline=True))
        except (ConfigError, CellError, OSError) as problem:
            found.append(str(problem))
    where = f"model {name!r}"
    return [
        problem if problem.startswith(where) else f"{where}: {problem}"
        for problem in found or [first]
    ]


def _memory(settings: Settings, models: Models, answer: Answer | None, told: _Told) -> None:
    """Hold the largest file of each model against each device's memory."""
    profile = settings.profile
    there = {device.name: device for device in answer.devices} if answer is not None else {}
    for name in profile.models:
        model = models.find(settings, name)
        is_file = isinstance(model, Model) and (
            model.shape is None or profile.speed or profile.memory
        )
        if not isinstance(model, Model) or not is_file:
            continue
        files = [model.source] if model.source is not None else list(model.files.values())
        largest = max(file.n_bytes for file in files)
        for device in profile.devices:
            parts = [
                there[item].total_bytes for item in settings.devices[device].names if item in there
            ]
            if 0 < sum(parts) < largest and settings.devices[device].n_gpu_layers is None:
                told.findings.append(
                    warning(
                        f"model {name!r} takes {largest / 1e9:,.1f} GB and device {device!r} has"
                        f" {sum(parts) / 1e9:,.1f} GB: its largest format will hardly run there;"
                        " leave it out of formats, or set n_gpu_layers for the device"
                    )
                )


def _hub_sources(settings: Settings, name: str) -> list[str]:
    model = settings.models[name]
    sources = [model.source or "", *(model.files or {}).values()]
    return [source.removeprefix("hf:") for source in sources if source.startswith("hf:")]


def _ask(settings: Settings, name: str, source: str) -> int:
    return ask_for(parse_hub_source(source, name), settings.root, name)


def _pins(models: Models, model: Model, told: _Told) -> None:
    """Hold files that are hashed or quickly hashed against what the configuration wants."""
    for key, pinned in model.pinned_sha256.items():
        file = model.files[key] if key else model.source
        assert file is not None
        digest = models.hash_like(file, pinned.lower())
        if digest is None:
            told.lines.append(f"  its SHA-256 is checked by a run ({file.n_bytes / 1e9:,.1f} GB)")
        elif digest != pinned.lower():
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
