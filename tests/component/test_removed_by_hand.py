"""``devices remove`` beside a running agent, which takes nothing back by itself here."""

from __future__ import annotations

import asyncio
import json
import sys

from tests.component.conftest import Begin
from tests.component.world import NEVER, World, slot, vfio

MTTY = vfio("mtty-1")


async def remove(world: World, *arguments: str) -> tuple[int, dict[str, str]]:
    """Call it; returns its exit code, and its sentence or result for each device."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deviceplugin", "devices", "remove", "-o", "json", "--node-name", "n"),
        *("--simulated", str(world.node.paths.root), "--kubelet-root", str(world.directory / "k")),
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    devices = json.loads(output)["devices"]
    return process.returncode or 0, {device["uuid"]: device["why"] or device["result"] for device in devices}


async def test_a_device_goes_when_its_pod_has_and_its_slot_is_offered_on(begin: Begin) -> None:
    world = await begin(config=NEVER)
    await world.offers(mtty_1=24)
    pod = await world.run_pod("mtty-1")
    (device,) = world.ids(pod)
    refused = (1, {device: "the pod default/vm has it, in its container c"})
    assert await remove(world, device) == refused
    assert device in world.devices
    await world.kubelet.delete(pod)
    # The kubelet writes down that it is free when the next pod comes, if it has not done so before.
    other = await world.run_pod({vfio("mdpy-hd"): 1}, name="other")
    assert await remove(world, device) == (0, {device: "removed"})
    assert device not in world.devices
    await world.offers(mtty_1=24)
    again = await world.run_pod({MTTY: 24}, name="again")
    assert world.ids(again) <= world.devices.keys()
    assert world.ids(other) <= world.devices.keys()


async def test_the_room_of_what_a_renamed_node_left_comes_back(begin: Begin) -> None:
    world = await begin(agent=False, config=NEVER)
    left = slot(MTTY, node_name="before-it-was-renamed")
    world.create("mtty", "mtty-1", left)
    await world.start_agent(node_name="n")
    await world.offers(mtty_1=23)
    code, said = await remove(world, left)
    assert (code, "--other-nodes" in said[left]) == (1, True)
    # The kubelet has written what it knows: it hears of a plugin's list.
    assert await remove(world, "--other-nodes", left) == (0, {left: "removed"})
    await world.offers(mtty_1=24)
