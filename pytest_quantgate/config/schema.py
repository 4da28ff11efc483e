"""The tables of ``[tool.quantgate]``: which keys there are, of which type, with which defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from pytest_quantgate.config.limit_table import LIMITS, Value
from pytest_quantgate.config.values import (
    AllowedDecrease,
    AllowedIncrease,
    FallbackShare,
    Fraction,
    Margin,
    Positive,
)
from pytest_quantgate.gguf.formats import CACHE_TYPES, DEFAULT_FORMATS
from pytest_quantgate.storage.environment import path_below


class Table(BaseModel):
    """Base of all tables: a key that is not declared is an error, and nothing changes later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """What a cell must keep, of :data:`~pytest_quantgate.config.limit_table.LIMITS`.

    None is no limit. Relative limits are allowed changes: 0.05 or ``"+5%"``.
    """

    if TYPE_CHECKING:

        def __init__(self, **limits: float | str | None) -> None: ...


Count = Annotated[int, Field(ge=1, le=1 << 20)]
"""How many of something a shape has."""


class ShapeSettings(Table):
    """An architecture's sizes: all that a model's size and speed depend on.

    ``hidden`` is the width, ``feed_forward`` that of the dense feed-forward layers and, unless
    ``expert_feed_forward`` is given, of the experts; ``attention_layers`` are the layers of
    ``lfm2moe`` that attend, all others being convolutions.
    """

    architecture: Literal["llama", "olmoe", "lfm2moe"]
    layers: Annotated[int, Field(ge=1, le=512)]
    hidden: Count
    feed_forward: Count
    heads: Count
    kv_heads: Count
    vocabulary: Annotated[int, Field(ge=258, le=1 << 20)]
    tied: bool = False
    context: Count = 4096
    rope_base: Positive = 10_000.0
    experts: Annotated[int, Field(ge=0, le=512)] = 0
    experts_used: Annotated[int, Field(ge=0)] = 0
    expert_feed_forward: Count | None = None
    dense_layers: Annotated[int, Field(ge=0)] = 0
    attention_layers: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> ShapeSettings:
        # What llama.cpp asserts or refuses is said here, in the words of the configuration.
        if self.hidden % self.heads or self.hidden // self.heads % 2:
            raise ValueError(
                f"hidden = {self.hidden} must be an even multiple of heads = {self.heads}"
            )
        if self.heads % self.kv_heads:
            raise ValueError(
                f"heads = {self.heads} must be a multiple of kv_heads = {self.kv_heads}"
            )
        if not 0 <= self.experts_used <= self.experts or (self.experts and not self.experts_used):
            raise ValueError(
                f"experts_used = {self.experts_used} must be 1 to experts = {self.experts}"
            )
        if self.architecture != "llama" and not self.experts:
            raise ValueError(f"architecture = {self.architecture!r} needs experts")
        if self.architecture == "olmoe" and self.tied:
            raise ValueError("tied = true: architecture = 'olmoe' has an output matrix of its own")
        self._check_lfm2moe()
        return self

    def _check_lfm2moe(self) -> None:
        if self.architecture != "lfm2moe":
            for name in ("expert_feed_forward", "dense_layers", "attention_layers"):
                if getattr(self, name):
                    raise ValueError(f"{name} is for architecture = 'lfm2moe' only")
            return
        if self.expert_feed_forward is None:
            raise ValueError("architecture = 'lfm2moe' needs expert_feed_forward")
        if self.dense_layers > self.layers:
            raise ValueError(f"dense_layers = {self.dense_layers} is above layers = {self.layers}")
        if not self.attention_layers or not set(self.attention_layers) <= set(range(self.layers)):
            raise ValueError(
                f"attention_layers = {list(self.attention_layers)} must name some of the layers"
                f" 0 to {self.layers - 1}"
            )


class ModelSettings(Table):
    """Where a model comes from: one source to quantize, a shape, or files that exist."""

    source: str | None = None
    shape: ShapeSettings | None = None
    files: Mapping[str, str] | None = None
    sha256: str | Mapping[str, str] | None = None

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
    domains: Mapping[str, str] | None = None

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
    domain: str | None = None
    chunks: int | None = Field(default=None, ge=1)
    n_ctx: int = Field(default=512, ge=16, le=1 << 20)
    file: str | None = None

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
    """Where an engine computes, and how.

    ``backend`` is ``cpu``, a device's name as llama.cpp lists it, or several, ``CUDA0,CUDA1``.
    ``flash_attention``, ``type_k`` and ``type_v`` stand above the profile's: two devices that
    differ in them are a dimension of the matrix.
    """

    backend: str = "cpu"
    n_gpu_layers: Annotated[int, Field(ge=0, strict=True)] | None = None
    split_mode: Literal["layer", "row"] = "layer"
    tensor_split: tuple[Positive, ...] = ()
    repack: bool = True
    flash_attention: bool | None = None
    type_k: str | None = None
    type_v: str | None = None

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
        if self.tensor_split and len(self.tensor_split) != len(names):
            raise ValueError(
                f"tensor_split has {len(self.tensor_split)} shares for {len(names)} devices"
            )
        if names == ("cpu",) and (self.n_gpu_layers is not None or self.split_mode != "layer"):
            raise ValueError('n_gpu_layers and split_mode are for devices other than "cpu"')
        for name in ("type_k", "type_v"):
            _check_cache_type(name, getattr(self, name) or "F16")
        return self


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


class EngineSettings(Table):
    """One build of llama.cpp: the llama-cpp-python of an interpreter, or a folder of programs.

    ``tools`` is the folder, and ``arguments`` are further ones of its llama-perplexity.
    """

    python: str | None = None
    tools: str | None = None
    arguments: tuple[str, ...] = ()

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
    tensors: Mapping[str, str] = Field(default_factory=dict)


class ProfileSettings(Table):
    """What is measured together, how, and within which limits."""

    models: tuple[str, ...]
    formats: tuple[str, ...] = DEFAULT_FORMATS
    parts: tuple[str, ...] = ()
    devices: tuple[str, ...] = ("cpu",)
    texts: tuple[str, ...] = ("evaluation",)
    imatrices: tuple[str, ...] = ("none",)
    engine: str = "default"
    against: str | None = None
    n_ctx: int = Field(default=512, ge=8, le=1 << 20)
    n_batch: int | None = Field(default=None, ge=1)
    n_ubatch: int | None = Field(default=None, ge=1)
    n_threads: int | None = Field(default=None, ge=1, le=4096)
    flash_attention: bool = True
    type_k: str = "F16"
    type_v: str = "F16"
    chunks: int = Field(default=64, ge=1)
    baseline_chunks: int | None = Field(default=None, ge=1)
    looks: tuple[Annotated[int, Field(ge=1)], ...] | None = None
    chunk_order: Literal["seeded", "text"] = "seeded"
    seed: int = 0
    batch_geometry: bool = False
    compare_devices: bool = False
    routing: bool = True
    speed: bool = False
    speed_prefill_tokens: int = Field(default=512, ge=1, le=1 << 20)
    speed_decode_tokens: int = Field(default=128, ge=1, le=1 << 20)
    speed_depth: int = Field(default=0, ge=0, le=1 << 20)
    speed_repetitions: int = Field(default=3, ge=1, le=1000)
    speed_processes: int = Field(default=40, ge=5, le=1000)
    speed_seconds: Positive = 600.0
    speed_margin: Margin = 0.1
    memory: bool = False
    codecs: bool = False
    gate: bool = False
    optional: tuple[str, ...] = ()
    limits: Mapping[str, Limits] = Field(default_factory=dict)

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
    cache_dir: str | None = None
    cache_max_gib: Positive = 20.0
    baselines_dir: str = "baselines"
    stall_s: Positive = 300.0
    report: str | tuple[str, ...] = ()
    models: Mapping[str, ModelSettings] = Field(default_factory=dict)
    texts: Mapping[str, TextSettings] = Field(default_factory=dict)
    imatrices: Mapping[str, ImatrixSettings] = Field(default_factory=dict)
    devices: Mapping[str, DeviceSettings] = Field(default_factory=dict)
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
