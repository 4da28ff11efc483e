"""A violation prints one command, and the command finds it again."""

from __future__ import annotations

import shlex
import subprocess
import sys

import numpy as np
import pytest

from pytest_quantgate.codecs.properties import PROPERTIES
from pytest_quantgate.codecs.replay import main
from pytest_quantgate.codecs.violation import Case, Violation
from tests.codecs.reference import ReferenceMxfp4


def broken_example() -> Violation:
    rows = np.linspace(-1, 1, 64, dtype=np.float32)[None, :]
    with pytest.raises(Violation) as caught:
        PROPERTIES["bound"].check(ReferenceMxfp4(exponent=1), Case(rows=rows))
    return caught.value


def test_violation_tells_what_was_found() -> None:
    violation = broken_example()
    text = str(violation)
    assert text.startswith("MXFP4 (reference): bound: an error above its bound\n")
    assert violation.error is not None
    assert violation.bound is not None
    assert violation.error > violation.bound
    assert len(bytes.fromhex(violation.block_hex)) == 17
    assert len(violation.values) == 32
    for label in ("block 0, element", "value", "decoded", "error", "bound", "replay"):
        assert label in text


def test_printed_command_replays_the_example() -> None:
    """On the engine, which doesn't have the fault, the same block keeps the property."""
    words = shlex.split(broken_example().replay.replace("--codec reference", "--codec native"))
    assert words[:3] == ["python", "-m", "pytest_quantgate.codecs.replay"]
    done = subprocess.run(
        [sys.executable, *words[1:]], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "MXFP4: bound holds on this example\n")


def test_replay_exits_1_on_a_violation(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_backend: object, _name: str) -> ReferenceMxfp4:
        return ReferenceMxfp4(exponent=1)

    monkeypatch.setattr("pytest_quantgate.codecs.replay.NativeCodec", broken)
    arguments = shlex.split(broken_example().replay)[3:]
    arguments[arguments.index("reference")] = "native"
    assert main(arguments) == 1
    assert "bound: an error above its bound" in capsys.readouterr().out


def test_replay_takes_matrix_and_bytes() -> None:
    rng = np.random.default_rng(0)
    case = Case(
        rows=rng.standard_normal((1, 512)).astype(np.float32),
        imatrix=np.ones(512, dtype=np.float32),
        limit=1.05,
    )
    assert main(["--type", "Q4_K", "--property", "imatrix", *case.arguments()]) == 0
    data = rng.integers(0, 256, (2, 144), dtype=np.uint8)
    arguments = ["--type", "Q4_K", "--property", "gguf-dequantize", *Case(data=data).arguments()]
    assert main(arguments) == 0
    assert main(["--type", "Q4_K", "--property", "golden-rms"]) == 0
