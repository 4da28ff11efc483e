"""The built-in matrix as an array under a real slurmctld and slurmd on this machine."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pytest_quantgate.results.record import RunRecord
from pytest_quantgate.results.record_file import read_record

NEEDED = ("slurmctld", "slurmd", "munged", "sbatch", "scontrol")
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in NEEDED if shutil.which(name, path=PATH) is None]
SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "slurm-array.sh"
NOT_AT_REST = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (slurm-wlm, munge)"),
    pytest.mark.skipif(
        not hasattr(os, "getuid") or os.getuid() != 0, reason="slurmd is started by root"
    ),
]

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
# a task that is requeued waits until its credential has expired
AuthInfo=socket={munge}/munge.socket,cred_expire=5
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
MpiDefault=none
# the processors that the example asks for, however many there are
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Slurm:
    """A cluster of one node; everything of it is below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "SLURM"))},
            "PATH": PATH,
            "SLURM_CONF": str(folder / "slurm.conf"),
            "XDG_CACHE_HOME": str(folder / "cache"),
        }

    def run(self, *command: str, code: int = 0, timeout_s: float = 60.0) -> str:
        """Return what a command prints that ends with an exit code."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout.strip()

    def states(self, job: str) -> dict[str, str]:
        """Return the state of each task of a job that is not forgotten, by its number."""
        rows = self.run("squeue", "-h", "-r", "-t", "all", "-j", job, "-o", "%K %T")
        return dict(row.split() for row in rows.splitlines())

    def wait_for(self, job: str) -> dict[str, str]:
        """Return the states of a job's tasks once none of them runs or waits."""
        assert until(lambda: not NOT_AT_REST & set(self.states(job).values()), 240.0)
        return self.states(job)


def until(condition: Callable[[], bool], seconds_s: float) -> bool:
    """Wait for a condition, and return whether it came in time."""
    end_s = time.monotonic() + seconds_s
    while not condition():
        if time.monotonic() > end_s:
            return False
        time.sleep(0.1)
    return True


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def daemon(slurm: Slurm, *command: str) -> Iterator[None]:
    """Run a daemon in the foreground."""
    path = shutil.which(command[0], path=PATH)
    assert path is not None
    with (slurm.folder / f"{command[0]}.out").open("wb") as log:
        process = subprocess.Popen(
            [path, *command[1:]],
            env=slurm.environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=30)


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[Slurm]:
    """A cluster with munged, slurmctld and slurmd."""
    host = socket.gethostname().partition(".")[0]
    # As munged wants it: nobody else may write above its socket.
    munge = Path(f"/run/quantgate-munge-{os.getpid()}")
    munge.mkdir(mode=0o755)
    key = munge / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o400)
    for name in ("state", "spool"):
        (tmp_path / name).mkdir()
    text = CONFIGURATION.format(
        host=host,
        controller_port=free_port(),
        node_port=free_port(),
        munge=munge,
        folder=tmp_path,
    )
    (tmp_path / "slurm.conf").write_text(text, encoding="utf-8")
    cluster = Slurm(tmp_path)
    files = [f"--{name}-file={munge}/munged.{name}" for name in ("pid", "log", "seed")]
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, munge)
        socket_ = f"--socket={munge}/munge.socket"
        stack.enter_context(
            daemon(cluster, "munged", "-F", socket_, f"--key-file={key}", *files, "--force")
        )
        assert until((munge / "munge.socket").exists, 30.0)
        stack.enter_context(daemon(cluster, "slurmctld", "-D"))
        stack.enter_context(daemon(cluster, "slurmd", "-D"))
        assert until(lambda: is_up(cluster), 60.0)
        yield cluster


def is_up(slurm: Slurm) -> bool:
    """Return whether the node takes jobs; the controller may not answer yet."""
    try:
        return slurm.run("sinfo", "-h", "-o", "%T") == "idle"
    except AssertionError:
        return False


def processes_of(task: str) -> Iterator[psutil.Process]:
    """Return the processes of a task of an array."""
    for process in psutil.process_iter():
        try:
            if process.environ().get("SLURM_ARRAY_TASK_ID") == task:
                yield process
        except psutil.Error:
            continue


def is_measuring(task: str) -> bool:
    """Return whether a task's worker has loaded llama.cpp."""
    return any(
        "libllama" in row.path for process in processes_of(task) for row in process.memory_maps()
    )


def kill(task: str) -> None:
    """Kill a task's test run, as the kernel does that is out of memory."""
    for process in processes_of(task):
        if "--quant-shard" in process.cmdline():
            process.kill()


def content(record: RunRecord) -> dict[str, object]:
    """Return what a record says of each cell but how long it took."""
    return {cell.id: replace(cell, seconds_s=0.0, durations_s={}) for cell in record.cells}


def test_an_array_with_a_killed_task_is_the_whole_run(slurm: Slurm) -> None:
    """Both small models in 14 formats, as docs/examples has it; the second task dies."""
    array = slurm.run("sbatch", "--parsable", str(SCRIPT))
    assert until(lambda: is_measuring("1"), 120.0)
    kill("1")
    states = slurm.wait_for(array)
    assert states == {"0": "COMPLETED", "1": "FAILED", "2": "COMPLETED", "3": "COMPLETED"}
    waiting = ("quantgate", "merge", "--wait", f"quantgate-{array}", "--expect", "4")
    assert "missing: shard 2/4" in slurm.run(*waiting, "--timeout", "0", code=1)
    slurm.run("scontrol", "requeue", f"{array}_1")
    merging = re.search(r"sbatch --dependency.*--wrap \"(.*)\"", SCRIPT.read_text("utf-8"))
    assert merging is not None
    wrapped = merging[1].replace("JOB", array)
    after = f"--dependency=afterany:{array}"
    last = slurm.run("sbatch", "--parsable", after, "--wrap", wrapped)
    assert set(slurm.wait_for(array).values()) == {"COMPLETED"}
    assert set(slurm.wait_for(last).values()) == {"COMPLETED"}
    pytest_ = (sys.executable, "-m", "pytest", "--quant-matrix", "--quant-fresh")
    slurm.run(*pytest_, "--quant-report=whole.json", timeout_s=300.0)
    joined, whole = (read_record(slurm.folder / name) for name in ("all.json", "whole.json"))
    assert len(joined.cells) == 28
    assert {cell.verdict for cell in joined.cells} == {"PASS"}
    assert content(joined) == content(whole)
    assert joined.missing == ()
    assert (slurm.folder / "all.md").exists()
