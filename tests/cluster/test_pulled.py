"""A device that is pulled from under its pod."""

from __future__ import annotations

import pytest

from tests.cluster.cluster import Object
from tests.cluster.conftest import SAMPLES
from tests.cluster.environment import Environment
from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.node import Node
from tests.cluster.pods import Pod, Pods, vfio
from tests.cluster.waiting import eventually

pytestmark = pytest.mark.usefixtures("simulator")


def health(pod: Pod) -> dict[str, str]:
    """The health of each device of a pod, as its status has it."""
    resources: list[Object] = pod.status().get("allocatedResourcesStatus", [])
    return {
        device["resourceID"]: device["health"] for resource in resources for device in resource["resources"]
    }


def test_a_pod_shows_in_its_status_that_its_device_was_pulled(
    simulator: Hardware, node: Node, agent: Agent, pods: Pods, environment: Environment
) -> None:
    pod = pods.run({vfio("mdpy-vga"): 2})
    if not health(pod):
        environment.lacks("ResourceHealthStatus", "shows the health of devices in a pod's status")
    pulled, stays = sorted(simulator.ours)
    assert health(pod) == {pulled: "Healthy", stays: "Healthy"}
    simulator.simulate("remove", pulled)

    def shown() -> None:
        assert health(pod) == {pulled: "Unhealthy", stays: "Healthy"}

    eventually(shown)
    agent.measures("mdev_slots", 1, resource=vfio("mdpy-vga"), state="unavailable")
    # While others come and go, it is not told again and again.
    another = pods.run(vfio("mtty-1"))
    (other,) = another.variables().devices
    another.delete()
    simulator.is_rid_of(other)
    told = [line for line in agent.log() if line.get("device") == pulled]
    assert [line["event"] for line in told] == ["device created", "device belongs to a pod"]
    # Its slot is offered again once the pod is gone.
    pod.delete()
    agent.measures("mdev_slots", 4, resource=vfio("mdpy-vga"), state="free")
    node.offers(SAMPLES)


def test_a_card_that_is_pulled_takes_its_devices_along_and_brings_back_its_room(
    simulator: Hardware, node: Node, agent: Agent, pods: Pods
) -> None:
    pod = pods.run(vfio("mdpy-vga"))
    simulator.simulate("unregister", "mdpy")
    try:
        simulator.is_rid_of()
        node.offers({vfio("mdpy-vga"): 0, vfio("mdpy-hd"): 0, vfio("mtty-1"): 24})
        agent.is_ready()
        pod.delete()
        pod.is_gone()
    finally:
        simulator.simulate("register", "mdpy")
    node.offers(SAMPLES)
    pods.run(vfio("mdpy-vga"))
