"""Nothing in a name, a reason or a log is markup; read back with a parser of GitHub's Markdown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from pytest_quantgate.reports.blocks import Bullets, Paragraph, Table, code, row, words
from pytest_quantgate.reports.markdown import code_span, escape, markdown

PARSER = MarkdownIt("gfm-like", {"html": True, "linkify": False})

HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "a | b",
    "*a* _b_ **c** ~~d~~ `e`",
    "[a](http://b) ![c](d) [e]: f [^g]",
    "- a",
    "1. a",
    "# a",
    "> a",
    "&lt;b&gt; &#60;",
    "\\| \\`",
    "a\nb\r\n# c",
    "MXFP4_MOE and Q4_K_M",
    "===",
    "---",
)


def texts_and_kinds(source: str) -> tuple[str, set[str]]:
    """Return all text of a document, and the kinds of what it is made of."""
    found, kinds = "", set()
    for token in PARSER.parse(source):
        kinds.add(token.type)
        for child in token.children or ():
            kinds.add(child.type)
            if child.type in {"text", "code_inline", "html_inline"}:
                found += child.content
    return found.replace("<!-- -->", ""), kinds


PLAIN = {"paragraph_open", "inline", "text", "paragraph_close", "html_inline", "text_special"}


def read(source: str) -> str:
    text, kinds = texts_and_kinds(source)
    assert kinds <= {
        *PLAIN,
        "bullet_list_open",
        "list_item_open",
        "list_item_close",
        "bullet_list_close",
    }, (source, kinds)
    return text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_string_stays_text(hostile: str) -> None:
    one_line = " ".join(hostile.split())
    assert read(escape(f"x {hostile}")) == f"x {one_line}"
    assert read(markdown([Bullets(items=(hostile,))])) == one_line
    table = Table(columns=(words("a"), words("b")), rows=(row(hostile, (code(hostile),)),))
    source = markdown([table])
    text, kinds = texts_and_kinds(source)
    in_code = one_line.replace("\\|", "|")  # of code in a table, GitHub takes such a backslash out
    assert text == f"ab{one_line}{in_code}"
    assert not kinds & {"link_open", "image", "em_open", "strong_open", "s_open", "html_block"}
    assert sum(token.type == "tr_open" for token in PARSER.parse(source)) == 2


@given(st.text(st.characters(categories=["L", "N", "P", "S", "Zs"]), min_size=1))
def test_any_string_stays_text(text: str) -> None:
    one_line = " ".join(text.split())
    if one_line:
        assert read(markdown([Bullets(items=(text,))])) == one_line


@pytest.mark.parametrize("text", ["a", "`", "``a`", "a``", " a "])
def test_code_ends_where_it_should(text: str) -> None:
    found, kinds = texts_and_kinds(markdown([Paragraph(text=("x ", code(text)))]))
    assert "code_inline" in kinds
    assert found == f"x {text.strip()}"
    assert code_span("a") == "`a`"


def test_names_of_formats_stay_as_they_are_typed() -> None:
    assert escape("MXFP4_MOE −0.16 % [−0.52, +0.21] 64 > 32; a_b") == (
        "MXFP4_MOE −0.16 % [−0.52, +0.21] 64 > 32; a_b"
    )


def test_nobody_is_mentioned() -> None:
    assert "@octocat" not in escape("thanks @octocat")
