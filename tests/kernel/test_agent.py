"""The agent at work on a real kernel: its own process, real devices, and QEMU that uses them."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deviceplugin.handover import container_path
from deviceplugin.host.kernel import LinuxKernel
from deviceplugin.host.mdev import scan
from deviceplugin.inventory import slots
from tests.component.world import TUNED, Stage, vfio
from tests.kernel.modules import SAMPLES, Modules
from tests.kernel.qemu import Qemu

MTTY = "4348:3253"
PATIENCE = 60.0
"""Seconds; a machine without KVM takes ten times as long for everything."""
NARROWED = (
    "setpriv",
    "--no-new-privs",
    "--bounding-set=-all,+dac_override,+net_admin",
    "--inh-caps=-all",
    "--",
)
"""All that the Helm chart leaves an agent of root's privileges, by its default values."""
EMPTY = {
    "mtty_1": 24,
    "mtty_2": 12,
    "mdpy_vga": 4,
    "mbochs_small": 64,
    "mbochs_medium": 16,
    "mbochs_large": 4,
}


@pytest.fixture
async def stage(kernel: LinuxKernel) -> AsyncIterator[Stage]:
    directory = Path(tempfile.mkdtemp(prefix="mdev-", dir="/tmp"))
    stage = Stage(directory, kernel, config=TUNED, kubelet={}, launcher=NARROWED)
    await stage.kubelet.start()
    await stage.start_agent()
    try:
        await stage.offers(within=PATIENCE, **EMPTY)
        yield stage
    finally:
        wrong = await stage.end()
        print(stage.raw_log)
        shutil.rmtree(directory)
    assert not wrong, "\n".join(wrong)


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


async def test_the_counts_follow_whatever_is_made_and_removed(stage: Stage) -> None:
    chance = random.Random(1)
    made: list[str] = []
    types = [
        (parent.address, entry.id)
        for parent in scan(stage.kernel.paths).snapshot.parents
        for entry in parent.types
    ]
    slowest = 0.0
    for _ in range(40):
        if made and chance.random() < 0.4:
            stage.remove(made.pop(chance.randrange(len(made))))
        else:
            new = str(uuid.uuid4())
            try:
                stage.create(*chance.choice(types), new)
            except OSError:
                continue
            made.append(new)
        began = time.monotonic()
        await stage.until(lambda: offered(stage) == counted(stage), "the kernel's counts", within=PATIENCE)
        slowest = max(slowest, time.monotonic() - began)
    print(f"counts followed within {slowest * 1000:.0f} ms")


def counted(stage: Stage) -> dict[str, int]:
    """What the kernel says it can still make; every device there is is somebody else's."""
    assert not any(slots.is_ours(device) for device in stage.devices)
    return {
        vfio(entry.id): entry.available
        for parent in scan(stage.kernel.paths).snapshot.parents
        for entry in parent.types
    }


def offered(stage: Stage) -> dict[str, int]:
    return stage.allocatable(*counted(stage))
