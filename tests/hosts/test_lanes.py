"""Which devices can compute at the same time."""

from __future__ import annotations

from typing import Any

import pytest

from pytest_quantgate.config.machines import DeviceSettings
from pytest_quantgate.engines.messages import EngineDevice
from pytest_quantgate.errors import CellUnavailable
from pytest_quantgate.hosts.lanes import Lane, lanes_of, pool_members


def lanes(**devices: dict[str, Any]) -> list[str]:
    """Return the names of the lanes of some devices."""
    made = {name: DeviceSettings(**given) for name, given in devices.items()}
    return [lane.name for lane in lanes_of(made, {})]


def test_devices_that_share_no_hardware_are_lanes_of_their_own() -> None:
    assert lanes(cpu={}, gpu={"backend": "CUDA0"}, other={"backend": "CUDA1"}) == [
        "cpu:cpu",
        "gpu:CUDA0",
        "other:CUDA1",
    ]


def test_devices_that_share_hardware_take_turns() -> None:
    """The same card under other settings; one over two cards joins both."""
    assert lanes(
        gpu={"backend": "CUDA0"}, plain={"backend": "CUDA0", "flash_attention": False}
    ) == ["gpu:CUDA0 plain:CUDA0"]
    assert lanes(
        a={"backend": "CUDA0"}, b={"backend": "CUDA1"}, both={"backend": "CUDA0,CUDA1"}
    ) == ["a:CUDA0 b:CUDA1 both:CUDA0,CUDA1"]


def test_processors_in_common_take_turns() -> None:
    left, right = {"cpus": "0-3"}, {"cpus": "4-7"}
    assert lanes(left=left, right=right) == ["left:cpu", "right:cpu"]
    assert lanes(left=left, right={"cpus": "3,5"}) == ["left:cpu right:cpu"]
    assert lanes(left=left, right=right, whole={}) == ["left:cpu right:cpu whole:cpu"]


def test_a_host_shares_nothing_with_another() -> None:
    assert lanes(here={}, there={"host": "p40"}, also={"host": "p40"}) == [
        "here:cpu",
        "p40/there:cpu also:cpu",
    ]


def test_equal_hosts_are_a_lane_each() -> None:
    assert lanes(p40={"host": ("a", "b"), "backend": "CUDA0"}) == ["a/p40:CUDA0", "b/p40:CUDA0"]


def test_a_pool_is_a_lane_a_member_that_other_devices_share() -> None:
    made = lanes_of(
        {"gpu": DeviceSettings(backend="CUDA*"), "first": DeviceSettings(backend="CUDA0")},
        {("gpu", None): ("CUDA0", "CUDA1")},
    )
    assert [dict(lane.backends) for lane in made] == [
        {"gpu": ("CUDA1",)},
        {"gpu": ("CUDA0",), "first": ("CUDA0",)},
    ]
    assert all(lane.serves("gpu") for lane in made)


def test_a_pool_on_several_hosts_is_a_lane_a_member_of_each() -> None:
    pool = DeviceSettings(backend="CUDA*", host=("a", "b"))
    made = lanes_of({"gpu": pool}, {("gpu", "a"): ("CUDA0", "CUDA1"), ("gpu", "b"): ("CUDA0",)})
    assert [lane.name for lane in made] == ["a/gpu:CUDA0", "a/gpu:CUDA1", "b/gpu:CUDA0"]


def test_lanes_keep_to_their_processors() -> None:
    made = lanes_of({"left": DeviceSettings(cpus="0-1,4")}, {})
    assert made == (Lane(name="left:cpu", backends={"left": ("cpu",)}, cpus=(0, 1, 4)),)


def listed(**descriptions: str) -> tuple[EngineDevice, ...]:
    """Return devices by name."""
    return tuple(EngineDevice(name=name, description=d) for name, d in descriptions.items())


def test_a_pool_has_equal_devices_only() -> None:
    assert pool_members("gpu", "CUDA*", listed(cpu="", CUDA0="A", CUDA1="A")) == ("CUDA0", "CUDA1")
    with pytest.raises(CellUnavailable) as caught:
        pool_members("gpu", "CUDA*", listed(cpu="", CUDA0="A", CUDA1="B"))
    assert str(caught.value) == (
        "device 'gpu': CUDA* takes unlike devices together: CUDA0 (A), CUDA1 (B); name each kind as"
        ' a device of its own, as [tool.quantgate.devices.gpu] backend = "CUDA0"'
    )
    with pytest.raises(CellUnavailable, match="the engine has no 'CUDA.'; there are: cpu, Vulkan0"):
        pool_members("gpu", "CUDA*", listed(cpu="", Vulkan0="A"))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"backend": "*"}, "is no pool: write one name with a . at its end"),
        ({"backend": "CUDA*,CUDA1"}, "is no pool"),
        ({"backend": "CUDA*", "split_mode": "row"}, "is no pool"),
        ({"cpus": "3-1"}, "cpus = '3-1' lists no processors; write for example"),
        ({"cpus": ""}, "lists no processors"),
        ({"cpus": "0", "host": "p40"}, "host = 'p40' goes with no cpus"),
        ({"host": ()}, "names one host at least"),
    ],
)
def test_what_is_no_pool_and_no_list_of_processors(given: dict[str, str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DeviceSettings(**given)  # type: ignore[arg-type]
