"""Cuts texts into chunks as llama.cpp's programs do, with llama-tokenize."""

from __future__ import annotations

import hashlib
import tempfile
from pathlib import Path

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Tokenize, Tokenized
from pytest_quantgate.engines.programs.folder import TOKENIZE, ProgramFolder
from pytest_quantgate.engines.programs.output import Tokens, read_tokens


class TextCutter:
    """Cuts texts, each once.

    A build may lack llama-tokenize. Then the vocabulary of this interpreter's llama-cpp-python
    cuts, which the engine's identity names, and the tokens are compared with those decoded.

    Args:
        programs: where llama-tokenize is, if it is there.
        vocabulary: this interpreter's llama-cpp-python.

    """

    def __init__(self, programs: ProgramFolder, vocabulary: LlamaCppPython) -> None:
        self._programs = programs
        self._vocabulary = vocabulary
        self._known: dict[Tokenize, Tokenized] = {}

    @property
    def other(self) -> str | None:
        """What cuts in the programs' place, None where they do it themselves."""
        if self._programs.has(TOKENIZE):
            return None
        own = self._vocabulary.identity()
        return f"{own.kind} {own.version}"

    def cut(self, request: Tokenize) -> Tokenized:
        """Return how a text falls into chunks."""
        if request not in self._known:
            own = self._programs.has(TOKENIZE)
            self._known[request] = self._cut(request) if own else self._vocabulary.ask(request)
        return self._known[request]

    def _cut(self, request: Tokenize) -> Tokenized:
        tokens = self._tokens(request)
        without = self._tokens(request, "--no-bos")
        bos = tokens.ids[0] if len(tokens.ids) > len(without.ids) else None
        n_ctx, hashes, spans = request.n_ctx, [], []
        ends = [0]
        for number, size in enumerate(tokens.n_bytes):
            # The text has no bytes for a BOS token, which is printed by its name.
            ends.append(ends[-1] + (0 if bos is not None and number == 0 else size))
        for start in range(0, len(tokens.ids) - n_ctx + 1, n_ctx):
            ids = list(tokens.ids[start : start + n_ctx])
            if bos is not None:
                ids[0] = bos
            packed = b"".join(token.to_bytes(4, "little", signed=True) for token in ids)
            hashes.append(hashlib.sha256(packed).hexdigest())
            spans.append((ends[start + n_ctx // 2 + 1], ends[start + n_ctx]))
        return Tokenized(
            n_tokens=len(tokens.ids),
            bos=bos,
            token_ids_sha256=tuple(hashes),
            scored_bytes=tuple(spans),
        )

    def _tokens(self, request: Tokenize, *options: str) -> Tokens:
        data = Path(request.text).read_bytes()
        with tempfile.TemporaryDirectory() as folder:
            # llama-perplexity drops one newline at the end, llama-tokenize does not.
            text, printed = Path(folder) / "text.txt", Path(folder) / "tokens.txt"
            text.write_bytes(data[:-1] if data.endswith(b"\n") else data)
            settings = ["--show-count", "--no-escape", "--no-parse-special", *options]
            code = self._programs.run(
                TOKENIZE, ["-m", request.model, "-f", text, *settings], output=printed
            )
            tokens = read_tokens(printed.read_bytes())
        if tokens is None or not tokens.ids:
            raise self._programs.failure(TOKENIZE, code)
        return tokens
