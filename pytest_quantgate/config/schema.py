"""The tables of ``[tool.quantgate]``: which keys there are, of which type, with which defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, create_model, model_validator

from pytest_quantgate.config.limit import Value
from pytest_quantgate.config.machines import (
    DeviceSettings,
    EngineSettings,
    HostSettings,
    check_cache_type,
)
from pytest_quantgate.config.metrics import LIMITS
from pytest_quantgate.config.shape import ShapeSettings
from pytest_quantgate.config.values import (
    AllowedDecrease,
    AllowedIncrease,
    AllowedIncreaseByDomain,
    FallbackShare,
    Fraction,
    Lengths,
    Margin,
    Positive,
    Table,
)
from pytest_quantgate.gguf.formats import DEFAULT_FORMATS
from pytest_quantgate.storage.environment import path_below


def _whole(value: Any) -> Any:
    """Return a whole number that a record has as 1.0 as the integer that it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_VALUES: Mapping[Value, object] = {
    Value.POSITIVE: Positive,
    Value.SHARE: Fraction,
    Value.SHARE_FROM_ZERO: FallbackShare,
    Value.INCREASE: AllowedIncrease,
    Value.DECREASE: AllowedDecrease,
    Value.COUNT: Annotated[int, Field(ge=0, strict=True), BeforeValidator(_whole)],
    Value.INCREASE_BY_DOMAIN: AllowedIncreaseByDomain,
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
        domains: float | Mapping[str, float] | None

        def __init__(self, **limits: float | str | Mapping[str, float] | None) -> None: ...


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
    n_ctx: Lengths = (512,)
    """Tokens in a chunk; several, `[512, 4096]`, make a cell each."""
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
        for name in ("models", "formats", "devices", "texts", "imatrices", "n_ctx"):
            values = getattr(self, name)
            if not values:
                raise ValueError(f"{name} is empty; name at least one")
            repeated = {value for value in values if values.count(value) > 1}
            if repeated:
                raise ValueError(f"{name} has {sorted(repeated)[0]!r} twice")
        for name in ("type_k", "type_v"):
            check_cache_type(name, getattr(self, name))
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
