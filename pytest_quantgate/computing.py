"""How a cell's model is loaded and computes: what every request that loads one says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from pytest_quantgate.formats import TENSOR_TYPES
from pytest_quantgate.worker.placement import Placement

if TYPE_CHECKING:
    from pytest_quantgate.matrix import Cell
    from pytest_quantgate.run import Run
    from pytest_quantgate.tables import DeviceSettings


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a text is computed; ``repack`` allows weights that are repacked for the CPU."""

    n_threads: int
    n_batch: int
    n_ubatch: int
    repack: bool = True


class ModelRequestFields(TypedDict):
    """The fields of :class:`~pytest_quantgate.worker.messages.ModelRequest` that a cell decides."""

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


def placement_of(device: DeviceSettings) -> Placement:
    """Return where a device's settings have a model loaded."""
    return Placement(
        names=device.names,
        n_gpu_layers=device.n_gpu_layers,
        split_mode=device.split_mode,
        tensor_split=device.tensor_split,
        repack=device.repack,
    )
