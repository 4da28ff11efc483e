"""Routes recorded in a real worker: the real ones, at no other result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    BeginComparison,
    CompareExperts,
    ComparisonBegun,
    ExpertMatrix,
    ScoredChunk,
    TensorPlace,
)
from pytest_quantgate.gguf.reader import Tensor, read_gguf
from pytest_quantgate.results.measurements.routes import Routes, join_routes, read_routes
from tests.engines.worker.test_scoring import score
from tests.tiny_model import Shape, write_tiny_model

SCORED = 31


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An olmoe of 3 layers with 8 experts each, 2 of them used."""
    path = tmp_path_factory.mktemp("model") / "experts.gguf"
    return write_tiny_model(path, Shape(experts=8, layers=3))


def routes(replies: list[ScoredChunk]) -> Routes:
    found = None
    for reply in replies:
        found = join_routes(found, read_routes(reply, SCORED))
    assert found is not None
    return found


def test_recording_routes_changes_no_bit(
    engine: LlamaCppPython, mixture: Path, story: Path
) -> None:
    plain = score(engine, mixture, story)
    recorded = score(engine, mixture, story, route_chunks=(0, 1))
    assert [reply.nll_nats for reply in recorded] == [reply.nll_nats for reply in plain]
    assert all(not reply.route_layers for reply in plain)
    found = routes(recorded)
    assert found.layers == (0, 1, 2)
    assert found.experts.shape == found.weights.shape == (2, 3, SCORED, 2)
    assert found.weights.sum(axis=3) == pytest.approx(1)
    assert (found.weights[..., 0] >= found.weights[..., 1]).all()
    assert (found.experts[..., 0] != found.experts[..., 1]).all()
    assert set(np.unique(found.experts)) <= set(range(8))


def test_routes_do_not_depend_on_the_physical_batch(
    engine: LlamaCppPython, mixture: Path, story: Path
) -> None:
    """The last layer has only the rows of wanted logits, in each of the batches."""

    def recorded(**geometry: int) -> Routes:
        replies = score(
            engine, mixture, story, route_chunks=(0, 1), flash_attention=False, **geometry
        )
        return routes(replies)

    whole = recorded()
    for other in (recorded(n_ubatch=24), recorded(n_batch=20, n_ubatch=20)):
        assert (other.experts == whole.experts).all()
        assert other.weights == pytest.approx(whole.weights, abs=1e-3)


def test_only_the_chunks_asked_for_are_recorded(
    engine: LlamaCppPython, mixture: Path, story: Path
) -> None:
    first, second = score(engine, mixture, story, route_chunks=(1,))
    assert not first.route_layers
    assert second.route_layers == (0, 1, 2)
    both = routes(score(engine, mixture, story, route_chunks=(0, 1)))
    assert (routes([second]).experts[0] == both.experts[1]).all()


def test_a_dense_model_has_no_routes(engine: LlamaCppPython, tiny_model: Path, story: Path) -> None:
    replies = score(engine, tiny_model, story, route_chunks=(0, 1))
    assert all(not reply.route_layers and not reply.experts for reply in replies)


def place(tensor: Tensor) -> TensorPlace:
    return TensorPlace(
        path=str(tensor.file),
        offset_bytes=tensor.offset_bytes,
        type_name=tensor.type.name,
        row_bytes=tensor.shape[0] // tensor.type.block_elements * tensor.type.block_bytes,
    )


def test_an_experts_error_is_relative_and_weighted_by_its_columns(
    engine: LlamaCppPython, mixture: Path, tmp_path: Path
) -> None:
    name = "blk.1.ffn_up_exps.weight"
    other = tmp_path / "other.gguf"
    other.write_bytes(mixture.read_bytes())
    tensor = next(item for item in read_gguf(other).tensors if item.name == name)
    columns, rows, experts = tensor.shape
    data = np.memmap(
        other, dtype=np.float16, mode="r+", offset=tensor.offset_bytes, shape=tensor.shape[::-1]
    )
    data[3, :, 0] = 0
    data.flush()
    original = np.memmap(
        mixture, dtype=np.float16, mode="r", offset=tensor.offset_bytes, shape=tensor.shape[::-1]
    )
    squares = np.square(original[3].astype(np.float64)).sum(axis=0)
    importance = np.ones((experts, columns), dtype=np.float32)
    importance[3, 0] = 9
    matrix = ExpertMatrix(
        name=name,
        reference=place(read_tensor(mixture, name)),
        own=place(tensor),
        n_rows=rows,
        n_experts=experts,
    )
    weighted_too = replace(matrix, importance=importance.tobytes())
    request = CompareExperts(matrices=(matrix, weighted_too), max_rows=rows)
    answer = engine.ask(request)
    assert engine.ask(BeginComparison(comparison=request)) == ComparisonBegun()
    assert engine.ask(request) == answer
    engine.ask(BeginComparison(comparison=replace(request, max_rows=1)))
    assert engine.ask(request) == answer
    plain_row, both = answer.rows
    plain, weighted = plain_row.relative_rms, both.weighted
    assert plain_row.weighted == b""
    assert plain == both.relative_rms
    assert np.frombuffer(plain_row.counterpart, dtype=np.int16).tolist() == list(range(experts))
    expected = np.zeros(experts)
    expected[3] = np.sqrt(squares[0] / squares.sum())
    assert np.frombuffer(plain) == pytest.approx(expected, rel=1e-5)
    expected[3] = np.sqrt(9 * squares[0] / (squares.sum() + 8 * squares[0]))
    assert np.frombuffer(weighted) == pytest.approx(expected, rel=1e-5)


def read_tensor(path: Path, name: str) -> Tensor:
    return next(item for item in read_gguf(path).tensors if item.name == name)
