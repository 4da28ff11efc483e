"""Engines of programs that answer and fail on demand, and what is asked of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.messages import Message, Score, SummedChunk
from pytest_quantgate.engines.programs.engine import LlamaPrograms
from pytest_quantgate.storage.keys import file_sha256
from tests.engines.fake_programs import write_programs

N_CTX = 64
TOKENS = N_CTX - 1 - N_CTX // 2

Start = Callable[..., LlamaPrograms]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three programs without a fault."""
    return write_programs(tmp_path / "bin")


@pytest.fixture
def start(folder: Path, tmp_path: Path) -> Iterator[Start]:
    """Return what makes an engine of these programs."""
    made: list[LlamaPrograms] = []

    def make(
        arguments: tuple[str, ...] = (), stall_s: float = 60.0, where: Path = folder
    ) -> LlamaPrograms:
        engine = LlamaPrograms(
            folder=where,
            arguments=arguments,
            log=tmp_path / "logs" / "programs.log",
            stall_s=stall_s,
            sha256_of=file_sha256,
        )
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def text(tmp_path: Path) -> Path:
    """Ten chunks and a half, and one newline at the end that is not scored."""
    path = tmp_path / "text.txt"
    letters = np.random.default_rng(1).integers(97, 123, 10 * N_CTX + 30)
    path.write_bytes(bytes(letters.tolist()) + b"\n")
    return path


@pytest.fixture
def request_of(text: Path, tmp_path: Path) -> Callable[..., Score]:
    """Return what makes a request to score."""

    def make(chunks: range = range(4), *, reference: str = "", captures: bool = False) -> Score:
        return Score(
            model=str(tmp_path / "model.gguf"),
            device="cpu",
            text=str(text),
            chunks=tuple(chunks),
            n_ctx=N_CTX,
            n_batch=N_CTX,
            n_ubatch=N_CTX,
            n_threads=1,
            flash_attention=True,
            type_k=1,
            type_v=1,
            reference=reference,
            captures=captures,
        )

    return make


RequestOf = Callable[..., Score]


def score(engine: LlamaPrograms, request: Score) -> list[Message]:
    """Score and return every reply on the way."""
    told: list[Message] = []
    engine.ask(request, told.append)
    return told


def sums(told: list[Message]) -> list[SummedChunk]:
    """Return the chunks among the replies."""
    return [reply for reply in told if isinstance(reply, SummedChunk)]


def true_nll(index: int) -> float:
    """Return a chunk's sum as the fakes have it, before they print it."""
    return TOKENS * (2.5 + 0.25 * math.sin(3 * index))
