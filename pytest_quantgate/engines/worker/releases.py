"""What differs between releases of llama.cpp, in one place.

A difference is asked for (has the structure this field, is the function there), not concluded from
a version. What an older release cannot do is refused with the reason; a structure that is not laid
out in the library as its llama-cpp-python has it is never written to.

Runs in the worker alone: standard library, numpy and llama_cpp.
"""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pytest_quantgate.engines.worker.errors import EngineRefusal, EngineUnusable
from pytest_quantgate.engines.worker.loading import OLDEST, low, package_version

_ROOM_BYTES = 4096

_MODEL, _CONTEXT, _QUANTIZE = (
    f"llama_{what}_default_params" for what in ("model", "context", "model_quantize")
)

# Values that every release has, beside fields that moved when others came or went.
_DEFAULTS: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    _MODEL: {
        "split_mode": (1,),
        "main_gpu": (0,),
        "vocab_only": (False,),
        "use_mmap": (True,),
        "use_mlock": (False,),
        "check_tensors": (False,),
        "use_extra_bufts": (True,),
        "no_alloc": (False,),
    },
    _CONTEXT: {
        "n_ctx": (512,),
        "n_batch": (2048,),
        "n_ubatch": (512,),
        "n_seq_max": (1,),
        "n_threads": (4,),
        "n_threads_batch": (4,),
        "rope_scaling_type": (-1,),
        "pooling_type": (-1,),
        "attention_type": (-1,),
        "flash_attn_type": (-1,),
        "yarn_ext_factor": (-1.0,),
        "cb_eval_user_data": (None,),
        "type_k": (1,),
        "type_v": (1,),
        "abort_callback_data": (None,),
        "embeddings": (False,),
        "offload_kqv": (True,),
        "op_offload": (True,),
    },
    _QUANTIZE: {
        "nthread": (0,),
        "allow_requantize": (False,),
        "quantize_output_tensor": (True,),
        "only_copy": (False,),
        "pure": (False,),
        "keep_split": (False,),
        "dry_run": (False,),
    },
}


def model_parameters() -> Any:
    """Return ``llama_model_params`` with llama.cpp's own values."""
    return low.llama_model_default_params()


def context_parameters() -> Any:
    """Return ``llama_context_params`` with llama.cpp's own values."""
    return low.llama_context_default_params()


def quantize_parameters() -> Any:
    """Return ``llama_model_quantize_params`` with llama.cpp's own values."""
    return low.llama_model_quantize_default_params()


def has_field(structure: Any, name: str) -> bool:
    """Return whether a structure has a field; ctypes would take any other name for the object's."""
    return any(field[0] == name for field in type(structure)._fields_)


def set_repacking(parameters: Any, allowed: bool) -> None:
    """Allow or forbid the processor's repacked weights.

    Raises:
        EngineRefusal: it is to be forbidden, and this release always repacks what it can.

    """
    if has_field(parameters, "use_extra_bufts"):
        parameters.use_extra_bufts = allowed
    elif not allowed:
        raise EngineRefusal(_too_old("load a model without repacked weights"))


def set_flash_attention(options: Any, enabled: bool) -> None:
    """Turn flash attention on or off; llama.cpp's own choice is never left to it."""
    if has_field(options, "flash_attn_type"):
        options.flash_attn_type = 1 if enabled else 0
    else:
        options.flash_attn = enabled


def set_if_known(structure: Any, name: str, value: Any) -> None:
    """Set a field of which older releases know nothing, and behave as if it had been set so."""
    if has_field(structure, name):
        setattr(structure, name, value)


def clear_memory(context: Any, data: bool) -> None:
    """Forget all sequences of a context; ``data`` also overwrites what was kept."""
    if hasattr(low, "llama_memory_clear"):
        low.llama_memory_clear(low.llama_get_memory(context), data)
    elif hasattr(low, "llama_kv_self_clear"):
        low.llama_kv_self_clear(context)
    else:
        low.llama_kv_cache_clear(context)


def set_dry_run(parameters: Any) -> None:
    """Let quantizing tell the types and write nothing.

    Raises:
        EngineRefusal: this release would write the file.

    """
    if not has_field(parameters, "dry_run"):
        raise EngineRefusal(_too_old("report the types without quantizing (it has no dry run)"))
    parameters.dry_run = True


def set_tensor_types(parameters: Any, overrides: Sequence[tuple[str, int]]) -> object:
    """Set the types of tensors by pattern, and return what must live as long as ``parameters``.

    Raises:
        EngineRefusal: this release takes them as objects of C++ alone.

    """
    if not overrides:
        return None
    kind = getattr(low, "llama_model_tensor_override", None)
    if kind is None or not has_field(parameters, "tt_overrides"):
        raise EngineRefusal(_too_old("take the types of single tensors"))
    rows = (kind * (len(overrides) + 1))()
    for row, (pattern, number) in zip(rows, overrides, strict=False):
        row.pattern, row.type = pattern.encode(), number
    parameters.tt_overrides = ctypes.cast(rows, ctypes.POINTER(kind))
    return rows


def set_importance(parameters: Any, weights: Mapping[str, np.ndarray]) -> object:
    """Set each weight's importances, float32, and return what must live as long as ``parameters``.

    Raises:
        EngineRefusal: this release takes them as objects of C++ alone.

    """
    if not weights:
        return None
    kind = getattr(low, "llama_model_imatrix_data", None)
    if kind is None:
        raise EngineRefusal(_too_old("be given an importance matrix"))
    rows = (kind * (len(weights) + 1))()
    for row, (name, values) in zip(rows, weights.items(), strict=False):
        row.name = name.encode()
        row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        row.size = len(values)
    parameters.imatrix = ctypes.cast(rows, ctypes.POINTER(kind))
    return rows


def check_layouts() -> None:
    """Compare the structures of parameters with what the library fills in.

    Raises:
        EngineUnusable: one is laid out otherwise than this llama-cpp-python has it.

    """
    for name, expected in _DEFAULTS.items():
        wrong = _wrong_size(name) or _wrong_value(name, expected)
        if wrong is not None:
            raise EngineUnusable(
                f"llama-cpp-python {package_version()} of {sys.executable} does not know how its"
                f" own llama.cpp lays out what {name} returns ({wrong}); take another release,"
                f" {OLDEST} or later"
            )


def _too_old(what: str) -> str:
    return f"llama-cpp-python {package_version()} is too old to {what}; take a newer engine"


def _wrong_value(name: str, expected: Mapping[str, tuple[Any, ...]]) -> str | None:
    structure = getattr(low, name)()
    for field, values in expected.items():
        if has_field(structure, field):
            value = getattr(structure, field)
            if value not in values:
                return f"{field} is {value!r}"
    return None


def _wrong_size(name: str) -> str | None:
    """Compare which bytes the library writes with the structure; None where that is not seen.

    A structure is returned through a hidden first argument, on x86-64 an ordinary one. Into memory
    of zeros and of ones the same bytes are written, and the others stay.
    """
    if platform.machine() not in {"x86_64", "AMD64"} or sys.maxsize < 1 << 32:
        return None
    fill = low._lib[name]  # a handle of its own, not llama-cpp-python's
    fill.restype, fill.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    rooms = [(ctypes.c_ubyte * _ROOM_BYTES)(*([byte] * _ROOM_BYTES)) for byte in (0, 255)]
    for room in rooms:
        fill(room)
    written = [at for at, pair in enumerate(zip(*rooms, strict=True)) if pair[0] == pair[1]]
    structure = getattr(low, name).restype
    last = structure._fields_[-1][0]
    field = getattr(structure, last)
    end = max(written, default=-1) + 1
    if end > ctypes.sizeof(structure):
        return f"it has at least {end} bytes, not {ctypes.sizeof(structure)}"
    if end < field.offset + field.size:
        return f"it has no {last}"
    return None


check_layouts()
