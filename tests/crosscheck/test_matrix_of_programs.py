"""The whole matrix with the programs, against the same cells in process, on three models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.crosscheck, pytest.mark.slow]

MODELS = ("smollm2", "olmoe-mini", "lfm2moe-mini")

FLOOR_NATS = 1e-5
"""What 16-bit logits and 6 decimals may add to the programs' divergence."""


def cells(pytester: pytest.Pytester, engine: str) -> dict[str, dict[str, Any]]:
    """Run the matrix with an engine and return its cells by name, without the engine's."""
    result = pytester.runpytest_subprocess(
        "--quant-matrix",
        f"--quant-engine={engine}",
        f"--quant-report={engine}.json",
        "--quant-cache=cache",
        "-p",
        "no:cacheprovider",
    )
    assert result.ret == 0
    record = json.loads((pytester.path / f"{engine}.json").read_bytes())
    return {cell["id"].removesuffix(f"-{engine}"): cell for cell in record["cells"]}


def test_both_engines_give_one_table(pytester: pytest.Pytester, llama_programs: Path) -> None:
    pytester.makepyprojecttoml(
        f"""
        [tool.pytest.ini_options]
        filterwarnings = ["error"]
        [tool.quantgate.engines.programs]
        tools = {json.dumps(str(llama_programs))}
        [tool.quantgate.profiles.default]
        models = {json.dumps(MODELS)}
        formats = ["F16", "Q8_0", "Q4_K_M", "MXFP4_MOE"]
        n_ctx = 256
        chunks = 12
        chunk_order = "text"
        n_threads = 2
        """
    )
    ours, theirs = cells(pytester, "default"), cells(pytester, "programs")
    assert set(ours) == set(theirs)
    assert len(ours) == len(MODELS) * 4
    for name, mine in ours.items():
        other = theirs[name]
        assert mine["verdict"] == other["verdict"] == "MEASURED"
        assert mine["file_bytes"] == other["file_bytes"], name
        assert mine["tensor_data_sha256"] == other["tensor_data_sha256"], name
        assert mine["chunks"]["document"] == other["chunks"]["document"], name
        assert mine["ppl"] == pytest.approx(other["ppl"], abs=1e-4), name
        if mine["is_reference"]:
            continue
        kld, their_kld = (cell["divergence"]["mean_kld_nats"] for cell in (mine, other))
        assert abs(kld - their_kld) <= 2e-3 * their_kld + FLOOR_NATS, name
        top, their_top = (cell["divergence"]["same_top"] for cell in (mine, other))
        assert abs(top - their_top) <= 1e-3, name
        change, their_change = (cell["ppl_vs_reference"]["change"] for cell in (mine, other))
        assert change == pytest.approx(their_change, abs=1e-5), name
