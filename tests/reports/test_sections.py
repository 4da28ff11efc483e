"""What a report says below its tables, made from the record alone."""

from __future__ import annotations

from dataclasses import replace

from pytest_quantgate.reports.sections import make_sections, section_lines, section_markdown
from pytest_quantgate.results.measurements.divergence import DivergenceMeasurement, Part
from pytest_quantgate.results.measurements.routing import (
    DomainRouting,
    ExpertError,
    ExpertUse,
    LayerRouting,
    RoutingMeasurement,
)
from pytest_quantgate.results.record import CellRecord
from tests.reports.test_report import cell, record


def divergence(nats: float) -> DivergenceMeasurement:
    return DivergenceMeasurement(
        tokens=100,
        mean_kld_nats=nats,
        mean_kld_error_nats=0.0,
        max_kld_nats=1.0,
        min_kld_nats=0.0,
        kld_percentiles_nats={},
        mean_delta_p=0.0,
        rms_delta_p=0.0,
        delta_p_percentiles={},
        same_top=1.0,
        same_top_error=0.0,
        by_confidence=(),
        by_domain=(Part(name="code", tokens=50, mean_kld_nats=2 * nats, same_top=1.0),),
    )


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
    (section,) = make_sections(run)
    assert section.title == "m: what Q4_K_M costs, part by part"
    assert section.headings == ("part", "F16 MB", "saved MB", "mean KLD", "share")
    assert section.rows == (
        ("experts", "16.00", "11.50", "0.0300", "75.0 %"),
        ("router", "0.01", "–", "–", "–"),
        ("attention", "4.00", "2.80", "0.0100", "25.0 %"),
        ("norms", "0.00", "–", "–", "–"),
        ("sum of the parts", "", "14.30", "0.0400", ""),
        ("all parts at once", "", "14.30", "0.0500", ""),
    )
    assert section.notes == ()


def test_parts_measured_on_unequal_texts_say_so() -> None:
    short = sized("Q4_0.experts", 4.5, 4, 0.03)
    short = replace(short, chunks=short.chunks.first(4))
    (section,) = make_sections(record(sized("F16", 16, 4), short, sized("Q4_0", 4, 1, 0.04)))
    assert section.notes == ("the divergences are of 4 to 16 chunks",)


def test_without_a_reference_no_part_saves_anything() -> None:
    assert make_sections(record(sized("Q4_0.experts", 4.5, 4, 0.03))) == ()


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
    parts, routing, code = make_sections(record(*cells))
    assert parts.title == "m: what Q4_0 costs, part by part"
    assert routing.title == "m: routing against the reference, 100 tokens a layer"
    assert routing.rows == (
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
    assert code.headings[4:] == ("L3 E1 (90 % of the domain's tokens, 50 % of all)",)
    assert code.rows == (
        ("F16", "5.0000", "", "–", "–"),
        ("Q4_0", "6.0000", "+20.00 %", "0.1000", "0.0820 (by activations 0.0800)"),
    )


def test_a_dense_model_has_no_such_sections() -> None:
    dense = RoutingMeasurement(n_experts=0, n_experts_used=0, obstacle="no experts")
    assert make_sections(record(routed("F16", 5.0, dense), routed("Q4_0", 6.0, dense))) == ()


def test_a_section_is_laid_out_for_terminal_and_markdown() -> None:
    (section,) = make_sections(record(sized("F16", 16, 4), sized("Q4_0.experts", 4, 4, 0.5)))
    lines = section_lines(section)
    assert lines[1:4] == [
        "m: what Q4_0 costs, part by part",
        "part              F16 MB  saved MB  mean KLD    share",
        "experts            16.00     12.00    0.5000  100.0 %",
    ]
    text = section_markdown(section)
    assert text[1] == "### m: what Q4_0 costs, part by part"
    assert text[3:5] == [
        "| part | F16 MB | saved MB | mean KLD | share |",
        "|---|--:|--:|--:|--:|",
    ]
