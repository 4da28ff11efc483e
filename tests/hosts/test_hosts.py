"""Cells on other machines, each a real sshd on a loopback address with its own home folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest

from pytest_quantgate.cli.doctor.findings import Section
from pytest_quantgate.cli.doctor.hosts import examine_hosts
from pytest_quantgate.cli.doctor.project import project_of
from pytest_quantgate.cli.main import main
from pytest_quantgate.config.settings import load_settings
from tests.conftest import Project
from tests.hosts.sshd import WHY_NOT, Host, running_host

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or ""),
]

AWAY = """
[tool.quantgate.devices.away]
host = "a"
"""
EQUAL = """
[tool.quantgate.devices.away]
host = ["a", "b"]
"""


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[tuple[Host, Host, Host]]:
    """Three hosts."""
    with ExitStack() as stack:
        a, b, c = (
            stack.enter_context(running_host(tmp_path, label, number))
            for label, number in (("a", 2), ("b", 3), ("c", 4))
        )
        yield a, b, c


def cells(project: Project, name: str = "run.json") -> dict[str, dict[str, Any]]:
    """Return the cells of a record, by id."""
    record = json.loads((project.root / name).read_text(encoding="utf-8"))
    return {cell["id"]: cell for cell in record["cells"]}


def events(project: Project) -> list[dict[str, Any]]:
    """Return the events of all runs."""
    paths = (project.cache / "runs").glob("*/events.jsonl")
    return [
        json.loads(line)
        for path in paths
        for line in path.read_text(encoding="utf-8").splitlines()
        if line.endswith("}")
    ]


def once(condition: Callable[[], bool], act: Callable[[], object]) -> threading.Thread:
    """Do something in the background as soon as a condition holds."""

    def watch() -> None:
        until_s = time.monotonic() + 120
        while time.monotonic() < until_s and not condition():
            time.sleep(0.02)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


def test_hosts_measure_what_this_machine_does_and_are_named_nowhere(
    own_cache: Project, hosts: tuple[Host, Host, Host]
) -> None:
    """Bit for bit; each file goes there once; records and reports have the labels alone."""
    formats = ("F16", "Q8_0", "Q4_0", "Q4_K_M", "Q6_K")
    tables = "".join(host.table() for host in hosts)
    device = '[tool.quantgate.devices.away]\nhost = ["a", "b", "c"]\n'
    own_cache.configure(formats=formats, tables=tables + device, profile='devices = ["away"]')
    reports = ("--quant-report=run.json", "--quant-report=run.md", "--quant-report=run.html")
    own_cache.matrix(*reports, "--quant-fresh").assert_outcomes(passed=5)
    lanes = {event["lane"] for event in events(own_cache)}
    assert lanes == {"a/away:cpu", "b/away:cpu", "c/away:cpu"}
    for name in ("run.json", "run.md", "run.html"):
        text = (own_cache.root / name).read_text(encoding="utf-8")
        for host in hosts:
            for secret in (host.address, str(host.home), str(host.keys)):
                assert secret not in text
    for host in hosts:
        assert host.wait_until_empty() == []
        models = (host.home / ".cache/pytest-quantgate-host/files").rglob("*.gguf")
        names = [path.name for path in models]
        assert len(names) == len(set(names))
    own_cache.configure(formats=formats)
    own_cache.matrix("--quant-report=here.json", "--quant-fresh").assert_outcomes(passed=5)
    here = {name.removesuffix("-cpu"): cell for name, cell in cells(own_cache, "here.json").items()}
    away = {name.removesuffix("-away"): cell for name, cell in cells(own_cache).items()}
    for name, cell in here.items():
        for field in ("chunks", "per_token_sha256", "tensors", "ppl", "kld"):
            assert away[name].get(field) == cell.get(field), (name, field)


def test_three_hosts_measure_the_built_in_profile_as_one_machine_does(
    own_cache: Project, hosts: tuple[Host, Host, Host]
) -> None:
    """Both small models in 14 formats: the same verdicts and figures, bit for bit."""
    tables = "".join(host.table() for host in hosts)
    device = '[tool.quantgate.devices.away]\nhost = ["a", "b", "c"]\n'
    (own_cache.root / "pyproject.toml").write_text(tables + device, encoding="utf-8")
    for devices, name in (("away", "away.json"), ("cpu", "here.json")):
        given = (f"--quant-devices={devices}", f"--quant-report={name}", "--quant-fresh")
        own_cache.matrix(*given).assert_outcomes(passed=28)
    apart = ("id", "device", "seconds_s", "durations_s")
    away, here = (
        {
            (cell["model"], cell["format"]): {k: v for k, v in cell.items() if k not in apart}
            for cell in cells(own_cache, name).values()
        }
        for name in ("away.json", "here.json")
    )
    assert {cell["verdict"] for cell in here.values()} == {"PASS"}
    assert away == here
    lanes = {event["lane"] for event in events(own_cache) if event["lane"]}
    assert lanes == {"a/away:cpu", "b/away:cpu", "c/away:cpu"}


def mount_small_disk(folder: Path) -> None:
    """Mount a disk of half a megabyte."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("needs the right to mount a small disk")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"known": False},
            "host 'a': its host key is not known, or is another one than before; connect once",
        ),
        (
            {"python": "/nowhere/python"},
            "host 'a': the interpreter cannot be started there; set python to the path of one",
        ),
        (
            {"python": "/usr/bin/python3"},
            "host 'a': its interpreter has no llama_cpp*; type there: python3 -m pip install ll*",
        ),
        ({"ssh": "root@127.0.0.9"}, "host 'a': nothing listens for ssh there; start sshd, or*"),
        ({"ssh": "root@no.invalid"}, "host 'a': its name is not known; correct the ssh*"),
        ({"options": ["-F", "none", "-p", "PORT", "-i", "/dev/null"]}, "host 'a': its host key*"),
        ({"cache_dir": "/sys/quantgate"}, "host 'a': it may not write its cache; set cache_dir*"),
        ({"cache_dir": "SMALL"}, "host 'a': its disk is full; make room there, or set cache_dir*"),
    ],
    ids=["key", "interpreter", "packages", "refused", "name", "login", "rights", "disk"],
)
def test_a_host_that_cannot_be_used_is_told_in_one_line_and_the_rest_is_measured(
    own_cache: Project, tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    with ExitStack() as stack:
        if settings.get("cache_dir") == "SMALL":
            mount_small_disk(tmp_path / "small")
            stack.callback(subprocess.run, ["umount", str(tmp_path / "small")], check=True)
        host = stack.enter_context(running_host(tmp_path, "a", 2))
        given = json.loads(json.dumps(settings).replace("PORT", str(host.port)))
        if given.get("cache_dir") == "SMALL":
            given["cache_dir"] = str(tmp_path / "small")
        own_cache.configure(
            formats=("F16", "Q8_0"),
            tables=host.table(**given) + AWAY,
            profile='devices = ["cpu", "away"]',
        )
        result = own_cache.matrix("--quant-report=run.json")
        result.assert_outcomes(passed=2, failed=2)
        result.stdout.fnmatch_lines([f"tiny-F16-away: UNAVAILABLE: {said}*"])
        for cell in cells(own_cache).values():
            is_here = cell["id"].endswith("-cpu")
            assert cell["verdict"] == ("MEASURED" if is_here else "UNAVAILABLE")
            assert host.address not in cell["reason"]
            assert "\n" not in cell["reason"]
        assert host.wait_until_empty() == []


def configure_long(project: Project, tables: str, devices: str) -> None:
    """Configure a run of some ten seconds a cell."""
    project.configure(
        formats=("F16", "Q8_0"),
        tables=tables,
        profile=f'models = ["olmoe-mini"]\ntexts = ["evaluation"]\nn_ctx = 512\nchunks = 32\n'
        f"looks = [32]\ndevices = {devices}",
        top="stall_s = 8",
    )


def scoring_on(project: Project, lane: str) -> Callable[[], bool]:
    """Return whether a lane has begun to score."""
    return lambda: any(
        event["event"] == "Scoring" and event["lane"].startswith(lane) and event["done"] > 0
        for event in events(project)
    )


def test_the_cells_of_a_host_that_is_gone_move_to_an_equal_one(
    own_cache: Project, hosts: tuple[Host, Host, Host]
) -> None:
    a, b, _ = hosts
    configure_long(own_cache, a.table() + b.table() + EQUAL, '["away"]')
    thread = once(scoring_on(own_cache, "a/"), a.cut)
    own_cache.matrix("--quant-report=run.json").assert_outcomes(passed=2)
    thread.join()
    assert a.wait_until_empty() == []
    assert b.wait_until_empty() == []


def test_without_an_equal_one_they_are_unavailable_and_the_others_complete(
    own_cache: Project, hosts: tuple[Host, Host, Host]
) -> None:
    a = hosts[0]
    configure_long(own_cache, a.table() + AWAY, '["cpu", "away"]')
    thread = once(scoring_on(own_cache, "a/"), a.cut)
    result = own_cache.matrix("--quant-report=run.json", "-k", "away or F16")
    thread.join()
    verdicts = {name: cell["verdict"] for name, cell in cells(own_cache).items()}
    assert verdicts == {
        "olmoe-mini-F16-cpu": "MEASURED",
        "olmoe-mini-F16-away": "UNAVAILABLE",
        "olmoe-mini-Q8_0-away": "UNAVAILABLE",
    }
    result.stdout.fnmatch_lines(["*UNAVAILABLE: host 'a': *run again"])
    assert a.wait_until_empty() == []


def test_a_worker_that_stands_still_is_ended_in_time(
    own_cache: Project, hosts: tuple[Host, Host, Host]
) -> None:
    """The cell that it measured is TIMEOUT, the next one is measured by a new worker."""
    a = hosts[0]
    configure_long(own_cache, a.table() + AWAY, '["away"]')

    def stop_worker() -> None:
        for process in a.processes():
            if any("libllama" in row.path for row in process.memory_maps()):
                os.kill(process.pid, signal.SIGSTOP)

    thread = once(scoring_on(own_cache, "a/"), stop_worker)
    result = own_cache.matrix("--quant-report=run.json")
    thread.join()
    verdicts = {name: cell["verdict"] for name, cell in cells(own_cache).items()}
    assert verdicts["olmoe-mini-F16-away"] == "TIMEOUT"
    assert verdicts["olmoe-mini-Q8_0-away"] == "MEASURED"
    result.stdout.fnmatch_lines(["*no sign of life for 8 s; the worker was ended*"])
    assert a.wait_until_empty() == []


def test_a_model_that_is_there_is_not_copied(own_cache: Project, tmp_path: Path) -> None:
    with running_host(tmp_path, "a", 2) as host:
        folder = host.home / "models"
        folder.mkdir()
        (folder / "other-name.gguf").write_bytes(own_cache.model.read_bytes())
        tables = host.table(models=["~/models"]) + AWAY
        own_cache.configure(formats=("F16",), tables=tables, profile='devices = ["away"]')
        own_cache.matrix().assert_outcomes(passed=1)
        assert not any(
            event["event"] == "Copying" and event["cell"].endswith(".gguf")
            for event in events(own_cache)
        )


def test_a_pool_takes_the_devices_that_its_hosts_have(
    own_cache: Project, hosts: tuple[Host, Host, Host]
) -> None:
    a, b, _ = hosts
    pool = '[tool.quantgate.devices.pool]\nhost = ["a", "b"]\nbackend = "{}*"\n'
    tables = a.table() + b.table() + pool
    own_cache.configure(tables=tables.format("cpu"), profile='devices = ["pool"]')
    own_cache.matrix("--quant-report=run.json").assert_outcomes(passed=3)
    lanes = {event["lane"] for event in events(own_cache)}
    assert lanes == {"a/pool:cpu", "b/pool:cpu"}
    own_cache.configure(tables=tables.format("CUDA"), profile='devices = ["pool"]')
    result = own_cache.matrix("--quant-report=run.json")
    result.assert_outcomes(failed=3)
    result.stdout.fnmatch_lines(
        ["tiny-F16-pool: UNAVAILABLE: device 'pool': the engine has no 'CUDA*'; there are: cpu"]
    )


def test_an_old_engine_on_a_host_is_an_interpreter_there(
    own_cache: Project, tmp_path: Path
) -> None:
    """Held against each other there; one that cannot be started is told in a line."""
    with running_host(tmp_path, "a", 2) as host:
        engine = f"[tool.quantgate.engines.old]\npython = {json.dumps(sys.executable)}\n"
        there = "[tool.quantgate.hosts.a.engines]\nold = {}\n"
        tables = host.table() + there + engine + AWAY
        profile = 'devices = ["away"]\nagainst = "old"'
        formats = ("F16", "Q8_0")
        good = tables.format(json.dumps(sys.executable))
        own_cache.configure(formats=formats, tables=good, profile=profile)
        own_cache.matrix("--quant-report=run.json").assert_outcomes(passed=2)
        for cell in cells(own_cache).values():
            assert cell["verdict"] == "PASS"
            assert "identical to the old engine's" in cell["reason"]
        own_cache.configure(
            formats=formats, tables=tables.format('"/nowhere/python"'), profile=profile
        )
        result = own_cache.matrix("--quant-report=run.json")
        result.assert_outcomes(failed=2)
        result.stdout.fnmatch_lines(
            ["*UNAVAILABLE: the old engine: host 'a': the interpreter '/nowhere/python' cannot*"]
        )


def test_shapes_are_not_for_hosts(own_cache: Project, tmp_path: Path) -> None:
    with running_host(tmp_path, "a", 2) as host:
        own_cache.configure(
            formats=("F16", "Q8_0"),
            tables=host.table() + AWAY,
            profile='devices = ["away"]\nmodels = ["olmoe-1b-7b"]',
        )
        own_cache.matrix("--quant-report=run.json").assert_outcomes(passed=1, failed=1)
        reason = cells(own_cache)["olmoe-1b-7b-Q8_0-away"]["reason"]
        assert reason.startswith("the sizes of a shape are worked out on this machine alone; give")


def test_nothing_stays_there_when_the_run_is_killed(own_cache: Project, tmp_path: Path) -> None:
    with running_host(tmp_path, "a", 2) as host:
        configure_long(own_cache, host.table() + AWAY, '["away"]')
        command = ["pytest", "--quant-matrix", f"--quant-cache={own_cache.cache}"]
        run = subprocess.Popen(
            command, cwd=own_cache.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        once(scoring_on(own_cache, "a/"), run.kill).join()
        run.wait()
        assert host.wait_until_empty() == []
        assert psutil.pid_exists(host.server.pid)


def test_the_commands_ask_every_host(
    own_cache: Project,
    hosts: tuple[Host, Host, Host],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """One answers, one lacks the packages, of one the key is not known."""
    a, b, c = hosts
    gpu = '\n[tool.quantgate.devices.gpu]\nhost = "a"\nbackend = "CUDA0"\n'
    tables = a.table() + b.table(python="/usr/bin/python3") + c.table(known=False) + AWAY + gpu
    own_cache.configure(tables=tables, profile='devices = ["away", "gpu"]')
    monkeypatch.chdir(own_cache.root)
    assert main(["devices"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("host a: llama-cpp-python ") for line in lines)
    assert any(line.startswith("host 'b': its interpreter has no llama_cpp") for line in lines)
    assert any(line.startswith("host 'c': its host key is not known") for line in lines)
    section = Section(name="Hosts")
    examine_hosts(section, project_of(load_settings(own_cache.root)))
    severities = [finding.severity.value for finding in section.findings]
    assert severities == ["error", "warning", "warning"]
    assert section.findings[0].what == "device 'gpu': host 'a' has no 'CUDA0'; there are: cpu"
    for host in hosts:
        assert host.wait_until_empty() == []
