"""The oracle: what an engine computes against what transformers computed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest

from pytest_quantgate.config.limit import MAX_ORACLE_KLD_NATS
from pytest_quantgate.engines.conditions import Conditions
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import CompareOracle, OracleCompared
from pytest_quantgate.errors import CellUnsupported, RequestUnknown
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.matrix.resolved import ResolvedCell
from pytest_quantgate.matrix.session import Session
from pytest_quantgate.metrics.oracle import measure_oracle, summarize
from pytest_quantgate.results.measurements.absent import Absent
from pytest_quantgate.results.measurements.oracle import OracleMeasurement
from tests.edited_model import edit_model

MODELS = ("olmoe-mini", "lfm2moe-mini")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The installed llama-cpp-python in a worker."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


def compare(
    engine: LlamaCppPython, name: str, path: Path | None = None, *, flash_attention: bool = True
) -> OracleMeasurement:
    """Compare a file, the model's own unless one is given, with the model's oracle."""
    oracle = EMBEDDED / f"{name}.oracle.npz"
    reply = engine.ask(
        CompareOracle(
            model=str(path or EMBEDDED / f"{name}.gguf"),
            oracle=str(oracle),
            device="cpu",
            n_batch=512,
            n_ubatch=512,
            n_threads=1,
            flash_attention=flash_attention,
            type_k=1,
            type_v=1,
        )
    )
    return summarize(oracle, reply)


@pytest.mark.parametrize("flash_attention", [True, False], ids=["flash", "plain"])
@pytest.mark.parametrize("name", MODELS)
def test_llama_cpp_computes_what_transformers_does(
    engine: LlamaCppPython, name: str, flash_attention: bool
) -> None:
    """F16 rounding alone is some thirty times below the limit."""
    found = compare(engine, name, flash_attention=flash_attention)
    assert found.rows == 16
    assert found.tokens == 8 * 255
    assert found.typical_kld_nats < MAX_ORACLE_KLD_NATS / 30
    assert found.typical_nll_kld_nats < MAX_ORACLE_KLD_NATS / 30
    assert found.mean_kld_nats < MAX_ORACLE_KLD_NATS


@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("olmoe-mini", "olmoe.rope.freq_base", 20_000.0),
        ("olmoe-mini", "olmoe.expert_used_count", 3),
        ("olmoe-mini", "olmoe.attention.layer_norm_rms_epsilon", 1e-3),
        ("lfm2moe-mini", "lfm2moe.expert_gating_func", 1),
        ("lfm2moe-mini", "lfm2moe.rope.freq_base", 20_000.0),
        ("lfm2moe-mini", "lfm2moe.attention.layer_norm_rms_epsilon", 1e-3),
    ],
)
def test_an_engine_that_computes_otherwise_is_told(
    engine: LlamaCppPython, tmp_path: Path, name: str, field: str, value: float
) -> None:
    """Other metadata make a right engine compute what a wrong one would."""
    path = edit_model(EMBEDDED / f"{name}.gguf", tmp_path / "wrong.gguf", metadata={field: value})
    found = compare(engine, name, path)
    assert found.typical_nll_kld_nats > MAX_ORACLE_KLD_NATS


@pytest.mark.parametrize("error", [CellUnsupported("llama_decode returned -3"), RequestUnknown()])
def test_only_an_engine_that_cannot_tell_logits_is_not_compared(error: CellUnsupported) -> None:
    """A refusal of one that can is no reason to leave the oracle out."""

    def refuse(_request: object) -> None:
        raise error

    engine = SimpleNamespace(ask=refuse)
    cell = SimpleNamespace(
        cell=SimpleNamespace(model="m", engine="e"),
        model=SimpleNamespace(oracle=EMBEDDED / "olmoe-mini.oracle.npz"),
        profile=SimpleNamespace(type_k="F16", type_v="F16", flash_attention=True),
        conditions=Conditions(n_threads=1, n_batch=512, n_ubatch=512),
        is_reference=True,
        engine=engine,
    )
    run = SimpleNamespace(
        device=lambda _cell: "cpu",
        artifacts=SimpleNamespace(file=lambda _cell: SimpleNamespace(path=Path("m.gguf"))),
        hold_device=lambda _device, _cell: nullcontext(),
    )
    if isinstance(error, RequestUnknown):
        found = measure_oracle(cast("Session", run), cast("ResolvedCell", cell))
        assert isinstance(found, Absent)
        assert found.reason.startswith("engine 'e' reports no logits")
    else:
        with pytest.raises(CellUnsupported, match="llama_decode"):
            measure_oracle(cast("Session", run), cast("ResolvedCell", cell))


def oracle_file(path: Path, nll: np.ndarray) -> Path:
    """Write an oracle of which only the likelihoods matter."""
    np.savez(path, nll_nats=nll)
    return path


def reply(nll: np.ndarray, kld: np.ndarray) -> OracleCompared:
    """Answer as a worker."""
    return OracleCompared(
        nll_nats=nll.astype(np.float32).tobytes(), kld_nats=kld.astype(np.float64).tobytes()
    )


def test_the_figures_by_hand(tmp_path: Path) -> None:
    """Two chunks of 8: the second half of each is scored, 3 tokens."""
    expected = np.full((2, 7), 2.0, dtype=np.float32)
    seen = expected.copy()
    seen[:, :4] += 5  # not scored
    seen[0, 4] += 0.5
    found = summarize(
        oracle_file(tmp_path / "o.npz", expected), reply(seen, np.array([0.25, 0.75]))
    )
    assert (found.rows, found.tokens) == (2, 6)
    assert found.mean_kld_nats == 0.5
    assert found.nll_kld_nats == pytest.approx(0.5**2 / 2 / 6)
    assert found.max_nll_difference_nats == 0.5


def test_a_few_tokens_on_another_expert_do_not_outweigh_the_rest(tmp_path: Path) -> None:
    expected = np.zeros((8, 511), dtype=np.float32)
    seen = expected + 1e-3
    seen[3, 300:320] += 1.9  # 20 of 2,040
    kld = np.full(16, 1e-6)
    kld[5] = 0.6
    found = summarize(oracle_file(tmp_path / "o.npz", expected), reply(seen, kld))
    assert found.typical_kld_nats == pytest.approx(1e-6)
    assert found.mean_kld_nats > 0.03
    assert found.typical_nll_kld_nats == pytest.approx(0.5e-6, rel=1e-3)
    assert found.nll_kld_nats > 0.01


@pytest.mark.parametrize("where", ["nll", "kld"])
def test_a_figure_that_is_not_finite_is_never_left_out(tmp_path: Path, where: str) -> None:
    nll, kld = np.zeros((8, 511)), np.zeros(16)
    (nll if where == "nll" else kld).flat[-1] = math.nan
    found = summarize(
        oracle_file(tmp_path / "o.npz", np.zeros((8, 511), dtype=np.float32)), reply(nll, kld)
    )
    typical = found.typical_nll_kld_nats if where == "nll" else found.typical_kld_nats
    assert math.isnan(typical)
