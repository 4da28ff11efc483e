"""Placements: written and read back, as a message carries them, and what they name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_quantgate.config.settings import load_settings
from pytest_quantgate.engines.devices import device_kind
from pytest_quantgate.engines.messages.placement import Placement, read_placement
from pytest_quantgate.errors import ConfigError

PLACEMENTS = {
    "cpu": Placement(),
    "cpu;repack=0": Placement(repack=False),
    "CUDA0": Placement(names=("CUDA0",)),
    "CUDA0;n_gpu_layers=0": Placement(names=("CUDA0",), n_gpu_layers=0),
    "CUDA0,CUDA1;n_gpu_layers=12;split_mode=row;tensor_split=3/1.5": Placement(
        names=("CUDA0", "CUDA1"), n_gpu_layers=12, split_mode="row", tensor_split=(3.0, 1.5)
    ),
}

KINDS = {
    "cpu": "cpu",
    "cpu;repack=0": "cpu-not-repacked",
    "CUDA0": "cuda",
    "CUDA1": "cuda",
    "CUDA0,CUDA1": "cuda",
    "CUDA0,CUDA1;split_mode=row": "cuda-row",
    "CUDA0;n_gpu_layers=12": "cuda-12-layers",
}


@pytest.mark.parametrize("text", PLACEMENTS)
def test_a_placement_is_written_and_read_back(text: str) -> None:
    assert PLACEMENTS[text].to_text() == text
    assert read_placement(text) == PLACEMENTS[text]


def test_an_unknown_option_is_refused() -> None:
    with pytest.raises(ValueError, match="a placement has no layers"):
        read_placement("CUDA0;layers=3")


@pytest.mark.parametrize("text", KINDS)
def test_what_changes_the_sums_is_another_kind(text: str) -> None:
    assert device_kind(read_placement(text)) == KINDS[text]


MISTAKES = {
    'backend = "cpu,CUDA0"': "backend = 'cpu,CUDA0' is neither",
    'backend = "CUDA0,CUDA0"': "backend = 'CUDA0,CUDA0' is neither",
    'backend = "CUDA0,"': "is neither",
    'backend = "CUDA0,CUDA1"\ntensor_split = [1]': "tensor_split has 1 shares for 2 devices",
    "n_gpu_layers = 3": "n_gpu_layers and split_mode are for devices other than",
    'backend = "CUDA0"\nn_gpu_layers = -1': "n_gpu_layers = -1",
    'backend = "CUDA0"\nsplit_mode = "column"': "split_mode = 'column'",
    'type_k = "Q9"': "type_k = 'Q9' is no type of llama.cpp's keys and values",
}


@pytest.mark.parametrize("lines", MISTAKES)
def test_a_device_that_makes_no_sense_is_one_line(lines: str, tmp_path: Path) -> None:
    text = f"[tool.quantgate.devices.x]\n{lines}\n"
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_settings(tmp_path)
    assert MISTAKES[lines] in str(caught.value)
    assert "\n" not in str(caught.value)
