"""A violation prints what was compared and one command, and the command finds it again."""

from __future__ import annotations

import shlex
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pytest_quantgate.codecs import golden
from pytest_quantgate.codecs.adapters import GgufCodec, NativeCodec
from pytest_quantgate.codecs.kernels import check_vec_dot
from pytest_quantgate.codecs.origin import NOT_IMPORTABLE
from pytest_quantgate.codecs.properties import PROPERTIES
from pytest_quantgate.codecs.remote import WorkerCodecs
from pytest_quantgate.codecs.replay import main
from pytest_quantgate.codecs.runner import PROFILES, run_property
from pytest_quantgate.codecs.violation import Case, Violation
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.worker.native import NativeCodecs
from pytest_quantgate.engines.worker.native_kernels import NativeKernels
from tests.codecs.reference import ReferenceMxfp4

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pytest_quantgate.codecs.codec import Codec, CodecSpec, Float32Array, Uint8Array

ROWS = np.linspace(-1, 1, 64, dtype=np.float32)[None, :]


class Louder(NativeCodec):
    """The engine's codec, whose positive values come back 1 % larger, or by so much."""

    label = "louder"
    factor = 1.01

    def dequantize(self, data: Uint8Array) -> Float32Array:
        decoded = super().dequantize(data)
        return np.where(decoded > 0, decoded * np.float32(self.factor), decoded)


class Doubled(Louder):
    """Twice as large, of which no search is better than one with fewer bits."""

    factor = 2.0


class Wrapper:
    """Another codec with one decoded value off."""

    label = "wrapper"
    can_quantize = True

    def __init__(self, inner: Codec, offset: float = 0.5) -> None:
        self.inner = inner
        self.offset = offset

    @property
    def spec(self) -> CodecSpec:
        return self.inner.spec

    def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
        return self.inner.quantize(rows, imatrix)

    def dequantize(self, data: Uint8Array) -> Float32Array:
        decoded = self.inner.dequantize(data).copy()
        decoded[:, -1] += np.float32(self.offset)
        return decoded


class WrongKernels(NativeKernels):
    """The engine's kernels with every product off."""

    def vec_dot(
        self, name: str, data: Uint8Array, activations: Float32Array
    ) -> tuple[Float32Array, Float32Array]:
        products, rounded = super().vec_dot(name, data, activations)
        return products + np.float32(100), rounded


MADE_HERE = Wrapper(GgufCodec("Q8_0"), offset=0.25)


def violation_of(codec: Codec, name: str, case: Case | None = None) -> Violation:
    with pytest.raises(Violation) as caught:
        PROPERTIES[name].check(codec, Case(rows=ROWS) if case is None else case)
    return caught.value


def replayed(violation: Violation) -> tuple[int, str]:
    """Type the command that a violation prints."""
    words = shlex.split(violation.replay)
    assert words[:3] == ["python", "-m", "pytest_quantgate.codecs.replay"]
    done = subprocess.run(
        [sys.executable, *words[1:]], capture_output=True, text=True, check=False, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_violation_tells_what_was_compared() -> None:
    violation = violation_of(ReferenceMxfp4(exponent=1), "bound")
    text = str(violation)
    assert text.startswith("MXFP4 (reference): bound: an error above its bound\n")
    assert violation.error is not None
    assert violation.bound is not None
    assert violation.error > violation.bound
    assert len(bytes.fromhex(violation.block_hex)) == 17
    assert len(violation.values) == 32
    for label in ("block 0, element", "value", "decoded", "error", "bound", "replay"):
        assert label in text


def test_a_second_pass_is_compared_with_the_first_one(native_codecs: NativeCodecs) -> None:
    louder = Louder(native_codecs, "Q8_0")
    rows = ROWS[:, 32:]
    once = louder.dequantize(louder.quantize(rows))
    twice = louder.dequantize(louder.quantize(once))
    violation = violation_of(louder, "fixed-point", Case(rows=rows))
    at = violation.element
    figures = [violation.value, violation.expected, violation.decoded]
    assert figures == [float(row[0, at]) for row in (rows, once, twice)]
    assert violation.error == abs(float(once[0, at]) - float(twice[0, at]))
    assert violation.error < 0.02


def test_a_negated_block_is_compared_with_the_negative(native_codecs: NativeCodecs) -> None:
    louder = Louder(native_codecs, "Q8_0")
    rows = ROWS[:, 32:]
    violation = violation_of(louder, "sign", Case(rows=rows))
    at = violation.element
    assert violation.decoded == louder.dequantize(louder.quantize(rows))[0, at]
    assert violation.expected == -louder.dequantize(louder.quantize(-rows))[0, at]
    assert violation.error is not None
    assert 0 < violation.error < 0.02, "not the distance of x from −x"


def test_a_scaled_block_is_compared_with_the_unscaled_one() -> None:
    class OffAtTwo(ReferenceMxfp4):
        """One exponent too high for blocks above 1."""

        def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
            data = super().quantize(rows, imatrix).reshape(-1, 17)
            data[np.abs(rows.reshape(-1, 32)).max(axis=1) > 1, 0] += 1
            return data.reshape(rows.shape[0], -1)

    violation = violation_of(OffAtTwo(), "power-of-two")
    assert violation.expected is not None
    assert violation.decoded == 2 * violation.expected
    assert violation.error == abs(violation.expected)


def test_a_value_that_gguf_decodes_otherwise_is_compared_with_gguf() -> None:
    data = np.full((2, 17), 127, dtype=np.uint8)
    violation = violation_of(ReferenceMxfp4(decoded_exponent=1), "gguf-dequantize", Case(data=data))
    assert violation.expected is not None
    assert violation.decoded == 2 * violation.expected


def test_a_matrixs_violation_shows_the_element_that_lost_most(native_codecs: NativeCodecs) -> None:
    class Spoiled(NativeCodec):
        """Loses element 300 where there is a matrix."""

        def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
            rows = rows.copy()
            rows[0, 300] = 0 if imatrix is not None else rows[0, 300]
            return super().quantize(rows, imatrix)

    rows = np.random.default_rng(0).standard_normal((1, 512)).astype(np.float32)
    rows[0, 300] = 5
    case = Case(rows=rows, imatrix=np.ones(512, dtype=np.float32), limit=1.05)
    violation = violation_of(Spoiled(native_codecs, "Q4_K"), "imatrix", case)
    assert (violation.block, violation.element, violation.value) == (1, 300 - 256, 5.0)


def test_a_neighbour_is_compared_with_itself_alone(native_codecs: NativeCodecs) -> None:
    class Leaky(NativeCodec):
        """The last block's first code depends on the block before."""

        def quantize(self, rows: Float32Array, imatrix: Float32Array | None = None) -> Uint8Array:
            data = super().quantize(rows, imatrix).reshape(-1, self.spec.block_bytes).copy()
            data[-1, 2] ^= data[:-1].sum() % 255
            return data.reshape(1, -1)

    leaky = Leaky(native_codecs, "Q8_0")
    for name in ("locality", "outside-domain"):
        violation = violation_of(leaky, name, Case(rows=ROWS[:, :32]))
        assert violation.block == 2
        assert violation.expected != violation.decoded
        assert violation.case.rows is not None
        assert violation.case.rows.shape == (1, 32), "what the check is given again"


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("bound", ReferenceMxfp4(exponent=1)),
        ("zeros", MADE_HERE),
        ("finite", Wrapper(NativeCodec(NativeCodecs(), "Q5_0"), offset=float("1e999"))),
        ("fixed-point", Wrapper(GgufCodec("Q8_0"))),
        ("sign", Louder(NativeCodecs(), "Q8_0")),
    ],
    ids=["arguments", "named in its module", "of a native one", "of gguf's", "of the base class"],
)
def test_the_command_finds_the_violation_of_a_codec_of_ones_own_again(
    name: str, codec: Codec
) -> None:
    violation = violation_of(codec, name)
    code, out = replayed(violation)
    assert (code, out) == (1, f"{violation}\n")


def test_the_command_finds_what_hypothesis_found_again() -> None:
    with pytest.raises(Violation) as caught:
        run_property(PROPERTIES["ties"], ReferenceMxfp4(half_up=True), PROFILES["quick"])
    code, out = replayed(caught.value)
    assert code == 1
    assert "a value between two levels went the other way" in out


def test_the_command_works_for_a_script(tmp_path: Path) -> None:
    """Neither installed nor importable from here, of a type that no engine has."""
    script = tmp_path / "my codec.py"
    script.write_text(
        "import numpy as np\n"
        "from pytest_quantgate.codecs.codec import CodecSpec\n"
        "from pytest_quantgate.codecs.properties import PROPERTIES\n"
        "from pytest_quantgate.codecs.violation import Case\n"
        "class Mine:\n"
        "    label, can_quantize = 'mine', True\n"
        "    spec = CodecSpec(name='MY8', block_elements=4, block_bytes=4)\n"
        "    def quantize(self, rows, imatrix=None):\n"
        "        return rows.astype(np.int8).view(np.uint8)\n"
        "    def dequantize(self, data):\n"
        "        return data.view(np.int8).astype(np.float32) + np.float32(1)\n"
        "if __name__ == '__main__':\n"
        "    PROPERTIES['zeros'].check(Mine(), Case(rows=np.ones((1, 4), dtype=np.float32)))\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=60
    )
    line = next(line for line in done.stderr.splitlines() if line.startswith("  replay"))
    words = shlex.split(line.removeprefix("  replay"))
    again = subprocess.run(
        [sys.executable, *words[1:]], capture_output=True, text=True, check=False, timeout=60
    )
    assert again.returncode == 1, again.stderr
    assert again.stdout.startswith("MY8 (mine): zeros: a zero came back as another value")


def test_a_codec_that_cannot_be_made_again_says_what_to_put_in(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Local(ReferenceMxfp4):
        pass

    violation = violation_of(Local(exponent=1), "bound")
    assert f"--codec {NOT_IMPORTABLE} " in violation.replay
    with pytest.raises(SystemExit) as caught:
        main(shlex.split(violation.replay)[3:])
    assert caught.value.code == 2
    assert "give MODULE:EXPRESSION, as my_codecs:MyCodec()" in capsys.readouterr().err


def test_kernels_of_ones_own_are_named_too(
    native_codecs: NativeCodecs, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Violation) as caught:
        check_vec_dot(NativeCodec(native_codecs, "Q4_K"), WrongKernels(), "positive")
    violation = caught.value
    assert violation.product == pytest.approx((violation.expected or 0) + 100, rel=1e-3)
    assert main(shlex.split(violation.replay)[3:]) == 1
    assert capsys.readouterr().out == f"{violation}\n"


@pytest.mark.parametrize("name", ["golden-rms", "ladder"])
def test_the_fixed_samples_violations_are_found_again(
    name: str, native_codecs: NativeCodecs, capsys: pytest.CaptureFixture[str]
) -> None:
    doubled = Doubled(native_codecs, "Q5_0")
    codecs = {"Q4_0": NativeCodec(native_codecs, "Q4_0"), "Q5_0": doubled}
    checks: dict[str, Callable[[], object]] = {
        "golden-rms": lambda: golden.check_golden(doubled),
        "ladder": lambda: golden.check_ladder(codecs.__getitem__, ("Q4_0", "Q5_0")),
    }
    with pytest.raises(Violation) as caught:
        checks[name]()
    violation = caught.value
    assert violation.error is not None
    assert violation.bound is not None
    assert violation.error > violation.bound
    assert main(shlex.split(violation.replay)[3:]) == 1
    assert capsys.readouterr().out == f"{violation}\n"


def test_an_engine_elsewhere_is_named(tmp_path: Path, native_codecs: NativeCodecs) -> None:
    (tmp_path / "lib").symlink_to(native_codecs.folder)
    elsewhere = NativeCodecs(tmp_path / "lib")
    violation = violation_of(Louder(elsewhere, "Q8_0"), "sign")
    violation.codec = NativeCodec(elsewhere, "Q8_0")
    assert f"--codec native --lib-dir {tmp_path}/lib --type Q8_0" in violation.replay
    assert main(shlex.split(violation.replay)[3:]) == 0


def test_an_engine_of_another_interpreter_is_asked_in_a_worker(
    tmp_path: Path, native_codecs: NativeCodecs
) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    violation = violation_of(Louder(native_codecs, "Q8_0"), "sign")
    engine = LlamaCppPython(python=str(python), log=tmp_path / "log", stall_s=60)
    violation.codec = NativeCodec(WorkerCodecs(engine), "Q8_0")
    engine.close()
    assert f"--codec native --python {python} --type Q8_0" in violation.replay
    assert main(shlex.split(violation.replay)[3:]) == 0


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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--type", "Q4_K", "--property", "bound"], "give --values"),
        (["--type", "Q4_K", "--property", "gguf-dequantize"], "give --data"),
        (["--type", "Q9_9", "--property", "ladder"], "no quantized type 'Q9_9'; it has Q4_0"),
        (["--type", "Q4_K", "--property", "matmul", "--device", "TPU0"], "no device 'TPU0'"),
        (["--type", "Q4_K", "--property", "ladder", "--codec", "no_such:X"], "no_such"),
    ],
)
def test_arguments_that_cannot_be_used_are_named(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
