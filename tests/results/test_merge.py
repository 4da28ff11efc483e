"""The records of several jobs, joined: nothing lost, nothing twice, nothing mixed."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import permutations
from typing import Any

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.reports.write import run_markdown
from pytest_quantgate.results.merge import join
from pytest_quantgate.results.record import RunRecord, ShardRecord
from tests.reports.test_report import cell, record
from tests.reports.test_upgrade import upgraded

ENGINE: dict[str, Any] = {
    "kind": "llama-cpp-python",
    "version": "0.3.36",
    "llama_cpp_version": "b1",
    "system_info": "AVX2 = 1",
    "library_sha256": "1" * 64,
    "cpu_name": "processor A",
}
SETTINGS: dict[str, Any] = {"n_ctx": 512, "n_threads": 2, "texts": {"t": "abc"}}


def shard(number: int, count: int, *names: str, **changes: Any) -> RunRecord:
    """Return the record of a shard that judged the formats it had."""
    cells = tuple(cell(name, 20 + number, 5) for name in names)
    made = replace(
        record(*cells),
        engine=ENGINE,
        settings=SETTINGS,
        command="pytest --quant-matrix",
        started=f"2026-01-01T00:00:0{number}+00:00",
        seconds_s=10.0 * number,
        shard=ShardRecord(number=number, count=count, cells=tuple(c.id for c in cells)),
    )
    return replace(made, **changes)


def test_shards_come_in_their_order_whatever_the_files_order() -> None:
    """One report, the whole: no shard is told any more."""
    parts = {"a": shard(1, 3, "F16", "Q8_0"), "b": shard(2, 3, "Q4_0"), "c": shard(3, 3)}
    for names in permutations(parts):
        joined = join({name: parts[name] for name in names})
        assert [item.format for item in joined.cells] == ["F16", "Q8_0", "Q4_0"]
        assert joined.cells == (*parts["a"].cells, *parts["b"].cells)
        assert (joined.missing, joined.warnings, joined.shard) == ((), (), None)
        assert joined.started == "2026-01-01T00:00:01+00:00"
        assert joined.seconds_s == 60
        assert joined.engine == ENGINE
        assert not joined.is_red


def test_a_missing_shard_is_told_and_red() -> None:
    joined = join({"a": shard(1, 4, "F16"), "b": shard(3, 4, "Q8_0")})
    assert joined.missing == ("shard 2/4", "shard 4/4")
    assert joined.is_red
    text = run_markdown(joined)
    assert text.startswith("# Quantization gate: incomplete\n")
    assert "- shard 2/4" in text


def test_a_cell_that_a_shard_did_not_judge_is_told_and_red() -> None:
    stopped = replace(shard(1, 1, "F16", "Q8_0"), cells=(cell("F16", 20, 9),))
    joined = join({"a": stopped})
    assert joined.missing == ("m-Q8_0-cpu",)
    assert joined.is_red


def test_a_red_cell_makes_the_whole_red() -> None:
    bad = shard(2, 2, "Q8_0")
    bad = replace(bad, cells=(replace(bad.cells[0], verdict="REGRESSED"),))
    joined = join({"a": shard(1, 2, "F16"), "b": bad})
    assert joined.is_red
    assert run_markdown(joined).startswith("# Quantization gate: 1 of 2 cells red\n")
    accepted = replace(bad, cells=(replace(bad.cells[0], accepted="PPL 1 → 2"),))
    assert not join({"a": shard(1, 2, "F16"), "b": accepted}).is_red


def test_a_skipped_cell_is_not_red() -> None:
    """As in its run: the profile lists the format as optional."""
    skipped = shard(1, 1, "IQ1_S")
    refused = replace(skipped.cells[0], verdict="UNSUPPORTED")
    assert join({"a": replace(skipped, cells=(refused,))}).is_red
    joined = join({"a": replace(skipped, cells=(replace(refused, is_skipped=True),))})
    assert not joined.is_red
    assert run_markdown(joined).startswith(
        "# Quantization gate: nothing was gated (1 cell without a comparison)\n"
    )


def test_a_gated_run_that_judged_no_cell_is_red_and_an_empty_shard_is_not() -> None:
    empty = shard(1, 1)
    assert not empty.is_red
    assert join({"a": empty}).is_red
    assert not join({"a": replace(empty, gated=False)}).is_red


def test_records_without_shards_are_joined_too() -> None:
    """Jobs that each had other formats or models on their command lines."""
    whole = [
        shard(1, 1, name, shard=None, command=f"pytest --quant-formats {name}")
        for name in ("F16", "Q8_0")
    ]
    joined = join(dict(zip("ab", whole, strict=True)))
    assert [item.format for item in joined.cells] == ["F16", "Q8_0"]
    assert joined.command == ""
    assert not joined.is_red


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"profile": "q"}, "profile is 'q' in the former, 'p' in the latter"),
        ({"gated": False}, "gated is False in the former, True in the latter"),
        (
            {"shard": ShardRecord(number=2, count=2, cells=(), matrix_sha256="ab12")},
            "the hash of the matrix is 'ab12' in the former, '' in the latter",
        ),
        (
            {"settings": {**SETTINGS, "n_ctx": 256}},
            "the setting n_ctx is 256 in the former, 512 in the latter",
        ),
        ({"settings": {**SETTINGS, "more": 1}}, "the setting more is 1 in the former, None in"),
        (
            {"engine": {**ENGINE, "version": "0.3.35"}},
            "the engine's version is '0.3.35' in the former, '0.3.36' in the latter",
        ),
        ({"engine": {**ENGINE, "system_info": ""}}, "the engine's system_info is '' in the former"),
        (
            {"against": ENGINE},
            "the old engine's kind is 'llama-cpp-python' in the former, None in the latter",
        ),
        ({"shard": None}, "the number of shards is 1 in the former, 2 in the latter"),
        (
            {"shard": ShardRecord(number=2, count=3, cells=())},
            "the number of shards is 3 in the former, 2 in the latter",
        ),
    ],
)
def test_what_is_no_part_of_one_run_is_refused(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        join({"a.json": shard(1, 2, "F16"), "b.json": shard(2, 2, "Q8_0", **changes)})
    message = str(caught.value)
    assert message.startswith(f"b.json cannot be joined with a.json: {told}")
    assert "\n" not in message


def test_records_of_two_sources_of_a_model_are_refused() -> None:
    """A model was replaced between two runs: the older record says nothing of the new one."""
    parts = {name: record(cell(name, 20, 5, source_sha256=name)) for name in ("F16", "Q8_0")}
    with pytest.raises(ConfigError, match="the hash of the source of model m is "):
        join(parts)
    other = replace(parts["Q8_0"].cells[0], model="other")
    assert len(join({**parts, "Q8_0": record(other)}).cells) == 2


def test_an_engine_that_could_not_be_asked_keeps_nothing_apart() -> None:
    """Its cells say what was wrong with it."""
    broken = shard(2, 2, "Q8_0", engine={"error": "no such interpreter"})
    assert len(join({"a": shard(1, 2, "F16"), "b": broken}).cells) == 2


def test_a_cell_twice_must_be_the_same() -> None:
    """But for the time that it took; what is not a number equals itself."""
    one = cell("F16", 20, 9, ppl=math.nan, verdict="INVALID", seconds_s=1.0)
    first = replace(shard(1, 1), cells=(one,))
    again = replace(first, cells=(replace(one, seconds_s=2.0),))
    assert join({"a": first, "b": again}).cells == (one,)
    other = replace(first, cells=(replace(one, file_sha256="other"),))
    with pytest.raises(ConfigError, match="b cannot be joined with a: both have the cell m-F16-"):
        join({"a": first, "b": other})


def test_what_the_machines_differ_in_is_told() -> None:
    other = {**ENGINE, "cpu_name": "processor B", "library_sha256": "2" * 64}
    joined = join(
        {
            "a": shard(1, 2, "F16"),
            "b": shard(2, 2, "Q8_0", engine=other, settings={**SETTINGS, "n_threads": 4}),
        }
    )
    assert joined.engine["cpu_name"] == "processor A and processor B"
    assert joined.warnings == (
        "the jobs ran on different processors, and a build may round differently on each:"
        " processor A (a), processor B (b)",
        "the jobs had different numbers of threads: 2 (a), 4 (b)",
        "the jobs' engines were built apart, their libraries are not the same bytes:"
        " 111111111111 (a), 222222222222 (b)",
    )
    assert not joined.is_red
    assert "- Warning: the jobs ran on different processors" in run_markdown(joined)


def test_the_cells_of_an_old_engine_are_joined_too() -> None:
    """The old engine's, and the crossed ones: the file of one, the runtime of the other."""
    made = {
        name: cell("F16", 20, 9, engine=engine, quantizer=quantizer)
        for name, engine, quantizer in [
            ("old", "old", "old"),
            ("crossed", "old", "new"),
            ("back", "new", "old"),
        ]
    }
    one = shard(1, 2, "F16", against=ENGINE, others=(made["old"], made["crossed"]))
    other = shard(2, 2, "Q8_0", against=ENGINE, others=(made["back"],))
    assert join({"a": one, "b": other}).others == tuple(made.values())


def test_nothing_cannot_be_joined() -> None:
    with pytest.raises(ConfigError, match="there is no record to join"):
        join({})


def test_the_report_of_an_upgrade_is_joined_and_says_what_is_missing() -> None:
    """Half of it in each shard: all of them give the whole report, one of them is incomplete."""
    whole = upgraded()
    half = len(whole.cells) // 2
    parts = {}
    for number, cells in enumerate((whole.cells[:half], whole.cells[half:]), start=1):
        formats = {cell.format for cell in cells}
        parts[str(number)] = replace(
            whole,
            cells=cells,
            others=tuple(cell for cell in whole.others if cell.format in formats),
            shard=ShardRecord(number=number, count=2, cells=tuple(cell.id for cell in cells)),
        )
    joined = join(parts)
    assert joined.cells == whole.cells
    assert run_markdown(joined) == run_markdown(replace(whole, seconds_s=2 * whole.seconds_s))
    lines = run_markdown(join({"1": parts["1"]})).splitlines()
    assert lines[0].startswith("# Upgrade: ")
    assert lines[1:5] == ["", "## What is missing", "", "- shard 2/2"]


def test_a_reference_that_differs_between_the_machines_is_told() -> None:
    """Each job measures the reference of its cells itself: that is its control."""
    here, there = shard(1, 2, "F16"), shard(2, 2, "Q4_0")
    control = (replace(here.cells[0], per_token_sha256="1" * 64),)

    def joined(values: str) -> tuple[str, ...]:
        cells = (replace(there.cells[0], reference_per_token_sha256=values),)
        return join({"a": replace(here, cells=control), "b": replace(there, cells=cells)}).warnings

    assert joined("1" * 64) == ()
    assert joined("2" * 64) == (
        "m on cpu: F16 has other values in a and b, so that their figures do not compare bit for"
        " bit; run both shards on equal machines",
    )
