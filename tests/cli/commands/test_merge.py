"""``quantgate merge``, on records that shards wrote."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.record import read_record
from tests.conftest import Project
from tests.plugin.test_shards import configure
from tests.results.test_merge import shard


def test_shards_that_were_run_are_joined_to_what_the_whole_run_says(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same cells, verdicts and figures; one shard has none."""
    configure(project)
    root = project.root
    project.matrix(f"--quant-report={root / 'whole.json'}")
    paths = [str(root / f"{number}.json") for number in range(1, 6)]
    for number, path in enumerate(paths, start=1):
        project.matrix(f"--quant-shard={number}/5", f"--quant-report={path}")
    capsys.readouterr()
    outputs = [root / "all.json", root / "all.md"]
    assert main(["merge", *paths, *(f"-o{path}" for path in outputs)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "4 cells: 4 MEASURED",
        *(f"wrote {path}" for path in outputs),
    ]
    whole, joined = read_record(root / "whole.json"), read_record(outputs[0])
    # The shards read what the whole run measured, and say so.
    assert [replace(cell, seconds_s=0, notes=()) for cell in joined.cells] == [
        replace(cell, seconds_s=0, notes=()) for cell in whole.cells
    ]
    assert (joined.settings, joined.engine, joined.gated) == (
        whole.settings,
        whole.engine,
        whole.gated,
    )
    assert (
        outputs[1]
        .read_text(encoding="utf-8")
        .startswith("# Quantization gate: 0 of 4 cells gated\n")
    )


def save(tmp_path: Path, **shards: object) -> list[str]:
    """Write records and return their paths."""
    paths = []
    for name, made in shards.items():
        path = tmp_path / f"{name}.json"
        write_report(path, made)  # type: ignore[arg-type]
        paths.append(str(path))
    return paths


def test_what_is_red_or_missing_is_named_and_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = shard(1, 3, "F16", "Q8_0", "IQ1_S", "Q4_0", "Q2_K")
    cells = list(made.cells)
    cells[1] = replace(cells[1], verdict="CRASHED", reason="the worker died\nGGML_ASSERT")
    cells[2] = replace(cells[2], verdict="UNSUPPORTED", is_skipped=True)
    cells[3] = replace(cells[3], verdict="REGRESSED", accepted="PPL 1 → 2")
    paths = save(tmp_path, a=replace(made, cells=tuple(cells[:4])), b=shard(3, 3, "Q6_K"))
    assert main(["merge", *paths]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "5 cells: 1 CRASHED, 2 PASS, 1 accepted, 1 skipped",
        "red: m-Q8_0-cpu CRASHED: the worker died",
        "missing: shard 2/3",
        "missing: m-Q2_K-cpu",
    ]


def test_the_output_of_an_earlier_merge_is_no_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``*.json`` names it too; a record that the output would replace is refused."""
    paths = save(tmp_path, a=shard(1, 2, "F16"), b=shard(2, 2, "Q4_0"))
    output = tmp_path / "all.json"
    assert main(["merge", *paths, "-o", str(output)]) == 0
    first = output.read_text()
    assert main(["merge", *paths, str(output), "-o", str(output)]) == 0
    assert f"ignored {output}: it is the output of an earlier merge\n" in capsys.readouterr().out
    assert output.read_text() == first
    assert main(["merge", *paths, "-o", paths[0]]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"quantgate: {paths[0]} is both a record to join and the output")
    assert said.count("\n") == 1


def test_nothing_judged_is_red(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", *save(tmp_path, a=shard(1, 1))]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "0 cells: none was judged",
        "red: no cell was judged, so the gated run is red",
    ]


def test_what_cannot_be_joined_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = save(tmp_path, a=shard(1, 2, "F16"), b=shard(2, 2, "Q8_0", profile="q"))
    out = tmp_path / "all.json"
    for arguments, told in [
        ([*paths, "-o", str(out)], "profile is 'q' in the former"),
        ([paths[0], paths[0]], "a record is named twice"),
        ([*paths, "-o", str(tmp_path / "all.txt")], "all.txt': the ending tells the kind"),
        ([str(tmp_path / "none.json")], "the run record"),
    ]:
        assert main(["merge", *arguments]) == 2
        said = capsys.readouterr().err
        assert told in said
        assert said.count("\n") == 1
    assert not out.exists()
