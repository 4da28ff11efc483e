"""Memory: what one process takes to decode a full context, and the engine's own buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.engines.messages import MeasureMemory
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.hardware import Fingerprint
from pytest_quantgate.results.measurements.memory import Buffer, DeviceMemory, MemoryMeasurement

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


def measure_memory(session: Session, cell: ResolvedCell) -> MemoryMeasurement:
    """Load a cell's file in a fresh process and decode one full context.

    Raises:
        CellError: the cell could not be measured.

    """
    request = MeasureMemory(
        **model_request_fields(session, cell),
        n_ctx=cell.n_ctx,
        n_batch=cell.conditions.n_batch,
        n_ubatch=cell.conditions.n_ubatch,
    )
    engine = cell.engine
    identity = engine.identity()
    with session.hold_device(request.device, cell):
        reply = engine.ask(request)
    return MemoryMeasurement(
        peak_resident_bytes=reply.peak_resident_bytes,
        resident_before_bytes=reply.resident_before_bytes,
        load_s=reply.load_s,
        buffers=tuple(
            Buffer(kind=row.kind, where=row.where, n_bytes=row.n_bytes) for row in reply.buffers
        ),
        devices=tuple(
            DeviceMemory(device=row.device, used_bytes=row.used_bytes, total_bytes=row.total_bytes)
            for row in reply.devices
        ),
        n_ctx=request.n_ctx,
        n_batch=request.n_batch,
        n_ubatch=request.n_ubatch,
        fingerprint=Fingerprint(
            cpu=identity.cpu_name,
            build=identity.system_info,
            n_threads=session.n_threads,
            device=reply.device_description or request.device,
            driver=reply.driver,
        ),
    )
