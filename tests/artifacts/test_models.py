"""Where a model comes from."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pytest_quantgate.artifacts.models import find_model, find_source
from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.errors import ModelFileError
from pytest_quantgate.storage.keys import file_sha256

TRAINING_RECORD = Path(__file__).parents[2] / "tools" / "reference_models" / "training.json"


def test_a_path_is_relative_to_the_project(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").touch()
    assert find_source("m.gguf", tmp_path, "m") == tmp_path / "m.gguf"
    assert find_source("path:m.gguf", tmp_path, "m") == tmp_path / "m.gguf"
    assert find_source(str(tmp_path / "m.gguf"), Path("/"), "m") == tmp_path / "m.gguf"


def test_a_package_is_found_without_being_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "model_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "m.gguf").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert find_source("package:model_package/m.gguf", tmp_path, "m") == package / "m.gguf"
    assert "model_package" not in sys.modules
    with pytest.raises(ModelFileError, match="'model_package' has no file 'n.gguf'"):
        find_source("package:model_package/n.gguf", tmp_path, "m")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nothing.gguf", r"model 'm': the file .*nothing.gguf does not exist; place it there or"),
        ("package:no_such_package/x.gguf", "is not installed; type: pip install no-such-package"),
        ("package:nothing", "is not of the form package:NAME/FILE"),
        ("package:", "is not of the form package:NAME/FILE"),
        ("package:a-b/x", "is not of the form package:NAME/FILE"),
        ("ftp:x.gguf", "of the unknown kind 'ftp'; valid: a path, path:PATH, package:NAME/FILE"),
        ("", "does not exist"),
    ],
)
def test_a_source_that_cannot_be_found(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        find_source(source, tmp_path, "m")


def test_smollm2_is_there_and_is_requantized(tmp_path: Path) -> None:
    model = find_model("smollm2", load_settings(tmp_path))
    assert model.is_requantized
    assert model.any_file.architecture == "llama"
    assert model.any_file.hyperparameter("embedding_length") == 576


def test_existing_files_keep_their_formats_and_pins(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        f"""
        [tool.quantgate.models.m]
        files = {{ f16 = "{tiny_model}", mxfp4 = "{tiny_model}" }}
        sha256 = {{ mxfp4 = "00" }}
        """
    )
    model = find_model("m", load_settings(tmp_path))
    assert set(model.files) == {"F16", "MXFP4_MOE"}
    assert model.pinned_sha256 == {"MXFP4_MOE": "00"}
    assert not model.is_requantized


@pytest.mark.parametrize(
    ("name", "architecture"), [("olmoe-mini", "olmoe"), ("lfm2moe-mini", "lfm2moe")]
)
def test_the_small_models_ship_with_the_package(
    tmp_path: Path, name: str, architecture: str
) -> None:
    """Two trained mixtures of experts whose rows fit every block, so that no format falls back."""
    model = find_model(name, load_settings(tmp_path))
    assert model.source is not None
    assert model.source.architecture == architecture
    assert not model.is_requantized
    assert model.is_miniature
    assert model.source.hyperparameter("expert_count") == 8
    assert model.source.n_bytes < 20_000_000
    for tensor in model.source.tensors:
        # llama.cpp keeps the short convolution's kernel in F32, whatever the format.
        if len(tensor.shape) > 1 and "shortconv.conv" not in tensor.name:
            assert tensor.shape[0] % 256 == 0, tensor.name


@pytest.mark.parametrize("name", ["olmoe-mini", "lfm2moe-mini"])
def test_the_training_record_is_of_the_model_that_ships(tmp_path: Path, name: str) -> None:
    """The record names the file by its hash, and the file names the licence of its weights."""
    model = find_model(name, load_settings(tmp_path))
    assert model.source is not None
    recorded = json.loads(TRAINING_RECORD.read_bytes())["models"][name]
    assert file_sha256(model.source.files[0]) == recorded["gguf_sha256"]
    assert model.source.n_bytes == recorded["gguf_bytes"]
    assert model.source.metadata["general.license"] == "mit"
    assert "training text" in str(model.source.metadata["general.license.name"])


def test_an_unknown_embedded_model_is_a_line_with_those_that_there_are(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="valid: lfm2moe-mini, olmoe-mini"):
        find_source("embedded:gpt5", tmp_path, "m")
