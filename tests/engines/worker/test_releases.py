"""What differs between releases of llama.cpp is asked of structures and functions."""

from __future__ import annotations

import ctypes
import platform
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.engines.worker import releases
from pytest_quantgate.engines.worker.errors import EngineRefusal, EngineUnusable
from pytest_quantgate.engines.worker.loading import NEEDED, low

sizes_are_seen = pytest.mark.skipif(
    platform.machine() not in {"x86_64", "AMD64"}, reason="elsewhere only values are compared"
)


class OldModelParameters(ctypes.Structure):
    _fields_ = [("n_gpu_layers", ctypes.c_int)]


class OldContextParameters(ctypes.Structure):
    _fields_ = [("flash_attn", ctypes.c_bool)]


class OldQuantizeParameters(ctypes.Structure):
    _fields_ = [("ftype", ctypes.c_int), ("imatrix", ctypes.c_void_p)]


class TensorTypesOfCpp(ctypes.Structure):
    _fields_ = [("tensor_types", ctypes.c_void_p)]


def test_flash_attention_is_set_by_whichever_field_there_is() -> None:
    old, new = OldContextParameters(), releases.context_parameters()
    for enabled in (True, False):
        releases.set_flash_attention(old, enabled)
        releases.set_flash_attention(new, enabled)
        assert old.flash_attn is enabled
        assert new.flash_attn_type == int(enabled)


def test_a_release_that_always_repacks_refuses_to_do_without() -> None:
    old = OldModelParameters()
    releases.set_repacking(old, allowed=True)
    with pytest.raises(EngineRefusal, match="too old to load a model without repacked weights"):
        releases.set_repacking(old, allowed=False)


def test_an_unknown_field_is_left_alone() -> None:
    """Ctypes would take it for an attribute of the Python object, and say nothing."""
    old = OldModelParameters()
    releases.set_if_known(old, "op_offload", True)
    assert not hasattr(old, "op_offload")
    releases.set_if_known(old, "n_gpu_layers", 3)
    assert old.n_gpu_layers == 3


@pytest.mark.parametrize(
    ("there", "calls"),
    [
        (["llama_memory_clear", "llama_get_memory", "llama_kv_self_clear"], ["llama_memory_clear"]),
        (["llama_kv_self_clear", "llama_kv_cache_clear"], ["llama_kv_self_clear"]),
        (["llama_kv_cache_clear"], ["llama_kv_cache_clear"]),
    ],
)
def test_the_newest_function_forgets_the_sequences(
    monkeypatch: pytest.MonkeyPatch, there: list[str], calls: list[str]
) -> None:
    seen: list[str] = []

    def function(name: str) -> Any:
        return lambda *_arguments: seen.append(name)

    monkeypatch.setattr(
        releases, "low", SimpleNamespace(**{name: function(name) for name in there})
    )
    releases.clear_memory(None, data=True)
    assert [name for name in seen if name != "llama_get_memory"] == calls


def test_types_of_tensors_and_importances_that_only_cpp_can_give_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights = {"blk.0.ffn_up.weight": np.ones(4, dtype=np.float32)}
    assert releases.set_tensor_types(TensorTypesOfCpp(), ()) is None
    with pytest.raises(EngineRefusal, match="too old to take the types of single tensors"):
        releases.set_tensor_types(TensorTypesOfCpp(), (("x", 8),))
    monkeypatch.setattr(releases, "low", SimpleNamespace())
    assert releases.set_importance(OldQuantizeParameters(), {}) is None
    with pytest.raises(EngineRefusal, match="too old to be given an importance matrix"):
        releases.set_importance(OldQuantizeParameters(), weights)


def test_the_installed_release_is_laid_out_as_it_says() -> None:
    releases.check_layouts()


def _without(name: str, fields: list[Any]) -> list[Any]:
    return [field for field in fields if field[0] != name]


def _inserted(before: str, fields: list[Any]) -> list[Any]:
    at = [field[0] for field in fields].index(before)
    return [*fields[:at], ("other", ctypes.c_int), *fields[at:]]


@pytest.mark.parametrize(
    ("structure", "function", "change", "told"),
    [
        (
            "llama_context_params",
            "llama_context_default_params",
            lambda fields: _without("n_ubatch", fields),
            r"n_seq_max is 512|it has at least",
        ),
        (
            "llama_context_params",
            "llama_context_default_params",
            lambda fields: _inserted("type_k", fields),
            r"type_k is|it has no",
        ),
        (
            "llama_model_params",
            "llama_model_default_params",
            lambda fields: _inserted("split_mode", fields),
            r"split_mode is|it has no",
        ),
        pytest.param(
            "llama_model_quantize_params",
            "llama_model_quantize_default_params",
            lambda fields: fields[:-1],
            r"it has at least \d+ bytes, not \d+",
            marks=sizes_are_seen,
        ),
        pytest.param(
            "llama_model_quantize_params",
            "llama_model_quantize_default_params",
            lambda fields: [*fields, ("further", ctypes.c_void_p)],
            "it has no further",
            marks=sizes_are_seen,
        ),
    ],
)
def test_a_structure_that_is_laid_out_otherwise_is_never_used(
    monkeypatch: pytest.MonkeyPatch, structure: str, function: str, change: Any, told: str
) -> None:
    real = getattr(low, structure)

    class Changed(ctypes.Structure):
        _fields_ = change(list(real._fields_))

    def fill() -> Changed:
        data = bytes(getattr(low, function)()).ljust(ctypes.sizeof(Changed), b"\0")
        return Changed.from_buffer_copy(data)

    fill.restype = Changed  # type: ignore[attr-defined] # as a function of ctypes has it
    functions = {name: getattr(low, name) for name in NEEDED if name.endswith("_params")}
    fake = SimpleNamespace(_lib=low._lib, **(functions | {function: fill}))
    monkeypatch.setattr(releases, "low", fake)
    with pytest.raises(EngineUnusable, match=told):
        releases.check_layouts()
