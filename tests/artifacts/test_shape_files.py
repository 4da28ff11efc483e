"""A shape's file, planned or made from a few rows, is what quantizing the whole gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pytest_quantgate.artifacts.shape_files import ShapeFiles
from pytest_quantgate.artifacts.shapes import SHAPES, Shape
from pytest_quantgate.config.shape import ShapeSettings
from pytest_quantgate.engines.llama_cpp_python import LlamaCppPython
from pytest_quantgate.engines.messages import (
    Message,
    PlanQuantization,
    QuantizationPlanned,
    Quantize,
)
from pytest_quantgate.errors import CellUnsupported
from pytest_quantgate.gguf.formats import (
    DEFAULT_FORMATS,
    TENSOR_TYPES,
    Format,
    find_format,
    make_recipe,
)
from pytest_quantgate.storage.cache import Cache

SMALL = {
    "llama": ShapeSettings(
        architecture="llama",
        layers=4,
        hidden=256,
        feed_forward=512,
        heads=4,
        kv_heads=2,
        vocabulary=600,
    ),
    "olmoe": ShapeSettings(
        architecture="olmoe",
        layers=4,
        hidden=512,
        feed_forward=256,
        heads=4,
        kv_heads=4,
        vocabulary=1200,
        experts=8,
        experts_used=2,
    ),
    "lfm2moe": ShapeSettings(
        architecture="lfm2moe",
        layers=4,
        hidden=256,
        feed_forward=768,
        heads=4,
        kv_heads=2,
        vocabulary=600,
        tied=True,
        experts=4,
        experts_used=2,
        expert_feed_forward=256,
        dense_layers=1,
        attention_layers=(1, 3),
    ),
}
QUICK = ("Q8_0", "Q4_K_M", "Q5_K_M", "Q3_K_M", "MXFP4_MOE", "Q4_0")

# Files of random weights in the true shapes, quantized whole by llama.cpp; their vocabularies were
# small, so the sizes differ by 0.04 %.
SIX_CELLS = {
    ("olmoe-1b-7b", "F16"): 13_842_796_992,
    ("olmoe-1b-7b", "Q4_K_M"): 4_211_743_232,
    ("olmoe-1b-7b", "MXFP4_MOE"): 3_935_621_632,
    ("lfm2-8b-a1b", "F16"): 16_683_186_944,
    ("lfm2-8b-a1b", "Q4_K_M"): 5_042_404_160,
    ("lfm2-8b-a1b", "MXFP4_MOE"): 4_748_294_976,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCppPython]:
    """The engine of this interpreter."""
    log = tmp_path_factory.mktemp("log") / "worker.log"
    made = LlamaCppPython(python=None, log=log, stall_s=60)
    yield made
    made.close()


@pytest.fixture(scope="module")
def shape_files(tmp_path_factory: pytest.TempPathFactory) -> ShapeFiles:
    """Files in a cache of their own."""
    return ShapeFiles(Cache(tmp_path_factory.mktemp("cache"), 4 << 30))


def quantize_whole(source: Path, to: Path, wanted: Format, engine: LlamaCppPython) -> bytes:
    """Quantize every row."""
    overrides = tuple((pattern, TENSOR_TYPES[name].number) for pattern, name in wanted.overrides)
    request = Quantize(
        source=str(source),
        destination=str(to),
        file_type=wanted.file_type.number,
        overrides=overrides,
        allow_requantize=False,
        n_threads=2,
    )
    engine.ask(request)
    return to.read_bytes()


def check(
    shape: Shape, wanted: Format, files: ShapeFiles, engine: LlamaCppPython, to: Path
) -> None:
    """Compare the plan and the file of repeated rows with the whole, byte for byte."""
    plan = files.plan(shape, wanted, engine)
    made = files.file(shape, wanted, engine)
    source = files.file(shape, find_format("F16"), engine).path
    whole = quantize_whole(source, to, wanted, engine)
    assert plan.n_bytes == made.n_bytes == len(whole)
    assert made.path.read_bytes() == whole


@pytest.mark.parametrize("wanted", QUICK)
@pytest.mark.parametrize("architecture", SMALL)
def test_repeating_rows_gives_the_file_that_quantizing_the_whole_gives(
    architecture: str,
    wanted: str,
    shape_files: ShapeFiles,
    engine: LlamaCppPython,
    tmp_path: Path,
) -> None:
    shape = Shape(name=architecture, settings=SMALL[architecture])
    check(shape, find_format(wanted), shape_files, engine, tmp_path / "whole.gguf")


def test_a_recipe_is_planned_and_made_as_llama_cpp_makes_it(
    shape_files: ShapeFiles, engine: LlamaCppPython, tmp_path: Path
) -> None:
    recipe = make_recipe("mixed", "Q4_0", {"experts": "MXFP4", "attention": "BF16"})
    shape = Shape(name="olmoe", settings=SMALL["olmoe"])
    check(shape, recipe, shape_files, engine, tmp_path / "whole.gguf")
    types = {tensor.type.name for tensor in shape_files.plan(shape, recipe, engine).tensors}
    assert {"MXFP4", "BF16", "Q4_0"} <= types


def test_smollm2s_mix_and_fallbacks_are_those_of_the_whole(
    shape_files: ShapeFiles, engine: LlamaCppPython, tmp_path: Path
) -> None:
    """Rows of 576 are no multiple of 256, so most tensors of Q4_K_M fall back."""
    shape = Shape(name="smollm2-135m", settings=SHAPES["smollm2-135m"])
    check(shape, find_format("Q4_K_M"), shape_files, engine, tmp_path / "whole.gguf")


@pytest.mark.slow
@pytest.mark.parametrize("wanted", DEFAULT_FORMATS)
@pytest.mark.parametrize("name", ["smollm2-135m", "olmoe-1b-7b", "lfm2-8b-a1b"])
def test_all_formats_of_the_true_rows_are_those_of_the_whole(
    name: str, wanted: str, shape_files: ShapeFiles, engine: LlamaCppPython, tmp_path: Path
) -> None:
    """The true models' rows, in a few layers and experts."""
    settings = SHAPES[name]
    if settings.experts:
        few = {"layers": 3, "experts": 4, "experts_used": 2, "vocabulary": 2000}
        settings = settings.model_copy(update=few)
        if settings.attention_layers:
            settings = settings.model_copy(update={"attention_layers": (2,)})
    shape = Shape(name=name, settings=settings)
    check(shape, find_format(wanted), shape_files, engine, tmp_path / "whole.gguf")


@pytest.mark.parametrize(("name", "wanted"), SIX_CELLS)
def test_the_sizes_of_the_true_models_come_without_their_files(
    name: str, wanted: str, shape_files: ShapeFiles, engine: LlamaCppPython
) -> None:
    shape = Shape(name=name, settings=SHAPES[name])
    plan = shape_files.plan(shape, find_format(wanted), engine)
    assert plan.n_bytes == pytest.approx(SIX_CELLS[name, wanted], rel=1e-3)


def test_q4_k_m_gives_more_bits_to_some_layers(
    shape_files: ShapeFiles, engine: LlamaCppPython
) -> None:
    """``use_more_bits``: the first and last eighth of 16 layers, and every third between."""
    shape = Shape(name="olmoe-1b-7b", settings=SHAPES["olmoe-1b-7b"])
    plan = shape_files.plan(shape, find_format("Q4_K_M"), engine)
    types = {tensor.name: tensor.type.name for tensor in plan.tensors}
    wide = [i for i in range(16) if types[f"blk.{i}.ffn_down_exps.weight"] == "Q6_K"]
    assert wide == [0, 1, 4, 7, 10, 13, 14, 15]
    assert types["output.weight"] == "Q6_K"


def test_a_format_that_needs_a_matrix_is_unsupported(
    shape_files: ShapeFiles, engine: LlamaCppPython
) -> None:
    shape = Shape(name="olmoe", settings=SMALL["olmoe"])
    with pytest.raises(CellUnsupported, match="IQ2_XXS needs an importance matrix, and the shape"):
        shape_files.plan(shape, find_format("IQ2_XXS"), engine)
    with pytest.raises(CellUnsupported, match="IQ2_XXS needs an importance matrix"):
        shape_files.file(shape, find_format("IQ2_XXS"), engine)


class OtherOrder:
    """An engine that would write the tensors in another order."""

    def __init__(self, real: LlamaCppPython) -> None:
        self._real = real
        self.asked = 0
        self.identity = real.identity

    def ask(self, request: Any, on_reply: Any = None) -> Any:
        del on_reply
        assert isinstance(request, PlanQuantization)
        self.asked += 1
        reply: Message = self._real.ask(request)
        assert isinstance(reply, QuantizationPlanned)
        return QuantizationPlanned(types=reply.types[::-1], needs_imatrix=False)

    def close(self) -> None:
        pass


def test_a_plan_with_other_tensors_is_refused(engine: LlamaCppPython, tmp_path: Path) -> None:
    files = ShapeFiles(Cache(tmp_path, 1 << 30))
    shape = Shape(name="llama", settings=SMALL["llama"])
    with pytest.raises(CellUnsupported, match="does not have the shape's tensors in their order"):
        files.plan(shape, find_format("Q8_0"), OtherOrder(engine))


def test_a_plan_is_asked_for_once_and_leaves_no_file(
    engine: LlamaCppPython, tmp_path: Path
) -> None:
    shape = Shape(name="lfm2-8b-a1b", settings=SHAPES["lfm2-8b-a1b"])
    first = ShapeFiles(Cache(tmp_path, 1 << 30)).plan(shape, find_format("Q8_0"), engine)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 100_000
    silent = OtherOrder(engine)
    again = ShapeFiles(Cache(tmp_path, 1 << 30)).plan(shape, find_format("Q8_0"), silent)
    assert again == first
    assert silent.asked == 0
