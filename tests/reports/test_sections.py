"""What a report says below its tables, made from the record alone."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate.reports.blocks import Table, plain
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.sections import section_tables
from pytest_quantgate.reports.text import text
from pytest_quantgate.results.measurements.routing import (
    DomainRouting,
    ExpertError,
    ExpertUse,
    LayerRouting,
    RoutingMeasurement,
)
from pytest_quantgate.results.record import CellRecord
from tests.reports.test_report import TOKENS, cell, divergence, record


def headings(table: Table) -> tuple[str, ...]:
    return tuple(column.heading for column in table.columns)


def rows(table: Table) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(plain, row.cells)) for row in table.rows)


def sized(name: str, experts: float, rest: float, nats: float | None = None) -> CellRecord:
    """Return a cell whose experts and attention have so many megabytes."""
    parts = {"experts": int(experts * 1e6), "attention": int(rest * 1e6), "norms": 1000}
    found = None if nats is None else divergence(nats)
    made = cell(name, 10, experts + rest, bytes_by_part={**parts, "router": 8000})
    return replace(made, divergence=found)


def test_parts_share_what_they_cost() -> None:
    run = record(
        sized("F16", 16, 4),
        sized("Q4_K_M", 4.5, 1.2, 0.05),
        sized("Q4_K_M.experts", 4.5, 4, 0.03),
        sized("Q4_K_M.attention", 16, 1.2, 0.01),
    )
    (section,) = section_tables(run)
    assert section.title == "m: what Q4_K_M costs, part by part"
    assert headings(section) == ("part", "F16 MB", "saved MB", "mean KLD", "share")
    assert rows(section) == (
        ("experts", "16.00", "11.50", "0.0300", "75.0 %"),
        ("router", "0.01", "–", "–", "–"),
        ("attention", "4.00", "2.80", "0.0100", "25.0 %"),
        ("norms", "0.00", "–", "–", "–"),
        ("sum of the parts", "", "14.30", "0.0400", ""),
        ("all parts at once", "", "14.30", "0.0500", ""),
    )
    assert section.notes == ()


def test_parts_are_compared_on_common_chunks() -> None:
    """The experts' cell stopped at 4 chunks, of which alone all divergences are told."""
    short, whole = sized("Q4_0.experts", 4.5, 4, 0.03), sized("Q4_0", 4, 1, 0.04)
    short = replace(short, chunks=short.chunks.first(4))
    sums = [TOKENS * (0.02 if n < 4 else 1.0) for n in range(16)]
    whole = replace(whole, chunks=whole.chunks.replace(kld_sum_nats=sums))
    (section,) = section_tables(record(sized("F16", 16, 4), short, whole))
    assert rows(section)[-1] == ("all parts at once", "", "15.00", "0.0200", "")


def test_without_a_reference_no_part_saves_anything() -> None:
    assert section_tables(record(sized("Q4_0.experts", 4.5, 4, 0.03))) == ()


ROUTING = RoutingMeasurement(
    n_experts=2,
    n_experts_used=1,
    tokens=100,
    layers=(
        LayerRouting(
            layer=3,
            tokens=100,
            same_experts=90,
            same_top_expert=95,
            shared_weight=0.97,
            load=(0.6, 0.4),
            reference_load=(0.5, 0.5),
            exchanged=0,
        ),
    ),
    chunk_indices=(0,),
    chunk_same_experts=(90,),
    changed_tokens=10,
    kld_share_changed=0.4,
    experts=(
        ExpertError(layer=3, expert=0, relative_rms=0.071, weighted=0.065),
        ExpertError(layer=3, expert=1, relative_rms=0.082, weighted=0.08),
    ),
    domains=(
        DomainRouting(
            name="code",
            tokens=50,
            most_used=(ExpertUse(layer=3, expert=1, share=0.9, share_of_all=0.5),),
        ),
    ),
)


def routed(name: str, ppl: float, found: RoutingMeasurement) -> CellRecord:
    made = sized(name, 4, 1, None if found.is_reference else 0.05)
    return replace(made, measured={"routing": found}, ppl_by_domain={"code": ppl})


def test_routing_and_domains() -> None:
    own = replace(ROUTING, is_reference=True, changed_tokens=0, experts=())
    alone = replace(routed("Q4_0.experts", 5.5, ROUTING), measured={})
    cells = routed("F16", 5.0, own), routed("Q4_0", 6.0, ROUTING), alone
    parts, routing, code = section_tables(record(*cells))
    assert parts.title == "m: what Q4_0 costs, part by part"
    assert routing.title == "m: routing against the reference, 100 tokens a layer"
    assert rows(routing) == (
        (
            *(
                "Q4_0",
                "90.00 %",
                "90.00 % (layer 3)",
                "95.00 %",
                "97.00 %",
                "10.0 %",
                "40.0 %",
                "60.0 %",
            ),
            "0.0820 (layer 3, expert 1)",
        ),
    )
    assert code.title == "m: code, and the weight error of the experts it uses most"
    assert headings(code)[4:] == ("L3 E1",)
    assert plain(code.notes[0]).endswith("domain's tokens that it takes: L3 E1 90 % (50 % of all)")
    assert rows(code) == (
        ("F16", "5.0000", "", "–", "–"),
        ("Q4_0", "6.0000", "+20.00 %", "0.1000", "0.0820 (by activations 0.0800)"),
    )


def test_a_dense_model_has_no_such_sections() -> None:
    dense = RoutingMeasurement(n_experts=0, n_experts_used=0, obstacle="no experts")
    assert section_tables(record(routed("F16", 5.0, dense), routed("Q4_0", 6.0, dense))) == ()


def test_a_section_is_laid_out_for_terminal_and_markdown() -> None:
    (section,) = section_tables(record(sized("F16", 16, 4), sized("Q4_0.experts", 4, 4, 0.5)))
    lines = text([section]).splitlines()
    assert lines[:3] == [
        "m: what Q4_0 costs, part by part",
        "part              F16 MB  saved MB  mean KLD    share",
        "experts            16.00     12.00    0.5000  100.0 %",
    ]
    written = markdown([section]).splitlines()
    assert written[0] == "### m: what Q4_0 costs, part by part"
    assert written[2:4] == [
        "| part | F16 MB | saved MB | mean KLD | share |",
        "|---|--:|--:|--:|--:|",
    ]
