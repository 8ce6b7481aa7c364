"""What a container gets."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.handover import hand_over
from deviceplugin.host.paths import HostPaths
from deviceplugin.inventory.resources import name_problem
from deviceplugin.inventory.snapshot import Device

ONE, TWO = (f"6d646576-0000-8000-800{n}-000000000000" for n in (1, 2))
PATHS = HostPaths()


def device(uuid: str, group: int | None = 7) -> Device:
    return Device(uuid, "nvidia-222", "0000:3b:00.0", group)


@pytest.mark.parametrize(
    ("resource", "variable"),
    [
        ("nvidia.com/GRID_T4-1Q", "MDEV_PCI_RESOURCE_NVIDIA_COM_GRID_T4-1Q"),
        ("vfio.dev/mtty-1", "MDEV_PCI_RESOURCE_VFIO_DEV_MTTY-1"),
        ("a-b.c/d.e", "MDEV_PCI_RESOURCE_A-B_C_D_E"),
    ],
)
def test_kubevirt_finds_its_variable(resource: str, variable: str) -> None:
    assert hand_over(PATHS, resource, [device(ONE), device(TWO)]).environment[variable] == f"{ONE},{TWO}"


def test_our_own_variables_can_be_read_by_a_shell_and_agree_with_each_other() -> None:
    environment = hand_over(PATHS, "nvidia.com/GRID_T4-1Q", [device(TWO), device(ONE)]).environment
    prefix = "MDEV_NVIDIA_COM_GRID_T4_1Q"
    assert environment[f"{prefix}_UUIDS"] == f"{TWO},{ONE}"
    assert environment[f"{prefix}_TYPES"] == "nvidia-222,nvidia-222"
    assert environment[f"{prefix}_SYSFSDEVS"] == f"/sys/bus/mdev/devices/{TWO},/sys/bus/mdev/devices/{ONE}"


def test_nothing_tells_kubevirt_of_the_same_device_twice() -> None:
    environment = hand_over(PATHS, "nvidia.com/GRID_T4-1Q", [device(ONE)]).environment
    assert not any(name.startswith("PCI_RESOURCE_") for name in environment)
    assert sum(name.startswith("MDEV_PCI_RESOURCE_") for name in environment) == 1


def test_the_container_gets_the_node_of_each_group_and_no_others() -> None:
    nodes = hand_over(PATHS, "a/b", [device(ONE, 11), device(TWO, 7)]).nodes
    assert [(node.container_path, node.host_path, node.permissions) for node in nodes] == [
        ("/dev/vfio/vfio", "/dev/vfio/vfio", "mrw"),
        ("/dev/vfio/7", "/dev/vfio/7", "mrw"),
        ("/dev/vfio/11", "/dev/vfio/11", "mrw"),
    ]


def test_two_devices_of_one_group_share_its_node() -> None:
    nodes = hand_over(PATHS, "a/b", [device(ONE), device(TWO)]).nodes
    assert [node.container_path for node in nodes] == ["/dev/vfio/vfio", "/dev/vfio/7"]


def test_a_moved_node_shows_on_the_host_and_never_in_the_container() -> None:
    made = hand_over(HostPaths(Path("/tmp/node")), "a/b", [device(ONE)])
    assert [(node.host_path, node.container_path) for node in made.nodes] == [
        ("/tmp/node/dev/vfio/vfio", "/dev/vfio/vfio"),
        ("/tmp/node/dev/vfio/7", "/dev/vfio/7"),
    ]
    assert made.environment["MDEV_A_B_SYSFSDEVS"] == f"/sys/bus/mdev/devices/{ONE}"


def test_annotations_say_which_device_it_is_and_where() -> None:
    assert hand_over(PATHS, "a/b", [device(ONE)]).annotations == {
        f"mdev.vfio.dev/{ONE}": "nvidia-222 on 0000:3b:00.0"
    }


labels = st.from_regex(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,20}[A-Za-z0-9])?", fullmatch=True)
domains = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,8}[a-z0-9])?(\.[a-z0-9]{1,4})?", fullmatch=True)


@given(domains, labels)
def test_every_resource_that_may_be_offered_has_names_that_kubernetes_takes(domain: str, label: str) -> None:
    resource = f"{domain}/{label}"
    if name_problem(resource):
        return
    made = hand_over(PATHS, resource, [device(ONE)])
    assert len(made.environment) == 4
    assert all(re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", name, re.ASCII) for name in made.environment)
    for key in made.annotations:
        assert name_problem(key) is None
