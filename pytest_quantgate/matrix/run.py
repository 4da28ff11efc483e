"""One run's state: its cells, its engines, its texts in chunks and its files.

The way of the data is the order of the methods of :class:`Run`. What is done with them takes the
run: ``metrics/`` measures, :mod:`pytest_quantgate.gate.loop` judges, and both say through
:meth:`Run.emit` how far they are. Everything that several processes of one run need goes
through the cache under a lock.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from pytest_quantgate import stats
from pytest_quantgate.artifacts.files import CellFile, Files
from pytest_quantgate.artifacts.imatrix import Imatrices, Imatrix, read_header
from pytest_quantgate.artifacts.models import Model, find_model
from pytest_quantgate.artifacts.texts import Text, check_held_out, domain_of, load_text
from pytest_quantgate.artifacts.texts.chunks import ChunkPlan
from pytest_quantgate.artifacts.texts.cutting import cut_text
from pytest_quantgate.config.schema import ProfileSettings
from pytest_quantgate.config.settings import NO_IMATRIX, Settings
from pytest_quantgate.engines.conditions import Setting
from pytest_quantgate.engines.devices import default_threads, placement_of
from pytest_quantgate.engines.engine import Engine
from pytest_quantgate.engines.factory import make_engine
from pytest_quantgate.engines.messages import Message, Progress
from pytest_quantgate.engines.messages.placement import Placement
from pytest_quantgate.errors import CellError, CellUnavailable, CellUnsupported
from pytest_quantgate.gguf.formats import FULL_PRECISION, find_format
from pytest_quantgate.hosts.device_locks import hold_device
from pytest_quantgate.matrix.cells import (
    NO_TEXT,
    Cell,
    expand,
    expand_sources,
    make_cell,
    reference_format,
    with_engines,
)
from pytest_quantgate.matrix.keys import key_of_cell
from pytest_quantgate.matrix.sharding import cells_of, models_of
from pytest_quantgate.results.baseline import Key
from pytest_quantgate.results.baseline_store import Found, Store
from pytest_quantgate.results.measurement_store import Measurements
from pytest_quantgate.results.measurements.size import SizeMeasurement, measure_size
from pytest_quantgate.results.orphans import orphaned, with_device
from pytest_quantgate.storage.cache import Cache

MakeEngine = Callable[[str, Settings, Path], Engine | None]
"""Given an engine's name, the settings and a log file: an engine, or None for the usual one."""


class Run:
    """One run's state, in each of its processes.

    Args:
        settings: checked settings.
        run_id: the same in all processes of a run.
        make_engine: makes an engine of a name; None or a result of None is the usual one.

    """

    def __init__(
        self, settings: Settings, run_id: str, make_engine: MakeEngine | None = None
    ) -> None:
        self.settings = settings
        self.run_id = run_id
        self.cache = Cache(settings.cache_dir, settings.cache_max_bytes)
        self.folder = self.cache.sub("runs") / run_id
        self.folder.mkdir(parents=True, exist_ok=True)
        self.n_threads = settings.profile.n_threads or default_threads()
        self.store = Store(settings.baselines_dir, use_shipped=settings.uses_built_in_profile)
        self.measurements = Measurements(self.cache)
        self._files = Files(self.cache, self.n_threads, lambda: self.hold_device("cpu"))
        self._imatrices = Imatrices(
            self.cache, settings.root, self.n_threads, lambda: self.hold_device("cpu")
        )
        self._make_engine = make_engine
        self._engines: dict[str, Engine] = {}
        self._models: dict[str, Model | CellUnavailable] = {}
        self._texts: dict[str, Text] = {}
        self._plans: dict[tuple[str, str], ChunkPlan] = {}
        self._cell_files: dict[str, CellFile] = {}
        self._found_imatrices: dict[str, Imatrix] = {}
        self.measured_once: dict[tuple[str, str], Any] = {}
        self.without_old: dict[str, CellError] = {}

    # Cells

    def model(self, name: str) -> Model:
        """Return a model, found and its headers read once.

        Raises:
            ModelFileError: a file that cannot be used.
            CellUnavailable: it is on a hub and could not be got, which is tried once.

        """
        if name not in self._models:
            try:
                self._models[name] = find_model(name, self.settings)
            except CellUnavailable as error:
                self._models[name] = error
        found = self._models[name]
        if isinstance(found, CellUnavailable):
            raise found
        return found

    def find_model(self, name: str) -> Model | None:
        """Return a model, None where it could not be got."""
        try:
            return self.model(name)
        except CellUnavailable:
            return None

    def text(self, name: str) -> Text:
        """Return a text, read once."""
        if name not in self._texts:
            self._texts[name] = load_text(name, self.settings.texts, self.settings.root)
        return self._texts[name]

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """The profile's cells: all, or those of the run's shard."""
        shard = self.settings.shard
        return self.matrix if shard is None else cells_of(self.nominal, self.matrix, shard)

    @cached_property
    def nominal(self) -> tuple[Cell, ...]:
        """The profile's cells as the settings alone tell them."""
        return expand(self.settings)

    @cached_property
    def matrix(self) -> tuple[Cell, ...]:
        """The cells of all shards; a model's own full precision takes the place of F16.

        Models of other shards alone are not looked for: their cells are what the settings tell.
        """
        self._check_imatrices()
        sources = {}
        shard, names = self.settings.shard, frozenset(self.settings.profile.models)
        for name in names if shard is None else models_of(self.nominal, shard):
            model = self.find_model(name)
            if model is not None and model.source is not None:
                sources[name] = model.source
        return expand_sources(self.settings, sources)

    def reference_cell(self, cell: Cell) -> Cell:
        """Return the cell that a cell is compared with; itself if it is the reference.

        The reference need not be among the run's cells: a model of one source is compared with
        its full precision, one of existing files with the most precise of its files.
        """
        model = self.find_model(cell.model)
        if model is not None and model.source is None:
            formats = tuple(find_format(name, self.settings.recipes) for name in model.files)
        else:
            own = None if model is None or model.source is None else model.source.main_type()
            full = find_format(own if own in FULL_PRECISION else "F16")
            listed = (item.format for item in self.matrix if item.model == cell.model)
            formats = tuple(dict.fromkeys((full, *listed)))
        wanted = reference_format(formats)
        return cell if cell.format == wanted else make_cell(self.settings, cell, wanted, None)

    def old_cell(self, cell: Cell) -> Cell | None:
        """Return a judged cell as the old engine makes and measures it.

        None where no engine is held against another, or where the old one could not.
        """
        against, engine = self.settings.profile.against, self.settings.profile.engine
        if against is None or cell.id in self.without_old:
            return None
        if (cell.quantizer, cell.engine) != (engine, engine):
            return None
        return with_engines(self.settings, cell, quantizer=against, engine=against)

    def key(self, cell: Cell) -> Key:
        """Return what a cell's baseline is found by."""
        return key_of_cell(self.settings, cell)

    @cached_property
    def gated(self) -> bool:
        """Whether a missing baseline is red: the profile says so, or one is stored.

        One that is stored under settings that the profile had counts too: an edit of them must
        not end the gate. Where an old engine stands in for the baselines there is always
        something to hold against.
        """
        profile = self.settings.profile
        return (
            bool(profile.gate or profile.against)
            or self.store.has_any(self._keys, shipped=not self.settings.explores)
            or any(self.keys_before(cell) for cell in self.matrix)
        )

    def keys_before(self, cell: Cell) -> tuple[Key, ...]:
        """Return the keys of a cell's baselines under settings that no profile has any more."""
        settings = self.settings
        return orphaned(
            self.store.keys_of_cell(self.key(cell)),
            self._keys,
            settings.other_profiles.values(),
            settings.devices,
        )

    @cached_property
    def _keys(self) -> frozenset[Key]:
        return frozenset(self.key(cell) for cell in self.matrix)

    def baseline(self, cell: Cell) -> Found:
        """Look a cell's stored baseline up; there is none where an old engine stands for it."""
        if self.settings.profile.against is not None:
            return Found(path=self.store.path(self.key(cell)), baseline=None)
        return self.stored(cell)

    def stored(self, cell: Cell) -> Found:
        """Look a cell's stored baseline up; its source is named as this run names it."""
        found = self.store.find(self.key(cell))
        model = self.find_model(cell.model)
        if found.baseline is None or model is None:
            return found
        source = self._files.source_like(model, found.baseline.source_sha256)
        changed = found.baseline.model_copy(update={"source_sha256": source})
        return replace(found, baseline=changed)

    # Engines and devices

    def engine(self, name: str) -> Engine:
        """Return an engine, started at its first request."""
        if name not in self._engines:
            log = self.folder / "logs" / f"{name}-{os.getpid()}.log"
            made = self._make_engine(name, self.settings, log) if self._make_engine else None
            self._engines[name] = made or make_engine(
                self.settings.engines[name],
                root=self.settings.root,
                log=log,
                stall_s=self.settings.stall_s,
                sha256_of=self.cache.sha256_of,
            )
        return self._engines[name]

    def placement(self, cell: Cell) -> Placement:
        """Return where a cell's model is loaded."""
        return placement_of(self.settings.devices[cell.device])

    def device(self, cell: Cell) -> str:
        """Return a cell's placement as a message carries it.

        Raises:
            CellUnavailable: the engine does not have one of its devices.

        """
        placement, listed = self.placement(cell), self.engine(cell.engine).identity().devices
        missing = [name for name in placement.devices if name not in listed]
        if missing:
            raise CellUnavailable(
                f"device {cell.device!r}: the engine has no {missing[0]!r}; there are: cpu,"
                f" {', '.join(listed)}"
            )
        return placement.to_text()

    def profile_of(self, cell: Cell) -> ProfileSettings:
        """Return the profile with what a cell's device sets of its own."""
        return with_device(self.settings.profile, self.settings.devices[cell.device])

    @property
    def n_batch(self) -> int:
        """The logical batch, n_ctx unless the profile says otherwise."""
        return self.settings.profile.n_batch or self.settings.profile.n_ctx

    @property
    def n_ubatch(self) -> int:
        """The physical batch, 512 or n_batch unless the profile says otherwise."""
        return self.settings.profile.n_ubatch or min(512, self.n_batch)

    @property
    def setting(self) -> Setting:
        """How the profile has texts computed."""
        return Setting(n_threads=self.n_threads, n_batch=self.n_batch, n_ubatch=self.n_ubatch)

    def hold_device(self, device: str, cell: Cell | None = None) -> AbstractContextManager[None]:
        """Keep every other measurement on this host off a device.

        Where it has to wait, the run's events say so for ``cell``.
        """
        if cell is None:
            return hold_device(device)
        return hold_device(
            device,
            lambda waited_s: self.emit("wait", cell, device=device, waited_s=round(waited_s)),
        )

    def close(self) -> None:
        """End all worker processes."""
        for engine in self._engines.values():
            engine.close()

    # Texts in chunks

    def chunk_plan(self, model_name: str, text_name: str) -> ChunkPlan:
        """Cut a text into chunks for a model and put them into visiting order.

        Raises:
            ConfigError: the text is too short for two chunks.
            CellError: the engine could not tokenize; the model is a shape.

        """
        self.check_has_quality(model_name)
        known = self._plans.get((model_name, text_name))
        if known is not None:
            return known
        if not self.settings.profile.speed:  # which nothing may disturb
            self._files.prefetch(self.model(model_name))
        try:
            plan = self._cut(model_name, text_name, self.settings.profile.engine)
        except CellError:
            # What the new engine cannot read the old one may: that is to be found out.
            against = self.settings.profile.against
            if against is None:
                raise
            plan = self._cut(model_name, text_name, against)
        self._plans[model_name, text_name] = plan
        return plan

    def _cut(self, model_name: str, text_name: str, engine: str) -> ChunkPlan:
        return cut_text(
            self.text(text_name),
            text_name,
            self.model(model_name).any_file.files[0],
            self.engine(engine),
            self.settings.profile,
            self.cache,
        )

    def check_has_quality(self, model_name: str) -> None:
        """Refuse a model whose weights mean nothing.

        Raises:
            CellUnsupported: the model is a shape.

        """
        if self.model(model_name).shape is not None:
            raise CellUnsupported(
                f"model {model_name!r} is a shape: its weights are pseudo-random, so it has size"
                " and speed and no quality"
            )

    def looks(self, cell: Cell) -> tuple[int, ...]:
        """Return the numbers of chunks up to the budget at which a cell may be decided.

        A shape has none; a cell whose baseline is longer goes on to its end.
        """
        if cell.text == NO_TEXT:
            return ()
        profile, n_chunks = self.settings.profile, self.chunk_plan(cell.model, cell.text).n_chunks
        looks = stats.plan_looks(profile.looks or (), min(profile.chunks, n_chunks), n_chunks)
        return tuple(look.chunks for look in looks)

    # Files

    def cell_file(self, cell: Cell) -> CellFile:
        """Return a cell's file, found or made."""
        key = f"{cell.model}-{cell.format.name}-{cell.imatrix}-{cell.quantizer}"
        if key not in self._cell_files:
            self.emit("quantize", cell, done=0, total=0)
            self._cell_files[key] = self._files.cell_file(
                self.model(cell.model),
                cell.format,
                self.imatrix(cell),
                self.engine(cell.quantizer),
                lambda reply: self._on_progress(cell, reply),
            )
        return self._cell_files[key]

    def described_file(self, cell: Cell) -> CellFile:
        """Return a cell's file as :meth:`cell_file`, but do not make a shape's."""
        shape = self.model(cell.model).shape
        if shape is None:
            return self.cell_file(cell)
        return self._files.describe_shape(shape, cell.format, self.engine(cell.quantizer))

    def imatrix(self, cell: Cell) -> Imatrix | None:
        """Return the importance matrix of a cell, collected now if it is not in the cache.

        Where two engines are held against each other the old one collects it for both, or the
        new one if the old one cannot.

        Raises:
            CellInvalid: it cannot be used for this model.
            CellError: it could not be collected.

        """
        model = self.model(cell.model)
        if cell.imatrix is None or model.source is None:
            return None
        key = f"{cell.model}-{cell.imatrix}"
        if key not in self._found_imatrices:
            profile = self.settings.profile
            try:
                found = self._collect_imatrix(
                    cell, cell.imatrix, model, profile.against or cell.engine
                )
            except CellError:
                if profile.against is None:
                    raise
                found = self._collect_imatrix(cell, cell.imatrix, model, profile.engine)
            self._found_imatrices[key] = found
        return self._found_imatrices[key]

    def _collect_imatrix(self, cell: Cell, name: str, model: Model, engine_name: str) -> Imatrix:
        wanted, engine = self.settings.imatrices[name], self.engine(engine_name)

        def on_reply(reply: Message) -> None:
            self._on_progress(cell, reply)

        origin, sha256, _ = self._files.origin(model, engine, on_reply)
        if wanted.file is not None:
            return self._imatrices.from_file(name, wanted.file, origin)
        return self._imatrices.from_text(
            name,
            wanted,
            self.imatrix_text(name),
            origin,
            sha256,
            engine,
            self.settings.profile.flash_attention,
            on_reply,
        )

    def imatrix_text(self, name: str) -> Text:
        """Return the text, or the domain of one, that an importance matrix is collected from."""
        wanted = self.settings.imatrices[name]
        text = self.text(str(wanted.text))
        if wanted.domain is None:
            return text
        return domain_of(text, wanted.domain, f"[tool.quantgate.imatrices.{name}]")

    def _check_imatrices(self) -> None:
        """Refuse a matrix's file that is none, and a matrix of what is scored.

        Raises:
            ConfigError: in one line.

        """
        profile = self.settings.profile
        for name in profile.imatrices:
            if name == NO_IMATRIX:
                continue
            wanted = self.settings.imatrices[name]
            if wanted.file is not None:
                read_header(name, self._imatrices.path_of(wanted.file))
                continue
            for scored in profile.texts:
                check_held_out(name, self.imatrix_text(name), self.text(scored))

    def size(self, cell: Cell) -> SizeMeasurement:
        """Measure a cell's size."""
        return measure_size(self.described_file(cell).header, cell.format)

    # Telling

    def emit(self, event: str, cell: Cell, **facts: Any) -> None:
        """Append to the run's events, which the process with the terminal follows."""
        line = json.dumps({"event": event, "cell": cell.id, "time_s": time.time(), **facts})
        with (self.folder / "events.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def _on_progress(self, cell: Cell, reply: Message) -> None:
        if isinstance(reply, Progress) and reply.what in {"quantize", "imatrix"}:
            self.emit(reply.what, cell, done=reply.done, total=reply.total)
