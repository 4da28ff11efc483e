"""What llama.cpp's programs print, read back; pure functions and small readers.

The formats are those of llama.cpp's ``tools/perplexity/perplexity.cpp``,
``tools/tokenize/tokenize.cpp`` and ``tools/quantize/quantize.cpp``. A program's exit status says
little (llama-perplexity ends with 0 after a failed decode), so each reader knows whether what it
needs was printed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from pytest_quantgate.engines.messages import DivergenceSummary
from pytest_quantgate.engines.worker.errors import join_reasons

_NUMBER = r"([-+]?(?:\d+(?:\.\d+)?(?:e[-+]?\d+)?|nan|inf))(?:\([^)]*\))?"

_VERSION = re.compile(r"^version:\s*(\S.*)$")
_COMMIT = re.compile(r"\((?:build \d+, commit )?([0-9a-f]{4,40})(?:-dirty)?\)")
_COMPILER = re.compile(r"^built with (\S.*)$")
_DEVICE = re.compile(r"^ {2}([^\s:()]+): ")
_SYSTEM_INFO = re.compile(r"system_info: .*?\|\s*(\S.*)$")
_TENSOR = re.compile(r"\[\s*(\d+)/\s*(\d+)\]")
_REFUSAL = re.compile(
    r"error loading model|failed to load model|unable to load model|failed to quantize"
    r"|failed to create (?:the )?context|invalid ftype|could not load model"
)
_REASON = re.compile(
    r"error|fail|invalid|unknown|missing|requires|duplicate|too long|expected", re.IGNORECASE
)
_ERROR = re.compile(r"^[\d.]+ E ")
_PREFIX = re.compile(r"^[\d.]+ [A-Z] ")  # time and level, as llama.cpp's log puts them
_TOKEN = re.compile(rb"^ *(\d+) -> '", re.MULTILINE)
_TOKEN_COUNT = re.compile(rb"Total number of tokens: (\d+)\s*\Z")


def read_version(line: str) -> str | None:
    """Return the version that a line of ``--version`` tells."""
    match = _VERSION.match(line.strip())
    return match[1] if match else None


def read_commit(version: str) -> str | None:
    """Return the commit in a version such as ``0.5.0 (build 1, commit 0c1e570)``."""
    match = _COMMIT.search(version)
    return match[1] if match else None


def read_compiler(line: str) -> str | None:
    """Return the compiler that a line of ``--version`` tells."""
    match = _COMPILER.match(line.strip())
    return match[1] if match else None


def read_device(line: str) -> str | None:
    """Return the device that a line of ``--list-devices`` tells."""
    match = _DEVICE.match(line)
    return match[1] if match else None


def read_system_info(line: str) -> str | None:
    """Return llama.cpp's own line of instruction sets, the number of threads left out."""
    match = _SYSTEM_INFO.search(line)
    return match[1].strip() if match else None


def read_tensor(line: str) -> tuple[int, int] | None:
    """Return ``(number, of how many)`` of a tensor that llama-quantize has come to."""
    match = _TENSOR.search(line)
    return (int(match[1]), int(match[2])) if match else None


def read_refusal(lines: list[str]) -> str | None:
    """Return why llama.cpp refused, None where the lines tell of no refusal."""
    if not any(_REFUSAL.search(line) for line in lines):
        return None
    # Some builds put the level before a line; in others an error is known by its words.
    errors = [line for line in lines if _ERROR.match(line)]
    errors = errors or [line for line in lines if _REASON.search(line)]
    return join_reasons([_PREFIX.sub("", line) for line in errors])


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """What llama-tokenize printed: the ids, and the bytes of text that each stands for."""

    ids: tuple[int, ...]
    n_bytes: tuple[int, ...]


def read_tokens(printed: bytes) -> Tokens | None:
    """Read ``llama-tokenize --show-count``, a token a line; None where it is not whole."""
    count = _TOKEN_COUNT.search(printed)
    if count is None:
        return None
    found = list(_TOKEN.finditer(printed, 0, count.start()))
    ends = [*(match.start() for match in found[1:]), count.start()]
    # A piece is followed by "'" and a line end, which is two characters on Windows.
    close = len(b"'\r\n") if b"'\r\n" in printed else len(b"'\n")
    sizes = tuple(end - close - match.end() for match, end in zip(found, ends, strict=False))
    if len(found) != int(count[1]) or any(size < 0 for size in sizes):
        return None
    return Tokens(ids=tuple(int(match[1]) for match in found), n_bytes=sizes)


@dataclass(frozen=True, kw_only=True)
class Running:
    """One chunk's line: means over all tokens up to it; None where the mode prints none.

    ``mean_nll_nats`` is as exact as the line allows.
    """

    mean_nll_nats: float
    mean_kld_nats: float | None = None
    same_top: float | None = None


_PLAIN_ROW = re.compile(rf"^\s*\d+\s+{_NUMBER}\s+{_NUMBER}\s+{_NUMBER}\s*$")
_PLUS_MINUS = rf"\s+{_NUMBER}\s+\S+\s+{_NUMBER}"
_PAIRED_ROW = re.compile(rf"^\s*(\d+){_PLUS_MINUS * 3}{_PLUS_MINUS}\s*%{_PLUS_MINUS}\s*%\s*$")
_PERPLEXITY = re.compile(rf"^\s*(Mean) (PPL\(Q\))\s*:\s*{_NUMBER}")
_STATISTIC = re.compile(rf"^\s*(.+?)\s+(KLD|\S*p)\s*:\s*{_NUMBER}")
_FINAL_PLAIN = re.compile(rf"Final estimate: PPL = {_NUMBER}")
_NO_DEVIATION = "Unexpected negative standard deviation"
_MIN_STATISTICS_TOKENS = 100


def _log(perplexity: float) -> float:
    return math.log(perplexity) if perplexity > 0 else math.nan


def _best_mean(perplexity: float, mean: float) -> float:
    """Choose between PPL of 4 decimals and its logarithm of 6: the one that is known better."""
    return _log(perplexity) if math.isfinite(perplexity) and perplexity > 100 else mean


class PlainReader:
    """Reads ``llama-perplexity --ppl-output-type 1``: perplexity and its logarithm a chunk.

    Args:
        n_chunks: how many chunks are scored.

    """

    def __init__(self, n_chunks: int) -> None:
        self.n_rows = 0
        self._n_chunks = n_chunks
        self._ended = False
        self._is_finite = True

    @property
    def is_complete(self) -> bool:
        """Whether every chunk and the end were printed."""
        return self._ended and self.n_rows == self._n_chunks

    def read(self, line: str) -> Running | None:
        """Return a chunk's figures, None for any other line."""
        match = _PLAIN_ROW.match(line)
        if match is not None:
            self.n_rows += 1
            perplexity, mean = float(match[1]), float(match[2])
            self._is_finite = math.isfinite(perplexity)
            return Running(mean_nll_nats=_best_mean(perplexity, mean))
        # Without a finite deviation there is a complaint in place of the estimate.
        if _FINAL_PLAIN.search(line) or (_NO_DEVIATION in line and not self._is_finite):
            self._ended = True
        return None


class PairedReader:
    """Reads ``llama-perplexity --kl-divergence``: running figures, then the statistics.

    Args:
        n_chunks: how many chunks are scored.
        n_tokens: how many tokens; with fewer than 100 no statistics are printed.

    """

    def __init__(self, n_chunks: int, n_tokens: int) -> None:
        self.n_rows = 0
        self._n_chunks = n_chunks
        self._has_statistics = n_tokens >= _MIN_STATISTICS_TOKENS
        self._found: dict[tuple[str, str], float] = {}

    @property
    def is_complete(self) -> bool:
        """Whether every chunk and the statistics were printed."""
        ended = self.summary is not None or not self._has_statistics
        return ended and self.n_rows == self._n_chunks

    def read(self, line: str) -> Running | None:
        """Return a chunk's figures; the last one's from the statistics, with a decimal more."""
        row = _PAIRED_ROW.match(line)
        if row is not None:
            self.n_rows += 1
            if self.n_rows == self._n_chunks and self._has_statistics:
                return None
            return Running(
                mean_nll_nats=_log(float(row[2])),
                mean_kld_nats=float(row[6]),
                same_top=float(row[10]) / 100,
            )
        statistic = _PERPLEXITY.match(line) or _STATISTIC.match(line)
        if statistic is None:
            return None
        name, what = statistic[1].removesuffix("%"), statistic[2]
        # The sign in "Δp" depends on the console's code page.
        self._found[name, what if what in {"KLD", "PPL(Q)"} else "p"] = float(statistic[3])
        return self._last() if name == "Same top" else None

    def _last(self) -> Running | None:
        found = self._found
        if self.summary is None or ("Mean", "PPL(Q)") not in found:
            return None
        return Running(
            mean_nll_nats=_log(found["Mean", "PPL(Q)"]),
            mean_kld_nats=found["Mean", "KLD"],
            same_top=found["Same top", "p"] / 100,
        )

    @property
    def summary(self) -> DivergenceSummary | None:
        """Extremes, percentiles and Δp, None where they were not printed."""
        found = self._found
        try:
            return DivergenceSummary(
                max_kld_nats=found["Maximum", "KLD"],
                min_kld_nats=found["Minimum", "KLD"],
                kld_percentiles_nats=self._percentiles("KLD", 1.0),
                mean_delta_p=found["Mean", "p"] / 100,
                rms_delta_p=found["RMS", "p"] / 100,
                delta_p_percentiles=self._percentiles("p", 100.0),
            )
        except KeyError:
            return None

    def _percentiles(self, what: str, unit: float) -> tuple[tuple[str, float], ...]:
        named = {
            "50" if name == "Median" else f"{float(name):g}": value / unit
            for (name, kind), value in self._found.items()
            if kind == what and (name == "Median" or re.fullmatch(r"[\d.]+", name))
        }
        return tuple(sorted(named.items(), key=lambda item: -float(item[0])))
