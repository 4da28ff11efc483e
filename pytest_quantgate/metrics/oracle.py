"""An oracle: how far an engine is from another implementation of the same model.

A baseline only tells that a new engine computes what the old one did. For the models that ship
with this package, what ``transformers`` computes in float32 is stored beside them, so that a
router or a norm that is wrong in both engines is seen too.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pytest_quantgate.engines.messages import CompareOracle, OracleCompared
from pytest_quantgate.errors import RequestUnknown
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.oracle import OracleMeasurement
from pytest_quantgate.storage.arrays import array_of, read_arrays

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session

LEFT_OUT_TOKENS = 0.02
"""Share of the tokens, those that differ most, that the typical divergence leaves out."""

LEFT_OUT_ROWS = 1 / 16
"""The same share of the stored distributions."""


def measure_oracle(session: Session, cell: ResolvedCell) -> OracleMeasurement | Absent:
    """Compare a reference with its model's oracle, where there is something to compare.

    There is nothing for a model without an oracle, another format than the reference, a KV cache
    that rounds more than F16, and an engine that has no way to tell logits. One that has and
    fails is no such case: its refusal is the cell's verdict.

    Raises:
        CellError: the engine failed.

    """
    path, profile = cell.model.oracle, cell.profile
    if not cell.is_reference:
        return Absent(reason="an oracle is of a model's reference alone", is_natural=True)
    if path is None:
        reason = f"model {cell.cell.model!r} has no oracle: only those that ship here have one"
        return Absent(reason=reason, is_noted=False)
    if not {profile.type_k, profile.type_v} <= {"F32", "F16"}:
        types = f"type_k {profile.type_k}, type_v {profile.type_v}"
        return Absent(reason=f"an oracle needs a KV cache of F16 or F32, not {types}")
    request = CompareOracle(
        **model_request_fields(session, cell),
        oracle=str(path),
        n_batch=cell.conditions.n_batch,
        n_ubatch=cell.conditions.n_ubatch,
    )
    with session.hold_device(request.device, cell):
        try:
            return summarize(path, cell.engine.ask(request))
        except RequestUnknown:
            return Absent(
                reason=f"engine {cell.cell.engine!r} reports no logits to compare with the"
                " oracle's; take an engine of llama-cpp-python"
            )


def summarize(path: Path, reply: OracleCompared) -> OracleMeasurement:
    """Compare an engine's figures with those in the oracle's file."""
    expected = read_arrays(path)["nll_nats"].astype(np.float64)
    first = (expected.shape[1] + 1) // 2
    seen = array_of(reply.nll_nats, np.float32, *expected.shape)
    difference = (seen - expected)[:, first:].ravel()
    kld = array_of(reply.kld_nats, np.float64, -1)
    squares = difference**2 / 2
    return OracleMeasurement(
        rows=kld.size,
        mean_kld_nats=float(kld.mean()),
        typical_kld_nats=_typical_mean(kld, LEFT_OUT_ROWS),
        tokens=difference.size,
        nll_kld_nats=float(squares.mean()),
        typical_nll_kld_nats=_typical_mean(squares, LEFT_OUT_TOKENS),
        max_nll_difference_nats=float(np.abs(difference).max()),
    )


def _typical_mean(values: np.ndarray, left_out: float) -> float:
    """Return the mean without a share of the largest values; NaN where any is not finite."""
    if not np.isfinite(values).all():
        return math.nan
    kept = values.size - math.floor(left_out * values.size)
    return float(np.sort(values)[:kept].mean())
