"""``pytest --quant-matrix`` without any configuration, as a newcomer types it."""

from __future__ import annotations

import json
import socket
from collections import Counter

import pytest

from tests.conftest import Project

pytestmark = pytest.mark.slow


def test_the_first_run_is_green_without_configuration_or_network(
    own_cache: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a cold cache, against the baselines that ship, on any kind of CPU."""

    def refuse(*_arguments: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    (own_cache.root / "pyproject.toml").unlink()
    result = own_cache.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=28)
    for model in ("olmoe-mini", "lfm2moe-mini"):
        result.stdout.fnmatch_lines(
            [
                f"{model} on cpu, text evaluation, 16 common chunks, reference F16"
                " (fault detector, not a ranking of formats)"
            ]
        )
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert {(cell["verdict"], len(cell["chunks"]["index"])) for cell in cells} == {("PASS", 16)}
    assert Counter(cell["model"] for cell in cells) == {"olmoe-mini": 14, "lfm2moe-mini": 14}
    assert {cell["model"] for cell in cells if "oracle" in cell["measured"]} == {
        "olmoe-mini",
        "lfm2moe-mini",
    }
    assert not any(cell["fallbacks"] for cell in cells)
