"""Baselines under settings that no profile has any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from pytest_quantgate.config.machines import DeviceSettings
from pytest_quantgate.config.schema import ProfileSettings
from pytest_quantgate.results.baseline import Key
from pytest_quantgate.results.baseline_file import dump
from pytest_quantgate.results.baseline_store import Store, file_name
from pytest_quantgate.results.orphans import orphaned, with_device
from tests.gate.judged import BASELINE, KEY

DEVICES = {"cpu": DeviceSettings(), "small": DeviceSettings(type_k="Q8_0", flash_attention=False)}
PROFILE = ProfileSettings(models=(KEY.model,), texts=(KEY.text,), n_ctx=(KEY.n_ctx,))


def key(**changed: object) -> Key:
    """Return the key with some fields changed."""
    return KEY.model_copy(update=changed)


def test_a_device_stands_above_the_profile() -> None:
    found = with_device(PROFILE, DEVICES["small"])
    assert (found.flash_attention, found.type_k, found.type_v) == (False, "Q8_0", "F16")
    assert with_device(PROFILE, DEVICES["cpu"]) == PROFILE


@pytest.mark.parametrize(
    ("profile", "is_orphaned"),
    [
        (PROFILE, False),
        (PROFILE.model_copy(update={"models": ("other",)}), True),
        (PROFILE.model_copy(update={"texts": ("other",)}), True),
        (PROFILE.model_copy(update={"n_ctx": (KEY.n_ctx + 1,)}), True),
        (PROFILE.model_copy(update={"n_ctx": (KEY.n_ctx + 1, KEY.n_ctx)}), False),
        (PROFILE.model_copy(update={"type_v": "Q8_0"}), True),
        (PROFILE.model_copy(update={"devices": ("small",)}), True),
        (PROFILE.model_copy(update={"devices": ("small", "cpu")}), False),
        (PROFILE.model_copy(update={"devices": ("unknown",)}), True),
    ],
)
def test_another_profile_with_these_settings_still_looks_it_up(
    profile: ProfileSettings, is_orphaned: bool
) -> None:
    assert orphaned([KEY], (), [profile], DEVICES) == ((KEY,) if is_orphaned else ())


def test_a_shapes_baseline_has_neither_text_nor_n_ctx() -> None:
    assert orphaned([key(text="", n_ctx=0)], (), [PROFILE], DEVICES) == ()


def test_what_the_run_looks_up_is_none() -> None:
    other = key(n_ctx=1)
    assert orphaned([KEY, other], {KEY}, (), DEVICES) == (other,)


def test_the_store_tells_a_cells_baselines_under_other_settings(tmp_path: Path) -> None:
    """Those of another cell, the cell's own key and a damaged file are left out."""
    wanted = [key(n_ctx=128), key(type_k="Q8_0"), key(text="other")]
    for item in [KEY, *wanted, key(imatrix="some"), key(device_kind="cuda")]:
        path = tmp_path / file_name(item)
        path.parent.mkdir(exist_ok=True)
        path.write_text(dump(BASELINE.model_copy(update={"key": item})), encoding="utf-8")
    (tmp_path / file_name(key(n_ctx=65))).write_text("{")
    store = Store(tmp_path, use_shipped=False)
    assert set(store.keys_of_cell(KEY)) == set(wanted)
    assert Store(tmp_path / "nowhere", use_shipped=True).keys_of_cell(KEY) == ()
