"""A damaged record is refused in a line where it is read, or can be reported and compared."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gate.compare.comparison import compare_records
from pytest_quantgate.reports.markdown import markdown
from pytest_quantgate.reports.upgrade.report import upgrade_blocks
from pytest_quantgate.reports.write import run_markdown
from pytest_quantgate.results.engine_facts import EngineFacts
from pytest_quantgate.results.record import RunRecord, to_plain
from pytest_quantgate.results.record_file import read_record
from tests.gate.compare.records import run_of, scored
from tests.gate.compare.test_costs import memory, speed
from tests.reports.test_sections import ROUTING

Change = Callable[[dict[str, Any]], object]


def damaged(folder: Path, change: Change) -> RunRecord:
    """Return a record read from JSON in which something was changed."""
    measured = {"routing": ROUTING, "speed": speed(1000), "memory": memory(1 << 20)}
    content = json.loads(json.dumps(to_plain(run_of(scored("Q4_K_M", measured=measured)))))
    change(content)
    path = folder / "r.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return read_record(path)


def measured(content: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = content["cells"][0]["measured"][name]
    return found


@pytest.mark.parametrize("lost", ["llama_cpp_version", "commit", "formats"])
def test_what_a_record_does_not_say_of_its_engine_is_unknown(tmp_path: Path, lost: str) -> None:
    def lose(content: dict[str, Any]) -> None:
        content["engine"].pop(lost, None)
        content["cells"][0]["measured"].pop("routing")  # of other tokens than the chunks

    record = damaged(tmp_path, lose)
    assert "on A Processor" in run_markdown(record)
    assert markdown(upgrade_blocks(compare_records(record, record)))


def test_an_engine_that_could_not_be_asked_has_no_name(tmp_path: Path) -> None:
    record = damaged(tmp_path, lambda content: content.update(engine={"error": "no such file"}))
    assert "Engine" not in run_markdown(record).splitlines()[2]
    assert EngineFacts.read(record.engine).name == "unknown engine"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["engine"].update(kind=[]), "damaged"),
        (lambda c: c["engine"].pop("cpu_name"), "the engine has no cpu_name"),
        (lambda c: c["settings"].update(texts=True), "damaged"),
        (lambda c: c["cells"][0].update(file_bytes=0), "of 0 bytes"),
        (lambda c: c["cells"][0]["limits"].update(size_vs_baseline=-5), "damaged"),
        (lambda c: c["cells"][0]["chunks"]["tokens"].__setitem__(0, 0), "a chunk has no tokens"),
        (lambda c: measured(c, "routing")["layers"][0].update(tokens=0), "without tokens"),
        (lambda c: measured(c, "routing").update(tokens=0), "without tokens"),
        (lambda c: measured(c, "routing")["layers"][0].update(load=[]), "without tokens"),
        (lambda c: measured(c, "routing").update(chunk_indices=[]), "unequal length"),
        (lambda c: measured(c, "speed").update(cell=[]), "no process"),
        (lambda c: measured(c, "speed").update(decode_tokens=0), "no tokens"),
        (lambda c: measured(c, "speed").update(looks=[7]), "no look"),
        (lambda c: measured(c, "speed").update(reference=processes_of(c)[:1]), "in no pairs"),
        (lambda c: processes_of(c)[0].update(decode_ns=[]), "without a run"),
        (lambda c: processes_of(c)[0].update(prefill_ns=[0]), "without a run"),
        (lambda c: measured(c, "memory").update(peak_resident_bytes=0), "a peak of 0 bytes"),
    ],
)
def test_figures_that_nothing_can_be_divided_by_are_refused(
    tmp_path: Path, change: Change, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as refused:
        damaged(tmp_path, change)
    assert len(str(refused.value).splitlines()) == 1


def processes_of(content: dict[str, Any]) -> list[dict[str, Any]]:
    processes: list[dict[str, Any]] = measured(content, "speed")["cell"]
    return processes


def test_the_record_itself_can_be_read_and_reported(tmp_path: Path) -> None:
    record = damaged(tmp_path, lambda _content: None)
    assert "llama-cpp-python 0.3.36 on A Processor" in run_markdown(record)
