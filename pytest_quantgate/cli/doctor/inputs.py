"""Whether what the profile names is there: devices, models, texts, importance matrices, a token."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Sequence

from pytest_quantgate.artifacts.hub import ask_for, has_token, parse_hub_source
from pytest_quantgate.artifacts.imatrix import read_header
from pytest_quantgate.artifacts.models import Model, find_source
from pytest_quantgate.artifacts.texts import check_held_out, domain_of, load_text
from pytest_quantgate.cli.doctor.deadline import within
from pytest_quantgate.cli.doctor.engines import ROWS_BUILDS
from pytest_quantgate.cli.doctor.findings import Section
from pytest_quantgate.cli.doctor.project import Answer, Models, Project
from pytest_quantgate.config.schema import ImatrixSettings
from pytest_quantgate.config.settings import NO_IMATRIX, Settings
from pytest_quantgate.errors import CellError, CellTimeout, ConfigError
from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.storage.environment import path_below

HUB_S = 8.0
"""How long the hub may take for all models."""

_BUILD_OPTIONS = {
    "CUDA": "GGML_CUDA",
    "ROCm": "GGML_HIP",
    "Vulkan": "GGML_VULKAN",
    "SYCL": "GGML_SYCL",
    "Metal": "GGML_METAL",
    "MTL": "GGML_METAL",
}
"""What llama.cpp is built with for the devices of a name."""


def examine_inputs(section: Section, project: Project) -> None:
    """Look for everything that the profile names; the hub is asked only where one may be."""
    settings, models = project.settings, project.models
    answer = project.answers.get(settings.profile.engine)
    _devices(section, settings, answer)
    until_s = time.monotonic() + HUB_S if project.is_online else None
    for name in settings.profile.models:
        model = models.find(settings, name)
        _model(section, settings, name, model, until_s)
        if isinstance(model, Model):
            _pins(section, models, model)
    _memory(section, settings, models, answer)
    _texts(section, settings)
    _imatrices(section, settings)
    _token(section, settings)


def _devices(section: Section, settings: Settings, answer: Answer | None) -> None:
    engine = settings.profile.engine
    devices = {device.name: device for device in answer.devices} if answer is not None else {}
    for name in settings.profile.devices:
        device = settings.devices[name]
        missing = [item for item in device.names if item not in devices]
        is_there, state = False, "there"
        if answer is None:
            state = "the engine does not answer"
        elif missing:
            state = f"UNAVAILABLE: the engine has no {missing[0]}"
            section.error(
                f"device {name!r}: engine {engine!r} has no {missing[0]!r}; there are:"
                f" {', '.join(devices)}",
                _device_command(settings, missing[0], list(devices)),
            )
        elif device.split_mode == "row":
            whole = [item for item in device.names if devices[item].splits_rows is False]
            is_there = not whole
            if whole:
                state = 'UNSUPPORTED: this build has no split_mode "row"'
                section.error(
                    f"device {name!r}: engine {engine!r} cannot split rows over {whole[0]}"
                    f' (split_mode = "row"): {ROWS_BUILDS}; set split_mode = "layer" under'
                    f" [tool.quantgate.devices.{name}]"
                )
            elif any(devices[item].splits_rows is None for item in device.names):
                state += '; whether it has split_mode "row", a run shows'
        else:
            is_there = True
        section.say(f"device {name} ({', '.join(device.names)}): {state}")
        section.facts[f"device {name}"] = is_there


def _device_command(settings: Settings, missing: str, there: Sequence[str]) -> str:
    """Return what builds the engine for a device's backend, if it has none of that backend."""
    engine = settings.engines[settings.profile.engine]
    backend = missing.rstrip("0123456789")
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
    section: Section, settings: Settings, name: str, model: Model | Exception, until_s: float | None
) -> None:
    """Report a model; the hub is asked until a time, None not at all."""
    section.facts[f"model {name}"] = isinstance(model, Model)
    if isinstance(model, Model):
        section.say(f"model {name}: {_kind(model)}")
        return
    section.say(f"model {name}: UNAVAILABLE")
    hub = _hub_sources(settings, name)
    if not hub or until_s is None:
        for problem in _problems(settings, name, model):
            section.error(problem)
        return
    try:
        left_s = max(0.1, until_s - time.monotonic())
        n_bytes = within(left_s, lambda: sum(_ask(settings, name, item) for item in hub))
    except CellTimeout as problem:
        section.error(f"model {name!r}: the hub gives {problem}")
    except CellError as problem:
        section.error(problem)
    else:
        section.lines[-1] += f"; {n_bytes / 1e9:,.2f} GB are on the hub, a run downloads them"


def _kind(model: Model) -> str:
    if model.shape is not None:
        return "a shape: sizes and speed, no quality"
    files = [model.source] if model.source is not None else list(model.files.values())
    types = [model.source.main_type()] if model.source is not None else list(model.files)
    kind = f"{', '.join(types)}, {sum(file.n_bytes for file in files) / 1e6:,.0f} MB"
    kind += "; quantized before: a fault detector" if model.is_requantized else ""
    return kind + ("; a miniature: a fault detector" if model.is_miniature else "")


def _problems(settings: Settings, name: str, first: Exception) -> list[Exception]:
    """Return what is wrong with a model, of existing files with each of them."""
    problems: list[Exception] = []
    for source in (settings.models[name].files or {}).values():
        try:
            path = find_source(source, settings.root, name, is_offline=True)
        except (ConfigError, CellError, OSError) as problem:
            problems.append(problem)
            continue
        try:
            read_gguf(path)
        except (ConfigError, OSError) as problem:
            problems.append(ConfigError(f"model {name!r}: {problem}"))
    return problems or [first]


def _memory(section: Section, settings: Settings, models: Models, answer: Answer | None) -> None:
    """Compare the largest file of each model with each device's memory."""
    profile = settings.profile
    memory = {device.name: device.total_bytes for device in answer.devices} if answer else {}
    for name in profile.models:
        model = models.find(settings, name)
        if not isinstance(model, Model):
            continue
        if model.shape is not None and not (profile.speed or profile.memory):
            continue
        files = [model.source] if model.source is not None else list(model.files.values())
        largest = max(file.n_bytes for file in files)
        for device in profile.devices:
            total = sum(memory.get(item, 0) for item in settings.devices[device].names)
            if 0 < total < largest and settings.devices[device].n_gpu_layers is None:
                section.warn(
                    f"model {name!r} takes {largest / 1e9:,.1f} GB and device {device!r} has"
                    f" {total / 1e9:,.1f} GB: its largest format will hardly run there; leave it"
                    " out of formats, or set n_gpu_layers for the device"
                )


def _hub_sources(settings: Settings, name: str) -> list[str]:
    model = settings.models[name]
    sources = [model.source or "", *(model.files or {}).values()]
    return [source.removeprefix("hf:") for source in sources if source.startswith("hf:")]


def _ask(settings: Settings, name: str, source: str) -> int:
    return ask_for(parse_hub_source(source, name), settings.root, name)


def _pins(section: Section, models: Models, model: Model) -> None:
    """Compare files that are hashed, or quickly hashed, with the hash that the project pins."""
    for key, pinned in model.pinned_sha256.items():
        file = model.files[key] if key else model.source
        assert file is not None
        digest = models.hash_like(file, pinned.lower())
        if digest is None:
            section.say(f"  its SHA-256 is checked by a run ({file.n_bytes / 1e9:,.1f} GB)")
        elif digest != pinned.lower():
            section.error(
                f"model {model.name!r}: {file.files[0]} has the SHA-256 {digest}, not the pinned"
                f" {pinned}; get the right file or change its sha256 under"
                f" [tool.quantgate.models.{model.name}]"
            )


def _texts(section: Section, settings: Settings) -> None:
    n_ctx = max(settings.profile.n_ctx)
    for name in settings.profile.texts:
        section.facts[f"text {name}"] = False
        try:
            text = load_text(name, settings.texts, settings.root)
        except (ConfigError, OSError) as problem:
            section.say(f"text {name}: UNAVAILABLE")
            section.error(problem)
            continue
        what = f"{len(text.data):,} bytes"
        what += f", {len(text.documents)} documents" if text.documents else ""
        what += f", {len(text.domains)} domains" if text.domains else ""
        section.say(f"text {name}: {what}")
        section.facts[f"text {name}"] = True
        # A token has at least a byte: this is certain, though not all that can be too short.
        if len(text.data) < 2 * n_ctx:
            section.error(
                f"text {name!r} has {len(text.data):,} bytes, fewer than two chunks of {n_ctx}"
                " tokens; take a longer one or set a smaller n_ctx"
            )


def _imatrices(section: Section, settings: Settings) -> None:
    for name in settings.profile.imatrices:
        if name == NO_IMATRIX:
            continue
        section.facts[f"importance matrix {name}"] = False
        try:
            what = _imatrix(settings, name, settings.imatrices[name])
        except (ConfigError, OSError) as problem:
            section.say(f"importance matrix {name}: UNAVAILABLE")
            section.error(problem)
            continue
        section.say(f"importance matrix {name}: {what}")
        section.facts[f"importance matrix {name}"] = True


def _imatrix(settings: Settings, name: str, imatrix: ImatrixSettings) -> str:
    """Return what a matrix is; raises ``ConfigError`` where it cannot be used."""
    if imatrix.file is not None:
        header = read_header(name, path_below(settings.root, imatrix.file))
        return f"a file, {header.n_bytes / 1e6:,.1f} MB"
    what = f"collected from the text {imatrix.text}"
    text = load_text(str(imatrix.text), settings.texts, settings.root)
    if imatrix.domain is not None:
        text = domain_of(text, imatrix.domain, f"[tool.quantgate.imatrices.{name}]")
        what += f", domain {imatrix.domain}"
    for scored in settings.profile.texts:
        check_held_out(name, text, load_text(scored, settings.texts, settings.root))
    return what


def _token(section: Section, settings: Settings) -> None:
    """Report whether there is a token, and nothing of it; a public model needs none."""
    if not any(_hub_sources(settings, name) for name in settings.profile.models):
        return
    has = has_token()
    section.facts["token"] = has
    state = {True: "there", False: "none", None: "the hub's library is not installed"}[has]
    section.say(f"token of the hub: {state}")
    if has is False:
        section.warn(
            "models come from a hub and there is no token: those of a gated or private repository"
            " will be UNAVAILABLE",
            "hf auth login",
        )
    if os.environ.get("HF_HUB_OFFLINE"):
        section.say("HF_HUB_OFFLINE is set: a run downloads nothing")
