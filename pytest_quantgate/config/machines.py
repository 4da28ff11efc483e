"""Where an engine computes: devices, other machines, and builds of llama.cpp."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pytest_quantgate.config.values import (
    Positive,
    Table,
    parse_processors,
)
from pytest_quantgate.gguf.formats import CACHE_TYPES


def check_cache_type(key: str, value: str) -> None:
    """Refuse a tensor type that keys and values cannot have.

    Raises:
        ValueError: the type, and those that are valid.

    """
    if value not in CACHE_TYPES:
        raise ValueError(
            f"{key} = {value!r} is no type of llama.cpp's keys and values; valid:"
            f" {', '.join(CACHE_TYPES)}"
        )


class DeviceSettings(Table):
    """Where an engine computes, and how; two devices may differ in settings of a profile."""

    backend: str = "cpu"
    """`cpu`, or a device as llama.cpp lists it, such as `CUDA0`; several, `CUDA0,CUDA1`, over
    which a model's layers are split; or a pool of equal devices that share the cells, `CUDA*`."""
    n_gpu_layers: Annotated[int, Field(ge=0, strict=True)] | None = None
    """Layers on the devices, the rest on the processor; otherwise all."""
    split_mode: Literal["layer", "row"] = "layer"
    """How several devices share a model: by whole layers, or by rows, which few builds support
    (SYCL; CUDA and ROCm before llama.cpp b9890). `quantgate doctor` lists the devices that do."""
    tensor_split: tuple[Positive, ...] = ()
    """Each device's share, such as `[3, 1]`; otherwise by free memory."""
    repack: bool = True
    """Whether weights may be repacked for the CPU."""
    flash_attention: bool | None = None
    """Overrides the profile's setting on this device."""
    type_k: str | None = None
    """Overrides the profile's setting on this device."""
    type_v: str | None = None
    """Overrides the profile's setting on this device."""
    cpus: str | None = None
    """The processors that the engine is kept to, such as `0-7,16-23` (Linux), otherwise all; two
    devices `cpu` that have none in common compute at the same time."""

    host: str | tuple[str, ...] | None = None
    """The machine that it is in, of `[tool.quantgate.hosts]`, or a list of equal machines that
    share the cells; otherwise this one."""

    @property
    def hosts(self) -> tuple[str | None, ...]:
        """The labels of the machines, None for this one."""
        return self.host if isinstance(self.host, tuple) else (self.host,)

    @property
    def is_pool(self) -> bool:
        """Whether it stands for all of the engine's devices that its pattern fits."""
        return "*" in self.backend

    @property
    def processors(self) -> tuple[int, ...]:
        """The processors that the engine is kept to, in rising order; empty for all."""
        return parse_processors(self.cpus) if self.cpus is not None else ()

    @property
    def names(self) -> tuple[str, ...]:
        """The devices' names."""
        return tuple(name.strip() for name in self.backend.split(","))

    @model_validator(mode="after")
    def _consistent(self) -> DeviceSettings:
        names = self.names
        if not all(names) or len(set(names)) < len(names) or ("cpu" in names and len(names) > 1):
            raise ValueError(
                f'backend = {self.backend!r} is neither "cpu" nor one or several devices of an'
                ' engine, as "CUDA0,CUDA1"; quantgate devices lists them'
            )
        if self.is_pool and (
            not _POOL.fullmatch(self.backend) or self.tensor_split or self.split_mode != "layer"
        ):
            raise ValueError(
                f"backend = {self.backend!r} is no pool: write one name with a * at its end, as"
                ' "CUDA*", and no tensor_split or split_mode, which spread one model'
            )
        if self.cpus is not None:
            parse_processors(self.cpus)
        if self.host is not None and (self.cpus is not None or not self.hosts):
            raise ValueError(
                f"host = {self.host!r} goes with no cpus, and names one host at least: remove cpus,"
                " or host where the device is of this machine"
            )
        if self.tensor_split and len(self.tensor_split) != len(names):
            raise ValueError(
                f"tensor_split has {len(self.tensor_split)} shares for {len(names)} devices"
            )
        if names == ("cpu",) and (self.n_gpu_layers is not None or self.split_mode != "layer"):
            raise ValueError('n_gpu_layers and split_mode are for devices other than "cpu"')
        for name in ("type_k", "type_v"):
            check_cache_type(name, getattr(self, name) or "F16")
        return self


_POOL = re.compile(r"[A-Za-z_]+\*")


_PINNED = {
    **dict.fromkeys(("-m", "--model"), "models"),
    **dict.fromkeys(("-f", "--file", "-p", "--prompt"), "texts"),
    **dict.fromkeys(("-dev", "--device"), "backend of a device"),
    **dict.fromkeys(("-c", "--ctx-size"), "n_ctx"),
    **dict.fromkeys(("-b", "--batch-size"), "n_batch"),
    **dict.fromkeys(("-ub", "--ubatch-size"), "n_ubatch"),
    **dict.fromkeys(("-t", "--threads"), "n_threads"),
    **dict.fromkeys(("-fa", "--flash-attn"), "flash_attention"),
    **dict.fromkeys(("-ctk", "--cache-type-k"), "type_k"),
    **dict.fromkeys(("-ctv", "--cache-type-v"), "type_v"),
    "--chunks": "chunks",
}
"""Arguments of llama-perplexity that a setting stands for, and that setting."""


class HostSettings(Table):
    """Another machine that is reached over ssh: it needs an interpreter with llama-cpp-python."""

    ssh: str
    """The destination, as `bench@p40.example` or a name of `~/.ssh/config`."""
    options: tuple[str, ...] = ()
    """Further options of ssh, as `["-p", "2222"]`."""
    python: str = "python3"
    """The interpreter there that has llama-cpp-python and numpy, as `~/quantgate/bin/python`."""
    engines: Mapping[str, str] = Field(default_factory=dict)
    """The interpreters there of other engines, as `{old = "/opt/old/bin/python"}`."""
    cache_dir: str = "~/.cache/pytest-quantgate-host"
    """The folder there for models and logs."""
    cache_max_gib: Positive = 100.0
    """Above how many GiB the models used longest ago are removed there."""
    models: tuple[str, ...] = ()
    """Folders there in which models are looked for, by content, before any is copied."""
    environment: Mapping[str, str] = Field(default_factory=dict)
    """Variables of the environment there, as `{CUDA_VISIBLE_DEVICES = "1"}`."""

    def interpreter(self, engine: str) -> str:
        """Return the interpreter there of an engine."""
        return self.engines.get(engine, self.python)

    @model_validator(mode="after")
    def _consistent(self) -> HostSettings:
        if not self.ssh or self.ssh.startswith("-"):
            raise ValueError(f'ssh = {self.ssh!r} is no destination; write USER@HOST, as "me@p40"')
        for name in self.environment:
            if not name.isidentifier():
                raise ValueError(f"environment has {name!r}, which is no name of a variable")
        return self


class EngineSettings(Table):
    """One build of llama.cpp: the llama-cpp-python of an interpreter, or a folder of programs."""

    python: str | None = None
    """The interpreter whose llama-cpp-python is the engine; otherwise this one."""
    tools: str | None = None
    """Instead of `python`: a folder of llama.cpp's own programs."""
    arguments: tuple[str, ...] = ()
    """With `tools`: further arguments of `llama-perplexity`, such as `["-ngl", "99"]`."""

    @model_validator(mode="after")
    def _one_of(self) -> EngineSettings:
        if self.python is not None and self.tools is not None:
            raise ValueError(
                'an engine has either python = "INTERPRETER" or tools = "FOLDER", not both'
            )
        if self.arguments and self.tools is None:
            raise ValueError('arguments are those of programs; add tools = "FOLDER"')
        for argument in self.arguments:
            if argument in _PINNED:
                raise ValueError(
                    f"the argument {argument} is the profile's to set; use {_PINNED[argument]}"
                )
        return self
