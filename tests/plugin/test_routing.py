"""The routing metric in a test run: marker, baseline, record; and a model without experts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import Project
from tests.tiny_model import Shape, write_tiny_model


@pytest.fixture(scope="session")
def experts_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An olmoe of 2 layers with 8 experts each, 2 of them used, in F16."""
    path = tmp_path_factory.mktemp("model") / "experts.gguf"
    return write_tiny_model(path, Shape(experts=8))


@pytest.fixture
def mixture(project: Project, experts_model: Path) -> Project:
    """A project whose model has experts."""
    made = replace(project, model=experts_model)
    made.configure(formats=("F16", "Q4_0"), profile="chunks = 4\nlooks = [2, 4]")
    return made


def test_routes_are_measured_stored_and_compared(mixture: Project) -> None:
    mixture.accept().assert_outcomes(passed=2)
    by_format = {path.name.partition("-")[0]: path for path in mixture.baselines}
    assert json.loads(by_format["F16"].read_text())["routing"] is None
    stored = json.loads(by_format["Q4_0"].read_text())["routing"]
    assert stored["layers"] == [0, 1]
    assert (stored["tokens"], len(stored["index"])) == (2 * 31, 2)
    mixture.matrix("--quant-report=r.json").assert_outcomes(passed=2)
    cells = {
        cell["format"]: cell for cell in json.loads((mixture.root / "r.json").read_text())["cells"]
    }
    routing = cells["Q4_0"]["measured"]["routing"]
    assert routing["chunk_same_experts"] == stored["chunk_same_experts"]
    assert len(routing["experts"]) == 16
    reasons = [item["reason"] for item in cells["Q4_0"]["judgements"]]
    assert any("as often as the baseline" in reason for reason in reasons)


def test_more_changed_routes_than_the_baselines_are_red(mixture: Project) -> None:
    mixture.accept().assert_outcomes(passed=2)
    (path,) = (path for path in mixture.baselines if path.name.startswith("Q4_0"))
    stored = json.loads(path.read_text())
    stored["routing"]["chunk_same_experts"] = [2 * 31] * 2
    stored["routing"]["same_experts"] = [2 * 31] * 2
    path.write_text(json.dumps(stored))
    result = mixture.matrix("-k", "Q4_0")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED: routes changed +* points to * against the baseline*"])


def test_a_marker_sets_limits(mixture: Project) -> None:
    mixture.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_routing(min_same_experts=0.01, max_load_share=1.0)
        def test_kept(quant_cell):
            pass

        def test_read(quant_cell):
            found = quant_cell.routing
            assert 0 < found.same_experts <= found.same_top_expert <= 1
            assert [layer.layer for layer in found.layers] == [0, 1]

        @pytest.mark.quant_routing(min_shared_weight=1.0)
        def test_missed(quant_cell):
            pass
        """
    )
    result = mixture.run("-k", "Q4_0")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*REGRESSED: router weight on experts that both chose *"])


def test_a_model_without_experts_says_so(project: Project) -> None:
    project.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_routing
        def test_nothing_asked(quant_cell):
            pass

        @pytest.mark.quant_routing(min_same_experts=0.9)
        def test_asked(quant_cell):
            pass
        """
    )
    result = project.run("-k", "Q4_0")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(["*UNSUPPORTED: no experts: llama is a dense model*"])


def test_a_profile_switches_it_off(mixture: Project) -> None:
    profile = "chunks = 4\nlooks = [2, 4]\nrouting = false"
    mixture.configure(formats=("F16", "Q4_0"), profile=profile)
    mixture.accept().assert_outcomes(passed=2)
    assert all(json.loads(path.read_text())["routing"] is None for path in mixture.baselines)
    mixture.matrix().assert_outcomes(passed=2)
