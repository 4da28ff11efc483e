"""An engine of programs whose programs fail: one verdict each, and the next request works."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pytest_quantgate.engines.messages import Tokenize
from pytest_quantgate.engines.programs import process
from pytest_quantgate.engines.programs.scores import BASE_FILE
from pytest_quantgate.errors import (
    CellCrashed,
    CellError,
    CellTimeout,
    CellUnavailable,
    CellUnsupported,
)
from tests.engines.conftest import N_CTX, RequestOf, Start, score, sums
from tests.engines.fake_programs import calls, set_faults

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the fakes are scripts")


@pytest.mark.parametrize(
    ("fault", "kind", "messages"),
    [
        ("garbage", CellCrashed, ("did not print its result (exit status 0)", "nonsense")),
        ("decode", CellCrashed, ("did not print its result (exit status 0)", "failed to decode")),
        ("no end", CellCrashed, ("did not print its result (exit status 0)", "0.100000")),
        ("abort", CellCrashed, ("killed by SIGABRT", "GGML_ASSERT(everything) failed")),
        ("refuse", CellUnsupported, ("llama-perplexity: llama_model_load: error loading model",)),
    ],
)
def test_each_fault_is_one_verdict_and_the_next_request_works(
    start: Start,
    request_of: RequestOf,
    folder: Path,
    fault: str,
    kind: type[CellError],
    messages: tuple[str, ...],
) -> None:
    set_faults(folder, llama_perplexity=fault)
    engine = start()
    with pytest.raises(kind) as caught:
        engine.ask(request_of())
    for message in messages:
        assert message in str(caught.value)
    set_faults(folder)
    assert len(sums(score(engine, request_of()))) == 4


def test_lost_last_lines_are_asked_for_again(
    start: Start, request_of: RequestOf, folder: Path
) -> None:
    """llama.cpp's log may lose its end; each chunk is told once all the same."""
    set_faults(folder, llama_perplexity="no end once")
    told = sums(score(start(), request_of()))
    assert [chunk.index for chunk in told] == [0, 1, 2, 3]
    assert len(calls(folder, "llama-perplexity")) == 2


def test_a_hang_is_ended_with_all_that_was_started(
    start: Start, request_of: RequestOf, folder: Path
) -> None:
    set_faults(folder, llama_perplexity="hang")
    began = time.monotonic()
    with pytest.raises(CellTimeout, match=r"printed nothing for 1 s; it was ended(.|\n)*loading"):
        start(stall_s=1.0).ask(request_of())
    assert time.monotonic() - began < 20
    child = int((folder / "child.pid").read_text())
    deadline = time.monotonic() + 10
    while psutil.pid_exists(child) and psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "a program's own child was left behind"
        time.sleep(0.05)


def test_output_without_end_is_cut_off(
    start: Start, request_of: RequestOf, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "MAX_LOG_BYTES", 1 << 20)
    set_faults(folder, llama_perplexity="endless")
    with pytest.raises(CellCrashed, match="printed 1 MiB and went on; it was ended"):
        start().ask(request_of())


def test_a_number_that_is_none_reaches_the_judge(
    start: Start, request_of: RequestOf, folder: Path
) -> None:
    set_faults(folder, llama_perplexity="nan")
    told = sums(score(start(), request_of()))
    assert [math.isnan(chunk.nll_sum_nats) for chunk in told] == [False, False, False, True]


def test_a_base_file_that_is_not_whole_is_not_kept(
    start: Start, request_of: RequestOf, folder: Path, tmp_path: Path
) -> None:
    set_faults(folder, llama_perplexity="disk full")
    request = request_of(reference=str(tmp_path / "reference"), captures=True)
    with pytest.raises(CellCrashed, match="is the disk full"):
        start().ask(request)
    assert list((tmp_path / "reference").iterdir()) == []
    set_faults(folder, llama_perplexity="other tokens")
    with pytest.raises(CellCrashed, match="decoded other tokens than the text was cut into"):
        start().ask(request)
    set_faults(folder)
    engine = start()
    engine.ask(request)
    path = tmp_path / "reference" / BASE_FILE
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)
    with pytest.raises(CellCrashed, match=f"{BASE_FILE} is not what llama-perplexity wrote; dele"):
        engine.ask(replace(request, captures=False))
    (tmp_path / "reference" / BASE_FILE).unlink()
    with pytest.raises(CellCrashed, match=f"{BASE_FILE} cannot be read"):
        engine.ask(replace(request, captures=False))


def test_a_torn_list_of_tokens_is_a_verdict(start: Start, text: Path, folder: Path) -> None:
    set_faults(folder, llama_tokenize="torn")
    with pytest.raises(CellCrashed, match="llama-tokenize did not print its result"):
        start().ask(Tokenize(model="m", text=str(text), n_ctx=N_CTX))


# What is not there


def test_a_missing_program_is_unavailable(start: Start, folder: Path, tmp_path: Path) -> None:
    (folder / "llama-quantize").unlink()
    with pytest.raises(CellUnavailable, match="there is no program llama-quantize in"):
        start().identity()
    with pytest.raises(CellUnavailable, match="there is no program llama-perplexity in"):
        start(where=tmp_path / "nowhere").identity()


def test_what_is_no_program_of_this_machine_is_unavailable(start: Start, folder: Path) -> None:
    path = folder / "llama-perplexity"
    set_faults(folder, llama_perplexity="stranger")
    with pytest.raises(CellUnavailable, match=r"holds no llama-perplexity of llama.cpp that runs"):
        start().identity()
    path.write_bytes(b"\x7fELF of another architecture")
    with pytest.raises(CellUnavailable, match="cannot be executed: Exec format error"):
        start().identity()
    path.chmod(0o644)
    if os.access(path, os.X_OK):
        pytest.skip("this user may execute everything")
    with pytest.raises(CellUnavailable, match=r"is not executable; type: chmod \+x"):
        start().identity()


def test_what_keeps_programs_from_running_is_found_out_once(start: Start, folder: Path) -> None:
    set_faults(folder, llama_perplexity="stranger")
    engine = start()
    for _ in range(2):
        with pytest.raises(CellUnavailable):
            engine.identity()
    assert len(calls(folder, "llama-perplexity")) == 1


def test_without_llama_tokenize_this_interpreters_vocabulary_cuts(
    start: Start, folder: Path, tiny_model: Path, text: Path
) -> None:
    """And the identity says so."""
    (folder / "llama-tokenize").unlink()
    engine = start()
    assert "texts cut by llama-cpp-python" in engine.identity().version
    reply = engine.ask(Tokenize(model=str(tiny_model), text=str(text), n_ctx=N_CTX))
    data = text.read_bytes()[:-1]
    assert reply.n_tokens == len(data) - data.count(b"th") - data.count(b"the"), "two merges"


def test_facts_of_the_reference_are_readable(
    start: Start, request_of: RequestOf, tmp_path: Path
) -> None:
    score(start(), request_of(reference=str(tmp_path / "r"), captures=True))
    facts = json.loads((tmp_path / "r" / "facts.json").read_bytes())
    assert facts["mode"] == "base file"
    assert len(facts["token_ids_sha256"]) == 4
