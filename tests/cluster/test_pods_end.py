"""The ends of pods: each gives its devices back, and none loses them before its last process is gone."""

from __future__ import annotations

import pytest

from tests.cluster.commands import Refused
from tests.cluster.conftest import SAMPLES
from tests.cluster.environment import DIRECTORY, SIMULATED
from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.node import Node
from tests.cluster.pods import STUBBORN, Pod, Pods, vfio
from tests.cluster.waiting import until

pytestmark = pytest.mark.usefixtures("agent")

SOON = 15.0
"""Seconds; a reclaim takes three after a pod's end, with the values of these tests."""
HOLD = f"""
trap "" TERM
mdev-device-plugin simulate {SIMULATED} hold "$MDEV_VFIO_DEV_MDPY_HD_UUIDS" & wait
"""
"""Has its device open as a VM would, and has to be killed."""


def test_a_deleted_pod_gives_its_devices_back(hardware: Hardware, pods: Pods, resource: str) -> None:
    pod = pods.run(resource)
    assert hardware.ours
    pod.delete()
    pod.is_gone()
    hardware.is_rid_of(within=SOON)


@pytest.mark.usefixtures("simulator")
def test_the_room_of_a_deleted_pod_is_offered_again(node: Node, pods: Pods) -> None:
    pod = pods.run({vfio("mtty-2"): 12})
    node.offers({vfio("mtty-1"): 0, vfio("mtty-2"): 12})
    pod.delete()
    node.offers(SAMPLES)


def test_an_evicted_pod_gives_its_devices_back(hardware: Hardware, pods: Pods, resource: str) -> None:
    pod = pods.run(resource)
    assert hardware.ours
    pod.evict()
    pod.is_gone()
    hardware.is_rid_of(within=SOON)


def test_a_pod_that_has_done_its_work_gives_its_devices_back_though_nobody_deletes_it(
    hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    pod = pods.start(resource, script="true", restartPolicy="Never")
    pod.succeeds()
    created = agent.says("device created", resource=resource)
    hardware.is_rid_of(created["device"], within=SOON)
    assert pod.read()


def test_a_pod_that_is_slow_to_end_keeps_its_devices_until_it_has(
    hardware: Hardware, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource, script=STUBBORN, terminationGracePeriodSeconds=5)
    before, process = hardware.identities(), hardware.process(pod.container_id)
    pod.delete()
    seen = 0
    while True:
        try:
            there = hardware.identities()
        except Refused:  # It went while it was being looked at.
            there = {}
        # By the process, and asked after the devices: the pod's object outlives its containers a little.
        if not hardware.runs(process):
            break
        assert there == before
        seen += 1
    assert seen
    hardware.is_rid_of(within=SOON)


def holding(pods: Pods, requests: str, *, for_seconds: int) -> Pod:
    """A pod that has its device open, and once told to end still does for so many seconds."""
    mounts = [{"name": "node", "mountPath": DIRECTORY}]
    return pods.run(
        containers=[pods.container({requests: 1}, script=HOLD, volumeMounts=mounts)],
        volumes=[{"name": "node", "hostPath": {"path": DIRECTORY, "type": "Directory"}}],
        terminationGracePeriodSeconds=for_seconds,
    )


def test_a_device_that_outlives_its_pod_stays_for_as_long_as_something_holds_it(
    simulator: Hardware, agent: Agent, pods: Pods
) -> None:
    pod = holding(pods, vfio("mdpy-hd"), for_seconds=8)
    (uuid,) = simulator.ours
    before = simulator.identity(uuid)
    until(lambda: simulator.in_use(uuid), "the pod holds its device")
    pod.delete(force=True)
    pod.is_gone(within=5)
    # The cluster knows nothing of the pod any more. Its process is there all the same, for a while.
    told = agent.says("device not removed", device=uuid, reason="in-use")
    assert "is in use" in told["detail"]
    assert told["pod"] == str(pod)
    assert simulator.identity(uuid) == before
    simulator.is_rid_of(uuid)
    agent.says("device removed", device=uuid)


def test_a_device_that_something_still_holds_is_not_handed_on(
    simulator: Hardware, node: Node, pods: Pods
) -> None:
    pod = holding(pods, vfio("mdpy-hd"), for_seconds=20)
    (uuid,) = simulator.ours
    until(lambda: simulator.in_use(uuid), "the pod holds its device")
    node.offers({vfio("mdpy-hd"): 4})
    pod.delete(force=True)
    pod.is_gone(within=5)
    before = simulator.identity(uuid)
    status = pods.start({vfio("mdpy-hd"): 4}, bound=True).fails()
    assert status["reason"] == "UnexpectedAdmissionError"
    # Either the agent refuses, or it has seen who has the device and the kubelet knows of three.
    words = (f"the device {uuid} is still held by the VM that had it before", "Requested: 4, Available: 3")
    assert any(each in status["message"] for each in words), status["message"]
    assert simulator.identity(uuid) == before
