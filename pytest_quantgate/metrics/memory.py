"""Memory: what one process takes to decode a full context, and the engine's own buffers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pytest_quantgate.engines.messages import MeasureMemory
from pytest_quantgate.matrix.requests import model_request_fields
from pytest_quantgate.results.hardware import Fingerprint
from pytest_quantgate.results.measurements.memory import Buffer, DeviceMemory, MemoryMeasurement

if TYPE_CHECKING:
    from pytest_quantgate.matrix.cells import Cell
    from pytest_quantgate.matrix.run import Run


def measure_memory(run: Run, cell: Cell) -> MemoryMeasurement:
    """Load a cell's file in a fresh process and decode one full context.

    Raises:
        CellError: the cell could not be measured.

    """
    request = MeasureMemory(
        **model_request_fields(run, cell),
        n_ctx=run.settings.profile.n_ctx,
        n_batch=run.n_batch,
        n_ubatch=run.n_ubatch,
    )
    engine = run.engine(cell.engine)
    identity = engine.identity()
    with run.hold_device(request.device, cell):
        reply = engine.ask(request)
    return MemoryMeasurement(
        peak_resident_bytes=reply.peak_resident_bytes,
        resident_before_bytes=reply.resident_before_bytes,
        load_s=reply.load_s,
        buffers=tuple(
            Buffer(kind=kind, where=where, n_bytes=n_bytes)
            for kind, where, n_bytes in reply.buffers
        ),
        devices=tuple(
            DeviceMemory(device=device, used_bytes=used, total_bytes=total)
            for device, used, total in reply.device_bytes
        ),
        n_ctx=request.n_ctx,
        n_batch=request.n_batch,
        n_ubatch=request.n_ubatch,
        fingerprint=Fingerprint(
            cpu=identity.cpu_name,
            build=identity.system_info,
            n_threads=run.n_threads,
            device=reply.device_description or request.device,
            driver=reply.driver,
        ),
    )
