"""Which formats an engine makes: tried for real, and told of one that dies or refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.artifacts.support import find_support
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import PlanQuantization, Quantize
from pytest_quantgate.errors import CellCrashed, CellUnsupported
from pytest_quantgate.gguf.formats import FILE_TYPES
from pytest_quantgate.storage.cache import Cache


class Lacking:
    """An engine that refuses one format as an older llama.cpp does, and dies of another.

    Without a dry run only the quick formats are made, the others are waved through.
    """

    def __init__(self, engine: LlamaCppPython, *, has_dry_run: bool) -> None:
        self._engine = engine
        self._has_dry_run = has_dry_run
        self.asked: list[type] = []

    def identity(self) -> Any:
        return self._engine.identity()

    def ask(self, request: Any, on_reply: Any = None) -> Any:
        self.asked.append(type(request))
        if isinstance(request, PlanQuantization) and not self._has_dry_run:
            raise CellUnsupported("it has no dry run")
        if isinstance(request, PlanQuantization | Quantize):
            name = next(row.name for row in FILE_TYPES.values() if row.number == request.file_type)
            if name == "Q6_K":
                raise CellCrashed("killed by SIGABRT\nlog")
            if name == "MXFP4_MOE":
                request = type(request)(**{**vars(request), "file_type": 999})
            elif name.startswith("IQ") and isinstance(request, Quantize):
                return None
        return self._engine.ask(request, on_reply)

    def close(self) -> None:
        self._engine.close()


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    made = LlamaCppPython(python=None, log=tmp_path / "worker.log", stall_s=60)
    yield made
    made.close()


@pytest.mark.parametrize("has_dry_run", [True, False])
def test_what_is_refused_has_its_reason_and_is_tried_once(
    engine: LlamaCppPython, tmp_path: Path, has_dry_run: bool
) -> None:
    lacking = Lacking(engine, has_dry_run=has_dry_run)
    cache = Cache(tmp_path / "cache", max_bytes=1 << 30)
    found = find_support(cache, lacking)
    assert set(found.refuses) == {"Q6_K", "MXFP4_MOE"}
    assert found.refuses["Q6_K"] == "killed by SIGABRT"
    assert "999" in found.refuses["MXFP4_MOE"]
    assert set(found.writes) == set(FILE_TYPES) - set(found.refuses)
    assert {"Q4_K", "MXFP4", "IQ4_XS"} <= set(found.tensor_types)
    n_asked = len(lacking.asked)
    assert lacking.asked.count(Quantize) == (0 if has_dry_run else len(FILE_TYPES))
    assert find_support(cache, lacking) == found
    assert len(lacking.asked) == n_asked


def test_this_engine_makes_every_format(engine: LlamaCppPython, tmp_path: Path) -> None:
    found = find_support(Cache(tmp_path / "cache", max_bytes=1 << 30), engine)
    assert found.refuses == {}
    assert found.writes == tuple(FILE_TYPES)
