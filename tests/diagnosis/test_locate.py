"""The first operation in which two computations differ: faults planted in files and kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pytest_quantgate.cli.main import main
from pytest_quantgate.config.machines import EngineSettings
from pytest_quantgate.diagnosis.locate import Location, Origin, locate, make_location
from pytest_quantgate.diagnosis.sides import Side
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import NodesCompared
from tests.edited_model import edit_model
from tests.tiny_model import Shape, byte_tokens, write_tiny_model

SOURCE = Path(__file__).with_name("faulty_kernels.py")
ROW = byte_tokens().index("e")
"""The row that is spoiled: of the embedding it is that of a letter, which the text has."""

Locate = Callable[[Side, Side], Location]


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A mixture of experts of 2 layers in F16."""
    path = tmp_path_factory.mktemp("model") / "mixture.gguf"
    return write_tiny_model(path, Shape(experts=4, layers=2))


@pytest.fixture(scope="module")
def find(tmp_path_factory: pytest.TempPathFactory, story: Path) -> Iterator[Locate]:
    """Locates in one worker, in which the second side has the fault that a test plants."""
    folder = tmp_path_factory.mktemp("worker")
    planted = folder / "fault"
    patch = pytest.MonkeyPatch()
    patch.setenv("FAULT", str(planted))
    engine = LlamaCppPython(
        python=None,
        log=folder / "log",
        stall_s=60,
        entry="faulty_kernels:serve_faulty",
        extra_sources=[("faulty_kernels", (False, SOURCE.read_text(encoding="utf-8")))],
    )

    def run(first: Side, second: Side, fault: str = "") -> Location:
        def engine_of(asked: Side) -> LlamaCppPython:
            planted.write_text(fault if asked is second else "")
            return engine

        return locate(
            first, second, text=story, chunk=0, n_ctx=64, n_tokens=20, engine_of=engine_of
        )

    yield run
    engine.close()
    patch.undo()


def side(path: Path) -> Side:
    return Side(name=path.name, path=path, engine=EngineSettings(), n_ubatch=64)


KERNEL_FAULTS = [
    ("norm-1", "RMS_NORM", "", "1.01"),
    ("Qcur-0", "MUL_MAT", "7", "1.05"),
    ("Kcur-1", "ROPE", "", "swap"),
    ("node_", "FLASH_ATTN_EXT", "5", "1.1"),
    ("ffn_moe_logits-0", "MUL_MAT", "", "1.1"),
    ("ffn_moe_argsort-1", "ARGSORT", "", "swap"),
    ("ffn_moe_gate-1", "MUL_MAT_ID", "3", "0.9"),
    ("ffn_moe_swiglu-0", "SWIGLU", "", "1.005"),
    ("ffn_inp-1", "ADD", "19", "1.01"),
    ("result_output", "MUL_MAT", "0", "1.02"),
]


@pytest.mark.parametrize(("name", "operation", "row", "factor"), KERNEL_FAULTS)
def test_a_kernel_that_is_wrong_is_named(
    find: Callable[..., Location], mixture: Path, name: str, operation: str, row: str, factor: str
) -> None:
    """Neither the layers before it nor those behind it, which get its wrong results, are blamed."""
    location = find(side(mixture), side(mixture), f"{name}:{operation}:{row}:{factor}")
    assert location.origin is Origin.OPERATION
    assert {node.operation for node in location.further} == {operation}
    if name != "node_":
        assert all(node.name.startswith(name) for node in location.further)
    if row:
        assert all((node.place, node.index) == ("row", int(row)) for node in location.further)


@pytest.mark.parametrize(
    "change",
    [
        {"n_ubatch": 1},
        {"n_ubatch": 5},
        {"repack": False},
        {"n_threads": 2},
        {"flash_attention": False},
        {"type_k": "Q8_0", "type_v": "Q8_0"},
        {"type_k": "Q4_0"},
    ],
    ids=str,
)
def test_sound_conditions_differ_by_rounding_alone(
    find: Locate, mixture: Path, change: dict[str, object]
) -> None:
    other = replace(side(mixture), **change)  # type: ignore[arg-type]
    for first, second in ((side(mixture), other), (other, side(mixture))):
        location = find(first, second)
        assert location.origin is Origin.NONE
        assert location.n_nodes > 40


@pytest.mark.parametrize(
    ("tensor", "node"),
    [
        ("blk.1.ffn_down.weight", "ffn_out-1"),
        ("blk.0.attn_k.weight", "Kcur-0"),
        ("token_embd.weight", "embd"),
    ],
)
def test_a_block_that_is_spoiled_is_named(
    find: Locate, tiny_model: Path, tmp_path: Path, tensor: str, node: str
) -> None:
    def spoil(data: np.ndarray) -> np.ndarray:
        data[ROW, 32:64] = 3.0
        return data

    spoiled = edit_model(tiny_model, tmp_path / "spoiled.gguf", tensors={tensor: spoil})
    location = find(side(tiny_model), side(spoiled))
    assert location.origin is Origin.WEIGHTS
    assert [item.weights for item in location.further] == [tensor]
    (named,) = location.further
    assert named.name == node
    assert tensor in named.sources
    if named.operation == "MUL_MAT":
        assert (named.place, named.index) == ("column", ROW)


def test_tokens_before_the_window_need_not_be_compared(
    find: Callable[..., Location], mixture: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault far behind the beginning is found among the last tokens."""
    monkeypatch.setattr("pytest_quantgate.diagnosis.locate.WINDOW", 8)
    location = find(side(mixture), side(mixture), "Vcur-1:MUL_MAT:7:1.1")
    assert [node.name for node in location.further] == ["Vcur-1"]
    assert location.further[0].shape[1] == 8


def test_a_difference_that_needs_fused_kernels_is_said_to_be_one(mixture: Path) -> None:
    compared = NodesCompared(nodes=(), n_alone=0, mean_kld_nats=0.5, mean_kld_by_node_nats=1e-7)
    location = make_location(side(mixture), side(mixture), 64, compared)
    assert location.origin is Origin.FUSED


def test_the_command_names_the_tensor(
    tiny_model: Path,
    story: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f'[tool.quantgate]\ncache_dir = "{tmp_path}/cache"\n')
    spoiled = edit_model(
        tiny_model, tmp_path / "spoiled.gguf", tensors={"blk.0.attn_v.weight": lambda data: -data}
    )
    text = ("--text", str(story), "--n-ctx", "64", "--tokens", "32")
    assert main(["locate", str(tiny_model), str(spoiled), *text]) == 1
    printed = capsys.readouterr().out
    assert "First difference: Vcur-0 (MUL_MAT" in printed
    assert "from other weights: blk.0.attn_v.weight" in " ".join(printed.split())
    assert main(["locate", str(tiny_model), "--b", "n_ubatch=3,repack=off", *text]) == 0
    assert "No operation is further away" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["tiny.gguf"], "there is no file tiny.gguf; check the path"),
        (["olmoe-mini-Q8-cpu"], "did you mean 'olmoe-mini-Q8_0-cpu'?"),
        (["olmoe-mini-F16-cpu"], "has no reference to be compared with"),
        (["olmoe-mini-F16-cpu", "--b", "ubatch=3"], "--b 'ubatch=3': write KEY=VALUE; keys:"),
        (["olmoe-mini-F16-cpu", "--b", "type_k=Q3_K"], "--b type_k=Q3_K: valid: F32, F16"),
        (["olmoe-mini-F16-cpu", "--tokens", "1"], "--tokens 1 must be 2 to --n-ctx 512"),
    ],
)
def test_what_cannot_be_used_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text(f'[tool.quantgate]\ncache_dir = "{tmp_path}/cache"\n')
    assert main(["locate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
