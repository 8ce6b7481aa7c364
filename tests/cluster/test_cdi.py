"""With CDI the container runtime finds a device by its name, in a file that the agent keeps on the node."""

from __future__ import annotations

import json

import pytest

from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent, Values, merged
from tests.cluster.node import Node
from tests.cluster.pods import Pods, told, vfio
from tests.cluster.test_agent_comes_and_goes import killed
from tests.cluster.test_reboot import works
from tests.cluster.waiting import eventually, until

DIRECTORY = "/var/run/cdi"


@pytest.fixture(scope="session")
def values(values: Values) -> Values:
    """How the chart is installed for these tests."""
    return merged(values, {"config": {"handover": {"cdi": True}}})


@pytest.fixture
def directory(node: Node) -> Directory:
    """What the container runtime reads, as the node has it."""
    node.need_commands()
    return Directory(node)


class Directory:
    """The node's CDI specifications of our devices."""

    def __init__(self, node: Node) -> None:
        self._node = node

    @property
    def uuids(self) -> set[str]:
        """The devices that have one."""
        script = f"cd {DIRECTORY} && ls -d vfio.dev-mdev_*.json 2>/dev/null || true"
        names = self._node.execute("sh", "-c", script).split()
        return {name.removeprefix("vfio.dev-mdev_").removesuffix(".json") for name in names}

    def nodes(self, uuid: str) -> set[str]:
        """The device nodes that a container is to get for a device."""
        text = self._node.execute("cat", f"{DIRECTORY}/vfio.dev-mdev_{uuid}.json")
        (device,) = json.loads(text)["devices"]
        return {str(node["path"]) for node in device["containerEdits"]["deviceNodes"]}


@pytest.mark.usefixtures("agent")
def test_a_pod_gets_its_devices_by_name_and_the_files_go_with_them(
    hardware: Hardware, pods: Pods, resource: str, directory: Directory
) -> None:
    pod = pods.run(resource)
    works(hardware, pod)
    (uuid,) = pod.variables().uuids(resource)
    assert directory.uuids == {uuid}
    assert directory.nodes(uuid) == pod.device_nodes()
    pod.delete()
    hardware.is_rid_of(uuid)
    until(lambda: not directory.uuids, "the specification is gone")


@pytest.mark.usefixtures("agent", "simulator")
def test_a_container_with_several_devices_gets_the_nodes_of_each(
    hardware: Hardware, pods: Pods, directory: Directory
) -> None:
    pod = pods.run({vfio("mtty-1"): 2, vfio("mdpy-hd"): 1})
    works(hardware, pod)
    assert len(pod.device_nodes()) == 4
    assert directory.uuids == pod.variables().devices


def test_an_agent_that_is_killed_still_removes_the_file_with_the_device(
    hardware: Hardware, agent: Agent, pods: Pods, resource: str, directory: Directory
) -> None:
    pod = pods.run(resource)
    (uuid,) = pod.variables().uuids(resource)
    killed(hardware, agent)
    agent.says("device belongs to a pod", device=uuid, pod=str(pod))
    assert directory.uuids == {uuid}
    # The file is good for another start, too.
    pod.restart()
    works(hardware, pod.runs())
    pod.delete()
    hardware.is_rid_of(uuid)
    until(lambda: not directory.uuids, "the specification is gone")


@pytest.mark.usefixtures("agent")
def test_a_container_that_starts_again_gets_the_node_that_its_device_has_now(
    simulator: Hardware, pods: Pods, directory: Directory
) -> None:
    pod = pods.run(vfio("mtty-1"))
    (uuid,) = pod.variables().uuids(vfio("mtty-1"))
    container, before = pod.container_id, simulator.devices[uuid].group
    # All devices are gone, and the next ones have groups with other numbers.
    simulator.simulate("reboot")
    pod.end()

    def started_again() -> None:
        assert pod.container_id not in {"", container}, told(pod.there)

    eventually(started_again)
    works(simulator, pod.runs())
    assert simulator.devices[uuid].group != before
    assert directory.nodes(uuid) == pod.device_nodes()
