"""How a cell's text is scored: one pass gives perplexity, divergence and routes.

What was scored is kept as it comes, for the other processes of the run and for later runs: it is
found again by everything that makes it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.engines.conditions import Conditions
from pytest_quantgate.engines.messages import MatrixPlace, Message, Score, ScoredChunk
from pytest_quantgate.errors import CellError
from pytest_quantgate.gguf.reader import GgufFile
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.control import MOST_CHANGE
from pytest_quantgate.results.events import Scoring
from pytest_quantgate.results.measurements.perplexity import Gathering, PerplexityMeasurement
from pytest_quantgate.results.measurements.routes import MAX_ROUTE_CHUNKS, MAX_ROUTE_CHUNKS_APART
from pytest_quantgate.storage.keys import code_sha256, key_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


_MEASURING = ("engines", "matrix", "metrics", "results")
"""The folders whose code makes a figure of a file and a text."""

_KEPT_EVERY_S = 2.0
"""How often what has come of a measurement is written: what a killed run loses at most."""


def measure_perplexity(
    session: Session, cell: ResolvedCell, n_chunks: int
) -> PerplexityMeasurement:
    """Measure at least so many chunks of a cell and return the first ``n_chunks``.

    What another process, or an earlier run, measured of the same file with the same text, settings,
    libraries, hardware and environment is used; a run that was killed goes on where it was.

    Raises:
        CellError: the cell could not be measured.

    """
    cell.scored_text  # noqa: B018 # refuses a shape
    if not cell.is_reference:
        reference = session.reference(cell)
        _check_control(session, reference, measure_perplexity(session, reference, n_chunks))
    file = session.artifacts.file(cell)
    plan = session.artifacts.chunk_plan(cell)
    key = measurement_key(session, cell, file)
    with session.cache.lock(f"measurement-{key[:32]}"):
        is_reference = cell.is_reference
        known = session.measurements.load(key, is_reference=is_reference)
        have = len(known.chunks) if known is not None else 0
        if known is None or have < n_chunks:
            wanted = plan.order[have:n_chunks]
            if known is None:
                session.controlled.add(cell.id)
            elif is_reference:
                _check_control(session, cell, known)
            known = _score(session, cell, cell.conditions, known, wanted, key=key)
            session.measurements.store(key, known, is_reference=is_reference)
    return known.first(n_chunks)


def _check_control(session: Session, reference: ResolvedCell, known: PerplexityMeasurement) -> None:
    """Score a chunk of the reference here, where another of a device's hosts measured it.

    Raises:
        HostLost: they differ beyond rounding; the lane is given up, its cells move to another.

    """
    hosts = session.settings.devices[reference.cell.device].hosts
    if len(hosts) < 2 or reference.id in session.controlled:
        return
    own = score_under(session, reference, reference.conditions, 1)
    shift = own.chunks.paired(known.chunks).shift()
    if shift is None or not abs(shift.change) <= MOST_CHANGE:
        session.leave_host(
            f"{reference.cell.format.name} of {reference.cell.model} has a perplexity of"
            f" {own.perplexity:.6g} on its first chunk, where another host of device"
            f" {reference.cell.device!r} measured {known.first(1).perplexity:.6g}: they are not"
            " equal, so make it a device of its own"
        )
    session.controlled.add(reference.id)


def route_chunks(session: Session, cell: ResolvedCell) -> tuple[int, ...]:
    """Return the chunks whose routes are recorded; none in a model without experts."""
    if not session.settings.profile.routing or cell.model.any_file.n_experts == 0:
        return ()
    most = MAX_ROUTE_CHUNKS if cell.placement.is_cpu else MAX_ROUTE_CHUNKS_APART
    count = min(session.artifacts.looks(cell)[0], most)
    return session.artifacts.chunk_plan(cell).order[:count]


def score_under(
    session: Session, cell: ResolvedCell, conditions: Conditions, n_chunks: int
) -> PerplexityMeasurement:
    """Score the first chunks of a cell under other conditions; nothing of it is kept.

    The divergence is from the reference under the profile's own conditions, also for the
    reference itself; :func:`measure_perplexity` must have measured these chunks.

    Raises:
        CellError: the cell could not be measured.

    """
    order = session.artifacts.chunk_plan(cell).order[:n_chunks]
    return _score(session, cell, conditions, None, order, key=None)


def reference_folder(session: Session, reference: ResolvedCell) -> Path:
    """Return the folder of a reference cell's distribution."""
    key = measurement_key(session, reference, session.artifacts.file(reference))
    return session.measurements.reference_folder(key)


def measurement_key(session: Session, cell: ResolvedCell, file: CellFile) -> str:
    """Return the key of all that makes the scores of a cell."""
    profile = cell.profile
    identity = cell.engine.identity()
    return key_of(
        kind="perplexity",
        code=code_sha256(*_MEASURING),
        file=file.sha256,
        text=cell.scored_text.sha256,
        order=session.artifacts.chunk_plan(cell).order,
        settings=[
            cell.n_ctx,
            cell.conditions.n_batch,
            cell.conditions.n_ubatch,
            profile.flash_attention,
            profile.type_k,
            profile.type_v,
        ],
        device=cell.placement_key,
        # What a host is to measure, another machine has not, however equal.
        hosts=session.settings.devices[cell.cell.device].hosts,
        library=identity.library_sha256,
        cpu=[identity.cpu_name, identity.system_info],
        surroundings=identity.surroundings_sha256,
        routes=len(route_chunks(session, cell)),
        run=session.only_run,
        # Two interpreters may have the same build, and each is to be measured.
        against=cell.cell.engine == session.settings.profile.against,
        reference=None if cell.is_reference else _reference_key(session, cell),
    )


def _reference_key(session: Session, cell: ResolvedCell) -> str:
    reference = session.reference(cell)
    return measurement_key(session, reference, session.artifacts.file(reference))


def _score(
    session: Session,
    cell: ResolvedCell,
    conditions: Conditions,
    known: PerplexityMeasurement | None,
    wanted: tuple[int, ...],
    *,
    key: str | None,
) -> PerplexityMeasurement:
    """Score further chunks; what has come is stored under the key every few seconds."""
    text = cell.scored_text
    plan = session.artifacts.chunk_plan(cell)
    gathering = Gathering(known, plan.documents, plan.domains)
    before = len(gathering.chunks)
    total = before + len(wanted)
    session.events.append(Scoring(cell=cell.id, done=before, total=total))

    captures = key is not None and cell.is_reference
    # Routes are the profile's own conditions'. A GPU's come after the scores, in one go.
    recorded = route_chunks(session, cell) if conditions == cell.conditions else ()
    is_kept = key is not None and (cell.placement.is_cpu or not recorded)
    kept_s = time.monotonic()

    def on_reply(reply: Message) -> None:
        nonlocal kept_s
        if not gathering.take(reply):
            return
        done = len(gathering.chunks)
        session.events.append(Scoring(cell=cell.id, done=done, total=total))
        if is_kept and key is not None and time.monotonic() - kept_s >= _KEPT_EVERY_S:
            so_far = gathering.finish(plan.n_chunks)
            session.measurements.store(key, so_far, is_reference=captures)
            kept_s = time.monotonic()

    def on_routes(reply: Message) -> None:
        if isinstance(reply, ScoredChunk):
            gathering.take_routes(reply)

    is_cpu, engine = cell.placement.is_cpu, cell.engine
    reference = session.reference(cell)
    folder = reference_folder(session, reference)
    # An engine may score without telling distributions; then nothing is compared.
    can_compare = captures or (folder / "facts.json").exists()
    request = Score(
        **model_request_fields(session, cell, conditions),
        text=str(session.cache.text(text.data, text.sha256)),
        chunks=wanted,
        n_ctx=cell.n_ctx,
        n_batch=conditions.n_batch,
        n_ubatch=conditions.n_ubatch,
        reference=str(folder) if can_compare else "",
        captures=captures,
        output_matrix=output_matrix(session.artifacts.file(reference).header),
        route_chunks=recorded if is_cpu else (),
        token_ids=_token_ids(session, cell),
        **_next_model(session, cell),
    )
    watch = session.stopwatch
    with watch.stage("waiting"), session.hold_device(request.device, cell), watch.stage("decoding"):
        answer = engine.ask(request, on_reply)
        watch.move("loading", answer.load_s)
        watch.move("scoring", answer.scoring_s)
        routed = tuple(index for index in recorded if index in wanted)
        if not is_cpu and routed and gathering.tells_tokens:
            # A GPU's fused router kernels leave no such nodes: the perplexity is measured
            # with them, the routes in a pass of their own without.
            engine.ask(
                replace(request, chunks=routed, route_chunks=routed, reference="", captures=False),
                on_routes,
            )
    scored = gathering.chunks.index[before:]
    if scored != wanted:
        raise CellError(f"the engine scored {len(scored)} of {len(wanted)} chunks")
    return gathering.finish(plan.n_chunks)


def _next_model(session: Session, cell: ResolvedCell) -> dict[str, Any]:
    """Return the fields of a request that name the file which the matrix has next.

    Of the same model on the same GPU alone; lanes give their cells out as they become free.
    """
    if session.lane is not None or cell.placement.is_cpu:
        return {}
    cells = [item for item in session.matrix.cells if item.device == cell.cell.device]
    places = [place for place, item in enumerate(cells) if item.id == cell.id]
    following = cells[places[0] + 1] if places and places[0] + 1 < len(cells) else None
    if following is None or (following.model, following.engine) != (
        cell.cell.model,
        cell.cell.engine,
    ):
        return {}
    file = session.artifacts.present_file(session.resolve(following))
    if file is None:
        return {}
    return {"next_model": str(file.files[0]), "next_model_bytes": file.n_bytes}


def _token_ids(session: Session, cell: ResolvedCell) -> str:
    """Return the file of the text's ids, "" where the cell's own tokenizer must be asked."""
    library = cell.engine.identity().library_sha256
    header = session.artifacts.file(cell).header
    return str(session.artifacts.chunk_plan(cell).token_ids_for(header, library) or "")


def output_matrix(file: GgufFile) -> MatrixPlace | None:
    """Return where a file's output matrix is: its own, or the tied embedding; None for neither."""
    tensors = {tensor.name: tensor for tensor in file.tensors}
    found = tensors.get("output.weight") or tensors.get("token_embd.weight")
    if found is None or len(found.shape) != 2:
        return None
    n_embd, n_vocab = found.shape
    return MatrixPlace(
        path=str(found.file),
        offset_bytes=found.offset_bytes,
        tensor_type=found.type.number,
        n_vocab=n_vocab,
        n_embd=n_embd,
    )
