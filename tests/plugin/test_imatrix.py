"""Importance matrices as a dimension of the matrix, with the real engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.gguf.digests import digest_tensors
from pytest_quantgate.gguf.reader import read_gguf
from tests.conftest import Project
from tests.edited_model import edit_model
from tests.tiny_model import Shape, write_story, write_tiny_model

TABLES = """
[tool.quantgate.texts.notes]
source = "notes.txt"
[tool.quantgate.imatrices.notes]
text = "notes"
n_ctx = 64
chunks = 8
"""


@pytest.fixture
def experts(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project over a tiny mixture of experts, and a text that is not the scored one."""
    path = tmp_path_factory.mktemp("model") / "experts.gguf"
    write_tiny_model(path, Shape(experts=8, experts_used=2, layers=1))
    made = Project(
        pytester=project.pytester, model=path, text=project.text, cache=project.root / "cache"
    )
    write_story(made.root / "notes.txt", n_documents=20)
    (made.root / "notes.txt").write_bytes((made.root / "notes.txt").read_bytes().upper())
    return made


def cells_of(project: Project, *arguments: str) -> dict[str, dict[str, Any]]:
    """Run the matrix and return its record's cells by id."""
    project.matrix("--quant-report=r.json", *arguments)
    record = json.loads((project.root / "r.json").read_text())
    return {cell["id"]: cell for cell in record["cells"]}


def test_formats_of_eight_bits_and_mxfp4_ignore_the_matrix_byte_for_byte(
    experts: Project,
) -> None:
    """MXFP4 and Q8_0 take no importances: with and without, the same bytes."""
    experts.configure(
        formats=("F16", "Q8_0", "MXFP4_MOE", "Q4_K_M", "Q2_K_S"),
        tables=TABLES,
        profile='imatrices = ["none", "notes"]\noptional = ["Q2_K_S"]',
    )
    result = experts.matrix("--quant-report=r.json", "-rs")
    record = json.loads((experts.root / "r.json").read_text())
    cells = {cell["id"]: cell for cell in record["cells"]}
    assert list(cells) == [
        "tiny-F16-cpu",
        *(
            f"tiny-{name}{matrix}-cpu"
            for name in ("Q8_0", "MXFP4_MOE", "Q4_K_M", "Q2_K_S")
            for matrix in ("", "-notes")
        ),
    ]
    for name in ("Q8_0", "MXFP4_MOE"):
        without, with_it = cells[f"tiny-{name}-cpu"], cells[f"tiny-{name}-notes-cpu"]
        assert without["tensor_data_sha256"] == with_it["tensor_data_sha256"]
        assert (without["imatrix"], with_it["imatrix"]) == (None, "notes")
    mixed, weighted = cells["tiny-Q4_K_M-cpu"], cells["tiny-Q4_K_M-notes-cpu"]
    assert mixed["tensor_data_sha256"] != weighted["tensor_data_sha256"]
    assert mixed["tensors_by_type"] == weighted["tensors_by_type"]
    # A format that demands a matrix is refused without one, with what to type.
    assert cells["tiny-Q2_K_S-cpu"]["verdict"] == "UNSUPPORTED"
    assert cells["tiny-Q2_K_S-notes-cpu"]["ppl"] > 0
    assert cells["tiny-Q2_K_S-notes-cpu"]["tensors_by_type"]["Q2_K"] > 0
    result.stdout.fnmatch_lines(
        [
            "Q4_K_M-notes *",
            "note: Q8_0-notes: Q8_0 ignores the matrix: same bytes",
            "note: MXFP4_MOE-notes: MXFP4_MOE ignores the matrix: same bytes",
            "*importance matrix*--quant-imatrix calibration*",
        ]
    )


def never_chosen(rows: np.ndarray) -> np.ndarray:
    """Return a router whose last expert is never among the two that are chosen.

    Of two pairs of opposite rows two are above zero, and the last row gives zero.
    """
    rows[1], rows[3], rows[-1] = -rows[0], -rows[2], 0
    return rows


def test_an_expert_without_coverage_is_found(experts: Project) -> None:
    """Its weights count as much as any other: a matrix that never saw it is no matrix for it."""
    faulty = edit_model(
        experts.model,
        experts.root / "faulty.gguf",
        tensors={"blk.0.ffn_gate_inp.weight": never_chosen},
    )
    experts.configure(
        formats=("F16", "Q4_0"),
        tables=TABLES + f'[tool.quantgate.models.faulty]\nsource = "{faulty.name}"',
        profile='models = ["tiny", "faulty"]\nimatrices = ["notes"]',
    )
    cells = cells_of(experts)
    assert cells["tiny-Q4_0-notes-cpu"]["verdict"] == "MEASURED"
    (layer,) = cells["tiny-Q4_0-notes-cpu"]["measured"]["imatrix"]["layers"]
    assert sum(layer["tokens"]) == 2 * 8 * 64
    assert min(layer["tokens"]) > 0
    found = cells["faulty-Q4_0-notes-cpu"]
    assert found["verdict"] == "REGRESSED"
    assert "1 of 8 experts saw fewer than 1 tokens, least expert 7 of layer 0" in found["reason"]
    assert any("1 of 8 experts saw no token" in note for note in found["notes"])
    assert "imatrix" not in cells["faulty-F16-cpu"]["measured"]


def test_a_marker_asks_for_more_tokens(experts: Project) -> None:
    experts.configure(formats=("Q4_0",), tables=TABLES, profile='imatrices = ["none", "notes"]')
    experts.pytester.makepyfile(
        """
        import pytest

        @pytest.mark.quant_imatrix(min_tokens_per_expert=100_000)
        def test_coverage(quant_cell, quant_imatrix):
            assert quant_cell.imatrix == quant_imatrix
        """
    )
    result = experts.run("test_a_marker_asks_for_more_tokens.py", "-q")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*tiny-Q4_0-notes-cpu: REGRESSED: importance matrix 'notes': 8 of 8 experts saw fewer*"]
    )


def test_the_mxfp4_tensors_of_a_recipe_ignore_the_matrix_and_the_others_do_not(
    experts: Project,
) -> None:
    tables = '[tool.quantgate.formats.mix]\nbase = "Q4_K_M"\ntensors = { experts = "MXFP4" }'
    experts.configure(formats=("F16", "mix"), tables=TABLES + tables)
    experts.matrix("--quant-imatrix=none,notes")
    digests = []
    for path in (experts.cache / "artifacts").glob("*.gguf"):
        header = read_gguf(path)
        kinds = {tensor.type.name for tensor in header.tensors}
        if {"MXFP4", "Q4_K"} <= kinds:
            digests.append({item.name: item for item in digest_tensors(header)})
    first, second = digests
    same = {name for name, item in first.items() if item == second[name]}
    assert {item.type for name, item in first.items() if name in same} >= {"MXFP4", "F32"}
    others = {item.type for name, item in first.items() if name not in same}
    assert "Q4_K" in others
    assert others.isdisjoint({"MXFP4", "Q8_0", "F32"})


def test_a_matrix_is_collected_once_and_kept(experts: Project) -> None:
    experts.configure(formats=("F16", "Q4_0"), tables=TABLES, profile='imatrices = ["notes"]')

    def matrices() -> list[Path]:
        found = (experts.cache / "artifacts").glob("*.gguf")
        kinds = {path: read_gguf(path).metadata.get("general.type") for path in found}
        return [path for path, kind in kinds.items() if kind == "imatrix"]

    first = cells_of(experts)
    kept = {path: path.stat().st_mtime_ns for path in matrices()}
    again = cells_of(experts)
    assert {path: path.stat().st_mtime_ns for path in matrices()} == kept
    assert list(first) == ["tiny-F16-cpu", "tiny-Q4_0-notes-cpu"]
    key = "tensor_data_sha256"
    assert first["tiny-Q4_0-notes-cpu"][key] == again["tiny-Q4_0-notes-cpu"][key]


def test_a_matrix_of_the_scored_text_is_a_usage_error(experts: Project) -> None:
    experts.configure(
        tables='[tool.quantgate.imatrices.same]\ntext = "story"', profile='imatrices = ["same"]'
    )
    result = experts.matrix()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*importance matrix 'same' is of text 'story', of which 'story' is scored*'calibration'*"]
    )


def test_a_domain_that_the_text_does_not_have_is_a_usage_error(experts: Project) -> None:
    experts.configure(
        tables='[tool.quantgate.imatrices.part]\ntext = "calibration"\ndomain = "poetry"',
        profile='imatrices = ["part"]',
    )
    result = experts.matrix()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(
        ["*imatrices.part?: text 'calibration' has no domain 'poetry'; valid: encyclopedia, dial*"]
    )


def test_a_file_of_the_older_form_is_a_usage_error(experts: Project) -> None:
    (experts.root / "old.dat").write_bytes(b"\x07\x00\x00\x00")
    result = experts.matrix("--quant-imatrix=old.dat")
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*'old'*no GGUF*llama-imatrix --in-file old.dat -o old.gguf"])


def test_a_users_file_that_was_spoiled_is_invalid_and_the_other_cells_go_on(
    experts: Project,
) -> None:
    experts.configure(formats=("F16", "Q4_0"), tables=TABLES, profile='imatrices = ["notes"]')
    cells_of(experts)
    found = next(
        path
        for path in (experts.cache / "artifacts").glob("*.gguf")
        if read_gguf(path).metadata.get("general.type") == "imatrix"
    )
    data = bytearray(found.read_bytes())
    sums = next(t for t in read_gguf(found).tensors if t.name == "blk.0.attn_q.weight.in_sum2")
    data[sums.offset_bytes : sums.offset_bytes + 4] = b"\x00\x00\xc0\x7f"  # a NaN
    (experts.root / "spoiled.gguf").write_bytes(data)
    cells = cells_of(experts, "--quant-imatrix=none,spoiled.gguf")
    assert cells["tiny-Q4_0-cpu"]["verdict"] == "MEASURED"
    spoiled = cells["tiny-Q4_0-spoiled-cpu"]
    assert spoiled["verdict"] == "INVALID"
    assert "'spoiled': blk.0.attn_q.weight: sum 0 is nan" in spoiled["reason"]
