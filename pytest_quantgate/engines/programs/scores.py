"""Scores chunks with llama-perplexity.

It prints running means, not values of single tokens. A chunk's sum is the difference of two of
these, ``n·x̄ₙ − (n−1)·x̄ₙ₋₁``, so comparisons stay paired by chunk. It scores a text's chunks in the
text's order from the first one on, and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import psutil

from pytest_quantgate.engines.engine import OnReply
from pytest_quantgate.engines.messages import Score, Scored, SummedChunk, Tokenize, Tokenized
from pytest_quantgate.engines.messages.placement import read_placement
from pytest_quantgate.engines.programs.base_file import BaseFile
from pytest_quantgate.engines.programs.folder import PERPLEXITY, TOKENIZE, Argument, ProgramFolder
from pytest_quantgate.engines.programs.output import PairedReader, PlainReader, Running
from pytest_quantgate.engines.programs.tokens import TextCutter
from pytest_quantgate.errors import CellCrashed, CellUnsupported
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.storage.atomic import read_json, write_json

BASE_FILE = "base.dat"

_TYPE_NAMES = {row.number: name.lower() for name, row in TENSOR_TYPES.items()}
_MAX_TRIES = 8

ReaderT = TypeVar("ReaderT", PlainReader, PairedReader)


def _remove_leftovers(folder: Path) -> None:
    """Remove what processes left that were killed: a base file has many gigabytes."""
    for path in folder.glob(f"{BASE_FILE}.*.partial"):
        if not psutil.pid_exists(int(path.name.split(".")[-2])):
            path.unlink(missing_ok=True)


class ProgramScorer:
    """Scores.

    Args:
        programs: where llama-perplexity is.
        cutter: knows a text's tokens.
        arguments: further ones of llama-perplexity.

    """

    def __init__(
        self, programs: ProgramFolder, cutter: TextCutter, arguments: tuple[str, ...]
    ) -> None:
        self._programs = programs
        self._cutter = cutter
        self._arguments = arguments

    def score(self, request: Score, on_reply: OnReply) -> Scored:
        """Score chunks; all those before the first that is asked for are decoded too."""
        begin, end = request.chunks[0], request.chunks[-1] + 1
        if request.chunks != tuple(range(begin, end)):
            raise CellUnsupported(
                "llama-perplexity scores a text's chunks in the text's order from the first one"
                ' on; set chunk_order = "text"'
            )
        cut = self._cutter.cut(
            Tokenize(model=request.model, text=request.text, n_ctx=request.n_ctx)
        )
        hashes = cut.token_ids_sha256[:end]
        if request.captures:
            self._score_reference(request, end, cut, on_reply)
        elif request.reference and self._same_tokens(Path(request.reference), hashes):
            self._score_against(request, end, hashes, on_reply)
        else:
            self._score_plain(request, end, hashes, [], on_reply)
        return Scored(load_s=0.0)

    def _same_tokens(self, folder: Path, hashes: tuple[str, ...]) -> bool:
        """Return whether the reference's tokens are this model's own.

        Against a base file llama-perplexity decodes the tokens in it, and would hide that a
        model cuts the text in another way; such a model is scored on its own tokens alone.
        """
        facts = read_json(folder / "facts.json")
        stored = facts.get("token_ids_sha256", ()) if isinstance(facts, dict) else ()
        return tuple(stored[: len(hashes)]) == hashes

    def _score_reference(self, request: Score, end: int, cut: Tokenized, on_reply: OnReply) -> None:
        """Score the reference, its distribution written to a base file in its folder."""
        folder = Path(request.reference)
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        partial = folder / f"{BASE_FILE}.{os.getpid()}.partial"
        hashes = cut.token_ids_sha256[:end]
        option: list[Argument] = ["--kl-divergence-base", partial]
        try:
            self._score_plain(request, end, hashes, option, on_reply)
            base = BaseFile.open(partial)
            if tuple(base.token_ids_sha256(cut.bos)) != hashes:
                raise CellCrashed(
                    "llama-perplexity decoded other tokens than the text was cut into; build"
                    f" {TOKENIZE} beside it from the same source"
                )
            with partial.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            # The facts never say more than the file beside them has, whenever this is interrupted.
            (folder / "facts.json").unlink(missing_ok=True)
            partial.replace(folder / BASE_FILE)
        finally:
            partial.unlink(missing_ok=True)
        facts = {"mode": "base file", "token_ids_sha256": hashes, "sha256": digest}
        write_json(folder / "facts.json", facts)

    def _score_against(
        self, request: Score, end: int, hashes: tuple[str, ...], on_reply: OnReply
    ) -> None:
        """Score a model against the reference's base file."""
        folder = Path(request.reference)
        base = BaseFile.open(folder / BASE_FILE)
        facts = read_json(folder / "facts.json")
        base.check(str(facts.get("sha256")) if isinstance(facts, dict) else "")
        if base.n_chunks == end:
            self._score_paired(request, base.path, hashes, on_reply)
            return
        _remove_leftovers(base.path.parent)
        # llama-perplexity takes all the chunks that a base file has.
        part = base.path.with_name(f"{BASE_FILE}.{end}.{os.getpid()}.partial")
        try:
            base.write_first(end, part)
            self._score_paired(request, part, hashes, on_reply)
        finally:
            part.unlink(missing_ok=True)

    def _score_plain(
        self,
        request: Score,
        end: int,
        hashes: tuple[str, ...],
        options: Sequence[Argument],
        on_reply: OnReply,
    ) -> None:
        settings: list[Argument] = ["-f", request.text, "--chunks", end, "--ppl-output-type", 1]
        sums = _Sums(request, hashes, on_reply)
        self._decode(request, [*settings, *options], sums, lambda: PlainReader(end))

    def _score_paired(
        self, request: Score, base: Path, hashes: tuple[str, ...], on_reply: OnReply
    ) -> None:
        sums = _Sums(request, hashes, on_reply)
        end, tokens = len(hashes), len(hashes) * sums.tokens_a_chunk
        options: list[Argument] = ["--kl-divergence-base", base, "--kl-divergence"]
        reader = self._decode(request, options, sums, lambda: PairedReader(end, tokens))
        if reader.summary is not None:
            on_reply(reader.summary)

    def _decode(
        self,
        request: Score,
        options: Sequence[Argument],
        sums: _Sums,
        make_reader: Callable[[], ReaderT],
    ) -> ReaderT:
        """Run llama-perplexity until a reader has all that it prints.

        Its log is written by a thread of its own that nothing waits for at the end, so the last
        lines are sometimes lost. Where only these are missing it runs again.
        """
        at_once = max(1, request.n_batch // request.n_ctx)
        tries = 0
        while True:
            tries += 1
            reader = make_reader()
            sums.restart()
            code = self._programs.run(
                PERPLEXITY, [*self._settings(request), *options], partial(sums.read, reader)
            )
            if reader.is_complete:
                return reader
            failure = self._programs.failure(PERPLEXITY, code)
            only_the_end = reader.n_rows >= sums.n_hashes - at_once
            only_the_reason = reader.n_rows == 0 and code > 0
            lost = code >= 0 and not isinstance(failure, CellUnsupported)
            if not lost or not (only_the_end or only_the_reason) or tries == _MAX_TRIES:
                raise failure

    def _settings(self, request: Score) -> list[Argument]:
        """Return the pinned arguments of every run, and then the configuration's own."""
        placement = read_placement(request.device)
        is_cpu, layers = placement.is_cpu, placement.n_gpu_layers
        pinned: dict[str, Argument] = {
            "-m": request.model,
            "-c": request.n_ctx,
            "-b": request.n_batch,
            "-ub": request.n_ubatch,
            "-t": request.n_threads,
            "-fa": "on" if request.flash_attention else "off",
            "-ctk": _TYPE_NAMES[request.type_k],
            "-ctv": _TYPE_NAMES[request.type_v],
            "--device": "none" if is_cpu else ",".join(placement.names),
            "-ngl": 0 if is_cpu else 999 if layers is None else layers,
            "-sm": placement.split_mode,
        }
        if placement.tensor_split:
            pinned["-ts"] = ",".join(f"{share:g}" for share in placement.tensor_split)
        plain: list[Argument] = [] if placement.repack and request.repack else ["--no-repack"]
        return [*(part for pair in pinned.items() for part in pair), *plain, *self._arguments]


class _Sums:
    """Turns running means into sums by chunk, and tells those that were asked for.

    Args:
        request: which chunks, and how long they are.
        hashes: of the token ids of each chunk from the first on.
        on_reply: is told.

    """

    def __init__(self, request: Score, hashes: tuple[str, ...], on_reply: OnReply) -> None:
        self.tokens_a_chunk = request.n_ctx - 1 - request.n_ctx // 2
        self.n_hashes = len(hashes)
        self._next_told = request.chunks[0]
        self._hashes = hashes
        self._on_reply = on_reply
        self.restart()

    def restart(self) -> None:
        """Begin with the first chunk again; what was told is not told twice."""
        self._n_chunks = 0
        self._before = Running(mean_nll_nats=0.0, mean_kld_nats=0.0, same_top=0.0)
        self._last_s = time.perf_counter()

    def read(self, reader: PlainReader | PairedReader, line: str) -> None:
        """Take a line in."""
        row = reader.read(line)
        if row is not None:
            self._add(row)

    def _add(self, row: Running) -> None:
        """Take the figures over all chunks up to the next one."""
        index, before, n = self._n_chunks, self._before, self.tokens_a_chunk
        self._n_chunks, self._before = index + 1, row
        now_s = time.perf_counter()
        took_s, self._last_s = now_s - self._last_s, now_s
        if index != self._next_told or index >= self.n_hashes:
            return
        self._next_told += 1
        chunk = SummedChunk(
            index=index,
            tokens=n,
            nll_sum_nats=_difference(before.mean_nll_nats, row.mean_nll_nats, index, n),
            token_ids_sha256=self._hashes[index],
            seconds_s=took_s,
        )
        if row.mean_kld_nats is not None and before.mean_kld_nats is not None:
            kld = _difference(before.mean_kld_nats, row.mean_kld_nats, index, n)
            chunk = replace(chunk, kld_sum_nats=kld)
        if row.same_top is not None and before.same_top is not None:
            same = _difference(before.same_top, row.same_top, index, n)
            chunk = replace(chunk, same_top=round(same))
        self._on_reply(chunk)


def _difference(before: float, now: float, index: int, tokens: int) -> float:
    """Return a chunk's sum from the means over the chunks before it and with it."""
    return tokens * ((index + 1) * now - index * before)
