"""The tables of ``[tool.quantgate]``: which keys there are, of which type, with which defaults."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, create_model, model_validator

from pytest_quantgate.config.limit import Value
from pytest_quantgate.config.metrics import LIMITS
from pytest_quantgate.config.shape import ShapeSettings
from pytest_quantgate.config.values import (
    AllowedDecrease,
    AllowedIncrease,
    FallbackShare,
    Fraction,
    Margin,
    Positive,
    Table,
    parse_processors,
)
from pytest_quantgate.gguf.formats import CACHE_TYPES, DEFAULT_FORMATS
from pytest_quantgate.storage.environment import path_below

_VALUES: Mapping[Value, object] = {
    Value.POSITIVE: Positive,
    Value.SHARE: Fraction,
    Value.SHARE_FROM_ZERO: FallbackShare,
    Value.INCREASE: AllowedIncrease,
    Value.DECREASE: AllowedDecrease,
    Value.COUNT: Annotated[int, Field(ge=0, strict=True)],
}

if TYPE_CHECKING:

    class _LimitFields(Table):
        def __getattr__(self, name: str) -> float | None: ...

else:
    _LimitFields = create_model(
        "_LimitFields",
        __base__=Table,
        **{limit.name: (_VALUES[limit.value] | None, None) for limit in LIMITS.values()},
    )


class Limits(_LimitFields):
    """What a cell must keep, of :data:`~pytest_quantgate.config.metrics.LIMITS`.

    None is no limit. Relative limits are allowed changes: 0.05 or ``"+5%"``.
    """

    if TYPE_CHECKING:

        def __init__(self, **limits: float | str | None) -> None: ...


class ModelSettings(Table):
    """Where a model comes from: one source to quantize, a shape, or files that exist."""

    source: str | None = None
    """What is quantized: a path, `path:PATH`, `package:NAME/FILE` for a file in an installed Python
    package, `embedded:NAME` for a model that ships here, `shape:NAME` for a
    [shape](../how-to/shapes.md), or `hf:ORG/REPOSITORY/FILE.gguf[@REVISION]` for a file on a
    [hub](../how-to/real-models.md)."""
    shape: ShapeSettings | None = None
    """Instead of `source`: a [shape](../how-to/shapes.md#a-shape-of-your-own) of your own."""
    files: Mapping[str, str] | None = None
    """Instead of `source`: format → path of an existing file, which is measured as it is."""
    sha256: str | Mapping[str, str] | None = None
    """The SHA-256 that the source must have; with `files`, format → SHA-256."""

    @property
    def is_shape(self) -> bool:
        """Whether the weights are made up: for size and speed only."""
        return self.shape is not None or (self.source or "").startswith("shape:")

    @model_validator(mode="after")
    def _one_of(self) -> ModelSettings:
        given = [item for item in (self.source, self.shape, self.files) if item is not None]
        if len(given) != 1:
            raise ValueError(
                'a model has either source = "PATH, package:NAME/FILE, embedded:NAME or'
                ' shape:NAME or hf:ORG/REPOSITORY/FILE" or shape = {architecture = …} or'
                " files = {FORMAT = PATH}"
            )
        if self.sha256 is not None and self.is_shape:
            raise ValueError("a shape is made here and takes no sha256")
        if isinstance(self.sha256, str) and self.files is not None:
            raise ValueError("with files, sha256 is a table too: sha256 = {FORMAT = HEX}")
        if isinstance(self.sha256, Mapping) and self.files is None:
            raise ValueError("with source, sha256 is one string")
        return self


class TextSettings(Table):
    """A text: one file, or one file a domain, in this order."""

    source: str | None = None
    """The text's file."""
    domains: Mapping[str, str] | None = None
    """Instead of `source`: domain → file, joined in this order."""

    @model_validator(mode="after")
    def _one_of(self) -> TextSettings:
        if (self.source is None) == (self.domains is None):
            raise ValueError('a text has either source = "PATH" or domains = {NAME = PATH}')
        return self


class ImatrixSettings(Table):
    """An importance matrix: collected from a text or one of its domains, or a file.

    ``chunks`` None takes the whole text, ``n_ctx`` is that of the collection alone.
    """

    text: str | None = None
    """The text from which the importance matrix is collected."""
    domain: str | None = None
    """One of that text's domains; otherwise the whole text."""
    chunks: int | None = Field(default=None, ge=1)
    """At most this many chunks; otherwise all."""
    n_ctx: int = Field(default=512, ge=16, le=1 << 20)
    """Tokens in a chunk."""
    file: str | None = None
    """Instead of `text`: a GGUF file written by `llama-imatrix`."""

    @model_validator(mode="after")
    def _one_of(self) -> ImatrixSettings:
        if (self.text is None) == (self.file is None):
            raise ValueError('an importance matrix has either text = "NAME" or file = "PATH.gguf"')
        if self.file is not None and self.model_fields_set - {"file"}:
            other = sorted(self.model_fields_set - {"file"})[0]
            raise ValueError(f"a file is taken as it is: {other} goes only with text")
        return self


def _check_cache_type(key: str, value: str) -> None:
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
        if self.host is not None and (self.is_pool or self.cpus is not None or not self.hosts):
            raise ValueError(
                f"host = {self.host!r} goes with no pool and no cpus: name each of the host's"
                ' devices, as backend = "CUDA0"'
            )
        if self.tensor_split and len(self.tensor_split) != len(names):
            raise ValueError(
                f"tensor_split has {len(self.tensor_split)} shares for {len(names)} devices"
            )
        if names == ("cpu",) and (self.n_gpu_layers is not None or self.split_mode != "layer"):
            raise ValueError('n_gpu_layers and split_mode are for devices other than "cpu"')
        for name in ("type_k", "type_v"):
            _check_cache_type(name, getattr(self, name) or "F16")
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
    """The interpreter there that has llama-cpp-python and numpy."""
    cache_dir: str = "~/.cache/pytest-quantgate-host"
    """The folder there for models and logs."""
    cache_max_gib: Positive = 100.0
    """Above how many GiB the models used longest ago are removed there."""
    models: tuple[str, ...] = ()
    """Folders there in which models are looked for, by content, before any is copied."""
    environment: Mapping[str, str] = Field(default_factory=dict)
    """Variables of the environment there, as `{CUDA_VISIBLE_DEVICES = "1"}`."""

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


class RecipeSettings(Table):
    """A file type with some tensors of other types."""

    base: str
    """The file type that decides the type of every other tensor."""
    tensors: Mapping[str, str] = Field(default_factory=dict)
    """A tensor group, or a regular expression on tensor names → a tensor type."""


class ProfileSettings(Table):
    """What is measured together, how, and within which limits."""

    models: tuple[str, ...]
    """Names of models, or sources: a path ending in `.gguf`, `package:`, `embedded:`, `hf:`,
    `shape:`."""
    formats: tuple[str, ...] = DEFAULT_FORMATS
    """Formats and recipes."""
    parts: tuple[str, ...] = ()
    """Formats to measure [by tensor group](../explanation/moe.md#parts-and-recipes) as well."""
    devices: tuple[str, ...] = ("cpu",)
    """Names of devices."""
    texts: tuple[str, ...] = ("evaluation",)
    """Names of texts."""
    imatrices: tuple[str, ...] = ("none",)
    """Names of importance matrices, and `none`."""
    engine: str = "default"
    """The engine."""
    against: str | None = None
    """The old engine to compare with in the same run, instead of stored baselines."""
    n_ctx: int = Field(default=512, ge=8, le=1 << 20)
    """Tokens in a chunk."""
    n_batch: int | None = Field(default=None, ge=1)
    """llama.cpp's logical batch; otherwise `n_ctx`."""
    n_ubatch: int | None = Field(default=None, ge=1)
    """llama.cpp's physical batch; otherwise `n_batch`, at most 512."""
    n_threads: int | None = Field(default=None, ge=1, le=4096)
    """Threads for quantizing and decoding; otherwise the usable physical cores."""
    flash_attention: bool = True
    """Whether flash attention is on."""
    type_k: str = "F16"
    """The tensor type of the KV cache's keys."""
    type_v: str = "F16"
    """The tensor type of the KV cache's values."""
    chunks: int = Field(default=64, ge=1)
    """The budget of scored chunks for each cell; an undecided cell goes on to the end of its
    baseline."""
    baseline_chunks: int | None = Field(default=None, ge=1)
    """The budget of a baseline that is stored; otherwise `chunks` if that is set, else the whole
    text."""
    looks: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    """Numbers of chunks, rising, after which a cell may be decided; otherwise 16. [Further
    looks](../explanation/statistics.md#looks) follow at twice the last, four times, and so on."""
    chunk_order: Literal["seeded", "text"] = "seeded"
    """`"seeded"`: balanced over domains and documents; `"text"`: the order of the text."""
    seed: int = 0
    """The seed of the seeded order."""
    batch_geometry: bool = False
    """Also compare batches of other sizes, one test for each cell."""
    sweep: bool = False
    """Also score each cell's file under many other conditions, one test for each cell."""
    compare_devices: bool = False
    """Also compare each device with the profile's first one, one test for each cell."""
    routing: bool = True
    """Record the [routes](../explanation/moe.md) of models with experts."""
    speed: bool = False
    """Also measure prefill and decode [speed](../explanation/speed-and-memory.md), one test
    for each cell."""
    speed_prefill_tokens: int = Field(default=512, ge=1, le=1 << 20)
    """Tokens in the timed prompt."""
    speed_decode_tokens: int = Field(default=128, ge=1, le=1 << 20)
    """Tokens decoded one by one in a timed run."""
    speed_depth: int = Field(default=0, ge=0, le=1 << 20)
    """Tokens already in the KV cache when the clock starts."""
    speed_repetitions: int = Field(default=3, ge=1, le=1000)
    """Timed runs in each process."""
    speed_processes: int = Field(default=40, ge=5, le=1000)
    """At most this many fresh processes for each side."""
    speed_seconds: Positive = 600.0
    """No further look is started after this many seconds."""
    speed_margin: Margin = 0.1
    """A phase without limits is measured until its interval is narrower than this."""
    memory: bool = False
    """Also measure the memory of a fresh process, one test for each cell."""
    codecs: bool = False
    """`--quant-matrix` also runs the property tests of the codecs."""
    gate: bool = False
    """A missing baseline is red even if none is stored; an explicit `false` lets a run in CI gate
    nothing."""
    optional: tuple[str, ...] = ()
    """Formats that are skipped if the engine refuses them."""
    limits: Mapping[str, Limits] = Field(default_factory=dict)
    """Format, or `"*"` → [limits](#limits)."""

    @property
    def chunks_stored(self) -> int | None:
        """The budget of a baseline that is stored; None is the whole text.

        It is ``baseline_chunks``, else ``chunks`` where the profile states that.
        """
        if self.baseline_chunks is None and "chunks" in self.model_fields_set:
            return self.chunks
        return self.baseline_chunks

    @model_validator(mode="after")
    def _consistent(self) -> ProfileSettings:
        for name in ("models", "formats", "devices", "texts", "imatrices"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; name at least one")
            repeated = {value for value in values if values.count(value) > 1}
            if repeated:
                raise ValueError(f"{name} has {sorted(repeated)[0]!r} twice")
        for name in ("type_k", "type_v"):
            _check_cache_type(name, getattr(self, name))
        looks = self.looks
        if looks is not None and (
            not looks or list(looks) != sorted(set(looks)) or looks[-1] > self.chunks
        ):
            raise ValueError(
                f"looks = {list(looks)} must rise and end at or below chunks = {self.chunks}"
            )
        return self


class Tables(Table):
    """All of ``[tool.quantgate]``."""

    profile: str = "default"
    """The profile to run."""
    cache_dir: str | None = None
    """Where quantized files and measurements are kept; otherwise the user's cache folder."""
    cache_max_gib: Positive = 20.0
    """Above this size, the least recently used quantized files are removed."""
    baselines_dir: str = "baselines"
    """Where baselines are read and written."""
    stall_s: Positive = 300.0
    """Seconds without progress after which a worker is stopped."""
    report: str | tuple[str, ...] = ()
    """Reports to write in every run: `.json`, `.md` or `.html`."""
    models: Mapping[str, ModelSettings] = Field(default_factory=dict)
    texts: Mapping[str, TextSettings] = Field(default_factory=dict)
    imatrices: Mapping[str, ImatrixSettings] = Field(default_factory=dict)
    devices: Mapping[str, DeviceSettings] = Field(default_factory=dict)
    hosts: Mapping[str, HostSettings] = Field(default_factory=dict)
    engines: Mapping[str, EngineSettings] = Field(default_factory=dict)
    formats: Mapping[str, RecipeSettings] = Field(default_factory=dict)
    profiles: Mapping[str, ProfileSettings] = Field(default_factory=dict)

    @property
    def reports(self) -> tuple[str, ...]:
        """The paths of ``report``, which may be one or a list."""
        return (self.report,) if isinstance(self.report, str) else self.report

    @property
    def cache_max_bytes(self) -> int:
        """Above how many bytes the files used longest ago are removed."""
        return int(self.cache_max_gib * (1 << 30))

    def cache_folder(self, root: Path) -> Path | None:
        """Return the configured cache's folder, None for the user's usual one."""
        return None if self.cache_dir is None else path_below(root, self.cache_dir)
