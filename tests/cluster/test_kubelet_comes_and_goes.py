"""The kubelet and the API server go away and come back, with the agent there or not."""

from __future__ import annotations

import pytest

from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.node import Node
from tests.cluster.pods import Pod, Pods
from tests.cluster.waiting import eventually, until

pytestmark = pytest.mark.usefixtures("services")

AWAY = 503


def works(agent: Agent, hardware: Hardware, pods: Pods, resource: str, running: Pod) -> None:
    """A pod that was there all the time is unharmed; another one gets a device, and both give theirs back."""
    agent.is_ready()
    kept = hardware.ours
    assert running.runs().variables().devices == kept
    assert running.restarts == 0
    another = pods.run(resource)
    for pod in (another, running):
        pod.delete()
    hardware.is_rid_of()


def test_a_kubelet_that_is_restarted_finds_the_agent_and_every_pod_its_device(
    node: Node, hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource)
    before, registered, restarts = hardware.identities(), registrations(agent), agent.restarts
    node.service("restart", "kubelet")

    def again() -> None:
        assert registrations(agent) > registered, "the agent has not registered again"

    eventually(again)
    agent.is_ready()
    assert hardware.identities() == before
    assert agent.restarts == restarts
    works(agent, hardware, pods, resource, pod)


def test_while_the_kubelet_is_away_nothing_is_removed_and_the_agent_says_that_it_is_not_ready(
    node: Node, hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource)
    before = hardware.identities()
    (uuid,) = before
    node.service("kill", "kubelet")

    def not_ready() -> str:
        status, body = agent.ask("/readyz")
        assert status == AWAY, f"the agent says that it is ready: {body}"
        return body

    assert f"{resource}: the kubelet does not listen to it" in eventually(not_ready)
    agent.measures("mdev_kubelet_connected", 0, resource=resource)
    # A round of the reclaim, which finds that nothing can be known.
    agent.measures("mdev_devices_held_back", 1, reason="kubelet-away")
    node.service("start", "kubelet")
    agent.is_ready()
    agent.says("device not removed", device=uuid, reason="kubelet-away")
    assert hardware.identities() == before
    works(agent, hardware, pods, resource, pod)


def test_an_agent_that_died_without_a_kubelet_is_back_with_it(
    node: Node, hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    node.need_commands()
    pod = pods.run(resource)
    before, restarts = hardware.identities(), agent.restarts
    process = hardware.process(agent.container_id)
    node.service("kill", "kubelet")
    node.execute("sh", "-c", f"kill -KILL {process}")
    node.service("start", "kubelet")

    def again() -> None:
        assert agent.restarts > restarts, "the agent was not started again"

    eventually(again)
    agent.is_ready()
    assert hardware.identities() == before
    works(agent, hardware, pods, resource, pod)


def test_without_an_api_server_a_restarted_kubelet_costs_no_pod_its_device(
    node: Node, hardware: Hardware, agent: Agent, pods: Pods, resource: str
) -> None:
    node.need_commands()
    pod = pods.run(resource)
    before = hardware.identities()
    (uuid,) = before
    node.service("kill", "kube-apiserver")
    node.service("restart", "kubelet")

    def kept() -> None:
        # The kubelet's list is empty now, and stays so. What it remembers is all that speaks for the pod.
        assert any(
            each["event"] == "device not removed" and (each["device"], each["reason"]) == (uuid, "remembered")
            for each in agent.log_on(node)
        ), "the agent has not looked for whom the device is"

    eventually(kept)
    node.service("start", "kube-apiserver")
    until(lambda: node.is_ready, f"{node.name} is ready")
    agent.is_ready()
    assert hardware.identities() == before
    works(agent, hardware, pods, resource, pod)


def registrations(agent: Agent) -> float:
    return agent.metrics()["mdev_registrations_total", frozenset({("result", "success")})]
