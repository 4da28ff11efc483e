"""A worker may abort, hang or speak nonsense: one exception each, and the next request works."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    Failed,
    Identify,
    Message,
    Progress,
    Quantize,
    Quantized,
    ScoredChunk,
    Tokenize,
    from_wire,
)
from pytest_quantgate.engines.worker_process import (
    QUIET_THREADS,
    Worker,
    describe_exit,
    log_tail,
    with_log,
    worker_sources,
)
from pytest_quantgate.errors import CellCrashed, CellTimeout, CellUnavailable, CellUnsupported

SERVE = """
import ctypes, os, signal, sys, threading, time

def serve(channel):
    for name, fields in channel:
        do = fields.get("text", "fine")
        print("asked for", do, flush=True)
        if do == "fine":
            channel.send(("Progress", {"what": "load", "done": 1, "total": 2}))
            channel.send(("Quantized", {"seconds_s": 0.5}))
        elif do == "abort":
            sys.stderr.write("GGML_ASSERT(everything) failed\\n")
            sys.stderr.flush()
            os.abort()
        elif do == "segv":
            ctypes.string_at(0)
        elif do == "exit":
            os._exit(7)
        elif do == "hang":
            threading.Event().wait()
        elif do == "nonsense":
            channel.send("hello")
        elif do == "unknown message":
            channel.send(("Nothing", {}))
        elif do == "wrong fields":
            channel.send(("Quantized", {"speed": 3}))
        elif do == "numpy":
            import numpy
            channel.send(("Quantized", {"seconds_s": numpy.float64(0.5)}))
        elif do == "exception":
            raise RuntimeError("the loop broke")
        elif do == "failed":
            channel.send(("Failed", {"kind": "CRASHED", "reason": "ValueError: no"}))
        elif do == "refused":
            channel.send(("Failed", {"kind": "UNSUPPORTED", "reason": "no such type"}))
        elif do == "another number":
            channel._channel.send((0, ("Quantized", {"seconds_s": 0.5})))
        elif do == "pid":
            channel.send(("Quantized", {"seconds_s": float(os.getpid())}))
        elif do == "slow but alive":
            for done in range(6):
                time.sleep(0.25)
                channel.send(("Progress", {"what": "load", "done": done, "total": 6}))
            channel.send(("Quantized", {"seconds_s": 0.0}))
        elif do == "imports":
            loaded = "pytest" in sys.modules or "_pytest" in sys.modules
            channel.send(("Quantized", {"seconds_s": float(loaded)}))
        elif do.startswith("$"):
            value = os.environ.get(do[1:], "unset")
            channel.send(("Failed", {"kind": "UNSUPPORTED", "reason": value}))
"""

MakeWorker = Callable[..., Worker]


def ask(do: str) -> Tokenize:
    """Return a request that tells the fake what to do."""
    return Tokenize(model="", text=do, n_ctx=0)


@pytest.fixture
def make_worker(tmp_path: Path) -> Iterator[MakeWorker]:
    """Return what starts a worker that serves with the fake above."""
    workers: list[Worker] = []

    def make(stall_s: float = 60.0, python: str | None = None, **more: Any) -> Worker:
        worker = Worker(
            python=python,
            log=tmp_path / "logs" / "worker.log",
            stall_s=stall_s,
            entry="fake_serve:serve",
            extra_sources=[("fake_serve", (False, SERVE))],
            **more,
        )
        workers.append(worker)
        return worker

    yield make
    for worker in workers:
        worker.close()


def test_replies_on_the_way_are_handed_over(make_worker: MakeWorker) -> None:
    seen: list[Message] = []
    assert make_worker().request(ask("fine"), seen.append) == Quantized(seconds_s=0.5)
    assert seen == [Progress(what="load", done=1, total=2)]


@pytest.mark.skipif(sys.platform == "win32", reason="signals end a process otherwise there")
@pytest.mark.parametrize(
    ("do", "parts"),
    [
        ("abort", ["killed by SIGABRT", "GGML_ASSERT(everything) failed"]),
        ("segv", ["killed by SIGSEGV", "asked for segv"]),
        ("exit", ["exit status 7", "asked for exit"]),
        ("nonsense", ["sent what is no message", "hello"]),
        ("unknown message", ["sent what is no message", "Nothing"]),
        ("wrong fields", ["sent what is no message", "not a Quantized"]),
        ("numpy", ["sent what is no message", "numpy"]),
        ("exception", ["the loop broke"]),
        ("failed", ["ValueError: no", "asked for failed"]),
    ],
)
def test_a_death_is_told_with_its_log_and_the_next_request_works(
    make_worker: MakeWorker, do: str, parts: list[str]
) -> None:
    worker = make_worker()
    with pytest.raises(CellCrashed) as caught:
        worker.request(ask(do))
    for part in parts:
        assert part in str(caught.value)
    assert "Last log lines:" in str(caught.value)
    assert worker.request(ask("fine")) == Quantized(seconds_s=0.5)


def test_a_refusal_leaves_the_worker_alive(make_worker: MakeWorker) -> None:
    worker = make_worker()
    before = worker.request(ask("pid"))
    with pytest.raises(CellUnsupported, match="no such type"):
        worker.request(ask("refused"))
    assert worker.request(ask("pid")) == before


class _Left(BaseException):
    """What a signal's handler raises, as pytest-timeout's does."""


@pytest.mark.parametrize("error", [KeyboardInterrupt, _Left, ValueError, OSError, EOFError])
def test_a_request_that_is_left_early_ends_its_worker(
    make_worker: MakeWorker, error: type[BaseException]
) -> None:
    """Its other replies are not the next request's, and its own error is what is raised."""
    worker = make_worker()
    pid = worker.request(ask("pid"))

    def leave(_reply: Message) -> None:
        raise error("left")

    with pytest.raises(error, match="left"):
        worker.request(ask("fine"), leave)
    assert worker.request(ask("pid")) != pid


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers on this platform")
def test_a_request_that_a_signal_interrupts_ends_its_worker(make_worker: MakeWorker) -> None:
    worker = make_worker()
    pid = worker.request(ask("pid"))

    def leave(_signal: int, _frame: object) -> None:
        raise _Left

    before = signal.signal(signal.SIGALRM, leave)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        started = time.monotonic()
        with pytest.raises(_Left):
            worker.request(ask("slow but alive"))
        assert time.monotonic() - started < 1.2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    after = worker.request(ask("pid"))
    assert isinstance(after, Quantized)
    assert after != pid
    assert after.seconds_s > 1


def test_a_reply_to_another_request_is_refused(make_worker: MakeWorker) -> None:
    worker = make_worker()
    with pytest.raises(CellCrashed, match="it answers request 0, not 1"):
        worker.request(ask("another number"))
    assert worker.request(ask("fine")) == Quantized(seconds_s=0.5)


def test_a_hang_is_ended_at_its_deadline(make_worker: MakeWorker) -> None:
    worker = make_worker(stall_s=1.0)
    pid = worker.request(ask("pid"))
    assert isinstance(pid, Quantized)
    started = time.monotonic()
    with pytest.raises(CellTimeout, match="no sign of life for 1 s(.|\n)*asked for hang"):
        worker.request(ask("hang"))
    assert time.monotonic() - started < 30
    psutil.wait_procs(psutil.Process().children(), timeout=0)
    assert not psutil.pid_exists(int(pid.seconds_s)) or _is_dead(int(pid.seconds_s))
    assert worker.request(ask("fine")) == Quantized(seconds_s=0.5)


def _is_dead(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_the_deadline_follows_progress(make_worker: MakeWorker) -> None:
    """1.5 s of work with a sign of life every quarter of a second, and a deadline of 1.2 s."""
    worker = make_worker(stall_s=1.2)
    worker.request(ask("fine"))
    assert worker.request(ask("slow but alive")) == Quantized(seconds_s=0.0)


def test_the_worker_never_imports_pytest(make_worker: MakeWorker) -> None:
    assert make_worker().request(ask("imports")) == Quantized(seconds_s=0.0)


def test_an_interpreter_that_is_not_there_is_unavailable(make_worker: MakeWorker) -> None:
    with pytest.raises(CellUnavailable, match="/no/such/python"):
        make_worker(python="/no/such/python").request(ask("fine"))


def test_threads_sleep_while_they_wait_unless_it_is_said_otherwise(
    make_worker: MakeWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in QUIET_THREADS:
        monkeypatch.delenv(name, raising=False)

    def told(worker: Worker, name: str) -> str:
        with pytest.raises(CellUnsupported) as error:
            worker.request(ask(f"${name}"))
        return str(error.value)

    quiet, plain = make_worker(), make_worker(environment={})
    for name, value in QUIET_THREADS.items():
        assert told(quiet, name) == value
        assert told(plain, name) == "unset"
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    assert told(make_worker(), "OMP_WAIT_POLICY") == "active", "the user's own setting stands"


def test_another_interpreter_gets_the_worker_over_the_channel(tmp_path: Path) -> None:
    """A folder with llama_cpp and numpy alone, as another engine's environment has."""
    site = tmp_path / "site"
    site.mkdir()
    import llama_cpp
    import numpy as np

    packages = Path(np.__file__).parent.parent
    wanted = ("numpy", "numpy.libs", "llama_cpp", "diskcache", "jinja2", "markupsafe")
    for name in wanted:
        if (packages / name).exists():
            (site / name).symlink_to(packages / name)
    (site / "typing_extensions.py").symlink_to(packages / "typing_extensions.py")
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH="{site}" exec "{sys.base_prefix}/bin/python3" -s "$@"\n'
    )
    python.chmod(0o755)
    engine = LlamaCppPython(python=str(python), log=tmp_path / "x.log", stall_s=60)
    try:
        assert engine.identity().version == llama_cpp.__version__
    finally:
        engine.close()


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
def test_a_worker_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    """Even while it hangs."""
    (tmp_path / "serve.txt").write_text(SERVE)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pytest_quantgate.engines.messages import Tokenize\n"
        "from pytest_quantgate.engines.worker_process import Worker\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "source = (folder / 'serve.txt').read_text()\n"
        "worker = Worker(python=None, log=folder / 'w.log', stall_s=600,\n"
        "    entry='fake_serve:serve', extra_sources=[('fake_serve', (False, source))])\n"
        "pid = worker.request(Tokenize(model='', text='pid', n_ctx=0))\n"
        "print(int(pid.seconds_s), flush=True)\n"
        "worker.request(Tokenize(model='', text='hang', n_ctx=0))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = psutil.Process(int(parent.stdout.readline()))
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    psutil.wait_procs([child], timeout=20)
    assert not child.is_running() or _is_dead(child.pid)


def _imports(text: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative"
            yield str(node.module)


def test_a_worker_imports_only_what_any_engine_has() -> None:
    """The standard library, numpy, llama_cpp and what is sent."""
    allowed = {*sys.stdlib_module_names, "numpy", "llama_cpp"}
    sources = worker_sources()
    assert "pytest_quantgate.engines.worker.serve" in sources
    for name, (_, text) in sources.items():
        for module in _imports(text):
            assert module.partition(".")[0] in allowed or module in sources, f"{name}: {module}"


def test_the_child_imports_only_the_standard_library() -> None:
    text = worker_sources()["pytest_quantgate.engines.worker.child"][1]
    assert {module.partition(".")[0] for module in _imports(text)} <= sys.stdlib_module_names


@pytest.mark.parametrize(
    "item",
    [None, 3, "text", (), ("Failed",), ("Failed", 3), ("Nothing", {}), ("Failed", {"kind": "x"})],
)
def test_what_is_no_message(item: object) -> None:
    with pytest.raises(ValueError, match="not a"):
        from_wire(item)


@pytest.mark.parametrize(
    "message",
    [
        Identify(),
        Failed(kind="CRASHED", reason="x"),
        Quantize(
            source="a",
            destination="b",
            file_type=2,
            overrides=(("x", 8),),
            allow_requantize=False,
            n_threads=2,
        ),
        ScoredChunk(
            index=1,
            nll_sum_nats=2.5,
            nll_nats=b"1234",
            top_tokens=b"1234",
            token_ids_sha256="ab",
            seconds_s=0.1,
        ),
    ],
    ids=lambda message: type(message).__name__,
)
def test_messages_survive_the_wire(message: Message) -> None:
    assert from_wire(message.to_wire()) == message


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (None, "still running"),
        (0, "exit status 0"),
        (7, "exit status 7"),
        (-6, "killed by SIGABRT"),
        (-99, "killed by signal 99"),
    ],
)
def test_how_a_process_ended(code: int | None, text: str) -> None:
    assert describe_exit(code) == text


def test_the_tail_of_a_log_skips_lines_that_say_nothing(tmp_path: Path) -> None:
    log = tmp_path / "x.log"
    assert log_tail(log) == []
    log.write_text("")
    assert log_tail(log) == []
    log.write_bytes(b"a\n\n....\n  \nb\xff\nc\n")
    assert log_tail(log, 2) == ["b�", "c"]
    assert log_tail(log, begin=len(b"a\n\n....\n  \nb\xff")) == ["c"]


def test_what_went_wrong_begins_with_a_line_that_is_complete(tmp_path: Path) -> None:
    """A table shows the first line alone."""
    log = tmp_path / "x.log"
    assert with_log("it died", log) == "it died; nothing was logged"
    log.write_text("one\nGGML_ASSERT(x) failed\ntwo\n")
    assert with_log("it died", log).splitlines() == [
        "it died; logged: GGML_ASSERT(x) failed",
        "Last log lines:",
        "one",
        "GGML_ASSERT(x) failed",
        "two",
    ]


def test_a_death_is_not_told_with_the_log_of_an_earlier_request(make_worker: MakeWorker) -> None:
    worker = make_worker()
    worker.request(ask("fine"))
    with pytest.raises(CellCrashed) as caught:
        worker.request(ask("exit"))
    assert "asked for exit" in str(caught.value)
    assert "asked for fine" not in str(caught.value)
