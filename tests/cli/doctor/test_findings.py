"""What an examination says, and when it is well."""

from __future__ import annotations

import json

from pytest_quantgate.cli.doctor.findings import (
    Finding,
    Section,
    finding_lines,
    is_well,
    to_json,
)


def error(what: str, mend: str | None = None) -> Finding:
    section = Section(name="A")
    section.error(what, mend)
    return section.findings[0]


def section_of(name: str, line: str, *, warning: str = "", error: str = "") -> Section:
    section = Section(name=name)
    section.say(line)
    if warning:
        section.warn(warning, "wait")
    if error:
        section.error(error)
    return section


def test_a_message_gives_its_own_command() -> None:
    found = error("model 'm' is not here; type: hf download o/r f.gguf; or place it\nand more")
    assert found.what == "model 'm' is not here; or place it"
    assert found.mend == "hf download o/r f.gguf"
    assert error("no command").mend == ""
    built = error("there is no program; build it there (cmake --build b --target x) or change it")
    assert built.mend == "cmake --build b --target x"
    assert "or change it" in built.what
    assert error("two; type: one", "other").mend == "other"


def test_errors_come_first_and_all_are_numbered() -> None:
    sections = [
        section_of("A", "a", warning="slow"),
        section_of("B", "b", error="gone"),
    ]
    assert finding_lines(sections) == ["1. error: gone", "2. warning: slow", "   wait"]
    assert sections[0].printed() == ["A", "  a", ""]
    assert not is_well(sections)
    assert is_well(sections[:1]), "a warning is no error"
    assert finding_lines([Section(name="C")]) == ["nothing is wrong"]


def test_json_has_all_of_it() -> None:
    section = section_of("A", "a", warning="slow")
    section.facts["n"] = 1
    plain = json.loads(json.dumps(to_json([section])))
    assert plain == {
        "version": 1,
        "is_well": True,
        "sections": [
            {
                "name": "A",
                "lines": ["a"],
                "facts": {"n": 1},
                "findings": [{"severity": "warning", "what": "slow", "mend": "wait"}],
            }
        ],
    }
