"""Texts: their bytes, and the documents and domains that they declare.

A text is read as bytes, since a translated line end changes the tokens. Lines of the form
`` = Title = `` begin a document, as in WikiText; a text made of one file a domain has domains.
"""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from pytest_quantgate.config.schema import TextSettings
from pytest_quantgate.config.settings import CALIBRATION_TEXT
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.storage.environment import path_below

DOMAINS = ("encyclopedia", "dialogue", "code", "mathematics")

_TITLE = re.compile(rb"^ = [^=\r\n].*? = \r?$", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Span:
    """Bytes ``start`` up to ``end`` of a text."""

    start: int
    end: int
    name: str


@dataclass(frozen=True, kw_only=True)
class Text:
    """A text as it is tokenized, one trailing newline of the whole dropped by the worker.

    ``documents`` is empty where the text declares none, ``domains`` where it is one file.
    """

    name: str
    data: bytes
    sha256: str
    documents: tuple[Span, ...]
    domains: tuple[Span, ...]

    @property
    def sha256_with_lf(self) -> str:
        """The hash that the text would have with LF line ends."""
        return hashlib.sha256(self.data.replace(b"\r\n", b"\n")).hexdigest()


def _documents(data: bytes) -> tuple[Span, ...]:
    titles = list(_TITLE.finditer(data))
    if len(titles) < 2:
        return ()
    # What stands before the first title belongs to the first document.
    edges = [0, *(match.start() for match in titles[1:]), len(data)]
    return tuple(
        Span(start=start, end=end, name=match.group().strip(b" =\r").decode("utf-8", "replace"))
        for start, end, match in zip(edges, edges[1:], titles, strict=False)
    )


def make_text(name: str, data_of: Mapping[str, bytes]) -> Text:
    """Join a text from the bytes of its domains; with a single one it is a text without."""
    data = b"".join(data_of.values())
    domains = []
    offset = 0
    for domain, of_domain in data_of.items():
        domains.append(Span(start=offset, end=offset + len(of_domain), name=domain))
        offset += len(of_domain)
    return Text(
        name=name,
        data=data,
        sha256=hashlib.sha256(data).hexdigest(),
        documents=_documents(data),
        domains=tuple(domains) if len(data_of) > 1 else (),
    )


def built_in_text(name: str) -> Text:
    """Return a text that ships with this package.

    ``evaluation`` has four domains of about 20 kB each, ``calibration`` the same domains with
    other documents.
    """
    folder = files("pytest_quantgate.artifacts.texts") / name
    return make_text(name, {domain: (folder / f"{domain}.txt").read_bytes() for domain in DOMAINS})


def domain_of(text: Text, domain: str, where: str) -> Text:
    """Return one domain of a text as a text of its own.

    Raises:
        ConfigError: the text has no such domain; the message begins with ``where``.

    """
    for span in text.domains:
        if span.name == domain:
            return make_text(f"{text.name}.{domain}", {domain: text.data[span.start : span.end]})
    valid = ", ".join(span.name for span in text.domains) or "none, it is one file"
    raise ConfigError(f"{where}: text {text.name!r} has no domain {domain!r}; valid: {valid}")


def check_held_out(imatrix: str, calibration: Text, scored: Text) -> None:
    """Refuse an importance matrix of a text on which its formats are scored.

    Raises:
        ConfigError: one of the texts has all bytes of the other, or they share a document.

    """
    shared = calibration.data in scored.data or scored.data in calibration.data
    if not shared:
        documents = {calibration.data[span.start : span.end] for span in calibration.documents}
        shared = any(scored.data[span.start : span.end] in documents for span in scored.documents)
    if shared:
        raise ConfigError(
            f"importance matrix {imatrix!r} is of text {calibration.name!r}, of which"
            f" {scored.name!r} is scored: it would flatter the formats; take another text, such as"
            f" {CALIBRATION_TEXT!r}"
        )


def load_text(name: str, texts: Mapping[str, TextSettings], root: Path) -> Text:
    """Read a text of the configuration, or the shipped one.

    Raises:
        ConfigError: a file is missing or cannot be read.

    """
    settings = texts.get(name)
    if settings is None:
        return built_in_text(name)
    sources = settings.domains or {name: settings.source or ""}
    data_of = {}
    for domain, source in sources.items():
        path = path_below(root, source)
        try:
            data_of[domain] = path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"text {name!r}: the file {path} cannot be read ({error.strerror});"
                f" put it there or change [tool.quantgate.texts.{name}]"
            ) from error
        _check_encoding(name, path, data_of[domain])
    return make_text(name, data_of)


_CUT_BYTES = 3  # of a character of four that was cut


def _check_encoding(name: str, path: Path, data: bytes) -> None:
    """Refuse what is no text in UTF-8: a tokenizer would take its bytes for other characters.

    The end may be in the middle of a character, as where a text was cut by bytes.

    Raises:
        ConfigError: it begins as UTF-16 or UTF-32 does, is of another encoding, or holds NULs.

    """
    marks = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
    if data.startswith(marks) or b"\0" in data[:4096]:
        is_utf32 = data[:4] in {codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE} or b"\0\0" in data[:8]
        encoding = "UTF-32" if is_utf32 else "UTF-16"
        raise ConfigError(
            f"text {name!r}: the file {path} looks like {encoding}, not UTF-8; convert it:"
            f" iconv -f {encoding} -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(data) - _CUT_BYTES:
            raise ConfigError(
                f"text {name!r}: the file {path} is not UTF-8: byte 0x{data[error.start]:02x} at"
                f" {error.start:,}; convert it from the encoding that it has, such as:"
                f" iconv -f WINDOWS-1252 -t UTF-8 {path.name} > {path.stem}-utf8{path.suffix}"
            ) from None
    if b"\0" in data:
        raise ConfigError(
            f"text {name!r}: the file {path} holds a NUL byte, at {data.index(0):,}: it is no plain"
            f" text; take another file in [tool.quantgate.texts.{name}]"
        )
