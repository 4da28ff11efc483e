"""The graph's nodes: read as ggml laid them out, or refused where it lays them out otherwise."""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.engines.messages import Message, ModelRequest
from pytest_quantgate.engines.worker import graph
from pytest_quantgate.engines.worker.errors import EngineRefusal
from pytest_quantgate.engines.worker.graph import StructuredNodes, Watch
from pytest_quantgate.engines.worker.llama import LogTap, Model
from tests.tiny_model import Shape, write_tiny_model

N_TOKENS = 20


@pytest.fixture(scope="module")
def experts_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An olmoe of one layer with 8 experts, 2 of them used."""
    path = tmp_path_factory.mktemp("model") / "experts.gguf"
    return write_tiny_model(path, Shape(experts=8, experts_used=2, layers=1))


def decode(model: Path, watch: Watch) -> None:
    """Decode twenty tokens and look at the graph."""
    request: ModelRequest[Message] = ModelRequest(
        model=str(model), device="cpu", n_threads=1, flash_attention=True, type_k=1, type_v=1
    )
    with Model(request, log=LogTap()) as opened:
        opened.open(request, n_ctx=64, n_batch=64, n_ubatch=64, graph_callback=watch.callback)
        opened.decode(np.arange(N_TOKENS, dtype=np.int32), 0)
    watch.check()


def test_what_goes_into_the_experts_is_read_from_the_graph(experts_model: Path) -> None:
    nodes = StructuredNodes()
    seen: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def take(node: int) -> None:
        weights, rows, ids = (nodes.source(node, index) for index in range(3))
        assert weights is not None
        assert rows is not None
        assert ids is not None
        assert nodes.source(node, 3) is None
        assert nodes.type(weights) == 1
        seen[nodes.name(weights)] = (nodes.array(rows), nodes.array(ids))

    decode(experts_model, Watch(lambda node: nodes.operation(node) == "MUL_MAT_ID", take))
    assert sorted(seen) == [f"blk.0.ffn_{part}_exps.weight" for part in ("down", "gate", "up")]
    rows, ids = seen["blk.0.ffn_up_exps.weight"]
    assert rows.shape == (1, N_TOKENS, 1, 256)
    assert rows.dtype == np.float32
    # The norm before the experts has weights of one: every row comes out with a square of one.
    np.testing.assert_allclose((rows**2).mean(axis=3), 1, rtol=1e-3)
    assert ids.shape == (1, 1, N_TOKENS, 2)
    # The two columns are cut out of a row of eight: read without their stride they would repeat.
    assert ((ids >= 0) & (ids < 8)).all()
    assert (ids[0, 0, :, 0] != ids[0, 0, :, 1]).all()
    down, _ = seen["blk.0.ffn_down_exps.weight"]
    assert down.shape == (1, N_TOKENS, 2, 256)


def test_an_exception_in_the_callback_is_raised_after_the_graph(experts_model: Path) -> None:
    def take(_node: int) -> None:
        raise EngineRefusal("cannot read this")

    watch = Watch(lambda _node: True, take)
    with pytest.raises(EngineRefusal, match="cannot read this"):
        decode(experts_model, watch)
    watch.check()  # raised once


class _Shorter(ctypes.Structure):
    """A structure that is smaller than ggml's."""

    _fields_ = graph._Tensor._fields_[:-1]


class _Shifted(ctypes.Structure):
    """As large as ggml's, with fewer sources and more parameters."""

    _fields_ = tuple(
        ("op_params", ctypes.c_int32 * 18)
        if name == "op_params"
        else ("src", ctypes.c_void_p * 9)
        if name == "src"
        else (name, kind)
        for name, kind in graph._Tensor._fields_
    )


class _Swapped(ctypes.Structure):
    """As large as ggml's, with sizes and strides exchanged."""

    _fields_ = tuple(
        {"ne": ("nb", kind), "nb": ("ne", kind)}.get(name, (name, kind))
        for name, kind in graph._Tensor._fields_
    )


@pytest.mark.parametrize(
    ("layout", "told"),
    [(_Shorter, "ggml_tensor_overhead"), (_Shifted, "field src"), (_Swapped, "field ne")],
)
def test_another_layout_is_refused(
    monkeypatch: pytest.MonkeyPatch, layout: type[ctypes.Structure], told: str
) -> None:
    monkeypatch.setattr(graph, "_Tensor", layout)
    with pytest.raises(EngineRefusal, match=f"in another way .*{told}"):
        StructuredNodes()


def test_the_layout_is_the_librarys() -> None:
    assert ctypes.sizeof(graph._Tensor) == 336
    StructuredNodes()
