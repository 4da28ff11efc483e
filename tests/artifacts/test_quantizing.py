"""What an engine wrote is held against what was asked for before it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from pytest_quantgate.artifacts import quantizing
from pytest_quantgate.artifacts.quantizing import quantize_file
from pytest_quantgate.engines.messages import (
    PlanQuantization,
    QuantizationPlanned,
    Quantize,
    Quantized,
)
from pytest_quantgate.errors import CellError, CellUnsupported, EnvironmentProblem
from pytest_quantgate.gguf.formats import find_format, make_recipe
from pytest_quantgate.gguf.reader import read_gguf
from tests.conftest import Project
from tests.tiny_model import finish


class Writer:
    """An engine that writes given bytes, fails, or tells what it would write."""

    def __init__(self, data: bytes, error: CellError | None = None) -> None:
        self._data, self._error = data, error

    def identity(self) -> Any:
        raise AssertionError("its identity is not asked for")

    def ask(self, request: Any, on_reply: Any = None) -> Any:
        del on_reply
        if isinstance(request, PlanQuantization):
            names = (tensor.name for tensor in read_gguf(Path(request.source)).tensors)
            return QuantizationPlanned(
                types=tuple((name, "Q8_0") for name in names), needs_imatrix=False
            )
        assert isinstance(request, Quantize)
        Path(request.destination).write_bytes(self._data)
        if self._error is not None:
            raise self._error
        return Quantized(seconds_s=0.5)

    def close(self) -> None:
        pass


def quantize(engine: Writer, model: Path, path: Path, wanted: Any = "Q8_0") -> float:
    item = find_format(wanted) if isinstance(wanted, str) else wanted
    return quantize_file(path, read_gguf(model), item, None, engine, 1, print)


def test_a_file_of_the_sources_tensors_is_kept(tiny_model: Path, tmp_path: Path) -> None:
    assert quantize(Writer(tiny_model.read_bytes()), tiny_model, tmp_path / "made") == 0.5
    assert (tmp_path / "made").is_file()


def test_a_spoiled_file_is_not(tiny_model: Path, tmp_path: Path) -> None:
    data = tiny_model.read_bytes()
    renamed = data.replace(b"blk.1.attn_q.weight", b"blk.1.attn_Q.weight")
    start = min(tensor.offset_bytes for tensor in read_gguf(tiny_model).tensors)
    moved = data[:start] + bytes(32) + data[start:-32]
    for spoiled, message in (
        (data[:-1], "the file is truncated: 2,1"),
        (data[:100], "the file is truncated or damaged: its header ends early"),
        (renamed, r"blk.1.attn_q.weight is not in it as in its source \(1 of 21 tensors\)"),
        (moved, r"token_embd.weight is not in it as in its source \(21 of 21 tensors\)"),
    ):
        with pytest.raises(CellUnsupported, match=f"quantizer spoiled its file: {message}") as why:
            quantize(Writer(spoiled), tiny_model, tmp_path / "made")
        assert "\n" not in str(why.value)
        assert not (tmp_path / "made").exists()


def test_a_failure_on_a_full_disk_is_the_machines(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine says something else; what it left half-written no longer takes space."""
    free = [10_000_000, 1_000_000]
    monkeypatch.setattr(quantizing, "free_bytes", lambda _path: free.pop(0))
    broken = Writer(b"half", CellUnsupported("llama.cpp cannot quantize: iostream error"))
    with pytest.raises(EnvironmentProblem, match=r"too full for a file of 1\.1 MB: "):
        quantize(broken, tiny_model, tmp_path / "made")
    assert not free
    free += [10_000_000, 10_000_000]
    with pytest.raises(CellUnsupported, match="iostream error"):
        quantize(broken, tiny_model, tmp_path / "made")
    assert not list(tmp_path.iterdir())
    free += [500_000]
    with pytest.raises(EnvironmentProblem, match=r"too full for a file of 1\.1 MB: "):
        quantize(Writer(b"never written"), tiny_model, tmp_path / "made")
    assert not list(tmp_path.iterdir())


def test_an_override_that_fits_no_tensor_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    engine = Writer(tiny_model.read_bytes())
    wrong = make_recipe("mine", "Q8_0", {"ffn_dwon": "Q4_0"})
    with pytest.raises(
        CellUnsupported,
        match=r"'mine': the override 'ffn_dwon' = 'Q4_0' fits no tensor of .* \(did you mean"
        " ffn_down.*; its tensors are: attn_k, ",
    ):
        quantize(engine, tiny_model, tmp_path / "made", wrong)
    # A group may be absent, so that one recipe serves dense models and mixtures of experts.
    for name in ("experts", "ffn_down", r"blk\.0\.attn_v"):
        quantize(engine, tiny_model, tmp_path / "made", make_recipe("r", "Q8_0", {name: "Q4_0"}))


@pytest.mark.parametrize("alignment", [64, 4096])
def test_llama_cpp_spoils_a_source_of_another_alignment(
    project: Project, alignment: int, tmp_path: Path
) -> None:
    reader = gguf.GGUFReader(project.model)
    source = tmp_path / "aligned.gguf"
    writer = gguf.GGUFWriter(source, "llama")
    writer.add_custom_alignment(alignment)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            kind, *items = field.types
            writer.add_key_value(name, field.contents(), kind, items[-1] if items else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data)
    finish(writer)
    project.configure(
        formats=("F16", "Q8_0"),
        profile='models = ["aligned"]',
        tables=f'[tool.quantgate.models.aligned]\nsource = "{source}"',
    )
    result = project.matrix()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*-Q8_0-cpu: UNSUPPORTED: llama.cpp's quantizer spoiled its file: the file is trunc"
            f"ated: *; it cannot keep the source's general.alignment of {alignment}, only 32: *"
        ]
    )
