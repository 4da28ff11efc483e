"""An engine without a dry run is never asked to plan: it would write the file."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest
from llama_cpp import llama_cpp as low

from pytest_quantgate.engines.messages import PlanQuantization
from pytest_quantgate.engines.worker import quantizing
from pytest_quantgate.engines.worker.errors import EngineRefusal


class OldParameters(ctypes.Structure):
    """The parameters of a llama.cpp before its dry run."""

    _fields_ = [("ftype", ctypes.c_int), ("allow_requantize", ctypes.c_bool)]


def test_an_engine_without_a_dry_run_refuses_to_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(low, "llama_model_quantize_default_params", lambda: OldParameters())
    monkeypatch.setattr(low, "llama_model_quantize", lambda *args: asked.append(args))
    request = PlanQuantization(source="a", file_type=7, overrides=(), allow_requantize=False)
    with pytest.raises(EngineRefusal, match="it has no dry run"):
        quantizing.plan_quantization(request, log=None)  # type: ignore[arg-type] # not reached
    assert asked == []
