"""What an importance matrix covers, and how its least covered expert is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.artifacts.imatrix import read_imatrix, write_imatrix
from pytest_quantgate.config.limits import default_limits
from pytest_quantgate.config.schema import Limits
from pytest_quantgate.gate.judges.imatrix import judge_imatrix
from pytest_quantgate.gguf.formats import find_format
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.metrics.imatrix import coverage
from pytest_quantgate.metrics.registry import notes_of
from pytest_quantgate.results.measurements.imatrix import Expert, ImatrixMeasurement, LayerCoverage
from pytest_quantgate.results.verdicts import Judgement, VerdictKind
from pytest_quantgate.stats import plan_looks
from tests.gate.judged import observe
from tests.tiny_model import Shape, write_tiny_model

LOOK = plan_looks((16,), 16, 16)[0]
COVERED = ImatrixMeasurement(
    imatrix="notes",
    sha256="0" * 64,
    n_weights=8,
    tokens=1_000,
    layers=(
        LayerCoverage(layer=2, tokens=(700, 200, 900, 200)),
        LayerCoverage(layer=3, tokens=(150, 650, 400, 800)),
    ),
    without=(),
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> GgufFile:
    """An olmoe of two layers with four experts, all of whose matrices are F16."""
    path = tmp_path_factory.mktemp("model") / "m.gguf"
    return read_gguf(write_tiny_model(path, Shape(experts=4, layers=2)))


def measured(model: GgufFile, folder: Path, counts: Mapping[str, list[int]]) -> ImatrixMeasurement:
    """Measure a matrix with these counts of these weights."""
    rows = {tensor.name: tensor.shape[0] for tensor in model.tensors}
    arrays = {}
    for name, seen in counts.items():
        n = 4 if "_exps" in name else 1
        arrays[f"{name}.in_sum2"] = np.ones((len(seen), rows[name] * n // len(seen)), np.float32)
        arrays[f"{name}.counts"] = np.array(seen, dtype=np.float32)
    path = folder / "im.gguf"
    write_imatrix(path, arrays, "words", 1, 512)
    return coverage(read_imatrix("notes", path, "hash", model), model)


def test_mean_squares_are_by_expert_and_one_where_nothing_was_seen(
    model: GgufFile, tmp_path: Path
) -> None:
    name = "blk.0.ffn_up_exps.weight"
    weight = next(tensor for tensor in model.tensors if tensor.name == name)
    columns, _, experts = weight.shape
    sums = np.arange(experts * columns, dtype=np.float32).reshape(experts, columns)
    counts = np.array([2, 0, *[4] * (experts - 2)], dtype=np.float32)
    sums[1] = 0
    path = tmp_path / "im.gguf"
    arrays = {f"{name}.in_sum2": sums, f"{name}.counts": counts}
    write_imatrix(path, arrays, "words", 1, 512)
    found = read_imatrix("notes", path, "hash", model)
    means = found.mean_squares(name, experts)
    assert means is not None
    assert means.dtype == np.float32
    assert (means[0] == sums[0] / 2).all()
    assert (means[1] == 1).all()
    assert (means[2:] == sums[2:] / 4).all()
    assert found.mean_squares("blk.0.ffn_down_exps.weight", experts) is None


def test_an_experts_tokens_are_those_of_the_weight_that_saw_fewest(
    model: GgufFile, tmp_path: Path
) -> None:
    found = measured(
        model,
        tmp_path,
        {
            "blk.0.attn_q.weight": [20],
            "blk.0.ffn_up_exps.weight": [9, 11, 20, 0],
            "blk.0.ffn_down_exps.weight": [9, 11, 19, 1],
            "blk.1.ffn_up_exps.weight": [10, 10, 3, 17],
        },
    )
    assert found.layers == (
        LayerCoverage(layer=0, tokens=(9, 11, 19, 0)),
        LayerCoverage(layer=1, tokens=(10, 10, 3, 17)),
    )
    assert found.tokens == 20
    assert found.n_weights == 4
    assert found.experts[:2] == (
        Expert(layer=0, expert=3, tokens=0),
        Expert(layer=1, expert=2, tokens=3),
    )
    assert found.uncounted_layers == ()


def test_one_count_for_all_experts_says_nothing_of_each(model: GgufFile, tmp_path: Path) -> None:
    found = measured(model, tmp_path, {"blk.1.ffn_up_exps.weight": [40]})
    assert found.layers == (LayerCoverage(layer=1, tokens=()),)
    assert found.uncounted_layers == (1,)
    assert found.experts == ()


def test_quantized_weights_that_the_matrix_lacks_are_listed(
    model: GgufFile, tmp_path: Path
) -> None:
    """Of the blocks alone: nothing is collected elsewhere."""
    types = {tensor.type.name: tensor.type for tensor in model.tensors}
    assert set(types) == {"F16", "F32"}
    found = measured(model, tmp_path, {"blk.0.attn_q.weight": [20]})
    assert found.without == ()
    narrow = replace(types["F16"], block_elements=32)
    tensors = tuple(
        replace(tensor, type=narrow) if "attn_" in tensor.name else tensor
        for tensor in model.tensors
    )
    imatrix = read_imatrix("notes", tmp_path / "im.gguf", "hash", model)
    listed = coverage(imatrix, replace(model, tensors=tensors)).without
    assert "blk.0.attn_k.weight" in listed
    assert "blk.0.attn_q.weight" not in listed
    assert not any("ffn" in name or name == "output.weight" for name in listed)


@pytest.mark.parametrize(
    ("layer", "without", "told"),
    [
        ((700, 200, 900, 200), (), []),
        (
            (700, 99, 900, 12),
            (),
            [
                "importance matrix 'notes': 2 of 8 experts saw fewer than 100 tokens:"
                " expert 3 of layer 2 (12 tokens), expert 1 of layer 2 (99 tokens)"
            ],
        ),
        (
            (0, 0, 0, 0),
            (),
            [
                "importance matrix 'notes': 4 of 8 experts saw no token and are quantized as"
                " without one: expert 0 of layer 2 (0 tokens), expert 1 of layer 2 (0 tokens),"
                " expert 2 of layer 2 (0 tokens), …"
            ],
        ),
        (
            (700, 200, 900, 200),
            ("blk.0.a", "blk.1.a", "blk.2.a", "blk.3.a"),
            [
                "importance matrix 'notes' has nothing of 4 quantized weights: blk.0.a, blk.1.a,"
                " blk.2.a, …"
            ],
        ),
    ],
)
def test_what_is_said_aloud(
    layer: tuple[int, ...], without: tuple[str, ...], told: list[str]
) -> None:
    layers = (LayerCoverage(layer=2, tokens=layer), COVERED.layers[1])
    seen = replace(COVERED, layers=layers, without=without)
    assert notes_of({"imatrix": seen}) == tuple(told)


def judge(seen: ImatrixMeasurement, limit: int | None) -> list[Judgement]:
    """Judge a measurement by one limit."""
    limits = Limits(imatrix_min_tokens_per_expert=limit)
    return judge_imatrix(observe(measured={"imatrix": seen}), limits, None, LOOK)


@pytest.mark.parametrize(
    ("limit", "verdict", "told"),
    [
        (150, VerdictKind.PASS, "expert 0 of layer 3 (150 tokens) saw least of 8, limit 150"),
        (
            201,
            VerdictKind.REGRESSED,
            "3 of 8 experts saw fewer than 201 tokens, least expert 0 of layer 3 (150 tokens)",
        ),
    ],
)
def test_the_least_covered_expert_decides(limit: int, verdict: VerdictKind, told: str) -> None:
    (judgement,) = judge(COVERED, limit)
    assert judgement.verdict is verdict
    assert told in str(judgement.reason)
    assert (judgement.estimate, judgement.limit) == (150, limit)


def test_coverage_that_nobody_knows_never_passes_and_no_limit_asks_for_none() -> None:
    unknown = replace(COVERED, layers=(*COVERED.layers, LayerCoverage(layer=4, tokens=())))
    (judgement,) = judge(unknown, 1)
    assert judgement.verdict is VerdictKind.INVALID
    assert "one count for all experts of layer 4" in str(judgement.reason)
    assert judge(unknown, 0) == []
    assert judge(unknown, None) == []
    assert judge_imatrix(observe(), Limits(imatrix_min_tokens_per_expert=1), None, LOOK) == []


def test_a_model_without_experts_keeps_no_limit_on_them() -> None:
    """What a test asks for by name is told as not judged; the profile's limits leave a note."""
    dense = replace(COVERED, layers=())
    (judgement,) = judge(dense, 1)
    assert judgement.verdict is VerdictKind.UNSUPPORTED
    assert "importance matrix 'notes': the model has no experts" in str(judgement.reason)
    seen = observe(measured={"imatrix": dense})
    assert judge_imatrix(seen, default_limits(find_format("Q4_K_M")), None, LOOK) == []
    (note,) = notes_of({"imatrix": dense})
    assert note.endswith("no experts that it could miss, so no coverage was judged")
