"""The agent is killed, upgraded, rolled back, removed: no pod loses its device, and nothing leaks."""

from __future__ import annotations

from tests.cluster.cluster import Cluster
from tests.cluster.environment import SYSTEM
from tests.cluster.hardware import Hardware
from tests.cluster.installation import SELECTOR, Agent, Release, Values, merged
from tests.cluster.node import Node
from tests.cluster.pods import Pods, vfio
from tests.cluster.waiting import eventually, until


def killed(hardware: Hardware, agent: Agent) -> None:
    """End the agent at once, and wait until the kubelet has started it again."""
    restarts = agent.restarts
    hardware.kill(hardware.process(agent.container_id))

    def again() -> None:
        assert agent.restarts > restarts, "the agent was not started again"

    eventually(again)
    agent.is_ready()


def test_an_agent_that_is_killed_leaves_pods_their_devices_and_carries_on(
    hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource)
    before = hardware.identities()
    killed(hardware, agent)
    assert hardware.identities() == before
    # Once it has looked at everything, the device is still there and still the pod's.
    (uuid,) = before
    agent.says("device belongs to a pod", device=uuid, pod=str(pod))
    assert hardware.identities() == before
    assert pod.restarts == 0
    pod.delete()
    hardware.is_rid_of(uuid)
    pods.run(resource)


def test_an_agent_that_is_killed_in_the_middle_of_an_allocation_leaks_nothing(
    simulator: Hardware, agent: Agent, pods: Pods, node: Node
) -> None:
    node.offers({vfio("mdpy-xga"): 4})
    simulator.simulate("fault", "slow-create", "--type", "mdpy-xga", "--seconds", "5")
    try:
        pod = pods.start(vfio("mdpy-xga"))
        until(lambda: simulator.room("mdpy-xga") == 3, "the device is being made")
        killed(simulator, agent)
        assert pod.fails()["reason"] == "UnexpectedAdmissionError"
    finally:
        simulator.simulate("clear-faults")
    simulator.is_rid_of()
    until(lambda: simulator.room("mdpy-xga") == 4, "the room is given back")
    pods.run(vfio("mdpy-xga"))


def test_an_upgrade_and_its_rollback_leave_pods_their_devices(
    hardware: Hardware, agent: Agent, release: Release, values: Values, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource)
    before, revision = hardware.identities(), release.revision
    upgraded = release.upgrade(merged(values, {"podAnnotations": {"mdev-test/release": "next"}}))
    assert upgraded.name != agent.name
    upgraded.says("device belongs to a pod", pod=str(pod))
    assert hardware.identities() == before
    rolled_back = release.roll_back(revision, values)
    assert rolled_back.name != upgraded.name
    rolled_back.says("device belongs to a pod", pod=str(pod))
    assert hardware.identities() == before
    assert pod.variables().devices == set(before)
    pod.delete()
    hardware.is_rid_of()


def test_after_an_uninstall_pods_have_their_devices_and_nothing_else_is_left(
    cluster: Cluster,
    node: Node,
    hardware: Hardware,
    release: Release,
    values: Values,
    pods: Pods,
    resource: str,
) -> None:
    release.ensure(values)
    stays, goes = pods.run(resource), pods.run(resource)
    before = hardware.identities()
    assert hardware.sockets
    release.uninstall()
    assert hardware.identities() == before
    assert hardware.sockets == []
    for kind in ("daemonset", "configmap", "serviceaccount", "networkpolicy", "secret", "pod"):
        left = [each["metadata"]["name"] for each in cluster.list(kind, namespace=SYSTEM)]
        # Every namespace has these.
        assert set(left) <= {"default", "kube-root-ca.crt"}, f"the {kind} {left} is left"
    for kind in ("clusterrole", "clusterrolebinding"):
        assert not cluster.list(kind, selector=SELECTOR)
    node.offers({resource: 0})
    # Nobody is there to take it back.
    goes.delete()
    goes.is_gone()
    assert hardware.identities() == before
    kept = stays.variables().devices
    again = release.ensure(values)
    hardware.is_rid_of(*(before.keys() - kept))
    again.says("device belongs to a pod", pod=str(stays))
    assert hardware.identities() == {uuid: before[uuid] for uuid in kept}
    stays.delete()
    hardware.is_rid_of()
