"""Pods that the node can't have: what their status says, and that nothing is left of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.node import Node
from tests.cluster.pods import HOST, Pods, vfio
from tests.cluster.waiting import eventually


@pytest.fixture
def faulty(simulator: Hardware) -> Iterator[Hardware]:
    """A simulated node whose faults end with the test."""
    yield simulator
    simulator.simulate("clear-faults")


def test_a_pod_whose_device_the_driver_refuses_says_so_in_its_status(
    faulty: Hardware, agent: Agent, node: Node, pods: Pods
) -> None:
    faulty.simulate("fault", "fail-create", "--type", "mbochs-large", "--errno", "EIO")
    status = pods.start(vfio("mbochs-large")).fails()
    assert status["reason"] == "UnexpectedAdmissionError"
    sentence = status["message"]
    assert "vfio.dev/mbochs-large: no parent could take the device: tried mbochs-large on mbochs" in sentence
    assert "EIO" in sentence
    # The other types of the card are none the worse for it, nor is the type once the fault is over.
    pods.run(vfio("mbochs-small"))
    faulty.simulate("clear-faults")
    _recovers("mbochs-large", agent, node, pods)
    agent.is_ready()


def test_of_several_devices_none_is_left_when_one_cannot_be_made(
    faulty: Hardware, agent: Agent, node: Node, pods: Pods
) -> None:
    faulty.simulate("fault", "fail-create", "--type", "mdpy-vga", "--errno", "ENOMEM")
    restarts = agent.restarts
    status = pods.start({vfio("mtty-1"): 3, vfio("mdpy-vga"): 1}).fails()
    assert "vfio.dev/mdpy-vga" in status["message"]
    assert "ENOMEM" in status["message"]
    # What was made for the pod before the refusal is reclaimed: nobody tells that it failed.
    faulty.is_rid_of()
    assert agent.restarts == restarts
    faulty.simulate("clear-faults")
    _recovers("mdpy-vga", agent, node, pods)
    # One success, and all of the card's room is offered again.
    agent.measures("mdev_slots", 3, resource=vfio("mdpy-vga"), state="free")


def test_a_driver_that_takes_too_long_is_not_waited_for(faulty: Hardware, agent: Agent, pods: Pods) -> None:
    faulty.simulate("fault", "slow-create", "--type", "mdpy-hd", "--seconds", "9")
    status = pods.start(vfio("mdpy-hd")).fails()
    assert "the node took more than 6 s to answer" in status["message"]
    # It comes after all, and goes again.
    agent.says("device of a failed request removed")
    faulty.is_rid_of()


def test_a_device_is_reclaimed_when_the_kubelet_rejects_its_pod_after_all(
    hardware: Hardware, agent: Agent, node: Node, pods: Pods, resource: str
) -> None:
    # For such a pod the kubelet goes by the node's status, which may still tell of an earlier test.
    node.has_room(resource)
    # The kubelet has the device made before it finds that it is not the node that the pod wants.
    status = pods.start(resource, bound=True, nodeSelector={HOST: "another-node"}).fails()
    assert status["reason"] == "NodeAffinity"
    created = agent.says("device created", resource=resource)
    agent.says("device removed", device=created["device"])
    hardware.is_rid_of()


def test_a_device_is_reclaimed_when_its_pod_asks_for_more_processors_than_there_are(
    hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    greedy = pods.container({resource: 1, "cpu": 100_000})
    greedy["resources"]["requests"] = {}
    before = agent.metrics()
    status = pods.start(bound=True, containers=[greedy]).fails()
    assert status["reason"] == "OutOfcpu"
    allocations = ("mdev_allocations_total", frozenset({("resource", resource), ("result", "success")}))
    assert agent.metrics()[allocations] == before[allocations] + 1
    hardware.is_rid_of()


def _recovers(type_id: str, agent: Agent, node: Node, pods: Pods) -> None:
    """See that a type which was refused is offered again after a while, and that a pod gets it."""
    resource = vfio(type_id)
    free = ("mdev_slots", frozenset({("resource", resource), ("state", "free")}))

    def offered() -> None:
        assert agent.metrics()[free] > 0, f"{resource} is not offered again yet"

    eventually(offered)
    node.has_room(resource)
    pods.run(resource)
