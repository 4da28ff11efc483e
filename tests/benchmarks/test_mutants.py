"""The mutation bench plants what it says, builds only what that touches, and counts rightly."""

from __future__ import annotations

import ctypes
import json
import re
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from mutant_build import Build, BuildError, Edit
from mutant_list import MUTANTS, Expected, Mutant
from mutant_table import Outcome, table

from pytest_quantgate.gguf.formats import FILE_TYPES

TOKEN = re.compile(r"[A-Za-z_]\w*|0x[0-9a-fA-F]+|\d+\.?\d*\w*|[<>=!*+-]=|<<|>>|&&|->|\S")


def tokens_that_differ(edit: Edit) -> int:
    """Return how many tokens of C differ, or are left out."""
    old, new = TOKEN.findall(edit.old), TOKEN.findall(edit.new)
    if len(old) == len(new):
        return sum(one != other for one, other in zip(old, new, strict=True))
    assert any(old[:at] + old[at + 1 :] == new for at in range(len(old)))
    return 1


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_mutant_changes_one_token(mutant: Mutant) -> None:
    assert tokens_that_differ(mutant.edit) == 1
    assert set(mutant.formats) <= FILE_TYPES.keys()
    assert bool(mutant.why_harmless) == (mutant.expected is Expected.HARMLESS)


def test_names_are_unique_and_there_are_enough() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS) >= 40


def test_an_edit_is_made_behind_its_place() -> None:
    edit = Edit(file="a.c", after="second", old="1", new="2")
    assert edit.apply("first 1\nsecond\n 1 1\n") == "first 1\nsecond\n 2 1\n"
    assert edit.line("first 1\nsecond\n 1 1\n") == 3


@pytest.mark.parametrize("text", ["first 1", "second"])
def test_an_edit_that_does_not_fit_is_refused(text: str) -> None:
    with pytest.raises(BuildError, match=r"a\.c has no"):
        Edit(file="a.c", after="second", old="1", new="2").apply(text)


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("cmake") and shutil.which("ninja")), reason="needs CMake and ninja"
)
def test_a_mutant_is_built_beside_the_sound_build(tmp_path: Path) -> None:
    source, work = tmp_path / "source", tmp_path / "work"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "size.h").write_text("#define SIZE 40\n")
    (source / "deep" / "size.c").write_text('#include "size.h"\nint size(void) { return SIZE; }\n')
    (source / "llama.c").write_text("int size(void);\nint answer(void) { return size() + 2; }\n")
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.14)\nproject(small C)\n"
        "set(CMAKE_EXPORT_COMPILE_COMMANDS ON)\n"
        "set(CMAKE_LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)\n"
        "add_library(ggml-base SHARED deep/size.c)\nadd_library(llama SHARED llama.c)\n"
        "set_target_properties(ggml-base llama PROPERTIES VERSION 1.2 SOVERSION 1)\n"
        "target_link_libraries(llama ggml-base)\n"
    )
    build = Build(source, work)
    build.make(1)
    edit = Edit(file="deep/size.c", after="int size", old="SIZE", new="1+SIZE")
    build.mutate(edit, tmp_path / "mutant")
    broken = replace(edit, new="NOTHING")

    assert ctypes.CDLL(str(tmp_path / "mutant" / "libllama.so")).answer() == 43
    assert (source / "deep" / "size.c").read_text().endswith("return SIZE; }\n")
    with pytest.raises(BuildError, match="NOTHING"):
        build.mutate(broken, tmp_path / "broken")


OUTCOME = Outcome(
    name="a", what="a fault", place="a.c:1", edit="1 → 2", expected="runtime", resembles="#1",
    why_harmless="", verdicts={"x": "REGRESSED", "y": "PASS"}, causes=["runtime kernels"],
    metrics=["perplexity"], reason="", is_bit_equal=False, ppl_ratio=3.0, failed_tests="",
    other_texts=["x"],
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "is_right"),
    [
        ({}, True),
        ({"causes": ["quantizer"]}, False),
        ({"causes": ["quantizer", "runtime kernels"]}, False),
        ({"causes": [], "metrics": ["batches"]}, True),
        ({"causes": [], "metrics": ["perplexity"]}, False),
        ({"verdicts": {"x": "PASS"}, "causes": []}, False),
        ({"verdicts": {"x": "PASS"}, "causes": [], "is_bit_equal": True}, True),
        ({"expected": "crash"}, False),
        ({"expected": "crash", "verdicts": {"x": "CRASHED"}, "causes": []}, True),
        ({"why_harmless": "as good"}, False),
        ({"why_harmless": "as good", "verdicts": {"x": "PASS"}}, True),
        ({"problem": "does not compile"}, False),
    ],
)
def test_what_counts_as_right(change: dict[str, object], is_right: bool) -> None:
    assert replace(OUTCOME, **change).is_right is is_right  # type: ignore[arg-type]


def test_the_table_counts_what_each_check_shows(tmp_path: Path) -> None:
    sound = replace(OUTCOME, name="b", verdicts={"x": "PASS"}, causes=[], is_bit_equal=True)
    missed = replace(
        OUTCOME,
        name="c",
        verdicts={"x": "PASS"},
        ppl_ratio=1.0,
        other_texts=[],
        failed_tests="q4_K",
    )
    path = tmp_path / "out.jsonl"
    rows = [replace(OUTCOME, problem="cut off"), OUTCOME, sound, missed]
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))

    text = table(Outcome.read_all(path))

    assert text.count("(MISSED)") == 1
    assert "3 mutants, 1 of them equivalent: 1 of those green." in text
    assert "2 faults: 1 red, 1 of them with the right cause." in text
    assert "fails in 1, perplexity more than 2 times the sound one in 1, another text in 1." in text
