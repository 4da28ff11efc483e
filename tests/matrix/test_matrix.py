"""Cells: stable ids, and how a profile expands into them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_quantgate.config.settings import Settings, load_settings
from pytest_quantgate.errors import ConfigError
from pytest_quantgate.gguf.formats import Format, find_format, make_recipe
from pytest_quantgate.matrix.cells import expand, reference_format


def settings(tmp_path: Path, profile: str, tables: str = "") -> Settings:
    """Return settings of a profile over two models, two texts and two devices."""
    (tmp_path / "pyproject.toml").write_text(
        f"""
        [tool.quantgate]
        profile = "p"
        [tool.quantgate.models]
        a = {{ source = "a.gguf" }}
        b = {{ files = {{ Q8_0 = "b8.gguf", Q4_0 = "b4.gguf" }} }}
        [tool.quantgate.texts]
        t = {{ source = "t.txt" }}
        u = {{ source = "u.txt" }}
        [tool.quantgate.devices]
        gpu = {{ backend = "CUDA0" }}
        [tool.quantgate.engines]
        new = {{ python = "/p" }}
        {tables}
        [tool.quantgate.profiles.p]
        {profile}
        """
    )
    return load_settings(tmp_path)


def ids(tmp_path: Path, profile: str, tables: str = "") -> list[str]:
    """Return the cells' ids."""
    return [cell.id for cell in expand(settings(tmp_path, profile, tables))]


def test_an_id_names_only_what_can_differ(tmp_path: Path) -> None:
    assert ids(tmp_path, 'models=["a"]\nformats=["F16","Q4_K_M"]\ntexts=["t"]') == [
        "a-F16-cpu",
        "a-Q4_K_M-cpu",
    ]
    profile = 'models=["a"]\nformats=["Q8_0"]\ntexts=["t","u"]\ndevices=["cpu","gpu"]\nengine="new"'
    assert ids(tmp_path, profile) == [
        "a-Q8_0-cpu-t-new",
        "a-Q8_0-gpu-t-new",
        "a-Q8_0-cpu-u-new",
        "a-Q8_0-gpu-u-new",
    ]


def test_a_matrix_is_a_dimension_of_what_is_quantized(tmp_path: Path) -> None:
    """Not of full precision, nor of files that were made before."""
    profile = 'models=["a","b"]\ntexts=["t"]\nformats=["F16","Q4_0"]'
    assert ids(tmp_path, profile + '\nimatrices=["none","calibration"]') == [
        "a-F16-cpu",
        "a-Q4_0-cpu",
        "a-Q4_0-calibration-cpu",
        "b-Q4_0-cpu",
    ]
    cells = expand(settings(tmp_path, profile + '\nimatrices=["calibration"]'))
    assert [(cell.id, cell.imatrix) for cell in cells] == [
        ("a-F16-cpu", None),
        ("a-Q4_0-calibration-cpu", "calibration"),
        ("b-Q4_0-cpu", None),
    ]


def test_aliases_and_recipes_have_one_id(tmp_path: Path) -> None:
    recipe = '[tool.quantgate.formats.slim]\nbase="Q8_0"\ntensors={experts="MXFP4"}'
    profile = 'models=["a"]\nformats=["mxfp4","slim"]\ntexts=["t"]'
    assert ids(tmp_path, profile, recipe) == ["a-MXFP4_MOE-cpu", "a-slim-cpu"]
    with pytest.raises(ConfigError, match="two cells have the id 'a-MXFP4_MOE-cpu'"):
        ids(tmp_path, 'models=["a"]\nformats=["mxfp4","MXFP4_MOE"]\ntexts=["t"]')


def test_a_model_of_files_comes_in_its_own_formats(tmp_path: Path) -> None:
    assert ids(tmp_path, 'models=["b"]\nformats=["Q4_0","Q6_K"]\ntexts=["t"]') == ["b-Q4_0-cpu"]
    assert ids(tmp_path, 'models=["b"]\nformats=["Q6_K"]\ntexts=["t"]') == [
        "b-Q8_0-cpu",
        "b-Q4_0-cpu",
    ]


def test_the_sources_own_precision_takes_the_place_of_f16(tmp_path: Path) -> None:
    made = settings(tmp_path, 'models=["a"]\nformats=["F16","Q8_0"]\ntexts=["t"]')
    assert [cell.id for cell in expand(made, {"a": "BF16"})] == ["a-BF16-cpu", "a-Q8_0-cpu"]


@pytest.mark.parametrize(
    ("names", "reference"),
    [
        (("Q4_0", "F16", "Q8_0"), "F16"),
        (("F16", "BF16", "F32"), "F32"),
        (("F16", "BF16"), "BF16"),
        (("Q4_0", "Q8_0", "Q6_K"), "Q8_0"),
        (("Q2_K",), "Q2_K"),
    ],
)
def test_the_most_precise_format_is_the_reference(names: tuple[str, ...], reference: str) -> None:
    assert reference_format(tuple(find_format(name) for name in names)).name == reference


def test_a_recipe_is_no_reference_where_a_full_precision_is() -> None:
    recipe: Format = make_recipe("r", "Q8_0", {"output": "F32"})
    assert reference_format((recipe, find_format("F16"))).name == "F16"
