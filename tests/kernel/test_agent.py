"""The agent at work on a real kernel: its own process, real devices, and QEMU that uses them."""

from __future__ import annotations

import asyncio
import json
import sys
import uuid
from pathlib import Path

import pytest

from deviceplugin.handover import container_path
from tests.component.world import Stage, slot, vfio
from tests.kernel.conftest import EMPTY, PATIENCE
from tests.kernel.modules import SAMPLES, Modules
from tests.kernel.qemu import Qemu

MTTY = "4348:3253"


async def gone(stage: Stage) -> None:
    await stage.until(lambda: not stage.devices, "no device left", within=PATIENCE)


async def test_pods_get_devices_of_all_drivers_and_give_them_back(stage: Stage) -> None:
    requests = {vfio("mtty-2"): 2, vfio("mdpy-vga"): 1, vfio("mbochs-large"): 1}
    pod = await stage.run_pod(requests)
    devices = stage.devices
    assert sorted(device.type for device in devices.values()) == [
        "mbochs-large",
        "mdpy-vga",
        "mtty-2",
        "mtty-2",
    ]
    assert stage.ids(pod) == devices.keys()
    for device in devices.values():
        assert device.group is not None
        assert Path(container_path(device.group)).is_char_device()
    await stage.offers(within=PATIENCE, mtty_1=20, mtty_2=12, mbochs_small=48, mbochs_large=4)
    await stage.kubelet.delete(pod)
    await gone(stage)
    await stage.offers(within=PATIENCE, **EMPTY)


async def test_the_agent_of_these_tests_is_confined(stage: Stage) -> None:
    told = await stage.says("confined by Landlock", within=PATIENCE)
    assert {"/sys/devices", "/dev/vfio"} <= set(told["writes"])


async def test_a_device_stays_for_as_long_as_a_virtual_machine_has_it(stage: Stage) -> None:
    pod = await stage.run_pod("mtty-1")
    (device,) = stage.devices
    with Qemu(device) as qemu:
        assert MTTY in qemu.pci_ids()
        await stage.kubelet.force_delete(pod)
        told = await stage.says("device not removed", within=PATIENCE, device=device, reason="in-use")
        assert "is in use" in told["detail"]
        assert device in stage.devices
        assert MTTY in qemu.pci_ids()
        qemu.stop()
    await gone(stage)
    await stage.says("device removed", within=PATIENCE, device=device)


async def test_the_command_removes_what_was_left_and_nothing_that_a_virtual_machine_has(
    stage: Stage,
) -> None:
    await stage.offers(within=PATIENCE, **EMPTY)
    left = slot(vfio("mtty-1"), node_name="before-it-was-renamed")
    stage.create("mtty", "mtty-1", left)
    await stage.offers(within=PATIENCE, mtty_1=23)
    command = [
        *(sys.executable, "-m", "deviceplugin", "devices", "remove", "--other-nodes", "-o", "json"),
        *("--kubelet-root", str(stage.directory / "k"), left),
    ]
    with Qemu(left) as qemu:
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        output, _ = await process.communicate()
        assert (process.returncode, json.loads(output)["devices"][0]["result"]) == (1, "in-use")
        assert MTTY in qemu.pci_ids()
        qemu.stop()
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert (process.returncode, json.loads(output)["devices"][0]["result"]) == (0, "removed")
    await gone(stage)
    await stage.offers(within=PATIENCE, **EMPTY)


async def test_a_device_that_a_virtual_machine_kept_is_not_handed_on(stage: Stage) -> None:
    pod = await stage.run_pod({vfio("mdpy-vga"): 4})
    (held, *_) = stage.devices
    with Qemu(held):
        await stage.kubelet.force_delete(pod)
        with pytest.raises(Exception, match="still held by the VM that had it before"):
            await stage.run_pod({vfio("mdpy-vga"): 4}, name="next")
        assert held in stage.devices


async def test_an_agent_that_is_killed_carries_on(stage: Stage) -> None:
    stays = await stage.run_pod("mbochs-large", name="stays")
    goes = await stage.run_pod("mtty-2", name="goes")
    kept = stage.ids(stays)
    await stage.kill_agent()
    await stage.kubelet.force_delete(goes)
    assert len(stage.devices) == 2
    await stage.start_agent()
    await stage.until(lambda: stage.devices.keys() == kept, "only the running pod's device", within=PATIENCE)
    await stage.offers(within=PATIENCE, mtty_1=24, mbochs_small=48)


async def test_what_the_repaired_device_is_goes_into_the_container(stage: Stage) -> None:
    pod = await stage.run_pod("mtty-1")
    (device,) = stage.devices
    stage.remove(device)
    await stage.kubelet.restart_container(pod, "c")
    assert stage.devices.keys() == {device}


@pytest.mark.parametrize("name", SAMPLES)
async def test_a_driver_that_is_reloaded_is_offered_again(stage: Stage, modules: Modules, name: str) -> None:
    offered = {key: count for key, count in EMPTY.items() if key.startswith(name)}
    await stage.beside(lambda: modules.unload(name))
    await stage.offers(within=PATIENCE, **dict.fromkeys(offered, 0))
    await stage.beside(lambda: modules.load(name))
    await stage.offers(within=PATIENCE, **offered)
    await stage.run_pod(f"{name}-{'vga' if name == 'mdpy' else 'large' if name == 'mbochs' else 1}")


async def test_devices_of_others_take_room_and_are_left_alone(stage: Stage) -> None:
    foreign = str(uuid.uuid4())
    stage.create("mbochs", "mbochs-large", foreign)
    await stage.offers(within=PATIENCE, mbochs_small=48, mbochs_medium=12, mbochs_large=3)
    pod = await stage.run_pod("mbochs-large")
    await stage.kubelet.delete(pod)
    await stage.until(lambda: stage.devices.keys() == {foreign}, "only the foreign device", within=PATIENCE)
    await stage.offers(within=PATIENCE, mbochs_small=48)
