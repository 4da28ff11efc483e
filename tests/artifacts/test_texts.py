"""Texts: bytes, documents, domains, and the chunks that lie in them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pytest_quantgate.artifacts.texts import (
    DOMAINS,
    built_in_text,
    check_held_out,
    domain_of,
    load_text,
    make_text,
)
from pytest_quantgate.artifacts.texts.chunks import make_plan
from pytest_quantgate.config.schema import TextSettings
from pytest_quantgate.errors import ConfigError

WIKI = b"\n = First = \n\nWords. \n\n = = Part = = \n\nMore words. \n = Second = \n\nOther. \n"


def test_titles_begin_documents_and_sections_do_not() -> None:
    text = make_text("t", {"t": WIKI})
    assert [span.name for span in text.documents] == ["First", "Second"]
    assert text.documents[0].start == 0
    assert text.documents[0].end == text.documents[1].start == WIKI.index(b" = Second")
    assert text.documents[1].end == len(WIKI)
    assert text.domains == ()
    assert text.sha256 == hashlib.sha256(WIKI).hexdigest()


def test_line_ends_are_kept_and_do_not_hide_documents() -> None:
    data = WIKI.replace(b"\n", b"\r\n")
    text = make_text("t", {"t": data})
    assert text.data == data
    assert [span.name for span in text.documents] == ["First", "Second"]
    assert text.sha256_with_lf == make_text("t", {"t": WIKI}).sha256


@pytest.mark.parametrize("data", [b"", b"no titles", b" = One = \nwords"])
def test_a_text_without_two_titles_declares_no_documents(data: bytes) -> None:
    assert make_text("t", {"t": data}).documents == ()


def test_each_file_is_a_domain() -> None:
    text = make_text("t", {"prose": b"aaaa", "code": b"bb"})
    assert text.data == b"aaaabb"
    assert [(span.name, span.start, span.end) for span in text.domains] == [
        ("prose", 0, 4),
        ("code", 4, 6),
    ]


def test_a_text_of_the_configuration_is_read_as_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\r\n\xff")
    (tmp_path / "b.txt").write_bytes(b"b")
    texts = {
        "one": TextSettings(source="a.txt"),
        "two": TextSettings(domains={"x": "a.txt", "y": "b.txt"}),
        "gone": TextSettings(source="c.txt"),
    }
    assert load_text("one", texts, tmp_path).data == b"a\r\n\xff"
    assert load_text("two", texts, tmp_path).data == b"a\r\n\xffb"
    with pytest.raises(ConfigError, match=r"text 'gone': the file .*c.txt cannot be read"):
        load_text("gone", texts, tmp_path)


def test_a_chunk_belongs_where_most_of_its_scored_bytes_lie() -> None:
    text = make_text("t", {"x": b" = A = \n" + b"a" * 91 + b"\n", "y": b" = B = \n" + b"b" * 92})
    plan = make_plan(text, [(0, 60), (60, 110), (95, 140), (150, 200)], None)
    assert plan.order == (0, 1, 2, 3)
    assert plan.documents == (0, 0, 1, 1)
    assert plan.domains == ("x", "x", "y", "y")
    assert plan.n_chunks == 4


def test_a_seed_gives_one_order_that_takes_the_domains_in_turn() -> None:
    text = make_text("t", {"x": b"x" * 100, "y": b"y" * 100})
    spans = [(i * 20, i * 20 + 20) for i in range(10)]
    plan = make_plan(text, spans, 0)
    assert sorted(plan.order) == list(range(10))
    assert plan == make_plan(text, spans, 0)
    assert plan.order != make_plan(text, spans, 1).order
    assert {plan.domains[i] for i in plan.order[:2]} == {"x", "y"}


def test_a_text_without_documents_has_chunks_without_them() -> None:
    plan = make_plan(make_text("t", {"t": b"x" * 100}), [(0, 50), (50, 100)], 0)
    assert plan.documents == (None, None)
    assert plan.domains == (None, None)


@pytest.mark.parametrize(
    ("name", "domain_bytes", "documents"),
    [("evaluation", range(15_000, 30_000), 12), ("calibration", range(5_000, 10_000), 6)],
)
def test_the_shipped_texts_have_four_domains_of_many_documents(
    name: str, domain_bytes: range, documents: int
) -> None:
    shipped = built_in_text(name)
    assert [span.name for span in shipped.domains] == list(DOMAINS)
    for domain in shipped.domains:
        assert domain.end - domain.start in domain_bytes, domain.name
        inside = [d for d in shipped.documents if domain.start <= d.start < domain.end]
        assert len(inside) >= documents, domain.name
    shipped.data.decode("utf-8")
    assert b"\r" not in shipped.data


def test_what_matrices_are_made_of_is_not_what_is_scored() -> None:
    calibration, evaluation = built_in_text("calibration"), built_in_text("evaluation")
    check_held_out("i", calibration, evaluation)
    lines = [set(text.data.split(b"\n")) for text in (calibration, evaluation)]
    shared = {line for line in lines[0] & lines[1] if len(line) > 40}
    assert not shared


def test_a_domain_is_a_text_of_its_own() -> None:
    text = make_text("t", {"one": b"first ", "two": b"second"})
    part = domain_of(text, "two", "here")
    assert (part.name, part.data, part.domains) == ("t.two", b"second", ())
    with pytest.raises(ConfigError, match="here: text 't' has no domain 'six'; valid: one, two"):
        domain_of(text, "six", "here")
    with pytest.raises(ConfigError, match="valid: none, it is one file"):
        domain_of(part, "one", "here")


STORY = b" = One = \nonce upon\n = Two = \na time\n"


@pytest.mark.parametrize(
    "calibration",
    [
        STORY,
        b"before " + STORY,
        b"once upon",
        b" = Zero = \nnothing\n = Two = \na time\n",
    ],
    ids=["the same", "more", "a part", "a document"],
)
def test_a_matrix_of_what_is_scored_is_refused(calibration: bytes) -> None:
    with pytest.raises(ConfigError, match="'i' is of text 'c', of which 's' is scored"):
        check_held_out("i", make_text("c", {"c": calibration}), make_text("s", {"s": STORY}))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_text_of_wide_characters_is_refused(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "wide.txt").write_bytes("A story of two millers. ".encode(encoding))
    texts = {"wide": TextSettings(source="wide.txt")}
    name = encoding[:6].upper()
    with pytest.raises(ConfigError, match=f"like {name}, not UTF-8; convert it: iconv -f {name}"):
        load_text("wide", texts, tmp_path)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("Le café. ".encode("latin-1") * 9, "is not UTF-8: byte 0xe9 at 6; convert it"),
        (b"A story. " * 1000 + b"\xff" + b"of bytes", "is not UTF-8: byte 0xff at 9,000"),
        (b"A story. " * 1000 + b"\0 and more", "holds a NUL byte, at 9,000"),
    ],
    ids=["Latin-1", "a byte", "a late NUL"],
)
def test_a_text_that_is_not_utf8_is_refused(tmp_path: Path, data: bytes, problem: str) -> None:
    """Its characters would be taken for others, and scored without a word."""
    (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(ConfigError, match=problem):
        load_text("t", {"t": TextSettings(source="t.txt")}, tmp_path)


def test_a_text_that_was_cut_within_a_character_is_read(tmp_path: Path) -> None:
    """As by ``head -c``."""
    (tmp_path / "t.txt").write_bytes(b"A story. " * 9 + "…".encode()[:2])
    assert load_text("t", {"t": TextSettings(source="t.txt")}, tmp_path).data.endswith(b"\xe2\x80")
