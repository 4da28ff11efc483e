"""A sweep of conditions: one file, the same tokens, and all that should not matter."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.engines.messages import ConditionCompared, SweepConditions, SweptCondition
from pytest_quantgate.engines.messages.placement import read_placement
from pytest_quantgate.engines.messages.type_errors import TYPE_ERRORS
from pytest_quantgate.engines.sweep import SHORT, Kind, Point, points
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.measurements.sweep import SweepMeasurement, SweptPoint
from pytest_quantgate.storage.arrays import array_of

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


def measure_sweep(session: Session, cell: ResolvedCell) -> SweepMeasurement:
    """Compare a cell's file under many conditions with the profile's own.

    Raises:
        CellError: the cell could not be measured under the profile's own conditions.

    """
    text, plan = cell.scored_text, session.artifacts.chunk_plan(cell)
    fields = model_request_fields(session, cell)
    n_tokens = min(SHORT, plan.n_chunks * cell.n_ctx)
    own = SweptCondition(
        n_tokens=n_tokens,
        n_ctx=n_tokens,
        n_ubatch=cell.conditions.n_ubatch,
        **{name: value for name, value in fields.items() if name != "model"},  # type: ignore[arg-type]  # the rest of the typed fields
    )
    header = session.artifacts.file(cell).header
    swept = points(
        own,
        trained=header.hyperparameter("context_length") or cell.n_ctx,
        n_text=plan.n_chunks * cell.n_ctx,
        devices=cell.engine.identity().devices,
        n_layers=header.hyperparameter("block_count") or 1,
    )
    request = SweepConditions(
        **fields,
        n_batch=own.n_ubatch,
        n_ubatch=own.n_ubatch,
        text=str(session.cache.text(text.data, text.sha256)),
        n_tokens=n_tokens,
        conditions=tuple(point.condition for point in swept),
    )
    used = dict.fromkeys(
        name
        for point in (replace(swept[0], condition=own), *swept)
        for name in read_placement(point.condition.device).names
    )
    with session.hold_device(",".join(used), cell):
        reply = cell.engine.ask(request)
    return SweepMeasurement(
        n_tokens=n_tokens,
        reference=f"n_ubatch {min(own.n_ubatch, n_tokens)}, {own.n_threads} threads",
        points=tuple(_swept(point, row, own) for point, row in zip(swept, reply.rows, strict=True)),
    )


def _swept(point: Point, row: ConditionCompared, own: SweptCondition) -> SweptPoint:
    condition = point.condition
    types = [
        kind
        for kind, usual in ((condition.type_k, own.type_k), (condition.type_v, own.type_v))
        if kind != usual and point.kind is Kind.CACHE
    ]
    return SweptPoint(
        changes=point.changes,
        kind=point.kind.name,
        cache_error=math.hypot(*(TYPE_ERRORS.get(kind, 0.0) for kind in types), 0.0),
        mean_kld_nats=row.mean_kld_nats,
        top_tokens_changed=row.top_tokens_changed,
        block_starts=tuple(array_of(row.block_starts, np.int32, -1).tolist()),
        block_klds_nats=tuple(array_of(row.block_kld_nats, np.float64, -1).tolist()),
        nll_increase_nats=row.nll_increase_nats,
        nll_error_nats=row.nll_error_nats,
        problem=row.problem,
    )
