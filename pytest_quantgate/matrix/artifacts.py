"""What is made for a cell: its file, its importance matrix, its text in chunks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

from pytest_quantgate import stats
from pytest_quantgate.artifacts.files import CellFile, Files
from pytest_quantgate.artifacts.imatrix import Imatrices, Imatrix
from pytest_quantgate.artifacts.library import Library
from pytest_quantgate.artifacts.texts.chunks import ChunkPlan
from pytest_quantgate.artifacts.texts.cutting import cut_text
from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.engine import Engine, OnReply
from pytest_quantgate.engines.messages import Message, Progress
from pytest_quantgate.engines.pool import EnginePool
from pytest_quantgate.errors import CellError
from pytest_quantgate.gguf.reader import GgufFile
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.results.durations import Stopwatch
from pytest_quantgate.results.events import CollectingImatrix, Event, Quantizing, Steps
from pytest_quantgate.storage.cache import Cache

_STEPS: dict[str, type[Steps]] = {"quantize": Quantizing, "imatrix": CollectingImatrix}


class CellArtifacts:
    """Makes what a cell needs and does not have yet, once a process; the cache is shared.

    Args:
        settings: checked settings.
        cache: where it is kept.
        library: models and texts.
        engines: what makes it.
        n_threads: threads for making.
        emit: takes the run's events.
        hold_processor: a context in which nothing else computes where files are made.

    """

    def __init__(
        self,
        settings: Settings,
        cache: Cache,
        library: Library,
        engines: EnginePool,
        n_threads: int,
        emit: Callable[[Event], None],
        hold_processor: Callable[[], AbstractContextManager[None]],
        stopwatch: Stopwatch,
    ) -> None:
        self._stopwatch = stopwatch
        self._settings = settings
        self._cache = cache
        self._library = library
        self._engines = engines
        self._emit = emit
        self.files = Files(
            cache,
            n_threads,
            hold_processor,
            stopwatch=stopwatch,
            hashes_alone=settings.profile.speed,
        )
        self._imatrices = Imatrices(cache, settings.root, n_threads, hold_processor)
        self._cell_files: dict[tuple[str, str, str | None, str], CellFile] = {}
        self._collected: dict[tuple[str, str], Imatrix] = {}
        self._plans: dict[tuple[str, str, int], ChunkPlan] = {}

    def _on_reply(self, cell: ResolvedCell) -> OnReply:
        def on_reply(reply: Message) -> None:
            kind = _STEPS.get(reply.what) if isinstance(reply, Progress) else None
            if kind is not None and isinstance(reply, Progress):
                self._emit(kind(cell=cell.id, done=reply.done, total=reply.total))

        return on_reply

    def file(self, cell: ResolvedCell) -> CellFile:
        """Return a cell's file, found or made."""
        names = cell.cell
        key = (names.model, names.format.name, names.imatrix, names.quantizer)
        if key not in self._cell_files:
            self._emit(Quantizing(cell=cell.id, done=0, total=0))
            imatrix = self.imatrix(cell)
            with self._stopwatch.stage("quantizing"):
                self._cell_files[key] = self.files.cell_file(
                    cell.model, cell.format, imatrix, cell.quantizer, self._on_reply(cell)
                )
        return self._cell_files[key]

    def present_file(self, cell: ResolvedCell) -> GgufFile | None:
        """Return the header of a cell's file where nothing is to be made for it, else None."""
        if cell.cell.imatrix is not None:
            return None
        return self.files.present(cell.model, cell.format, None, cell.quantizer)

    def described_file(self, cell: ResolvedCell) -> CellFile:
        """Return a cell's file as :meth:`file` does, but do not make a shape's."""
        shape = cell.model.shape
        if shape is None:
            return self.file(cell)
        return self.files.describe_shape(shape, cell.format, cell.quantizer)

    def imatrix(self, cell: ResolvedCell, name: str | None = None) -> Imatrix | None:
        """Return a cell's importance matrix, collected now if it is not in the cache.

        Where two engines are held against each other the old one collects it for both, or the
        new one if the old one cannot. ``name`` asks for another matrix than the cell's own.

        Raises:
            CellInvalid: it cannot be used for this model.
            CellError: it could not be collected.

        """
        name = name or cell.cell.imatrix
        if name is None or cell.model.source is None:
            return None
        key = (cell.cell.model, name)
        if key not in self._collected:
            against = self._settings.profile.against
            with self._stopwatch.stage("collecting"):
                try:
                    collected = self._collect(
                        cell, name, self._engines[against or cell.cell.engine]
                    )
                except CellError:
                    if against is None:
                        raise
                    engine = self._engines[self._settings.profile.engine]
                    collected = self._collect(cell, name, engine)
            self._collected[key] = collected
        return self._collected[key]

    def _collect(self, cell: ResolvedCell, name: str, engine: Engine) -> Imatrix:
        matrix, on_reply = self._settings.imatrices[name], self._on_reply(cell)
        origin, sha256, _ = self.files.origin(cell.model, engine, on_reply)
        if matrix.file is not None:
            return self._imatrices.from_file(name, matrix.file, origin)
        return self._imatrices.from_text(
            name,
            matrix,
            self._library.imatrix_text(name),
            origin,
            sha256,
            engine,
            self._settings.profile.flash_attention,
            on_reply,
        )

    def chunk_plan(self, cell: ResolvedCell) -> ChunkPlan:
        """Cut a cell's text into chunks and put them into visiting order.

        Two engines that are held against each other may split the text into tokens in other ways:
        the chunks are then those that both have.

        Raises:
            ConfigError: the text is too short for two chunks.
            CellError: no engine could tokenize; the model is a shape.

        """
        names = cell.cell
        key = (names.model, names.text, names.n_ctx)
        if key not in self._plans:
            profile = self._settings.profile
            if not profile.speed:  # which nothing may disturb
                self.files.prefetch(cell.model)
            plans, problem = [], None
            for engine in dict.fromkeys(filter(None, (profile.engine, profile.against))):
                try:
                    plans.append(self._cut(cell, engine))
                except CellError as error:
                    # What one engine cannot read the other may: that is to be found out.
                    problem = error
            if problem is not None and not plans:
                raise problem
            self._plans[key] = min(plans, key=lambda plan: plan.n_chunks)
        return self._plans[key]

    def _cut(self, cell: ResolvedCell, engine: str) -> ChunkPlan:
        return cut_text(
            cell.scored_text,
            cell.cell.text,
            cell.model.any_file.files[0],
            self._engines[engine],
            self._settings.profile,
            cell.n_ctx,
            self._cache,
        )

    def looks(self, cell: ResolvedCell) -> tuple[int, ...]:
        """Return the numbers of chunks up to the budget at which a cell may be decided.

        A shape has none; a cell whose baseline is longer goes on to its end.
        """
        if cell.text is None:
            return ()
        profile, n_chunks = self._settings.profile, self.chunk_plan(cell).n_chunks
        looks = stats.plan_looks(profile.looks or (), min(profile.chunks, n_chunks), n_chunks)
        return tuple(look.chunks for look in looks)

    def chunks_stored(self, cell: ResolvedCell) -> int:
        """Return how many chunks of a cell's text a baseline takes that is stored now."""
        n_chunks = self.chunk_plan(cell).n_chunks
        return min(self._settings.profile.chunks_stored or n_chunks, n_chunks)
