"""The model that comes next is loaded while another one computes."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_quantgate.engines.messages import Message, Score, ScoredChunk
from pytest_quantgate.engines.worker import scoring
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.llama import LogTap, Model
from pytest_quantgate.engines.worker.scoring import Scorer
from tests.tiny_model import Shape, write_tiny_model

LOG = LogTap()
"""llama.cpp writes to it as long as this process lives."""


@pytest.fixture
def request_of_first(tmp_path: Path, story: Path) -> Score:
    """Two chunks of the first model, with the second one to come."""
    write_tiny_model(tmp_path / "second.gguf", Shape(experts=8, experts_used=2))
    return Score(
        model=str(write_tiny_model(tmp_path / "first.gguf", Shape())),
        text=str(story),
        device="cpu",
        chunks=(0, 1),
        n_ctx=64,
        n_batch=64,
        n_ubatch=64,
        n_threads=1,
        flash_attention=True,
        type_k=1,
        type_v=1,
        next_model=str(tmp_path / "second.gguf"),
        next_model_bytes=1,
    )


@pytest.fixture
def ready() -> list[str]:
    """The paths of the models that are loaded, which takes longer than two chunks."""
    return []


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch, ready: list[str]) -> list[str]:
    """The paths of the models that were loaded, on a device with room for two."""
    paths: list[str] = []

    class Counted(Model):
        def __init__(self, request: Score, **options: object) -> None:
            paths.append(request.model)
            super().__init__(request, **options)  # type: ignore[arg-type] # as they were given
            time.sleep(0.3)
            ready.append(request.model)

    monkeypatch.setattr(scoring, "Model", Counted)
    monkeypatch.setattr(scoring, "_has_room", lambda _request: True)
    return paths


def figures(scorer: Scorer, replies: list[Message], request: Score) -> list[float]:
    """Return the sums of the chunks of a request."""
    replies.clear()
    scorer.score(request)
    return [reply.nll_sum_nats for reply in replies if isinstance(reply, ScoredChunk)]


def test_the_next_model_is_loaded_once_and_gives_its_own_figures(
    request_of_first: Score, loaded: list[str], ready: list[str]
) -> None:
    """It is taken when it is asked for, and another one in its place is loaded as ever."""
    replies: list[Message] = []
    scorer = Scorer(replies.append, LOG)
    first, second = request_of_first.model, request_of_first.next_model
    of_second = replace(request_of_first, model=second, next_model="", next_model_bytes=0)
    alone = figures(scorer, replies, of_second)
    figures(scorer, replies, request_of_first)
    assert loaded == [second, first, second]
    assert len(ready) == 3, "a device that others may use now would still be loaded to"
    assert figures(scorer, replies, of_second) == alone
    assert loaded == [second, first, second]
    figures(scorer, replies, request_of_first)
    scorer.close()
    assert figures(scorer, replies, of_second) == alone, "what came next was given up"
    assert loaded[3:] == [first, second, second]
    scorer.close()


def test_a_next_model_that_cannot_be_loaded_is_its_own_requests_error(
    request_of_first: Score, loaded: list[str]
) -> None:
    """The model that computes is not concerned."""
    replies: list[Message] = []
    scorer = Scorer(replies.append, LOG)
    Path(request_of_first.next_model).write_bytes(b"no model")
    assert len(figures(scorer, replies, request_of_first)) == 2
    with pytest.raises(EngineRefusal, match="cannot load the model"):
        scorer.score(replace(request_of_first, model=request_of_first.next_model, next_model=""))
    assert len(loaded) == 3
    scorer.close()
