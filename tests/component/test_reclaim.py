"""Devices are taken back when it is proved that nobody uses them, and only then."""

from __future__ import annotations

import asyncio
import errno
import time
import uuid

import grpc
import pytest

from deviceplugin.simulator.kubelet.checkpointfile import Damage
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, ContainerSpec, PodSpec
from tests.component.conftest import Begin
from tests.component.world import NEVER, NODE_NAME, World, allocate_request, slot, vfio

QUICK = "reclaim: {grace: 500ms, interval: 100ms}"
"""For what has to be waited out: a device that is kept is kept for several rounds."""


async def rounds(world: World, count: int = 3) -> None:
    """Wait until the agent has asked the kubelet so often; each round asks once or twice."""
    before = world.kubelet.calls["List"]
    await world.until(lambda: world.kubelet.calls["List"] >= before + 2 * count)


async def test_by_default_the_room_is_back_within_twenty_seconds(begin: Begin) -> None:
    world = await begin(config="")
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    kept = await world.run_pod("mdpy-hd", name="kept")
    pod = await world.run_pod({vfio("mdpy-hd"): 2})
    await world.offers(mdpy_vga=1)
    await world.kubelet.delete(pod)
    seconds = await world.offers(mdpy_vga=3, within=20)
    print(f"reclaimed after {seconds:.1f} s with the default settings")
    assert set(world.devices) == world.ids(kept)


async def test_tuned_the_room_is_back_within_a_few_seconds(begin: Begin) -> None:
    world = await begin()
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    pod = await world.run_pod({vfio("mdpy-hd"): 2})
    await world.offers(mdpy_vga=2)
    await world.kubelet.delete(pod)
    seconds = await world.offers(mdpy_vga=4)
    print(f"reclaimed after {seconds:.1f} s with a grace and an interval of 1 s")
    await world.until(lambda: len(world.logged("device removed")) == 2)
    assert all("group held by us" in removed["proof"] for removed in world.logged("device removed"))
    assert not world.devices


async def test_switched_off_it_removes_nothing(begin: Begin) -> None:
    world = await begin(config="reclaim: {enabled: false, grace: 500ms, interval: 100ms}")
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    devices = world.ids(pod)
    await world.kubelet.delete(pod)
    await asyncio.sleep(2)
    assert set(world.devices) == devices


async def test_a_device_that_a_vm_holds_is_kept_and_that_is_said_once(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    with world.vm(device):
        await world.kubelet.force_delete(pod)
        said = await world.says("device not removed", device=device, reason="in-use")
        assert said["level"] == "info"
        assert "is in use" in said["detail"]
        assert said["parent"] == "mdpy"
        await rounds(world, 6)
        assert world.devices.keys() == {device}
    await world.says("device removed", device=device)
    assert len(world.logged("device not removed", device=device, reason="in-use")) == 1


async def test_a_device_once_seen_held_is_used_even_if_no_container_was_started(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    (device,) = ids = [slot(vfio("mdpy-hd"))]
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        await plugin.Allocate(allocate_request(ids))
        world.mark(device)
        with world.vm(device):
            await world.says("device not removed", device=device, reason="in-use")
        await plugin.Allocate(allocate_request(ids))
    assert not world.is_marked(device)


async def test_a_device_that_a_pod_has_is_kept_though_no_vm_runs(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    await rounds(world, 6)
    assert set(world.devices) == world.ids(pod)
    assert (await world.says("device belongs to a pod"))["pod"] == "default/vm"
    assert not world.logged("device not removed", reason="remembered")


async def test_an_init_containers_device_is_kept_since_the_checkpoint_names_it(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4, mtty_1=24)
    pod = await world.kubelet.admit(
        PodSpec(
            "vm",
            containers=(
                ContainerSpec("prepare", {vfio("mdpy-hd"): 1}, init=True),
                ContainerSpec("vm", {vfio("mtty-1"): 1}),
            ),
        )
    )
    (device,) = world.ids(pod, "prepare")
    await world.says("device not removed", device=device, reason="remembered")
    await rounds(world, 4)
    assert device in world.devices
    assert len(world.logged("device not removed", device=device)) == 1
    await world.kubelet.delete(pod)
    await world.says("device removed", device=device)


async def test_a_stale_checkpoint_keeps_nothing(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    await world.kubelet.delete(pod)
    assert device in world.kubelet.checkpoint.path.read_text()
    await world.says("device removed", device=device)
    assert not world.logged("device not removed", device=device)


@pytest.mark.parametrize("trouble", ["throttled", "failing", "hanging"])
async def test_a_list_that_can_not_be_had_keeps_everything(begin: Begin, trouble: str) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    if trouble == "throttled":
        world.kubelet.throttle(10**6)
    elif trouble == "failing":
        world.kubelet.fail_list(grpc.StatusCode.INTERNAL)
    else:
        world.kubelet.hang_list()
    await world.kubelet.force_delete(pod)
    said = await world.says("device not removed", device=device, reason="list-failed")
    print(said["detail"])
    assert device in world.devices
    world.kubelet.throttle(0)
    world.kubelet.fail_list(None)
    world.kubelet.hang_list(on=False)
    await world.says("device removed", device=device)
    assert len(world.logged("device not removed", device=device)) == 1


@pytest.mark.parametrize("damage", ["corrupt", "missing", "unreadable", "frozen"])
async def test_a_checkpoint_that_can_not_be_had_keeps_everything(begin: Begin, damage: Damage) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    await world.kubelet.damage_checkpoint(damage)
    await world.kubelet.force_delete(pod)
    await world.says("device not removed", device=device, reason="checkpoint-failed")
    assert device in world.devices
    await world.kubelet.damage_checkpoint(None)
    await world.says("device removed", device=device)


async def test_a_list_that_is_empty_after_a_restart_costs_no_pod_its_device(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    world.kubelet.delay_list(empty_for=2.5, partial_for=0.5)
    await world.kubelet.kill()
    await world.kubelet.start()
    await world.kubelet.wait_for(lambda: world.kubelet.list_state == "all")
    await rounds(world, 3)
    assert device in world.devices
    await world.kubelet.delete(pod)
    await world.says("device removed", device=device)


async def test_without_an_api_server_no_running_pod_loses_its_device(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    world.kubelet.set_api_server(up=False)
    await world.kubelet.kill()
    await world.kubelet.start()
    await world.says("device not removed", device=device, reason="remembered")
    await rounds(world, 3)
    assert device in world.devices
    world.kubelet.set_api_server(up=True)
    await world.kubelet.delete(pod)
    await world.says("device removed", device=device)


async def test_without_a_kubelet_everything_stays(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    await world.kubelet.force_delete(pod)
    await world.kubelet.kill()
    await world.says("device not removed", device=device, reason="kubelet-away")
    assert device in world.devices
    await world.kubelet.start()
    await world.says("device removed", device=device)


async def test_foreign_devices_stay_for_ever(begin: Begin) -> None:
    world = await begin(agent=False, config=QUICK)
    near_miss = [
        str(uuid.uuid4()),
        "6d646576-0000-4000-8000-000000000000",  # the mark, but version 4
        "6d646576-0000-8000-c000-000000000000",  # the mark, but another variant
        "6d646577-0000-8000-8000-000000000000",
        slot("other.example/thing", node_name="elsewhere"),  # another node's, or of another name of this one
    ]
    for device in near_miss:
        world.create("mtty", "mtty-1", device)
    world.create("mtty", "mtty-1", ours := slot("other.example/thing"))
    await world.start_agent()
    await world.says("device removed", device=ours)
    await rounds_without_candidates(world)
    assert set(world.devices) == set(near_miss)
    await world.offers(mtty_1=19)


async def rounds_without_candidates(world: World, *, node_name: str = NODE_NAME) -> None:
    """Wait for a later removal: rounds that find nothing to do ask nobody."""
    world.create("mtty", "mtty-1", marker := slot("other.example/marker", node_name=node_name))
    await world.says("device removed", device=marker)


async def test_devices_of_another_configuration_are_taken_back_and_those_of_another_name_stay(
    begin: Begin,
) -> None:
    world = await begin(config=f"resources: [{{name: example.com/old, types: [mdpy-hd]}}]\n{QUICK}")
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable("example.com/old") == 4)
    orphan = await world.run_pod({"example.com/old": 1}, name="orphan")
    kept = await world.run_pod({"example.com/old": 1}, name="kept")
    await world.stop_agent()
    await world.kubelet.force_delete(orphan)
    world.configure(f"discovery: {{exclude: [mdpy-hd]}}\n{QUICK}")
    everything = set(world.devices)
    await world.start_agent(node_name="renamed")
    await rounds_without_candidates(world, node_name="renamed")
    assert set(world.devices) == everything
    await world.stop_agent()
    await world.start_agent()
    await world.until(lambda: world.devices.keys() == world.ids(kept))
    await rounds(world, 3)
    assert set(world.devices) == world.ids(kept)


async def test_a_driver_that_removes_by_itself_and_then_refuses_is_no_failure(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    world.node.fault("fail-remove", parent="mdpy", errno=errno.ENODEV)
    await world.kubelet.delete(pod)
    await world.says("device removed", device=device)
    await world.offers(mdpy_vga=4)
    assert not world.logged("device not removed")


async def test_a_device_of_a_pod_that_was_rejected_is_taken_back(begin: Begin) -> None:
    world = await begin(config=QUICK)
    await world.offers(mdpy_hd=4)
    with pytest.raises(AdmissionError):
        await world.kubelet.admit(
            PodSpec("unlucky", containers=(ContainerSpec("c", {vfio("mdpy-hd"): 2}),)),
            reject_after_allocate=True,
        )
    assert len(world.devices) == 2
    await world.until(lambda: not world.devices)


async def test_nothing_is_taken_back_where_that_is_switched_off(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    await world.kubelet.delete(pod)
    began = time.monotonic()
    await world.until(lambda: time.monotonic() - began > 1.5)
    assert device in world.devices
    assert world.kubelet.calls["List"] <= 1  # Once for the pod's name in the log.
    # The next pod gets it all the same, made anew.
    world.mark(device)
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        await plugin.Allocate(allocate_request([device]))
    assert not world.is_marked(device)


async def test_devices_within_their_grace_are_kept_however_busy_the_node(begin: Begin) -> None:
    world = await begin(config="reclaim: {grace: 1000s, interval: 10s}", agent=False)
    await world.start_agent(moved_clock=True)
    await world.offers(mdpy_hd=4)
    (device,) = ids = [slot(vfio("mdpy-hd"))]
    async with world.plugin(vfio("mdpy-hd")) as plugin:
        await plugin.Allocate(allocate_request(ids))
        world.mark(device)
        for _ in range(4):
            for _ in range(2):
                world.time_passes(400)
                await asyncio.sleep(0.1)  # It looks, and finds nothing to do.
            await plugin.Allocate(allocate_request(ids))
            assert world.is_marked(device)
    assert not world.logged("device removed")
    world.time_passes(1000)
    await world.says("device removed", device=device)


async def test_a_resource_whose_stream_flaps_keeps_only_its_own_devices(begin: Begin) -> None:
    world = await begin(config="reclaim: {grace: 1s, interval: 200ms}")
    await world.offers(mdpy_hd=4, mtty_1=24)
    pod = await world.run_pod("mdpy-hd")
    await world.kubelet.force_delete(pod)
    until = time.monotonic() + 10
    while world.devices and time.monotonic() < until:
        if world.kubelet.allocatable(vfio("mtty-1")):
            await world.kubelet.end_stream(vfio("mtty-1"))
        await asyncio.sleep(0.3)
    assert not world.devices


async def test_a_device_that_a_vm_holds_beyond_its_pod_lures_no_other_pod(begin: Begin) -> None:
    world = await begin()
    await world.offers(mdpy_hd=4, mdpy_vga=4)
    pod = await world.run_pod("mdpy-hd")
    (device,) = world.ids(pod)
    with world.vm(device):
        await world.kubelet.force_delete(pod)
        await world.offers(mdpy_hd=3, mdpy_vga=3)
        await world.run_pod({vfio("mdpy-hd"): 3}, name="next")
    await world.offers(mdpy_hd=4)
    assert device not in world.devices
