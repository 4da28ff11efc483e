"""Looks: a clear cell stops early, and what was measured is used by the next look."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import Project


def test_a_cell_that_computes_the_baselines_file_stops_at_the_first_look(
    own_cache: Project,
) -> None:
    """Same file, libraries and processor: equal values stay equal."""
    own_cache.configure(profile="looks = [4, 16]")
    assert own_cache.accept().ret == pytest.ExitCode.OK
    stored = json.loads(own_cache.baselines[0].read_text())
    assert len(stored["perplexity"]["chunks"]["index"]) == 16, "a baseline takes the whole budget"
    result = own_cache.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert {(cell["verdict"], len(cell["chunks"]["index"])) for cell in cells} == {("PASS", 4)}
    for cell in cells:
        assert cell["baseline_chunks"] == cell["chunks"] | {"domain": [None] * 4}


def test_other_libraries_take_the_whole_budget(own_cache: Project) -> None:
    """Equal values at an early look say nothing of the rest of the text then."""
    own_cache.configure(profile="looks = [4, 16]")
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    own_cache.set_faults(library="another build")
    result = own_cache.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.OK
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert {(cell["verdict"], len(cell["chunks"]["index"])) for cell in cells} == {("PASS", 16)}


@pytest.mark.parametrize("chunks", [96, 48])
def test_the_beginning_of_a_text_in_its_own_order_passes_nothing(
    own_cache: Project, chunks: int
) -> None:
    """Whether the beginning is an early look, or the budget where the baseline has more."""
    profile = 'chunk_order = "text"\nlooks = [48]\nchunks = '
    own_cache.configure(formats=("F16", "Q8_0"), profile=f"{profile}96")
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    own_cache.configure(formats=("F16", "Q8_0"), profile=f"{profile}{chunks}")
    own_cache.set_faults(library="another build", Q8_0="late loss")
    own_cache.matrix("--quant-report=report.json")
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert {cell["format"]: (cell["verdict"], len(cell["chunks"]["index"])) for cell in cells} == {
        "F16": ("PASS", 96),
        "Q8_0": ("INCONCLUSIVE", 96),
    }
    assert "the first 96 of the text's" in cells[0]["notes"][-1]


def test_another_order_goes_on_to_the_last_chunk_of_the_baseline(own_cache: Project) -> None:
    """As an engine of programs does, which knows the order of the text alone."""
    profile = "chunks = 16\nbaseline_chunks = 16\n"
    own_cache.configure(formats=("F16",), profile=f"{profile}seed = 1")
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    (path,) = own_cache.baselines
    last = max(json.loads(path.read_text())["perplexity"]["chunks"]["index"])
    assert last > 16
    own_cache.configure(formats=("F16",), profile=f'{profile}chunk_order = "text"')
    own_cache.set_faults(library="another build")
    own_cache.matrix("--quant-report=report.json")
    (cell,) = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert (cell["verdict"], len(cell["chunks"]["index"])) == ("PASS", last + 1)
    assert len(cell["baseline_chunks"]["index"]) == 16


def test_the_beginning_of_a_text_in_its_own_order_can_fail(own_cache: Project) -> None:
    profile = 'chunk_order = "text"\nlooks = [48]\nchunks = 96'
    own_cache.configure(formats=("F16", "Q8_0"), profile=profile)
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    own_cache.set_faults(library="another build", Q8_0="worse")
    own_cache.matrix("--quant-report=report.json")
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert (cells[1]["verdict"], len(cells[1]["chunks"]["index"])) == ("REGRESSED", 48)


def test_an_undecided_cell_goes_on_to_the_end_of_its_baseline(own_cache: Project) -> None:
    """What is decided, such as bit-equal values, stops at the budget; both sides have 16 here."""
    own_cache.configure(profile="looks = [8]")
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    own_cache.configure(profile="looks = [8]\nchunks = 8")
    own_cache.set_faults(library="another build", Q4_0="noisy")
    own_cache.matrix("--quant-report=report.json")
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert {cell["format"]: (cell["verdict"], len(cell["chunks"]["index"])) for cell in cells} == {
        "F16": ("PASS", 8),
        "Q8_0": ("PASS", 8),
        "Q4_0": ("INCONCLUSIVE", 16),
    }


def test_another_file_with_equal_values_goes_on_to_the_end_of_its_baseline(
    own_cache: Project,
) -> None:
    """A damaged row of the embedding changes the chunks that have its token, and no other."""
    formats = ("F16", "Q8_0")
    own_cache.configure(formats=formats, profile="looks = [8]")
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    _, path = own_cache.baselines
    stored = json.loads(path.read_text())
    name, packed = next(iter(stored["size"]["tensors"].items()))
    stored["size"]["tensors"][name] = re.sub(":[0-9a-f]{8}", ":01234567", packed)
    path.write_text(json.dumps(stored))
    own_cache.configure(formats=formats, profile="looks = [8]\nchunks = 8")
    assert own_cache.matrix("--quant-report=report.json").ret == pytest.ExitCode.OK
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert {cell["format"]: (cell["verdict"], len(cell["chunks"]["index"])) for cell in cells} == {
        "F16": ("PASS", 8),
        "Q8_0": ("PASS", 16),
    }


def test_other_tokens_of_a_chunk_that_no_early_look_scores_are_found(own_cache: Project) -> None:
    """Another vocabulary has the same tensors and settings; the baseline has all chunks' tokens."""
    own_cache.configure(formats=("F16",), profile="looks = [8, 16]")
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    (path,) = own_cache.baselines
    stored = json.loads(path.read_text())
    stored["perplexity"]["chunks"]["token_ids"][12] = "0123456789abcdef"
    path.write_text(json.dumps(stored))
    result = own_cache.matrix("--quant-report=report.json")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    (cell,) = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert (cell["verdict"], len(cell["chunks"]["index"])) == ("REGRESSED", 16)


def test_a_baseline_that_is_shorter_than_the_budget_ends_the_comparison(
    own_cache: Project,
) -> None:
    """What only one side has says nothing of the change."""
    own_cache.configure(profile="looks = [8]\nchunks = 8")
    own_cache.use_fake_engine()
    assert own_cache.accept().ret == pytest.ExitCode.OK
    own_cache.configure(profile="looks = [8]")
    own_cache.set_faults(library="another build")
    own_cache.matrix("--quant-report=report.json")
    cells = json.loads((own_cache.root / "report.json").read_text())["cells"]
    assert {len(cell["chunks"]["index"]) for cell in cells} == {8}


@pytest.mark.parametrize(
    ("profile", "stored"),
    [
        ("# no chunks =", None),
        ("chunks = 8", 8),
        ("baseline_chunks = 12", 12),
        ("chunks = 8\nbaseline_chunks = 12", 12),
    ],
)
def test_a_baseline_stores_the_whole_text_or_the_budget_that_is_stated(
    own_cache: Project, profile: str, stored: int | None
) -> None:
    """What a run measures without a baseline is another matter."""
    own_cache.configure(formats=("F16",), profile=f"looks = [8]\n{profile}")
    own_cache.use_fake_engine()
    assert own_cache.accept("--quant-report=report.json").ret == pytest.ExitCode.OK
    (path,) = own_cache.baselines
    (cell,) = json.loads((own_cache.root / "report.json").read_text())["cells"]
    in_text = cell["n_chunks_in_text"]
    assert in_text > 16
    assert len(json.loads(path.read_text())["perplexity"]["chunks"]["index"]) == (stored or in_text)


def test_a_later_look_adds_to_the_earlier_ones(own_cache: Project) -> None:
    """No chunk is scored twice."""
    own_cache.configure(formats=("F16", "Q8_0"), profile="looks = [4, 8, 16]")
    own_cache.use_fake_engine()
    assert own_cache.matrix().ret == pytest.ExitCode.OK
    (path,) = own_cache.cache.glob("runs/*/events.jsonl")
    steps = [
        event["done"]
        for event in map(json.loads, path.read_text().splitlines())
        if event["event"] == "Scoring" and event["cell"] == "tiny-Q8_0-cpu"
    ]
    assert steps == [*range(5), *range(4, 9), *range(8, 17)]
