"""Routing: agreement and load from routes, and faults planted into a real model's file."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.engines.messages import ExpertErrors, Identity, Score
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.reader import read_gguf
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.routing import compare_routing, measure_routing
from pytest_quantgate.metrics.scoring import measure_perplexity
from pytest_quantgate.results.chunk_table import ChunkTable
from pytest_quantgate.results.measurements.perplexity import PerplexityMeasurement
from pytest_quantgate.results.measurements.routes import Routes
from pytest_quantgate.results.measurements.routing import RoutingMeasurement
from tests.fake_engine import FakeEngine
from tests.tiny_model import Shape, write_story, write_tiny_model


def routed(
    experts: list[list[list[int]]],
    kld: list[list[float]] | None = None,
    domains: tuple[str | None, ...] = (None,),
) -> PerplexityMeasurement:
    """Return a measurement of one layer: the experts of each token of each chunk."""
    chosen = np.array(experts, dtype=np.int16)
    n_chunks, n_tokens, used = chosen.shape
    weights = np.tile(np.array([0.7, 0.3], dtype=np.float32)[:used], (n_chunks, 1, n_tokens, 1))
    names = domains if len(domains) == n_chunks else domains * n_chunks
    return PerplexityMeasurement(
        chunks=ChunkTable(
            index=tuple(range(n_chunks)),
            tokens=(n_tokens,) * n_chunks,
            nll_sum_nats=(1.0,) * n_chunks,
            token_ids=("",) * n_chunks,
            top_tokens=("",) * n_chunks,
            domain=tuple(names),
        ),
        nll_nats=np.zeros((n_chunks, n_tokens), dtype=np.float32),
        top_tokens=np.zeros((n_chunks, n_tokens), dtype=np.int32),
        n_chunks_in_text=n_chunks,
        seconds_s=0.0,
        kld_nats=None if kld is None else np.array(kld, dtype=np.float32),
        routes=Routes(layers=(3,), experts=chosen[:, None], weights=weights),
    )


REFERENCE = routed([[[0, 1], [1, 2], [2, 3], [3, 0]]])


def test_agreement_is_of_sets_of_first_ones_and_of_weight() -> None:
    seen = routed([[[1, 0], [1, 2], [2, 0], [1, 2]]], kld=[[0.1, 0.1, 0.3, 0.5]])
    found = compare_routing(seen, REFERENCE, 4, ())
    (layer,) = found.layers
    assert (layer.layer, layer.tokens) == (3, 4)
    assert (layer.same_experts, layer.same_top_expert) == (2, 2)
    assert layer.shared_weight == pytest.approx((1 + 1 + 0.7 + 0) / 4)
    assert found.same_experts == found.same_top_expert == 0.5
    assert (found.tokens, found.changed_tokens) == (4, 2)
    assert found.kld_share_changed == pytest.approx(0.8)
    assert found.mean_kld_changed_nats == pytest.approx(0.4)
    assert found.mean_kld_same_nats == pytest.approx(0.1)
    assert found.chunk_same_experts == (2,)


def test_load_is_an_experts_share_of_the_tokens() -> None:
    found = compare_routing(routed([[[0, 1], [0, 2], [0, 3], [1, 0]]]), REFERENCE, 4, ())
    (layer,) = found.layers
    assert layer.load == (1.0, 0.5, 0.25, 0.25)
    assert layer.reference_load == (0.5, 0.5, 0.5, 0.5)
    assert found.max_load_share == 1.0


def test_without_any_divergence_there_is_no_share_of_it() -> None:
    found = compare_routing(routed([[[0, 1], [1, 2], [2, 3], [3, 0]]]), REFERENCE, 4, ())
    assert found.kld_share_changed is found.mean_kld_changed_nats is None
    zero = routed([[[0, 1], [1, 2], [2, 3], [3, 1]]], kld=[[0.0] * 4])
    assert compare_routing(zero, REFERENCE, 4, ()).kld_share_changed is None


def test_only_common_chunks_are_compared() -> None:
    seen = routed([[[0, 1], [1, 2], [2, 3], [3, 0]], [[0, 1]] * 4])
    assert compare_routing(seen, REFERENCE, 4, ()).chunk_indices == (0,)


def test_a_domains_most_used_experts_are_the_references() -> None:
    routes = [[[0, 1]] * 4, [[2, 3], [2, 1], [2, 1], [2, 1]]]
    reference = routed(routes, domains=("prose", "code"))
    found = compare_routing(routed(routes), reference, 4, ())
    prose, code = found.domains
    assert (code.name, code.tokens) == ("code", 4)
    uses = [(use.expert, use.share, use.share_of_all) for use in code.most_used]
    assert uses == [(2, 1.0, 0.5), (1, 0.75, 0.875), (3, 0.25, 0.125)]
    assert [use.expert for use in prose.most_used] == [0, 1, 2]


def test_experts_that_changed_places_are_known_by_their_weights() -> None:
    swapped = np.array([1, 0, 2, 3], dtype=np.int16)
    rows = [
        ExpertErrors(
            name=f"blk.3.ffn_{part}_exps.weight",
            relative_rms=np.full(4, 0.1).tobytes(),
            weighted=b"",
            counterpart=swapped.tobytes(),
        )
        for part in ("gate", "up", "down")
    ]
    seen = routed([[[1, 0], [0, 2], [2, 3], [3, 1]]])
    found = compare_routing(seen, REFERENCE, 4, rows)
    assert found.same_experts == 1.0
    assert found.layers[0].exchanged == 2
    assert [error.relative_rms for error in found.experts] == pytest.approx([0.1] * 4)
    halfway = [rows[0], replace(rows[1], counterpart=np.arange(4, dtype=np.int16).tobytes())]
    assert compare_routing(seen, REFERENCE, 4, halfway).layers[0].exchanged == 0


def test_the_errors_of_an_experts_matrices_are_joined() -> None:
    own = np.arange(4, dtype=np.int16).tobytes()
    rows = [
        ExpertErrors(
            name=f"blk.3.ffn_{part}_exps.weight",
            relative_rms=np.full(4, error).tobytes(),
            weighted=np.full(4, 10 * error).tobytes(),
            counterpart=own,
        )
        for part, error in (("gate", 0.3), ("up", 0.4))
    ]
    error = compare_routing(REFERENCE, REFERENCE, 4, rows).experts[2]
    assert (error.layer, error.expert) == (3, 2)
    assert error.relative_rms == pytest.approx((0.125) ** 0.5)
    assert error.weighted == pytest.approx(12.5**0.5)


class GpuEngine(FakeEngine):
    """Stands for a device whose fused kernels leave no routes unless they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.scored: list[Score] = []

    def identity(self) -> Identity:
        return replace(super().identity(), devices=("CPU", "GPU0"))

    def ask(self, request: Any, on_reply: Any = None) -> Any:
        if not isinstance(request, Score):
            return super().ask(request, on_reply)
        self.scored.append(request)

        def with_routes(reply: Any) -> None:
            if reply.index in request.route_chunks:
                shape = (2, len(reply.nll_nats) // 4, 2)
                experts = np.tile(np.array([3, reply.index], dtype=np.int16), (*shape[:2], 1))
                weights = np.full(shape, 0.5, dtype=np.float32)
                reply = replace(
                    reply,
                    route_layers=(0, 1),
                    experts=experts.tobytes(),
                    expert_weights=weights.tobytes(),
                )
            on_reply(reply)

        return super().ask(request, with_routes)


def test_on_a_gpu_routes_have_a_pass_of_their_own(tmp_path: Path) -> None:
    """What is scored there stays what its fused kernels give."""
    write_tiny_model(tmp_path / "tiny.gguf", Shape(experts=8))
    write_story(tmp_path / "story.txt")
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.quantgate]
        cache_dir = "cache"
        models.m.source = "tiny.gguf"
        texts.story.source = "story.txt"
        devices.gpu.backend = "GPU0"
        [tool.quantgate.profiles.default]
        models = ["m"]
        formats = ["F16"]
        texts = ["story"]
        devices = ["gpu"]
        n_ctx = 64
        chunks = 4
        looks = [2, 4]
        """
    )
    engine = GpuEngine()
    run = Session(load_settings(tmp_path), "gpu", lambda *_: engine)
    (cell,) = run.matrix.cells
    order = run.artifacts.chunk_plan(run.resolve(cell)).order
    found = measure_perplexity(run, run.resolve(cell), 4)
    scoring, routing = engine.scored
    assert (scoring.chunks, scoring.route_chunks, scoring.captures) == (order[:4], (), True)
    assert (routing.chunks, routing.route_chunks, routing.captures) == (order[:2], order[:2], False)
    assert found.routes is not None
    assert found.routes.experts.shape == (2, 2, 31, 2)
    assert found.routes.experts[:, 0, 0, 1].tolist() == list(order[:2])
    assert len(found.chunks) == 4


# A real model, and faults in its file


def test_the_experts_error_is_weighted_by_the_profiles_matrix(tmp_path: Path) -> None:
    """Also for the cell without a matrix, so that it compares with the one that has it."""
    write_tiny_model(tmp_path / "tiny.gguf", Shape(experts=4))
    write_story(tmp_path / "scored.txt")
    (tmp_path / "pyproject.toml").write_text(
        """
        [tool.quantgate]
        cache_dir = "cache"
        models.m.source = "tiny.gguf"
        texts.scored.source = "scored.txt"
        imatrices.own = { text = "calibration", n_ctx = 64, chunks = 4 }
        [tool.quantgate.profiles.default]
        models = ["m"]
        formats = ["Q4_K_M"]
        texts = ["scored"]
        imatrices = ["none", "own"]
        n_ctx = 64
        chunks = 2
        n_threads = 1
        """
    )
    run = Session(load_settings(tmp_path), "weighted")
    try:
        plain, weighted = (measure_routing(run, run.resolve(cell)) for cell in run.matrix.cells)
    finally:
        run.close()
    for before, after in zip(plain.experts, weighted.experts, strict=True):
        assert before.weighted is not None
        assert after.weighted is not None
        # What the matrix weighs most is quantized better with it.
        assert after.weighted < before.weighted


def tensor_bytes(path: Path, name: str) -> np.memmap:
    """Return a tensor's bytes, a row an index of its last dimension, to be changed in place."""
    tensor = next(item for item in read_gguf(path).tensors if item.name == name)
    shape = (tensor.shape[-1], tensor.n_bytes // tensor.shape[-1])
    return np.memmap(path, dtype=np.uint8, mode="r+", offset=tensor.offset_bytes, shape=shape)


def reorder(path: Path, names: tuple[str, ...], order: list[int]) -> None:
    """Put the experts of some tensors of layer 2 into another order."""
    for name in names:
        data = tensor_bytes(path, f"blk.2.{name}")
        data[:] = data[order]


EXPERTS = tuple(f"ffn_{part}_exps.weight" for part in ("gate", "up", "down"))
ROUTER = ("ffn_gate_inp.weight", "exp_probs_b.bias")
SWAP = [1, 0, 2, 3, 4, 5, 6, 7]
TURN = [7, 0, 1, 2, 3, 4, 5, 6]


def scale_one_expert(path: Path) -> None:
    data = tensor_bytes(path, "blk.2.ffn_down_exps.weight")[5].view(np.float16)
    data[:] = (data.astype(np.float32) * 1.05).astype(np.float16)


FAULTS: dict[str, Callable[[Path], None]] = {
    "Q8_0": lambda path: reorder(path, (*ROUTER, *EXPERTS), SWAP),
    "Q6_K": lambda path: reorder(path, ROUTER, TURN),
    "Q5_0": lambda path: reorder(path, EXPERTS, SWAP),
    "Q4_0": scale_one_expert,
}
"""What is wrong with the file that stands in for each format; it is F16 still."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, RoutingMeasurement]]:
    """Routing of lfm2moe-mini and of its faulty copies, on 4 chunks of 128 tokens."""
    root = tmp_path_factory.mktemp("project")
    source = EMBEDDED / "lfm2moe-mini.gguf"
    lines = [f'F16 = "{source}"']
    for name, plant in FAULTS.items():
        plant(Path(shutil.copyfile(source, root / f"{name}.gguf")))
        lines.append(f'{name} = "{name}.gguf"')
    (root / "pyproject.toml").write_text(
        "\n".join(
            [
                "[tool.quantgate]",
                'cache_dir = "cache"',
                "[tool.quantgate.models.m.files]",
                *lines,
                "[tool.quantgate.profiles.default]",
                'models = ["m"]',
                "n_ctx = 128",
                "chunks = 4",
                "n_threads = 1",
            ]
        )
    )
    settings = load_settings(root)
    run = Session(settings, "planted")
    yield {cell.format.name: measure_routing(run, run.resolve(cell)) for cell in run.matrix.cells}
    run.close()


def test_the_reference_agrees_with_itself(measured: dict[str, RoutingMeasurement]) -> None:
    found = measured["F16"]
    assert found.is_reference
    assert [layer.layer for layer in found.layers] == [1, 2, 3, 4]
    assert (found.n_experts, found.n_experts_used) == (8, 2)
    assert found.tokens == 4 * 63
    assert found.same_experts == found.same_top_expert == 1.0
    assert found.shared_weight == pytest.approx(1)
    assert found.changed_tokens == 0
    for layer in found.layers:
        assert sum(layer.load) == pytest.approx(2)


def test_experts_exchanged_with_their_router_rows_change_nothing(
    measured: dict[str, RoutingMeasurement],
) -> None:
    found = measured["Q8_0"]
    assert found.same_experts == found.same_top_expert == 1.0
    assert [layer.exchanged for layer in found.layers] == [0, 2, 0, 0]
    assert all(error.relative_rms == 0 for error in found.experts)


def test_permuted_router_rows_are_seen_in_their_layer(
    measured: dict[str, RoutingMeasurement],
) -> None:
    found = measured["Q6_K"]
    share = {layer.layer: layer.same_experts / layer.tokens for layer in found.layers}
    assert share[1] == 1.0
    assert share[2] < 0.1
    assert share[2] < share[3] < 1.0
    assert not any(layer.exchanged for layer in found.layers)
    assert found.kld_share_changed is not None
    assert found.kld_share_changed > 0.9


def test_experts_exchanged_alone_are_seen(measured: dict[str, RoutingMeasurement]) -> None:
    found = measured["Q5_0"]
    layer = found.layers[1]
    moved = layer.reference_load[0] + layer.reference_load[1]
    assert layer.exchanged == 2
    # What went to one of the two alone now goes to the other; both together stay.
    assert 0 < layer.tokens - layer.same_experts <= moved * layer.tokens
    assert found.layers[0].same_experts == layer.tokens


def test_one_experts_wrong_scale_stands_out(measured: dict[str, RoutingMeasurement]) -> None:
    wrong = [error for error in measured["Q4_0"].experts if error.relative_rms > 1e-3]
    assert [(error.layer, error.expert) for error in wrong] == [(2, 5)]
    # 5 % of one of three matrices, and the rounding to F16.
    assert wrong[0].relative_rms == pytest.approx(0.05 / 3**0.5, rel=0.01)
