"""Devices: how far a cell's distributions are from those of the profile's first device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.engines.messages import CompareBatches
from pytest_quantgate.matrix.cells import on_device
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.devices import DeviceDifference, DeviceMeasurement

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session

N_TOKENS = 256
"""Tokens that are decoded on both devices, at most; also the largest physical batch."""

SMALL_BATCHES = (1, 8)
"""Physical batch sizes beside the largest: kernels of a GPU differ with the rows they work on."""


def measure_devices(session: Session, cell: ResolvedCell) -> DeviceMeasurement | Absent:
    """Compare a cell's device with the profile's first one, which itself has nothing of it.

    Both decode the same file and tokens with the cell's attention and KV types, one after the
    other in one process.

    Raises:
        CellError: the cell could not be measured, or a device is not there.

    """
    first = session.settings.profile.devices[0]
    if cell.cell.device == first:
        return Absent(reason=f"{first} is the device compared with", is_natural=True)
    text = cell.scored_text
    other = session.resolve(on_device(session.settings, cell.cell, first))
    both = dict.fromkeys((*cell.placement.names, *other.placement.names))
    n_tokens = min(N_TOKENS, cell.n_ctx)
    request = CompareBatches(
        **model_request_fields(session, cell),
        against=session.device(other),
        text=str(session.cache.text(text.data, text.sha256)),
        chunk=session.artifacts.chunk_plan(cell).order[0],
        n_ctx=cell.n_ctx,
        n_tokens=n_tokens,
        n_ubatches=(*(n for n in SMALL_BATCHES if n < n_tokens), n_tokens),
    )
    with session.hold_device(",".join(both), cell):
        reply = cell.engine.ask(request)
    return DeviceMeasurement(
        against=first,
        n_tokens=n_tokens,
        differences=tuple(
            DeviceDifference(
                n_ubatch=row.n_ubatch,
                mean_kld_nats=row.mean_kld_nats,
                max_kld_nats=row.max_kld_nats,
                top_tokens_changed=row.top_tokens_changed,
            )
            for row in reply.rows
        ),
    )
