"""A sweep of conditions: what is varied, what fails, and what is said of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_quantgate.config.schema import Limits
from pytest_quantgate.engines.messages import SweptCondition
from pytest_quantgate.engines.messages.type_errors import TYPE_ERRORS
from pytest_quantgate.engines.sweep import SHORT, Kind, points
from pytest_quantgate.gate.judges.sweep import first_token, judge_sweep
from pytest_quantgate.results.measurements.sweep import SweepMeasurement, SweptPoint
from pytest_quantgate.results.verdicts import Judgement, VerdictKind
from tests.gate.judged import LAST, observe

OWN = SweptCondition(
    n_tokens=SHORT,
    n_ctx=SHORT,
    n_ubatch=512,
    n_threads=2,
    device="cpu",
    flash_attention=True,
    type_k=1,
    type_v=1,
    repack=True,
)
LIMITS = Limits(sweep_kld_max=0.03)


def point(*changes: str, kld: float = 0.002, cache: str = "", **more: object) -> SweptPoint:
    number = {"Q8_0": 8, "Q5_0": 6, "Q4_0": 2, "IQ4_NL": 20, "": 0}[cache]
    made = SweptPoint(
        changes=changes,
        kind="CACHE" if cache else "ROUNDING",
        cache_error=TYPE_ERRORS.get(number, 0.0),
        mean_kld_nats=kld,
        top_tokens_changed=0,
        block_starts=(0, 32, 64, 96),
        block_klds_nats=(kld,) * 4,
        nll_increase_nats=0.0,
        nll_error_nats=0.0,
        problem="",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def judge(*swept: SweptPoint) -> Judgement:
    measured = SweepMeasurement(n_tokens=256, reference="n_ubatch 256, 2 threads", points=swept)
    (judgement,) = judge_sweep(observe(measured={"sweep": measured}), LIMITS, None, LAST)
    return judgement


def test_each_dimension_is_varied_alone_and_in_pairs() -> None:
    swept = points(OWN, trained=1024, n_text=8192, devices=("CPU",), n_layers=4)
    names = [item.name for item in swept]
    assert len(set(names)) == len(names) > 50
    for name in ("n_ubatch 3", "flash attention off", "not repacked", "n_threads 1", "n_ctx 1024"):
        assert name in names
    assert "flash attention off, n_ubatch 3" in names
    assert {item.kind for item in swept} == set(Kind)
    assert max(item.condition.n_tokens for item in swept) == 1024, "not beyond its training"
    sizes = [len(item.changes) for item in swept]
    assert sizes == sorted(sizes), "the fewest changes come first"


def test_accelerators_are_varied_by_layers_and_splits() -> None:
    own = replace(OWN, device="CUDA0")
    swept = points(own, trained=128, n_text=512, devices=("CUDA0", "CUDA1", "CPU"), n_layers=8)
    placed = {item.name: item.condition.device for item in swept}
    assert placed["on cpu"] == "cpu"
    assert placed["on CUDA1"] == "CUDA1"
    assert placed["4 layers on CUDA0"] == "CUDA0;n_gpu_layers=4"
    assert placed["split by row"] == "CUDA0,CUDA1;split_mode=row"
    assert "not repacked" not in placed


def test_a_quantized_v_is_not_tried_without_flash_attention() -> None:
    swept = points(
        replace(OWN, flash_attention=False), trained=64, n_text=64, devices=(), n_layers=1
    )
    assert not any("type_v" in change for item in swept for change in item.changes)


def test_sound_conditions_pass_and_the_furthest_is_said() -> None:
    result = judge(point("n_ubatch 1"), point("type_k Q4_0", kld=0.03, cache="Q4_0"))
    assert result.verdict is VerdictKind.PASS
    assert str(result.reason).startswith("2 conditions, the furthest")


def test_the_smallest_condition_is_named_and_those_that_contain_it_are_not() -> None:
    result = judge(
        point("n_ubatch 1"),
        point("n_ubatch 3", kld=0.5),
        point("flash attention off", "n_ubatch 3", kld=0.6),
        point("n_ctx 1024", kld=0.5),
    )
    assert result.verdict is VerdictKind.REGRESSED
    assert str(result.reason).startswith("'n_ubatch 3' is 0.5 nats from the reference condition")
    assert "2 further conditions fail, as 'n_ctx 1024'" in str(result.reason)
    assert "flash" not in str(result.reason)


def test_a_type_of_keys_is_held_against_what_the_other_types_explain() -> None:
    sound = [
        point("type_k Q8_0", kld=0.004, cache="Q8_0"),
        point("type_k Q5_0", kld=0.008, cache="Q5_0"),
        point("type_k IQ4_NL", kld=0.015, cache="IQ4_NL"),
    ]
    assert judge(*sound, point("type_k Q4_0", kld=0.06, cache="Q4_0")).verdict is VerdictKind.PASS
    wrong = judge(*sound, point("type_k Q4_0", kld=0.4, cache="Q4_0"))
    assert wrong.verdict is VerdictKind.REGRESSED
    assert "'type_k Q4_0' is 0.4 nats" in str(wrong.reason)
    wrong = judge(*sound[1:], point("type_k Q8_0", kld=0.2, cache="Q8_0"))
    assert "'type_k Q8_0' is 0.2 nats" in str(wrong.reason)


def test_a_fault_far_in_the_text_is_found_though_the_mean_is_small() -> None:
    late = point("n_ctx 4096", kld=0.02, block_klds_nats=(0.001, 0.001, 0.2, 0.3))
    assert first_token(late, 0.03) == 64
    result = judge(point("n_ubatch 1"), late)
    assert result.verdict is VerdictKind.REGRESSED
    assert "from token 64 on" in str(result.reason)
    passing = replace(late, block_klds_nats=(0.001, 0.2, 0.001, 0.001))
    assert first_token(passing, 0.03) is None


def test_a_long_text_that_makes_tokens_less_likely_is_a_fault() -> None:
    worse = point("n_ctx 2048", nll_increase_nats=0.8, nll_error_nats=0.05)
    result = judge(point("n_ubatch 1"), worse)
    assert result.verdict is VerdictKind.REGRESSED
    assert "0.8 nats less likely than with 256 tokens before them" in str(result.reason)
    unsure = replace(worse, nll_error_nats=0.4)
    assert judge(point("n_ubatch 1"), unsure).verdict is VerdictKind.PASS


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_that_is_no_number_never_passes(value: float) -> None:
    result = judge(point("n_ubatch 1"), point("n_ubatch 2", kld=value))
    assert result.verdict is VerdictKind.REGRESSED


def test_what_the_engine_refuses_is_no_fault_unless_it_refuses_all() -> None:
    refused = point("type_k Q4_0", problem="no such cache")
    assert judge(point("n_ubatch 1"), refused).verdict is VerdictKind.PASS
    assert "1 refused" in str(judge(point("n_ubatch 1"), refused).reason)
    assert judge(refused).verdict is VerdictKind.UNSUPPORTED
