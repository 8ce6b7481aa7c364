"""What ``plan`` says is what the agent does: the same pods, on the same node, one after the other."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial

import pytest

from deviceplugin.inventory import slots
from deviceplugin.inventory.resources import Discovery
from deviceplugin.planning.forecast import Bounds
from deviceplugin.planning.plan import Planner, Request
from deviceplugin.simulator.kubelet.kubelet import AdmissionError
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.state import State
from deviceplugin.simulator.node.view import DescribedNode
from tests.component.conftest import Begin
from tests.component.world import NEVER, NODE_NAME, World, vfio

PODS = {
    "nvidia-a2": [("nvidia-745", 2), ("nvidia-746", 1), ("nvidia-743", 1), ("nvidia-745", 5)],
    "nvidia-t4": [("nvidia-230", 1), ("nvidia-234", 1), ("nvidia-230", 16), ("nvidia-231", 1)],
    "samples": [
        ("mbochs-large", 1),
        ("mbochs-small", 2),
        ("mbochs-medium", 20),
        ("mtty-2", 3),
        ("mtty-1", 4),
    ],
    "intel-gvtg": [("i915-GVTg_V5_4", 2), ("i915-GVTg_V5_8", 1), ("i915-GVTg_V5_2", 1)],
}


def _is_so(world: World, expected: dict[str, int]) -> bool:
    return world.allocatable(*expected) == expected


@pytest.mark.parametrize("name", PODS)
async def test_pods_get_what_was_planned_and_what_was_planned_is_left(begin: Begin, name: str) -> None:
    node = DescribedNode(load(name), State(first_group=load(name).first_group))
    resources = {resource.name: resource for resource in Discovery().discover(node.surely)[0]}
    planner = Planner(node, resources, node_name=NODE_NAME)
    world = await begin(name, config=NEVER)
    left: Mapping[str, Bounds] = planner.left()
    held = Counter[str]()
    for number, (type_id, devices) in enumerate(PODS[name]):
        expected = {resource: bounds.at_most + held[resource] for resource, bounds in left.items()}
        await world.until(partial(_is_so, world, expected), f"{expected}")
        step = await planner.run(Request("", resources[vfio(type_id)], devices))
        (planned,) = step.pods
        left = step.left
        if planned.error is not None:
            with pytest.raises(AdmissionError):
                await world.admit({vfio(type_id): devices}, name=f"vm-{number}")
            continue
        pod = await world.admit({vfio(type_id): devices}, name=f"vm-{number}")
        held[vfio(type_id)] += devices
        made = {uuid: (device.parent, device.type) for uuid, device in world.devices.items()}
        assert world.ids(pod) == {device.uuid for device in planned.devices}
        assert {
            device.uuid: (device.parent, device.type) for device in planned.devices
        }.items() <= made.items()
    assert all(map(slots.bears_mark, world.devices))
