"""How a cell's text is scored: one pass gives perplexity, divergence and routes.

What was scored is kept for the other processes of the run, the reference's for later runs too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.engines.conditions import Conditions
from pytest_quantgate.engines.messages import MatrixPlace, Message, Score, ScoredChunk
from pytest_quantgate.errors import CellError
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.events import Scoring
from pytest_quantgate.results.measurements.perplexity import Gathering, PerplexityMeasurement
from pytest_quantgate.results.measurements.routes import MAX_ROUTE_CHUNKS
from pytest_quantgate.storage.keys import key_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


def measure_perplexity(
    session: Session, cell: ResolvedCell, n_chunks: int
) -> PerplexityMeasurement:
    """Measure at least so many chunks of a cell and return the first ``n_chunks``.

    What another process of this run measured is used; the reference is also kept for later
    runs with the same file, text, settings, libraries and processor.

    Raises:
        CellError: the cell could not be measured.

    """
    cell.scored_text  # noqa: B018 # refuses a shape
    if not cell.is_reference:
        measure_perplexity(session, session.reference(cell), n_chunks)
    file = session.artifacts.file(cell)
    plan = session.artifacts.chunk_plan(cell)
    key = _measurement_key(session, cell, file)
    with session.cache.lock(f"measurement-{key[:32]}"):
        is_reference = cell.is_reference
        known = session.measurements.load(key, is_reference=is_reference)
        have = len(known.chunks) if known is not None else 0
        if known is None or have < n_chunks:
            wanted = plan.order[have:n_chunks]
            known = _score(session, cell, cell.conditions, known, wanted, captures=is_reference)
            session.measurements.store(key, known, is_reference=is_reference)
    return known.first(n_chunks)


def route_chunks(session: Session, cell: ResolvedCell) -> tuple[int, ...]:
    """Return the chunks whose routes are recorded; none in a model without experts."""
    if not session.settings.profile.routing or cell.model.any_file.n_experts == 0:
        return ()
    count = min(session.artifacts.looks(cell)[0], MAX_ROUTE_CHUNKS)
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
    return _score(session, cell, conditions, None, order, captures=False)


def reference_folder(session: Session, reference: ResolvedCell) -> Path:
    """Return the folder of a reference cell's distribution."""
    key = _measurement_key(session, reference, session.artifacts.file(reference))
    return session.measurements.reference_folder(key)


def _measurement_key(session: Session, cell: ResolvedCell, file: CellFile) -> str:
    profile = cell.profile
    identity = cell.engine.identity()
    is_reference = cell.is_reference
    return key_of(
        kind="perplexity",
        file=file.sha256,
        text=cell.scored_text.sha256,
        order=session.artifacts.chunk_plan(cell).order,
        settings=[
            profile.n_ctx,
            cell.conditions.n_batch,
            cell.conditions.n_ubatch,
            profile.flash_attention,
            profile.type_k,
            profile.type_v,
        ],
        device=cell.placement.to_text(),
        library=identity.library_sha256,
        cpu=[identity.cpu_name, identity.system_info],
        routes=len(route_chunks(session, cell)),
        # Only a reference outlives its run: a gate measures what it judges.
        run=None if is_reference else session.run_id,
        # Two interpreters may have the same build, and each is to be measured.
        against=cell.cell.engine == session.settings.profile.against,
    )


def _score(
    session: Session,
    cell: ResolvedCell,
    conditions: Conditions,
    known: PerplexityMeasurement | None,
    wanted: tuple[int, ...],
    *,
    captures: bool,
) -> PerplexityMeasurement:
    profile, text = cell.profile, cell.scored_text
    plan = session.artifacts.chunk_plan(cell)
    gathering = Gathering(known, plan.documents, plan.domains)
    before = len(gathering.chunks)
    total = before + len(wanted)
    session.events.append(Scoring(cell=cell.id, done=before, total=total))

    def on_reply(reply: Message) -> None:
        if gathering.take(reply):
            done = len(gathering.chunks)
            session.events.append(Scoring(cell=cell.id, done=done, total=total))

    def on_routes(reply: Message) -> None:
        if isinstance(reply, ScoredChunk):
            gathering.take_routes(reply)

    is_cpu, engine = cell.placement.is_cpu, cell.engine
    reference = session.reference(cell)
    folder = reference_folder(session, reference)
    # An engine may score without telling distributions; then nothing is compared.
    can_compare = captures or (folder / "facts.json").exists()
    # Routes are the profile's own setting's.
    recorded = route_chunks(session, cell) if conditions == cell.conditions else ()
    request = Score(
        **model_request_fields(session, cell, conditions),
        text=str(session.cache.text(text.data, text.sha256)),
        chunks=wanted,
        n_ctx=profile.n_ctx,
        n_batch=conditions.n_batch,
        n_ubatch=conditions.n_ubatch,
        reference=str(folder) if can_compare else "",
        captures=captures,
        output_matrix=_output_matrix(session.artifacts.file(reference)),
        route_chunks=recorded if is_cpu else (),
    )
    with session.hold_device(request.device, cell):
        engine.ask(request, on_reply)
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


def _output_matrix(file: CellFile) -> MatrixPlace | None:
    """Return where a file's output matrix is: its own, or the tied embedding."""
    tensors = {tensor.name: tensor for tensor in file.header.tensors}
    found = tensors.get("output.weight") or tensors.get("token_embd.weight")
    if found is None:
        return None
    n_embd, n_vocab = found.shape
    return MatrixPlace(
        path=str(found.file),
        offset_bytes=found.offset_bytes,
        tensor_type=found.type.number,
        n_vocab=n_vocab,
        n_embd=n_embd,
    )
