"""Timing and memory in real worker processes, on tiny models; no figure of a machine is held."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    Identify,
    MeasureMemory,
    MeasureSpeed,
    MemoryMeasured,
    Message,
    Progress,
    SpeedMeasured,
)
from pytest_quantgate.engines.worker.memory import peak_resident_bytes, read_buffers
from pytest_quantgate.engines.worker.speed import MAX_WARM_UPS, warm_up
from pytest_quantgate.errors import CellCrashed, CellUnsupported
from pytest_quantgate.gguf.formats import TENSOR_TYPES
from tests.tiny_model import Shape, write_tiny_model

F16 = TENSOR_TYPES["F16"].number


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The installed llama-cpp-python."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


def measure(
    engine: LlamaCppPython,
    model: Path,
    replies: list[Message] | None = None,
    *,
    device: str = "cpu",
    n_depth: int = 0,
    n_batch: int = 64,
) -> SpeedMeasured:
    """Time a short prompt and few tokens."""
    request = MeasureSpeed(
        model=str(model),
        device=device,
        n_prompt=24,
        n_decode=5,
        n_depth=n_depth,
        repetitions=3,
        n_batch=n_batch,
        n_ubatch=min(n_batch, 32),
        n_threads=1,
        flash_attention=True,
        type_k=F16,
        type_v=F16,
    )
    return engine.ask(request, None if replies is None else replies.append)


def memory(
    engine: LlamaCppPython,
    model: Path,
    n_ctx: int = 256,
    replies: list[Message] | None = None,
) -> MemoryMeasured:
    """Measure the memory of a full context."""
    return engine.ask(
        MeasureMemory(
            model=str(model),
            device="cpu",
            n_ctx=n_ctx,
            n_batch=n_ctx,
            n_ubatch=n_ctx,
            n_threads=1,
            flash_attention=True,
            type_k=F16,
            type_v=F16,
        ),
        None if replies is None else replies.append,
    )


def test_every_run_is_kept(engine: LlamaCppPython, tiny_model: Path) -> None:
    replies: list[Message] = []
    seen = measure(engine, tiny_model, replies)
    assert len(seen.prefill_ns) == len(seen.decode_ns) == 3
    assert min(*seen.prefill_ns, *seen.decode_ns) > 0
    for warmups in (seen.prefill_warmup_ns, seen.decode_warmup_ns):
        assert 2 <= len(warmups) <= MAX_WARM_UPS
    assert seen.load_s is not None
    assert seen.load_s > 0
    assert seen.cpu_s > 0
    assert (seen.device_description, seen.driver) == ("", "")
    runs = len(seen.prefill_warmup_ns) + len(seen.decode_warmup_ns) + 6
    told = [reply for reply in replies if isinstance(reply, Progress) and reply.what != "load"]
    assert len(told) == runs


def test_what_python_does_between_tokens_is_not_in_the_figure(
    engine: LlamaCppPython, tiny_model: Path
) -> None:
    seen = measure(engine, tiny_model)
    for pure_ns, whole_ns in zip(seen.decode_ns, seen.decode_loop_ns, strict=True):
        assert 0 < pure_ns < whole_ns


def test_each_measurement_has_a_process_of_its_own(
    engine: LlamaCppPython, tiny_model: Path
) -> None:
    before = engine.ask(Identify())
    processes = {measure(engine, tiny_model).process_id for _ in range(2)}
    assert len(processes) == 2
    assert engine.ask(Identify()) == before


@pytest.mark.parametrize("n_batch", [64, 7])
def test_a_depth_comes_before_the_clock(
    engine: LlamaCppPython, tiny_model: Path, n_batch: int
) -> None:
    """Also where prompt and depth take several batches."""
    seen = measure(engine, tiny_model, n_depth=40, n_batch=n_batch)
    assert len(seen.prefill_ns) == 3


def test_a_vocabulary_that_adds_a_beginning_can_be_timed(
    engine: LlamaCppPython, tmp_path: Path
) -> None:
    model = write_tiny_model(tmp_path / "bos.gguf", Shape(layers=1, adds_bos=True))
    assert min(measure(engine, model).decode_ns) > 0


def test_a_device_that_is_not_there_is_refused(engine: LlamaCppPython, tiny_model: Path) -> None:
    with pytest.raises(CellUnsupported, match="no device 'CUDA7'; there are: cpu, CPU"):
        measure(engine, tiny_model, device="CUDA7")


def test_an_abort_is_told_and_the_next_measurement_works(
    engine: LlamaCppPython, aborting_model: Path, tiny_model: Path
) -> None:
    with pytest.raises(CellCrashed, match="killed by SIGABRT"):
        measure(engine, aborting_model)
    assert measure(engine, tiny_model).prefill_ns


@pytest.mark.parametrize(
    ("times", "n_runs", "is_warm"),
    [
        ((100, 103), 2, True),
        ((900, 101, 100), 3, True),
        ((100, 300, 310), 3, True),
        ((900, 300, 105, 100), 4, True),
        ((900, 300, 110, 100), MAX_WARM_UPS, False),
        ((100, 94, 100, 94), MAX_WARM_UPS, False),
    ],
)
def test_warm_up_ends_when_two_runs_take_equally_long(
    times: tuple[int, ...], n_runs: int, is_warm: bool
) -> None:
    """Within 5 % of the shorter one, at the latest after four."""
    given = iter(times)
    assert warm_up(lambda: next(given)) == (times[:n_runs], is_warm)


def test_warm_up_gives_up() -> None:
    numbers = count(1)
    assert warm_up(lambda: 2 ** next(numbers)) == ((2, 4, 8, 16), False)


def test_memory_has_the_engines_buffers_and_the_process_peak(
    engine: LlamaCppPython, tmp_path: Path
) -> None:
    """Of a model whose sizes are known: 2 layers, 256 wide, keys and values of 2 bytes."""
    model = write_tiny_model(tmp_path / "tiny.gguf", Shape(layers=2, hidden=256))
    seen = memory(engine, model)
    buffers = {row.kind: row.n_bytes for row in seen.buffers}
    assert buffers["KV"] == 2 * 2 * 256 * 256 * 2
    assert buffers["model"] == pytest.approx(model.stat().st_size, rel=0.05)
    assert buffers["compute"] > 0
    assert seen.peak_resident_bytes is not None
    assert seen.resident_before_bytes is not None
    assert 0 < seen.resident_before_bytes < seen.peak_resident_bytes
    assert seen.devices == ()


@pytest.mark.parametrize("what", ["speed", "memory"])
def test_loading_is_a_sign_of_life(engine: LlamaCppPython, tiny_model: Path, what: str) -> None:
    """A large file takes longer than the deadline for silence."""
    replies: list[Message] = []
    if what == "speed":
        measure(engine, tiny_model, replies)
    else:
        memory(engine, tiny_model, replies=replies)
    told = [item for item in replies if isinstance(item, Progress) and item.what == "load"]
    assert told[-1].done == told[-1].total == 100


def test_memory_grows_with_the_context(engine: LlamaCppPython, tiny_model: Path) -> None:
    """By the cache, beside which a process's own scatter is small."""
    small, large = memory(engine, tiny_model, 64), memory(engine, tiny_model, 2048)
    assert small.peak_resident_bytes is not None
    assert large.peak_resident_bytes is not None
    assert large.peak_resident_bytes > small.peak_resident_bytes + 3_000_000


def test_a_parents_peak_is_not_the_childs(engine: LlamaCppPython, tiny_model: Path) -> None:
    """The classic call would tell the parent's, which comes along when a process starts."""
    ballast = bytearray(400_000_000)
    ballast[::4096] = b"x" * len(ballast[::4096])
    peak, own = memory(engine, tiny_model).peak_resident_bytes, peak_resident_bytes()
    assert peak is not None
    assert own is not None
    assert peak < 300_000_000 < own


def test_buffers_are_read_from_the_log() -> None:
    """Lines of llama.cpp: caches of two kinds add up, a compute buffer may be reserved twice."""
    lines = [
        "load_tensors:   CPU_Mapped model buffer size =    92.10 MiB",
        "load_tensors:        CUDA0 model buffer size =  1024.00 MiB",
        "llama_context:        CPU  output buffer size =     0.19 MiB",
        "llama_kv_cache:      CUDA0 KV buffer size =    11.25 MiB",
        "llama_kv_cache: size =   11.25 MiB (   512 cells,  30 layers,  1/1 seqs)",
        "llama_kv_cache:      CUDA0 KV buffer size =     1.00 MiB",
        "llama_memory_recurrent:        CPU RS buffer size =     0.50 MiB",
        "sched_reserve:        CPU compute buffer size =    98.25 MiB",
        "sched_reserve:        CPU compute buffer size =    50.25 MiB",
        "print_info: file size   = 92.10 MiB (5.74 BPW)",
    ]
    found = {(row.kind, row.where): row.n_bytes / (1 << 20) for row in read_buffers(lines)}
    assert found == {
        ("model", "CPU_Mapped"): pytest.approx(92.10),
        ("model", "CUDA0"): 1024,
        ("output", "CPU"): pytest.approx(0.19, abs=1e-6),
        ("KV", "CUDA0"): 12.25,
        ("RS", "CPU"): 0.5,
        ("compute", "CPU"): 50.25,
    }
