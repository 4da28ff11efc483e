"""How a cell's text is scored: one pass gives perplexity, divergence and routes.

What was scored is kept for the other processes of the run, the reference's for later runs too.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pytest_quantgate.artifacts.files import CellFile
from pytest_quantgate.engines.conditions import Setting
from pytest_quantgate.engines.messages import Message, Score, ScoredChunk
from pytest_quantgate.errors import CellError
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.measurements.perplexity import Gathering, PerplexityMeasurement
from pytest_quantgate.results.measurements.routes import MAX_ROUTE_CHUNKS
from pytest_quantgate.storage.keys import key_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.cells import Cell
    from pytest_quantgate.matrix.run import Run


def measure_perplexity(run: Run, cell: Cell, n_chunks: int) -> PerplexityMeasurement:
    """Measure at least so many chunks of a cell and return the first ``n_chunks``.

    What another process of this run measured is used; the reference is also kept for later
    runs with the same file, text, settings, libraries and processor.

    Raises:
        CellError: the cell could not be measured.

    """
    run.check_has_quality(cell.model)
    reference = run.reference_cell(cell)
    if reference != cell:
        measure_perplexity(run, reference, n_chunks)
    file = run.cell_file(cell)
    plan = run.chunk_plan(cell.model, cell.text)
    key = _measurement_key(run, cell, file)
    with run.cache.lock(f"measurement-{key[:32]}"):
        is_reference = reference == cell
        known = run.measurements.load(key, is_reference=is_reference)
        have = len(known.chunks) if known is not None else 0
        if known is None or have < n_chunks:
            wanted = plan.order[have:n_chunks]
            known = _score(run, cell, run.setting, known, wanted, captures=is_reference)
            run.measurements.store(key, known, is_reference=is_reference)
    return known.first(n_chunks)


def route_chunks(run: Run, cell: Cell) -> tuple[int, ...]:
    """Return the chunks whose routes are recorded; none in a model without experts."""
    if not run.settings.profile.routing or run.model(cell.model).any_file.n_experts == 0:
        return ()
    count = min(run.looks(cell)[0], MAX_ROUTE_CHUNKS)
    return run.chunk_plan(cell.model, cell.text).order[:count]


def score_under(run: Run, cell: Cell, setting: Setting, n_chunks: int) -> PerplexityMeasurement:
    """Score the first chunks of a cell in another setting; nothing of it is kept.

    The divergence is from the reference as the profile's own setting gives it, also for the
    reference itself; :func:`measure_perplexity` must have measured these chunks.

    Raises:
        CellError: the cell could not be measured.

    """
    order = run.chunk_plan(cell.model, cell.text).order[:n_chunks]
    return _score(run, cell, setting, None, order, captures=False)


def reference_folder(run: Run, reference: Cell) -> Path:
    """Return the folder of a reference cell's distribution."""
    key = _measurement_key(run, reference, run.cell_file(reference))
    return run.measurements.reference_folder(key)


def _measurement_key(run: Run, cell: Cell, file: CellFile) -> str:
    profile = run.profile_of(cell)
    identity = run.engine(cell.engine).identity()
    is_reference = run.reference_cell(cell) == cell
    return key_of(
        kind="perplexity",
        file=file.sha256,
        text=run.text(cell.text).sha256,
        order=run.chunk_plan(cell.model, cell.text).order,
        settings=[
            profile.n_ctx,
            run.n_batch,
            run.n_ubatch,
            profile.flash_attention,
            profile.type_k,
            profile.type_v,
        ],
        device=run.placement(cell).to_text(),
        library=identity.library_sha256,
        cpu=[identity.cpu_name, identity.system_info],
        routes=len(route_chunks(run, cell)),
        # Only a reference outlives its run: a gate measures what it judges.
        run=None if is_reference else run.run_id,
        # Two interpreters may have the same build, and each is to be measured.
        against=cell.engine == run.settings.profile.against,
    )


def _score(
    run: Run,
    cell: Cell,
    setting: Setting,
    known: PerplexityMeasurement | None,
    wanted: tuple[int, ...],
    *,
    captures: bool,
) -> PerplexityMeasurement:
    profile, text = run.profile_of(cell), run.text(cell.text)
    plan = run.chunk_plan(cell.model, cell.text)
    gathering = Gathering(known, plan.documents, plan.domains)
    before = len(gathering.chunks)
    run.emit("score", cell, done=before, total=before + len(wanted))

    def on_reply(reply: Message) -> None:
        if gathering.take(reply):
            run.emit("score", cell, done=len(gathering.chunks), total=before + len(wanted))

    def on_routes(reply: Message) -> None:
        if isinstance(reply, ScoredChunk):
            gathering.take_routes(reply)

    is_cpu, engine = run.placement(cell).is_cpu, run.engine(cell.engine)
    reference = run.reference_cell(cell)
    folder = reference_folder(run, reference)
    # An engine may score without telling distributions; then nothing is compared.
    can_compare = captures or (folder / "facts.json").exists()
    # Routes are the profile's own setting's.
    recorded = route_chunks(run, cell) if setting == run.setting else ()
    request = Score(
        **model_request_fields(run, cell, setting),
        text=str(run.cache.text(text.data, text.sha256)),
        chunks=wanted,
        n_ctx=profile.n_ctx,
        n_batch=setting.n_batch,
        n_ubatch=setting.n_ubatch,
        reference=str(folder) if can_compare else "",
        captures=captures,
        output_matrix=_output_matrix(run.cell_file(reference)),
        route_chunks=recorded if is_cpu else (),
    )
    with run.hold_device(request.device, cell):
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


def _output_matrix(file: CellFile) -> tuple[str, int, int, int, int] | None:
    """Return where a file's output matrix is: its own, or the tied embedding."""
    tensors = {tensor.name: tensor for tensor in file.header.tensors}
    found = tensors.get("output.weight") or tensors.get("token_embd.weight")
    if found is None:
        return None
    n_embd, n_vocab = found.shape
    return str(found.file), found.offset_bytes, found.type.number, n_vocab, n_embd
