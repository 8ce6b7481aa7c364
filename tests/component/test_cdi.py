"""With CDI a container gets its devices by name, and what the name stands for is always true."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from deviceplugin.simulator.kubelet.kubelet import AdmissionError, StartError
from tests.component.conftest import Begin
from tests.component.world import NEVER, TUNED, World, slot, vfio

CDI = "handover: {cdi: true}\n"


def file(world: World, uuid: str) -> Path:
    return world.kernel.paths.cdi / f"vfio.dev-mdev_{uuid}.json"


def says(world: World, uuid: str) -> list[str]:
    """The nodes on the host that a device's file names."""
    (device,) = json.loads(file(world, uuid).read_text())["devices"]
    return [node["hostPath"] for node in device["containerEdits"]["deviceNodes"]]


def is_true(world: World, uuid: str) -> bool:
    paths = world.kernel.paths
    return says(world, uuid) == [str(paths.container), str(paths.group(world.devices[uuid].group or 0))]


async def reboot(world: World, *, first_group: int) -> None:
    """The node goes down and comes up, without devices and without what was in /run."""
    await world.kill_agent()
    await asyncio.to_thread(lambda: world.node.reboot(first_group=first_group))
    shutil.rmtree(world.kernel.paths.cdi, ignore_errors=True)
    await world.start_agent()
    await world.kubelet.reboot()
    await world.offers(mtty_1=24)


async def test_a_container_gets_names_whose_files_are_there_and_go_with_the_devices(begin: Begin) -> None:
    world = await begin(config=CDI + TUNED)
    await world.offers(mtty_1=24)
    pod = await world.run_pod({vfio("mtty-1"): 2})
    answer, ids = world.handed(pod), world.ids(pod)
    assert {device.name for device in answer.cdi_devices} == {f"vfio.dev/mdev={uuid}" for uuid in ids}
    assert not answer.devices
    assert len(answer.annotations) == 2
    assert set(answer.envs["MDEV_VFIO_DEV_MTTY_1_UUIDS"].split(",")) == ids
    assert all(is_true(world, uuid) for uuid in ids)
    await world.kubelet.force_delete(pod)
    await world.until(lambda: not list(world.kernel.paths.cdi.iterdir()))
    assert not world.devices


async def test_a_device_that_is_removed_by_hand_takes_its_file_along(begin: Begin) -> None:
    world = await begin(config=CDI + NEVER)
    await world.offers(mtty_1=24)
    pod = await world.admit("mtty-1")
    (uuid,) = world.ids(pod)
    world.remove(uuid)
    await world.until(lambda: not file(world, uuid).exists())
    await world.kubelet.start_containers(pod)
    assert is_true(world, uuid)


async def test_what_a_killed_agent_left_goes_at_the_next_start_and_nothing_else(begin: Begin) -> None:
    world = await begin(config=CDI + NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    (stays,) = world.ids(pod)
    foreign = world.kernel.paths.cdi / "other.json"
    foreign.write_text("{}")
    await world.kill_agent()
    gone = slot(vfio("mtty-1"), 20)
    half = world.kernel.paths.cdi / f"vfio.dev-mdev_{gone}.0a0a0a0a.tmp"
    shutil.copy(file(world, stays), file(world, gone))
    half.write_text("{")
    await world.start_agent()
    await world.until(lambda: not half.exists() and not file(world, gone).exists())
    assert is_true(world, stays)
    assert foreign.read_text() == "{}"


async def test_after_a_reboot_with_other_groups_a_container_starts_with_the_right_one(begin: Begin) -> None:
    world = await begin(config=CDI + NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    (uuid,) = world.ids(pod)
    await reboot(world, first_group=77)
    await world.kubelet.readmit(pod)
    await world.kubelet.start_containers(pod)
    assert world.devices[uuid].group == 77
    assert is_true(world, uuid)


@pytest.mark.parametrize("before", [False, True])
async def test_a_container_that_was_allocated_the_other_way_never_gets_a_wrong_node(
    begin: Begin, before: bool
) -> None:
    world = await begin(config=(CDI if before else "") + NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    world.configure(("" if before else CDI) + NEVER)
    await reboot(world, first_group=77)
    await world.kubelet.readmit(pod)
    with pytest.raises(StartError, match=r"/vfio/77 now, but the kubelet would give .*delete the pod"):
        await world.kubelet.start_containers(pod)


async def test_a_file_that_can_not_be_written_fails_the_pod_and_leaves_no_device(begin: Begin) -> None:
    world = await begin(config=CDI + NEVER)
    await world.offers(mtty_1=24)
    world.kernel.paths.cdi.parent.mkdir(parents=True)
    world.kernel.paths.cdi.write_text("in the way")
    with pytest.raises(AdmissionError, match=r"vfio.dev/mtty-1: the CDI specification .* can't be written"):
        await world.admit({vfio("mtty-1"): 2})
    await world.until(lambda: not world.devices)
    world.kernel.paths.cdi.unlink()
    await world.admit("mtty-1", name="next")


async def test_the_directory_can_be_another_one(begin: Begin) -> None:
    world = await begin(config=CDI + NEVER, agent=False)
    elsewhere = world.directory / "elsewhere"
    await world.start_agent("--cdi-directory", str(elsewhere))
    await world.offers(mtty_1=24)
    await world.admit("mtty-1")
    assert len(list(elsewhere.iterdir())) == 1
    assert not world.kernel.paths.cdi.exists()
