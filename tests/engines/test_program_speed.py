"""Timing with llama-bench: its output read back, and what goes wrong."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_quantgate.engines.messages import MeasureSpeed, Message, Progress
from pytest_quantgate.engines.programs.engine import LlamaPrograms
from pytest_quantgate.engines.programs.speed import read_bench
from pytest_quantgate.errors import CellCrashed, CellUnavailable, CellUnsupported
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from pytest_quantgate.storage.keys import file_sha256
from tests.engines.fake_programs import calls, set_faults

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fakes are scripts")


def engine(folder: Path, arguments: tuple[str, ...] = ()) -> LlamaPrograms:
    """Return an engine of these programs."""
    return LlamaPrograms(
        folder=folder,
        arguments=arguments,
        log=folder / "programs.log",
        stall_s=60,
        sha256_of=file_sha256,
    )


def request(device: str = "cpu", model: str = "model.gguf") -> MeasureSpeed:
    """Ask for short runs."""
    return MeasureSpeed(
        model=model,
        device=device,
        n_prompt=64,
        n_decode=8,
        n_depth=32,
        repetitions=2,
        n_batch=2048,
        n_ubatch=512,
        n_threads=3,
        flash_attention=True,
        type_k=TENSOR_TYPES["F16"].number,
        type_v=TENSOR_TYPES["Q8_0"].number,
    )


def test_every_run_is_read(folder: Path) -> None:
    replies: list[Message] = []
    seen = engine(folder).ask(request(), replies.append)
    assert seen.prefill_ns == (64_000, 64_000)
    assert seen.decode_ns == (40_000, 40_000)
    assert seen.load_s is None
    assert any(isinstance(reply, Progress) and reply.done == 2 for reply in replies)


def test_everything_is_pinned(folder: Path) -> None:
    engine(folder).ask(request())
    engine(folder).ask(request("CUDA0,CUDA1;split_mode=row;tensor_split=3/1;repack=0"))
    on_cpu, asked, on_gpus = calls(folder, "llama-bench")
    assert "--help" in asked
    line = " ".join(map(str, on_cpu))
    assert "-p 64 -n 8 -d 32 -r 2 -b 2048 -ub 512 -t 3 -fa on -ctk f16 -ctv q8_0" in line
    assert "-dev none -ngl 0 -sm layer -o json" in line
    assert "--repack" not in line, "it is on by default, and older ones do not know it"
    assert "-dev CUDA0/CUDA1 -ngl 999 -sm row -o json --repack 0 -ts 3/1" in " ".join(
        map(str, on_gpus)
    )


def test_repacking_that_cannot_be_turned_off_is_refused(folder: Path) -> None:
    set_faults(folder, llama_bench="old")
    assert engine(folder).ask(request()).decode_ns
    with pytest.raises(CellUnsupported, match="this llama-bench is too old to load a model"):
        engine(folder).ask(request("cpu;repack=0"))


def test_its_threads_wait_as_it_has_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    engine(folder).ask(request())
    assert (folder / "wait_policy").read_text() == "None"


@pytest.mark.parametrize("fault", ["garbage", "abort", "half"])
def test_output_that_is_not_whole_is_a_crash(folder: Path, fault: str) -> None:
    set_faults(folder, llama_bench=fault)
    with pytest.raises(CellCrashed, match="llama-bench"):
        engine(folder).ask(request())


def test_a_refusal_is_told(folder: Path) -> None:
    set_faults(folder, llama_bench="refuse")
    with pytest.raises(CellUnsupported, match="llama-bench: .*unknown model architecture"):
        engine(folder).ask(request())


def test_a_folder_without_it_says_how_to_build_it(folder: Path) -> None:
    (folder / "llama-bench").unlink()
    with pytest.raises(CellUnavailable, match="no program llama-bench in .*--target llama-bench"):
        engine(folder).ask(request())


def test_arguments_of_another_program_are_not_passed_over(folder: Path) -> None:
    with pytest.raises(CellUnsupported, match="arguments '-ts 1,1' are llama-perplexity's"):
        engine(folder, ("-ts", "1,1")).ask(request())


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", "null", "[1]", json.dumps([{"n_prompt": 1, "n_gen": 0, "samples_ns": []}])],
)
def test_what_is_no_benchmark_is_not_read(text: str) -> None:
    assert read_bench(text) is None
