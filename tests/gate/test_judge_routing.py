"""Routes judged: shares against limits, changed routes against the baseline."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.routing import judge_routing
from pytest_quantgate.gate.observation import Observation, Versus
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.results.baseline import Baseline
from pytest_quantgate.results.measurements.routing import LayerRouting, RoutingMeasurement
from pytest_quantgate.results.verdicts import Judgement, VerdictKind
from pytest_quantgate.stats import plan_looks
from tests.gate.judged import BASELINE, baseline_of, change_cell, observe

LAST = plan_looks((16,), 16, 16)[0]
DEFAULT = default_limits(find_format("Q4_K_M"))


def routing(same: int, busiest: float = 0.4) -> RoutingMeasurement:
    """Return a measurement of 2 layers and 4 chunks of 250 tokens, so many of each the same."""
    layer = LayerRouting(
        layer=0,
        tokens=1000,
        same_experts=4 * same,
        same_top_expert=min(4 * same + 20, 1000),
        shared_weight=0.97,
        load=(busiest, 0.2, 0.2, 0.2),
        reference_load=(0.25, 0.25, 0.25, 0.25),
        exchanged=0,
    )
    return RoutingMeasurement(
        n_experts=4,
        n_experts_used=1,
        tokens=1000,
        layers=(layer, replace(layer, layer=1)),
        chunk_indices=(5, 2, 7, 1),
        chunk_same_experts=(2 * same,) * 4,
    )


def observed(found: RoutingMeasurement) -> Observation:
    seen = observe(measured={"routing": found})
    chunks = seen.chunks.replace(tokens=(250,) * 16)
    return change_cell(seen, chunks=chunks, ppl=chunks.perplexity)


def stored(found: RoutingMeasurement) -> Baseline:
    return BASELINE.model_copy(update={"routing": baseline_of(observed(found)).routing})


def judge(
    found: RoutingMeasurement, limits: Limits, baseline: Baseline | None = None
) -> list[Judgement]:
    return judge_routing(observed(found), limits, baseline, LAST)


def kinds(
    found: RoutingMeasurement, limits: Limits, baseline: Baseline | None = None
) -> list[VerdictKind]:
    return [item.verdict for item in judge(found, limits, baseline)]


def test_shares_must_reach_their_limits() -> None:
    found = routing(200)
    assert kinds(found, Limits(same_experts_min=0.8)) == [VerdictKind.PASS]
    assert kinds(found, Limits(same_experts_min=0.81)) == [VerdictKind.REGRESSED]
    assert kinds(found, Limits(same_top_expert_min=0.82)) == [VerdictKind.PASS]
    assert kinds(found, Limits(same_top_expert_min=0.83)) == [VerdictKind.REGRESSED]
    assert kinds(found, Limits(shared_weight_min=0.98)) == [VerdictKind.REGRESSED]
    (told,) = judge(found, Limits(same_experts_min=0.81))
    assert str(told.reason) == "the reference's experts chosen on 80.00 %, limit 81 % or more"


def test_a_share_that_is_no_number_is_never_green() -> None:
    empty = replace(routing(200), layers=())
    assert kinds(empty, Limits(same_experts_min=0.1)) == [VerdictKind.REGRESSED]


def test_the_busiest_expert_is_named() -> None:
    (told,) = judge(routing(250, busiest=0.9), Limits(expert_load_max=0.5))
    assert told.verdict is VerdictKind.REGRESSED
    assert str(told.reason) == "expert 0 of layer 0 takes 90.00 % of the tokens, limit 50 %"
    assert kinds(routing(250), Limits(expert_load_max=0.5)) == [VerdictKind.PASS]


def test_a_reference_is_only_judged_by_its_load() -> None:
    found = replace(routing(250), is_reference=True)
    limits = DEFAULT.model_copy(update={"same_experts_min": 1.0, "expert_load_max": 0.3})
    assert [item.verdict for item in judge(found, limits, BASELINE)] == [VerdictKind.REGRESSED]
    assert baseline_of(observed(found)).routing is None


def test_a_model_without_experts_is_asked_nothing_by_default() -> None:
    dense = RoutingMeasurement(n_experts=0, n_experts_used=0, obstacle="no experts: a dense model")
    assert judge(dense, DEFAULT, BASELINE) == []
    (told,) = judge(dense, Limits(same_experts_min=0.5))
    assert (told.verdict, str(told.reason)) == (VerdictKind.UNSUPPORTED, dense.obstacle)
    assert kinds(dense, DEFAULT, stored(routing(200))) == [VerdictKind.UNSUPPORTED]


def test_an_engine_that_can_never_report_routes_is_asked_by_name_alone() -> None:
    """A folder of programs: all but routing is judged, and a note says so."""
    text = "this engine cannot report routing; routing was not judged"
    programs = RoutingMeasurement(n_experts=8, n_experts_used=2, obstacle=text, is_of_engine=True)
    before = stored(routing(200))
    assert kinds(programs, DEFAULT, before) == []
    assert programs.notes == (text,)
    assert kinds(programs, Limits(same_experts_min=0.5), before) == [VerdictKind.UNSUPPORTED]
    failed = replace(programs, obstacle="the engine recorded no routes", is_of_engine=False)
    assert kinds(failed, DEFAULT, before) == [VerdictKind.UNSUPPORTED], "one that could before"
    assert failed.notes == ()


def test_a_markers_limit_on_a_rise_is_never_left_out() -> None:
    dense = RoutingMeasurement(n_experts=0, n_experts_used=0, obstacle="no experts: a dense model")
    assert kinds(dense, Limits(routing_vs_baseline=0.1), BASELINE) == [VerdictKind.UNSUPPORTED]


def test_changed_routes_may_rise_by_a_tenth_of_the_baselines() -> None:
    before = stored(routing(200))  # 20 % changed, so 2 points more are allowed
    assert kinds(routing(196), DEFAULT, before) == [VerdictKind.PASS]
    assert kinds(routing(194), DEFAULT, before) == [VerdictKind.REGRESSED]
    assert kinds(routing(206), DEFAULT, before) == [VerdictKind.IMPROVED]
    (same,) = judge(routing(200), DEFAULT, before)
    assert (same.verdict, same.estimate) == (VerdictKind.PASS, 0)
    assert "as often as the baseline" in str(same.reason)


def test_half_a_point_more_is_never_a_regression() -> None:
    before = stored(routing(249))
    assert kinds(routing(248), DEFAULT, before) == [VerdictKind.PASS]
    assert kinds(routing(247), DEFAULT, before) == [VerdictKind.REGRESSED]


def test_the_layer_that_moved_most_is_named() -> None:
    before, now = routing(200), routing(190)
    worse = replace(now.layers[1], same_experts=700)
    now = replace(now, layers=(now.layers[0], worse), chunk_same_experts=(365,) * 4)
    (told,) = judge(now, DEFAULT, stored(before))
    assert told.verdict is VerdictKind.REGRESSED
    assert str(told.reason).endswith("; most in layer 1, +10.00 points")


def test_only_chunks_of_both_are_compared() -> None:
    before = routing(200)
    other = replace(before, chunk_indices=(11, 12, 13, 14))
    assert kinds(before, DEFAULT, stored(other)) == [VerdictKind.NOT_COMPARABLE]
    layers = [
        replace(layer, tokens=250, same_experts=150, same_top_expert=200) for layer in before.layers
    ]
    fewer = replace(
        before, layers=tuple(layers), chunk_indices=(5,), chunk_same_experts=(300,), tokens=250
    )
    (told,) = judge(before, DEFAULT, stored(fewer))
    assert told.verdict is VerdictKind.IMPROVED


def test_a_baseline_without_routes_is_no_baseline() -> None:
    (told,) = judge(routing(200), DEFAULT, BASELINE)
    assert told.verdict is VerdictKind.NO_BASELINE
    assert "store it anew" in str(told.reason)


def test_other_text_is_not_comparable() -> None:
    seen = change_cell(observed(routing(200)), text_sha256="u" * 64)
    (told,) = judge_routing(seen, DEFAULT, stored(routing(200)), LAST)
    assert told.verdict is VerdictKind.NOT_COMPARABLE


def test_an_old_engine_that_reports_no_routes_leaves_the_rest_compared() -> None:
    """A stored baseline without routes is red; an engine of programs can report none."""
    seen = replace(observed(routing(240)), versus=Versus.OLD_ENGINE)
    (item,) = judge_routing(seen, DEFAULT, BASELINE, LAST)
    assert item.verdict is VerdictKind.MEASURED
    assert "the old engine cannot report routing" in str(item.reason)
    (asked,) = judge_routing(seen, Limits(routing_vs_baseline=0.1), BASELINE, LAST)
    assert asked.verdict is VerdictKind.NO_BASELINE
