"""From a cell to the key that its baseline is found by."""

from __future__ import annotations

from pytest_quantgate.config.settings import Settings
from pytest_quantgate.engines.devices import device_kind, placement_of
from pytest_quantgate.matrix.cells import NO_TEXT, Cell
from pytest_quantgate.results.baseline import Key
from pytest_quantgate.results.orphans import with_device


def key_of_cell(settings: Settings, cell: Cell) -> Key:
    """Return what a cell's baseline is found by."""
    device = settings.devices[cell.device]
    profile = with_device(settings.profile, device)
    return Key(
        model=cell.model,
        format=cell.format.name,
        imatrix=cell.imatrix,
        text=cell.text,
        n_ctx=0 if cell.text == NO_TEXT else cell.n_ctx,
        flash_attention=profile.flash_attention,
        type_k=profile.type_k,
        type_v=profile.type_v,
        device_kind=device_kind(placement_of(device)),
    )
