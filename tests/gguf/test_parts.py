"""The parts of a model, and the formats that quantize one of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from pytest_quantgate.config.options import Overrides
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import Quantize
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.embedded import EMBEDDED
from pytest_quantgate.gguf.formats import (
    FILE_TYPES,
    TENSOR_TYPES,
    Format,
    find_format,
    keep_at,
    make_recipe,
    only_part,
)
from pytest_quantgate.gguf.reader import GgufFile, read_gguf
from pytest_quantgate.gguf.tensor_groups import (
    PARTS,
    QUANTIZED_PARTS,
    REST,
    part_of,
    quantized_parts,
)
from pytest_quantgate.matrix.cells import expand
from pytest_quantgate.results.measurements.size import measure_size


@pytest.mark.parametrize(
    ("tensor", "part"),
    [
        ("blk.0.ffn_gate_exps.weight", "experts"),
        ("blk.9.ffn_gate_up_exps.weight", "experts"),
        ("blk.0.ffn_gate_inp.weight", "router"),
        ("blk.0.exp_probs_b.bias", "router"),
        ("blk.0.attn_q.weight", "attention"),
        ("blk.0.attn_kv_a_mqa.weight", "attention"),
        ("blk.0.shortconv.in_proj.weight", "attention"),
        ("blk.0.ffn_down.weight", "feed_forward"),
        ("blk.0.ffn_up_shexp.weight", "feed_forward"),
        ("token_embd.weight", "embedding_output"),
        ("output.weight", "embedding_output"),
        ("output_norm.weight", REST),
        ("token_embd_norm.weight", REST),
        ("blk.0.attn_q_norm.weight", REST),
        ("blk.0.ffn_norm.weight", REST),
        ("blk.0.shortconv.conv.weight", REST),
        ("blk.0.attn_q.bias", REST),
    ],
)
def test_each_tensor_has_one_part(tensor: str, part: str) -> None:
    assert part_of(tensor) == part


def embedded(name: str) -> GgufFile:
    return read_gguf(EMBEDDED / f"{name}.gguf")


def test_what_llama_cpp_quantizes_of_the_embedded_models_is_in_a_part() -> None:
    for name, parts in (
        ("olmoe-mini", ("experts", "attention", "embedding_output")),
        ("lfm2moe-mini", QUANTIZED_PARTS),
    ):
        file = embedded(name)
        assert quantized_parts(tensor.name for tensor in file.tensors) == parts
        kept = {part_of(tensor.name) for tensor in file.tensors if tensor.type.name == "F32"}
        assert kept == {"router", REST}


def test_the_bytes_of_the_parts_are_the_bytes_of_all_tensors() -> None:
    file = embedded("lfm2moe-mini")
    size = measure_size(file, find_format("F16"))
    assert sum(size.bytes_by_part.values()) == size.tensor_bytes
    assert size.bytes_by_part["experts"] == 4 * 3 * 8 * 256 * 256 * 2


def test_a_format_of_one_part_is_found_by_its_name() -> None:
    found = find_format("q4_k.Experts")
    assert (found.name, found.part, found.file_type.name) == ("Q4_K_M.experts", "experts", "Q4_K_M")
    assert found.overridden_type("blk.3.attn_q.weight") == "F16"
    assert found.overridden_type("output.weight") == "F16"
    assert found.overridden_type("blk.3.ffn_up_exps.weight") is None
    assert not found.is_full_precision
    for part in QUANTIZED_PARTS:
        assert find_format(f"Q8_0.{part}").overridden_type("blk.0.other.weight") == "F16"


def test_a_recipe_keeps_its_overrides_in_its_part() -> None:
    recipe = make_recipe("slim", "Q4_K_M", {"experts": "MXFP4"})
    found = find_format("slim.experts", {"slim": recipe})
    assert found.overridden_type("blk.0.ffn_up_exps.weight") == "MXFP4"
    assert found.overridden_type("blk.0.attn_q.weight") == "F16"


def test_the_rest_stays_at_the_models_own_precision() -> None:
    assert keep_at(find_format("Q4_0.experts"), "BF16").overridden_type("output.weight") == "BF16"
    assert keep_at(find_format("Q4_0"), "BF16") == find_format("Q4_0")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("Q4_K_M.router", "quantizes no part 'router'; valid: experts, attention, feed_forward"),
        ("Q4_K_M.brain", "quantizes no part 'brain'"),
        ("F16.experts", "F16 quantizes nothing"),
        ("Q9.experts", "unknown format 'Q9'"),
    ],
)
def test_a_part_that_there_is_not(name: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_format(name)
    assert message in str(caught.value)


def test_a_profile_measures_formats_part_by_part(tmp_path: Path) -> None:
    overrides = Overrides(models=("olmoe-mini",), formats=("F16", "Q4_0"), parts=("Q4_0", "Q8_0"))
    settings = load_settings(tmp_path, overrides)
    cells = expand(settings, {"olmoe-mini": "BF16"}, {"olmoe-mini": ("experts", "attention")})
    names = [cell.format.name for cell in cells]
    assert names == [
        *("BF16", "Q4_0", "Q4_0.experts", "Q4_0.attention", "Q8_0.experts", "Q8_0.attention"),
    ]
    named = Overrides(models=("olmoe-mini",), formats=("F16", "Q4_0.experts"), parts=("Q4_0",))
    cells_named = expand(load_settings(tmp_path, named), parts={"olmoe-mini": ("experts",)})
    assert [cell.format.name for cell in cells_named] == ["F16", "Q4_0.experts"]
    assert cells[2].format.overrides[0][1] == "BF16"
    with pytest.raises(ConfigError, match="F16 quantizes nothing"):
        load_settings(tmp_path, Overrides(models=("olmoe-mini",), parts=("F16",)))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


def quantized(engine: LlamaCppPython, source: GgufFile, wanted: Format, folder: Path) -> GgufFile:
    destination = folder / f"{wanted.name}.gguf"
    engine.ask(
        Quantize(
            source=str(source.files[0]),
            destination=str(destination),
            file_type=FILE_TYPES[wanted.file_type.name].number,
            overrides=tuple((p, TENSOR_TYPES[name].number) for p, name in wanted.overrides),
            allow_requantize=False,
            n_threads=1,
        )
    )
    return read_gguf(destination)


def test_the_parts_together_are_the_whole(engine: LlamaCppPython, tmp_path: Path) -> None:
    """Each part's tensors get the types that the whole format gives them; the rest stays F16."""
    source = embedded("lfm2moe-mini")
    whole = quantized(engine, source, find_format("Q4_K_M"), tmp_path)
    wanted = {tensor.name: tensor.type.name for tensor in whole.tensors}
    saved = 0
    for part in QUANTIZED_PARTS:
        wanted_format = only_part(find_format("Q4_K_M"), part)
        file = quantized(engine, source, wanted_format, tmp_path)
        for tensor in file.tensors:
            before = next(item for item in source.tensors if item.name == tensor.name)
            expected = wanted[tensor.name] if part_of(tensor.name) == part else before.type.name
            assert tensor.type.name == expected, f"{part}: {tensor.name}"
        saved += sum(t.n_bytes for t in source.tensors) - sum(t.n_bytes for t in file.tensors)
        assert measure_size(file, wanted_format).fallbacks == ()
    tensor_bytes = [sum(tensor.n_bytes for tensor in file.tensors) for file in (source, whole)]
    assert saved == tensor_bytes[0] - tensor_bytes[1]
    assert set(PARTS) == {*QUANTIZED_PARTS, "router"}
