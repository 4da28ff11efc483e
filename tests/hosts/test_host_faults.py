"""Hosts that fall silent, are slow, or have another clock or processor."""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import Project
from tests.engines.worker.interpreters import (
    ENGINE,
    NUMPY,
    add_module,
    copy_engine,
    make_interpreter,
)
from tests.hosts.sshd import WHY_NOT, Host, running_host
from tests.hosts.test_hosts import AWAY, EQUAL, cells, configure_long, events, once, scoring_on

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]

THROTTLE = """
import os, select, socket, sys, time
there = socket.create_connection((sys.argv[1], int(sys.argv[2])))
while True:
    for ready in select.select([0, there], [], [])[0]:
        data = os.read(0, 16384) if ready == 0 else there.recv(1 << 16)
        if not data:
            sys.exit()
        if ready == 0:
            there.sendall(data)
            time.sleep(len(data) / 200_000)
        else:
            os.write(1, data)
"""
"""A connection that takes 200 kB a second."""


def fall_silent(host: Host) -> None:
    """Stop all that answers for a host, so that no packet is answered and none refused."""
    for process in psutil.Process(host.server.pid).children(recursive=True):
        process.send_signal(signal.SIGSTOP)


def test_a_host_that_falls_silent_is_given_up_soon(own_cache: Project, tmp_path: Path) -> None:
    """Its worker does not answer, nor does ssh: it is not the cell's own fault."""
    with running_host(tmp_path, "a", 2) as host:
        configure_long(own_cache, host.table() + AWAY, '["cpu", "away"]')
        path = own_cache.root / "pyproject.toml"
        path.write_text(path.read_text("utf-8").replace("stall_s = 8", "stall_s = 60"), "utf-8")
        silent_s: list[float] = []

        def cut() -> None:
            silent_s.append(time.monotonic())
            fall_silent(host)

        thread = once(scoring_on(own_cache, "a/"), cut)
        result = own_cache.matrix("--quant-report=run.json", "-k", "away")
        thread.join()
        assert time.monotonic() - silent_s[0] < 60
        for cell in cells(own_cache).values():
            assert cell["verdict"] == "UNAVAILABLE"
            assert cell["reason"].startswith("host 'a': it does not answer; see that it is up")
        result.assert_outcomes(failed=2)


@pytest.mark.parametrize(
    "patch",
    [
        "import time; now = time.time; time.time = lambda: now() - 2e8",
        "import time; now = time.time; time.time = lambda: now() + 2e8",
        "import platform; platform.machine = lambda: 'aarch64'",
    ],
    ids=["clock behind", "clock ahead", "architecture"],
)
def test_another_clock_or_architecture_changes_no_figure(
    own_cache: Project, tmp_path: Path, patch: str
) -> None:
    with running_host(tmp_path, "a", 2) as host:
        python = make_interpreter(host.home / "other")
        add_module(host.home / "other", "sitecustomize", f"{patch}\n")
        tables = host.table(python=str(python)) + AWAY
        own_cache.configure(tables=tables, profile='devices = ["cpu", "away"]')
        own_cache.matrix("--quant-report=run.json", "--quant-fresh").assert_outcomes(passed=6)
        made = cells(own_cache)
        for name, cell in made.items():
            assert cell["verdict"] == "MEASURED"
            assert cell["chunks"] == made[name.replace("-away", "-cpu")]["chunks"]
            assert abs(cell["seconds_s"]) < 600


def test_a_slow_link_is_waited_for(own_cache: Project, tmp_path: Path) -> None:
    """Copying takes longer than a worker may be silent, and says how far it is."""
    with running_host(tmp_path, "a", 2) as host:
        script = tmp_path / "throttle.py"
        script.write_text(THROTTLE, encoding="utf-8")
        proxy = f"ProxyCommand={sys.executable} {script} {host.address} {host.port}"
        table = host.table().replace(
            'options = ["-F"', f'options = ["-o", {json.dumps(proxy)}, "-F"'
        )
        profile = 'devices = ["away"]'
        own_cache.configure(
            formats=("F16",), tables=table + AWAY, profile=profile, top="stall_s = 5"
        )
        own_cache.matrix("--quant-report=run.json").assert_outcomes(passed=1)
        begun, *_ = events(own_cache)
        copied = [e for e in events(own_cache) if e["event"] == "Copying" and e["total"] > 1e6]
        assert copied[-1]["done"] == copied[-1]["total"]
        assert copied[-1]["time_s"] - begun["time_s"] > 5


def spoil_engine(folder: Path) -> Path:
    """Return an interpreter whose llama.cpp turns positions by other angles."""
    python = make_interpreter(folder, [name for name in (*ENGINE, *NUMPY) if name != "llama_cpp"])
    spoiled = copy_engine(folder) / "llama_cpp.py"
    text = spoiled.read_text(encoding="utf-8")
    spoiled.unlink()
    spoiled.write_text(
        f"""{text}
_sound = llama_context_default_params
def llama_context_default_params():
    parameters = _sound()
    parameters.rope_freq_base = 50.0
    return parameters
llama_context_default_params.restype = _sound.restype
llama_context_default_params.argtypes = _sound.argtypes
""",
        encoding="utf-8",
    )
    return python


def test_a_host_that_computes_otherwise_shares_no_cells(own_cache: Project, tmp_path: Path) -> None:
    """One of two hosts said to be equal is given up, and the report says why."""
    with running_host(tmp_path, "a", 2) as a, running_host(tmp_path, "b", 3) as b:
        python = spoil_engine(b.home / "other")
        tables = a.table() + b.table(python=str(python)) + EQUAL
        configure_long(own_cache, tables, '["away"]')
        text = (own_cache.root / "pyproject.toml").read_text("utf-8")
        text = text.replace("chunks = 32\nlooks = [32]", "chunks = 4\nlooks = [4]")
        text = text.replace(
            'formats = ["F16", "Q8_0"]', 'formats = ["F16", "Q8_0", "Q4_0", "Q5_0"]'
        )
        (own_cache.root / "pyproject.toml").write_text(text, "utf-8")
        result = own_cache.matrix("--quant-report=run.json", "--quant-report=run.md")
        result.assert_outcomes(passed=4)
        said = "host '[ab]': F16 of olmoe-mini has a perplexity of .* where another host of device"
        assert re.search(said, (own_cache.root / "run.md").read_text("utf-8"))
        result.stdout.re_match_lines([f".*{said}.*"])
        lost = {e["lane"] for e in events(own_cache) if e["event"] == "HostGivenUp"}
        assert len(lost) == 1
        made = cells(own_cache)
        reference = made["olmoe-mini-F16-away"]["per_token_sha256"]
        for name, cell in made.items():
            assert cell["verdict"] == "MEASURED"
            assert name.endswith("F16-away") or cell["reference_per_token_sha256"] == reference
            assert cell["divergence"] is None or cell["divergence"]["mean_kld_nats"] < 0.2
