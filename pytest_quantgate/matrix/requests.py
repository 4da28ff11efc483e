"""How a cell's model is loaded and computes: what every request that loads one says."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from pytest_quantgate.engines.conditions import Conditions
from pytest_quantgate.gguf.formats import TENSOR_TYPES

if TYPE_CHECKING:
    from pytest_quantgate.matrix.resolved import ResolvedCell
    from pytest_quantgate.matrix.session import Session


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
    session: Session, cell: ResolvedCell, conditions: Conditions | None = None
) -> ModelRequestFields:
    """Return what every request says that loads a cell's model.

    ``conditions`` None are the profile's own; their batches are not among the fields.

    Raises:
        CellError: the file could not be made, or a device is not there.

    """
    profile, used = cell.profile, conditions or cell.conditions
    return {
        "model": str(session.artifacts.file(cell).path),
        "device": session.device(cell),
        "n_threads": used.n_threads,
        "flash_attention": profile.flash_attention,
        "type_k": TENSOR_TYPES[profile.type_k].number,
        "type_v": TENSOR_TYPES[profile.type_v].number,
        "repack": used.repack,
    }
