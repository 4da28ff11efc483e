"""What changed in a cell: planted changes, found with their size and their cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.compare.cell import CellChange, Side, Support, can_measure, compare_cells
from pytest_quantgate.gate.compare.comparison import compare_engines, compare_records
from pytest_quantgate.gate.compare.shifts import find_effects, find_shift
from pytest_quantgate.reports.blocks import plain
from pytest_quantgate.reports.upgrade.texts import COLUMNS, moved_row
from pytest_quantgate.results.record import CellRecord, ShardRecord
from pytest_quantgate.results.verdicts import VerdictKind
from tests.gate.compare.records import (
    CHUNKS,
    OTHER_BYTES,
    OTHER_TYPES,
    TOKENS,
    failed,
    run_of,
    scored,
    wobble,
)

OLD = scored(engine="old")
assert OLD.key is not None
OTHER_CONTEXT = OLD.key.model_copy(update={"n_ctx": 1024})


def change(new: CellRecord, old: CellRecord = OLD) -> CellChange:
    """Compare one cell, judged by its own limits."""
    return compare_cells(Side(cell=old), Side(cell=new))


def test_equal_cells_are_identical() -> None:
    found = change(scored(), scored(engine="old"))
    assert found.verdict.kind is VerdictKind.PASS
    assert not found.moved
    assert not found.is_red
    assert found.ppl is not None
    assert (found.ppl.is_identical, found.ppl.tokens) == (True, CHUNKS * TOKENS)
    assert found.cause is None


def test_other_tensor_types_are_the_quantizers() -> None:
    found = change(scored(tensors=OTHER_TYPES, file_bytes=6_200_000, shift=0.01))
    assert found.verdict.kind is VerdictKind.REGRESSED
    assert found.tensors is not None
    assert found.tensors.types_changed == (("blk.0.ffn_down.weight", "Q6_K", "Q4_K"),)
    assert found.size_changed
    assert found.cause_name == "quantizer"
    assert "ffn_down Q6_K → Q4_K in blk.0" in str(found.verdict.cause)


def test_other_bytes_from_another_processor_are_not_attributed() -> None:
    """On one processor another build is the quantizer's own, whatever it says of itself."""
    new = scored(tensors=OTHER_BYTES)
    assert new.quantizer_cpu != OLD.quantizer_cpu
    assert change(new).cause_name == "quantizer"
    assert change(new).verdict.kind is VerdictKind.PASS, "equal values: the bytes do not matter"
    assert new.made_by is not None
    elsewhere = replace(new, made_by=new.made_by.model_copy(update={"cpu": "Another Processor"}))
    assert change(elsewhere).cause_name == "not attributable: made on another kind of CPU"


def test_other_token_ids_are_the_tokenizers() -> None:
    found = change(scored(ids="other", shift=1.0))
    assert found.retokenized == CHUNKS
    assert found.ppl is None, "other tokens are no pairs"
    assert found.cause_name == "tokenizer"
    assert found.verdict.kind is VerdictKind.REGRESSED


def test_the_same_file_and_other_values_are_the_runtimes() -> None:
    found = change(scored(shift=wobble(1e-4)))
    assert found.moved
    assert not found.is_red
    assert found.cause_name == "runtime kernels"
    assert found.cause is not None
    assert "llama-cpp-python 0.3.30 b7000 → llama-cpp-python 0.3.36 b8000" in str(found.cause)


@pytest.mark.parametrize(
    ("shift", "kind"),
    [
        (0.01, VerdictKind.REGRESSED),
        (0.001, VerdictKind.PASS),
        (-0.01, VerdictKind.IMPROVED),
        (float("nan"), VerdictKind.INVALID),
    ],
)
def test_the_gates_limits_decide(shift: float, kind: VerdictKind) -> None:
    old = scored(engine="old", shift=wobble(1e-4))
    assert change(scored(shift=shift), old).verdict.kind is kind


def test_a_scattered_change_is_inconclusive() -> None:
    found = change(scored(shift=wobble(0.05)))
    assert found.verdict.kind is VerdictKind.INCONCLUSIVE
    assert found.is_red


def test_the_limits_of_the_cell_are_used() -> None:
    own = scored(shift=0.01)
    wide = replace(own, limits={**own.limits, "ppl_vs_baseline": 0.02})
    assert change(wide).verdict.kind is VerdictKind.PASS


def test_a_rise_of_the_divergence_is_judged() -> None:
    assert change(scored(kld=0.05)).verdict.kind is VerdictKind.REGRESSED
    assert change(scored(kld=0.0401)).verdict.kind is VerdictKind.PASS


def test_divergences_are_compared_on_the_common_chunks() -> None:
    """Programs visit other chunks than the seeded order does."""
    new = scored(shift=wobble(1e-4))
    part = replace(new, chunks=new.chunks.first(5))
    found = change(part)
    assert found.kld_nats is not None
    assert found.kld_nats[0] == found.kld_nats[1]
    assert OLD.divergence is not None
    assert found.kld_nats[0] != pytest.approx(OLD.divergence.mean_kld_nats, rel=1e-3)
    headings = [column.heading for column in COLUMNS]
    kld = plain(moved_row(found).cells[headings.index("mean KLD, same top")])
    assert kld == f"{found.kld_nats[0]:.5f}", "the top tokens of single chunks are not known"


def test_a_move_of_the_reference_is_a_common_cause() -> None:
    found = compare_cells(
        Side(cell=OLD, reference=scored("F16", engine="old")),
        Side(cell=scored(shift=0.01), reference=scored("F16", shift=0.01)),
    )
    assert "common cause: the reference moved +1.01 % too" in str(found.verdict.cause)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"text_sha256": "0" * 64}, "the text's bytes are not"),
        ({"source_sha256": "0" * 64}, "source is another file"),
        ({"key": OTHER_CONTEXT}, "other settings: n_ctx 1024 (was 512)"),
        ({"key": None}, "a record lacks what two are compared by"),
    ],
)
def test_what_cannot_be_compared_is_told(changes: dict[str, object], why: str) -> None:
    found = change(replace(scored(shift=1.0), **changes))  # type: ignore[arg-type]
    assert found.verdict.kind is VerdictKind.NOT_COMPARABLE
    assert why in str(found.obstacle)
    assert found.ppl is None


def test_what_one_engine_cannot_do_is_told_of_both_directions() -> None:
    no = {"verdict": "UNSUPPORTED", "reason": "unknown type"}
    lost = change(failed("Q4_K_M", **no))
    assert (lost.support, lost.is_red) == (Support.OLD_ONLY, True)
    won = change(scored(), failed("Q4_K_M", engine="old", **no))
    assert (won.support, won.is_red) == (Support.NEW_ONLY, False)
    neither = change(failed("Q4_K_M", **no), failed("Q4_K_M", engine="old", **no))
    assert (neither.support, neither.is_red) == (Support.NEITHER, False)
    died = change(failed("Q4_K_M", verdict="CRASHED", reason="SIGABRT"), OLD)
    assert (died.support, died.verdict.kind) == (Support.OLD_ONLY, VerdictKind.CRASHED)


def corners(quantizer: float, runtime: float, both: float | None = None) -> list[CellRecord]:
    """Return new, old, the new file on the old runtime, and the old file on the new one."""
    together = quantizer + runtime if both is None else both
    base = wobble(1e-5)
    return with_effects(
        scored(shift=[x + together for x in wobble(1e-5, 3)], tensors=OTHER_TYPES),
        scored(engine="old", shift=base),
        scored(
            engine="old",
            quantizer="new",
            shift=[x + quantizer for x in wobble(1e-5, 1)],
            tensors=OTHER_TYPES,
        ),
        scored(quantizer="old", shift=[x + runtime for x in wobble(1e-5, 2)] if runtime else base),
    )


def with_effects(
    new: CellRecord, old: CellRecord, on_old: CellRecord, on_new: CellRecord
) -> list[CellRecord]:
    """Return the cells, the new one with the two-by-two as the gate records it."""
    crossed = [item if can_measure(item) else None for item in (on_old, on_new)]
    effects = find_effects(old, new, new_file_on_old=crossed[0], old_file_on_new=crossed[1])
    return [replace(new, effects=effects), old, on_old, on_new]


def test_effects_that_cancel_are_both_seen() -> None:
    new, *others = corners(quantizer=0.02, runtime=-0.02)
    found = compare_engines(run_of(new, others=others))
    assert found is not None
    (cell,) = found.cells
    effects = cell.effects
    assert effects is not None
    assert effects.quantizer is not None
    assert effects.runtime is not None
    assert effects.left_over is not None
    assert effects.quantizer.change == pytest.approx(0.0202, abs=1e-4)
    assert effects.runtime.change == pytest.approx(-0.0198, abs=1e-4)
    assert abs(effects.left_over.change) < 1e-4
    assert cell.ppl is not None
    assert abs(cell.ppl.change) < 1e-4
    assert cell.cause_name == "quantizer and runtime kernels"


def test_what_does_not_add_up_is_told() -> None:
    new, old, on_old, on_new = corners(quantizer=0.01, runtime=0.01, both=0.05)
    effects = find_effects(old, new, new_file_on_old=on_old, old_file_on_new=on_new)
    assert effects is not None
    assert effects.left_over is not None
    assert effects.left_over.change == pytest.approx(0.0305, abs=1e-3)
    assert effects.left_over.low > 0


def test_a_runtime_that_moved_nothing_is_cleared() -> None:
    new, *others = corners(quantizer=0.01, runtime=0.0)
    found = compare_engines(run_of(new, others=others))
    assert found is not None
    assert found.cells[0].cause_name == "quantizer"


def test_an_equal_file_leaves_the_runtime_alone() -> None:
    new, old = scored(shift=0.01), scored(engine="old")
    effects = find_effects(old, new, new_file_on_old=None, old_file_on_new=None)
    assert effects is not None
    assert effects.is_same_file
    assert effects.runtime == effects.together == find_shift(old, new)


def test_a_file_that_the_other_engine_cannot_read_is_kept_and_is_no_corner() -> None:
    new, old, on_old, on_new = corners(quantizer=0.01, runtime=0.01)
    broken = replace(on_old, verdict="UNSUPPORTED", reason="unknown tensor type", file_bytes=None)
    new, *others = with_effects(new, old, broken, on_new)
    found = compare_engines(run_of(new, others=others))
    assert found is not None
    (cell,) = found.cells
    assert cell.unreadable == (broken,)
    assert cell.effects is not None
    assert (cell.effects.quantizer, cell.effects.left_over) == (None, None)
    assert cell.effects.runtime is not None


def test_a_cell_without_an_old_one_is_not_lost() -> None:
    """As where the old engine is not there at all: the cell is red, and says why."""
    gone = failed("Q4_K_M", verdict="UNAVAILABLE", reason="the old engine: no such interpreter")
    found = compare_engines(run_of(gone, others=[scored("Q8_0", engine="old")]))
    assert found is not None
    assert [cell.support for cell in found.red] == [Support.NEITHER]


def test_what_a_record_lacks_is_told() -> None:
    part = replace(
        run_of(scored()), shard=ShardRecord(number=1, count=2, cells=()), missing=("m-Q8_0-cpu",)
    )
    assert compare_records(run_of(scored()), part).incomplete == (
        "the new run is shard 1 of 2",
        "the new run lacks m-Q8_0-cpu",
    )


def test_a_run_of_one_engine_has_no_upgrade() -> None:
    assert compare_engines(run_of(scored())) is None


def test_the_verdict_of_the_run_stands() -> None:
    """A test judged the cell with the values of single tokens: the report does not judge anew."""
    new = scored(shift=0.01, verdict="PASS", reason="a marker allowed it")
    found = compare_engines(run_of(new, others=[OLD]))
    assert found is not None
    assert found.cells[0].verdict.reason == "a marker allowed it"
    assert not found.red


def test_records_are_paired_by_model_format_and_device() -> None:
    first = run_of(scored("F16"), scored("Q8_0"), engine="old")
    second = run_of(scored("Q8_0"), scored("Q4_0"))
    found = compare_records(first, second)
    assert [cell.new.format for cell in found.cells] == ["Q8_0"]
    assert [cell.format for cell in found.only_old] == ["F16"]
    assert [cell.format for cell in found.only_new] == ["Q4_0"]


def test_records_without_a_common_cell_are_refused() -> None:
    with pytest.raises(ConfigError, match="no cell in common: the first has m-F16-cpu"):
        compare_records(run_of(scored("F16")), run_of(scored("Q8_0")))


def test_settings_that_do_not_part_cells_are_told() -> None:
    first, second = run_of(scored()), run_of(scored())
    second = replace(second, settings={**second.settings, "n_threads": 4})
    assert compare_records(first, second).settings_changed == ("n_threads 4 (was 2)",)


def test_an_old_record_that_is_not_finite_is_not_comparable() -> None:
    old = scored("Q4_K_M")
    sums = [float("nan"), *old.chunks.nll_sum_nats[1:]]
    old = replace(old, ppl=float("nan"), chunks=old.chunks.replace(nll_sum_nats=sums))
    found = compare_cells(Side(cell=old), Side(cell=scored("Q4_K_M")))
    assert found.verdict is not None
    assert found.verdict.kind is VerdictKind.NOT_COMPARABLE
    assert "is not finite" in str(found.verdict.reason)
    new = scored("Q4_K_M")
    reference = replace(scored("F16"), ppl=float("nan"))
    compare_cells(Side(cell=new, reference=reference), Side(cell=new, reference=scored("F16")))
