"""Batch geometry: how far a model's distributions depend on how its tokens are batched."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pytest_quantgate.engines.messages import CompareBatches
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.measurements.batches import BatchMeasurement, Geometry

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session

N_TOKENS = 64
"""Tokens that are decoded in every geometry; more than the largest of them."""

GEOMETRIES = (0, 1, 2, 3, 5, 8, 9, 31, 32)
"""Physical batch sizes that are compared with one batch; 0 is token by token."""


def measure_batches(session: Session, cell: ResolvedCell) -> BatchMeasurement:
    """Compare batch geometries of a cell, with repacked weights and without.

    Raises:
        CellError: the cell could not be measured.

    """
    text = cell.scored_text
    requests = [
        CompareBatches(
            **model_request_fields(session, cell, replace(cell.conditions, repack=repack)),
            text=str(session.cache.text(text.data, text.sha256)),
            chunk=session.artifacts.chunk_plan(cell).order[0],
            n_ctx=cell.n_ctx,
            n_tokens=min(N_TOKENS, cell.n_ctx),
            n_ubatches=tuple(n for n in GEOMETRIES if n < cell.n_ctx),
        )
        for repack in ((True, False) if cell.placement.is_cpu else (True,))
    ]
    found = []
    with session.hold_device(requests[0].device, cell):
        for request in requests:
            reply = cell.engine.ask(request)
            found += [
                Geometry(
                    n_ubatch=row.n_ubatch,
                    repack=request.repack,
                    mean_kld_nats=row.mean_kld_nats,
                    max_kld_nats=row.max_kld_nats,
                    top_tokens_changed=row.top_tokens_changed,
                )
                for row in reply.rows
            ]
    return BatchMeasurement(geometries=tuple(found))
