"""How a cell's model is loaded and computes: what every request that loads one says."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from pytest_quantgate.engines.conditions import Setting
from pytest_quantgate.gguf.formats import TENSOR_TYPES

if TYPE_CHECKING:
    from pytest_quantgate.matrix.cells import Cell
    from pytest_quantgate.matrix.run import Run


class ModelRequestFields(TypedDict):
    """What a cell decides of a :class:`~pytest_quantgate.engines.messages.ModelRequest`."""

    model: str
    device: str
    n_threads: int
    flash_attention: bool
    type_k: int
    type_v: int
    repack: bool


def model_request_fields(
    run: Run, cell: Cell, setting: Setting | None = None
) -> ModelRequestFields:
    """Return what every request says that loads a cell's model.

    ``setting`` None is the profile's own; its batches are not among the fields.

    Raises:
        CellError: the file could not be made, or a device is not there.

    """
    profile, used = run.profile_of(cell), setting or run.setting
    return {
        "model": str(run.cell_file(cell).path),
        "device": run.device(cell),
        "n_threads": used.n_threads,
        "flash_attention": profile.flash_attention,
        "type_k": TENSOR_TYPES[profile.type_k].number,
        "type_v": TENSOR_TYPES[profile.type_v].number,
        "repack": used.repack,
    }
