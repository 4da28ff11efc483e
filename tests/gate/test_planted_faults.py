"""Faults planted in files of the embedded models are found through the gate, with their cause."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Quantize
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import FILE_TYPES
from tests.conftest import Project
from tests.edited_model import Change, edit_model

pytestmark = pytest.mark.slow

Array = np.ndarray[Any, Any]

Q8_0_BLOCK_BYTES = 34
EXPERT_MATRICES = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


def exchange_experts(weights: Array) -> Array:
    """Exchange experts 2 and 5; the router goes on sending tokens to their places."""
    weights[[2, 5]] = weights[[5, 2]]
    return weights


def scale_expert(weights: Array) -> Array:
    """Make expert 3's weights larger by 5 %, through the half-precision scale of each block."""
    blocks = weights[3].reshape(-1, Q8_0_BLOCK_BYTES)
    scales = blocks[:, :2].copy().view(np.float16)
    blocks[:, :2] = (scales.astype(np.float32) * 1.05).astype(np.float16).view(np.uint8)
    return weights


def permute_rows(router: Array) -> Array:
    """Let each expert get the tokens of the one before."""
    return np.roll(router, 1, axis=0)


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of a file in a format, and the verdict and cause that the gate must name."""

    model: str
    format: str
    cause: str
    verdict: str = "REGRESSED"
    tensors: Mapping[str, Change] = field(default_factory=dict)
    metadata: Mapping[str, int] = field(default_factory=dict)
    other_file_type: str | None = None


ELSEWHERE = (
    "cause: quantizer, or the kind of CPU that it ran on: the file was made elsewhere (*; {}"
    " changed bytes at equal type ({}); *"
)

FAULTS = {
    "experts exchanged": Fault(
        model="olmoe-mini",
        format="Q8_0",
        tensors={f"blk.1.{name}.weight": exchange_experts for name in EXPERT_MATRICES},
        cause=ELSEWHERE.format(
            "3 of 51 tensors",
            "ffn_down_exps in blk.1; ffn_gate_exps in blk.1; ffn_up_exps in blk.1",
        ),
    ),
    "expert scaled": Fault(
        model="olmoe-mini",
        format="Q8_0",
        tensors={"blk.3.ffn_down_exps.weight": scale_expert},
        # One of 32 experts: the mean KLD grows by 6e-5 nats, of which 1e-4 are allowed.
        verdict="INCONCLUSIVE",
        cause=ELSEWHERE.format("1 of 51 tensors", "ffn_down_exps in blk.3"),
    ),
    "router rows permuted": Fault(
        model="lfm2moe-mini",
        format="Q4_K_M",
        tensors={"blk.2.ffn_gate_inp.weight": permute_rows},
        cause=ELSEWHERE.format("1 of 56 tensors", "ffn_gate_inp in blk.2"),
    ),
    "softmax for sigmoid": Fault(
        model="lfm2moe-mini",
        format="Q4_K_M",
        metadata={"lfm2moe.expert_gating_func": 1},
        cause="cause: the file's metadata (*metadata changed: lfm2moe.expert_gating_func 2 → 1; *",
    ),
    "M mix replaced by S": Fault(
        model="olmoe-mini",
        format="Q4_K_M",
        other_file_type="Q4_K_S",
        cause="cause: quantizer (*tensors changed type (*ffn_down_exps Q6_K → Q*_K in blk.*",
    ),
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The installed llama-cpp-python in a worker."""
    made = LlamaCppPython(
        python=None, log=tmp_path_factory.mktemp("log") / "worker.log", stall_s=120
    )
    yield made
    made.close()


def quantize(engine: LlamaCppPython, model: str, file_type: str, path: Path) -> Path:
    """Make a file of an embedded model."""
    engine.ask(
        Quantize(
            source=str(EMBEDDED / f"{model}.gguf"),
            destination=str(path),
            file_type=FILE_TYPES[file_type].number,
            overrides=(),
            allow_requantize=False,
            n_threads=2,
        )
    )
    return path


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_red_with_its_cause(
    engine: LlamaCppPython, project: Project, tmp_path: Path, name: str
) -> None:
    """Against the accepted baseline of the right file, with the default limits."""
    fault = FAULTS[name]
    right = quantize(engine, fault.model, fault.format, tmp_path / "right.gguf")
    wrong = tmp_path / "wrong.gguf"
    if fault.other_file_type is not None:
        quantize(engine, fault.model, fault.other_file_type, wrong)
    else:
        edit_model(right, wrong, metadata=fault.metadata, tensors=fault.tensors)
    given = tmp_path / "given.gguf"
    project.configure(
        formats=("F16", fault.format),
        profile='models = ["mini"]\ntexts = ["evaluation"]\nn_ctx = 512\nchunks = 16',
        tables=f"""
        [tool.quantgate.models.mini]
        files = {{ F16 = "{EMBEDDED / fault.model}.gguf", {fault.format} = "{given}" }}
        """,
    )
    given.write_bytes(right.read_bytes())
    assert project.accept().ret == pytest.ExitCode.OK

    given.write_bytes(wrong.read_bytes())
    result = project.matrix()
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines([f"mini-{fault.format}-cpu: {fault.verdict}: *", fault.cause])
