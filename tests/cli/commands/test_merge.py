"""``quantgate merge``, on records that shards wrote."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.reports.write import write_report
from pytest_quantgate.results.record_file import read_record
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
    assert [replace(cell, seconds_s=0, durations_s={}, notes=()) for cell in joined.cells] == [
        replace(cell, seconds_s=0, durations_s={}, notes=()) for cell in whole.cells
    ]
    assert (joined.settings, joined.engine, joined.gated) == (
        whole.settings,
        whole.engine,
        whole.gated,
    )
    assert (
        outputs[1]
        .read_text(encoding="utf-8")
        .startswith("# Quantization gate: nothing was gated (4 cells without a comparison)\n")
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


def test_shards_are_waited_for_as_they_come(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Into a folder that is not there yet; the joined record may be written beside them."""
    folder = tmp_path / "records"
    wait = ["merge", "--wait", str(folder), "--expect", "2", "--timeout", "60"]

    def jobs() -> Iterator[None]:
        folder.mkdir()
        save(folder, a=shard(1, 2, "F16"))
        (folder / "b.json").write_text("{")  # a copy that is not complete yet
        yield
        save(folder, b=shard(2, 2, "Q4_0"))
        yield

    steps = jobs()
    sleep = "pytest_quantgate.results.shard_folder.time.sleep"
    monkeypatch.setattr(sleep, lambda _seconds_s: next(steps))
    assert main([*wait, "-o", str(folder / "all.json")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"0 of 2 shards in {folder}; waiting for 1/2, 2/2",
        f"1 of 2 shards in {folder}; waiting for 2/2",
        f"2 of 2 shards in {folder}",
        "2 cells: 2 PASS",
        f"wrote {folder / 'all.json'}",
    ]
    assert main(wait) == 0, "the joined record is no shard"


def test_a_shard_that_does_not_come_is_named_and_the_others_are_joined(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, a=shard(1, 3, "F16"), c=shard(3, 3, "Q4_0"))
    (tmp_path / "b.json").write_text("{")
    wait = ["merge", "--wait", str(tmp_path), "--expect", "3", "--timeout", "0"]
    assert main(wait) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"2 of 3 shards in {tmp_path}; waiting for 2/3"
    assert lines[1].startswith(f"ignored: the run record {tmp_path / 'b.json'} cannot be read: ")
    assert lines[2:] == [
        "waited 0 s for 2/3; run each again alone, as --quant-shard 2/3, and merge again",
        "2 cells: 2 PASS",
        "missing: shard 2/3",
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--wait", "D"], "--wait D needs --expect N, the number of shards, as --expect 4"),
        (["--wait", "D", "--expect", "0"], "--expect 0 is no number of shards; write 1 or more"),
        (["--wait", "D", "--expect", "2", "x.json"], "--wait D takes no records besides; leave"),
        (["--wait", "D", "--expect", "2", "--timeout", "nan"], "--timeout nan is no time; write"),
        (["--wait", "D", "--expect", "2", "--timeout", "0"], "no record of a shard came to D"),
        (["--expect", "2"], "--expect is for --wait; type quantgate merge --wait DIR --expect N"),
        ([], "no record is named; type quantgate merge shard-*.json, or quantgate merge --wait"),
    ],
)
def test_what_cannot_be_waited_for_is_one_line(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["merge", *arguments]) == 2
    told = capsys.readouterr().err
    assert said in told
    assert told.count("\n") == 1


def test_an_array_of_another_length_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(tmp_path, a=shard(1, 3, "F16"))
    assert main(["merge", "--wait", str(tmp_path), "--expect", "4"]) == 2
    assert "a.json is shard 1 of 3, not of 4; type --expect 3, or" in capsys.readouterr().err


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
        ([*paths, "-o", str(tmp_path / "all.txt")], "all.txt': the ending selects the format"),
        ([str(tmp_path / "none.json")], "the run record"),
    ]:
        assert main(["merge", *arguments]) == 2
        said = capsys.readouterr().err
        assert told in said
        assert said.count("\n") == 1
    assert not out.exists()
