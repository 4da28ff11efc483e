"""Whether two quantizers make one file: what cannot be told is a difference, never an error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.artifacts.quantizers import find_difference
from pytest_quantgate.engines.messages import PlanQuantization, QuantizationPlanned, TensorsSampled
from pytest_quantgate.errors import CellCrashed
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.gguf.reader import read_gguf


class Planner:
    """An engine with given types, and given hashes of its samples."""

    def __init__(self, types: dict[str, str], digest: str = "0", *, dies: bool = False) -> None:
        self._types, self._digest, self._dies = types, digest, dies

    def identity(self) -> Any:
        raise AssertionError("its identity is not asked for")

    def ask(self, request: Any, on_reply: Any = None) -> Any:
        del on_reply
        if isinstance(request, PlanQuantization):
            if self._dies:
                raise CellCrashed("killed by SIGABRT")
            return QuantizationPlanned(types=tuple(self._types.items()), needs_imatrix=False)
        return TensorsSampled(hashes=tuple((row[0], self._digest) for row in request.tensors))

    def close(self) -> None:
        pass


def test_each_way_to_differ_is_told(tiny_model: Path) -> None:
    source, wanted = read_gguf(tiny_model), find_format("Q8_0")
    types = {tensor.name: "Q8_0" if len(tensor.shape) > 1 else "F32" for tensor in source.tensors}
    first = next(iter(types))

    def difference(one: Planner, other: Planner) -> str:
        return find_difference(source, wanted, None, (one, other), print) or ""

    assert difference(Planner(types), Planner(types)) == ""
    assert "the types of 1 tensors differ" in difference(
        Planner(types), Planner(types | {first: "Q4_0"})
    )
    assert "sampled rows of" in difference(Planner(types), Planner(types, "1"))
    assert "cannot tell: killed" in difference(Planner(types), Planner(types, dies=True))


@pytest.mark.parametrize("keep", [0, 1])
def test_dry_runs_that_tell_too_little_are_no_agreement(tiny_model: Path, keep: int) -> None:
    """As where a release logs its dry run in other words."""
    source = read_gguf(tiny_model)
    types = {tensor.name: "Q8_0" for tensor in source.tensors[:keep]}
    engines = (Planner(types), Planner(types))
    found = find_difference(source, find_format("Q8_0"), None, engines, print)
    assert found is not None
    assert "do not tell each tensor's type" in found
