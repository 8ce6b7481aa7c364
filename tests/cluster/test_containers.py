"""What containers get, seen from inside them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.pods import Pods, Variables, vfio

pytestmark = pytest.mark.usefixtures("agent")


def nodes_of(hardware: Hardware, *uuids: str) -> set[str]:
    """The device nodes that a container with these devices has to have, and no others."""
    devices = hardware.devices
    return {"/dev/vfio/vfio"} | {f"/dev/vfio/{devices[uuid].group}" for uuid in uuids}


def test_a_container_gets_its_device_and_is_told_of_it(hardware: Hardware, pods: Pods, resource: str) -> None:
    pod = pods.run(resource)
    (uuid,) = hardware.ours
    device = hardware.devices[uuid]
    domain, _, name = resource.upper().partition("/")
    prefix = f"MDEV_{domain}_{name}".replace(".", "_").replace("-", "_")
    found = pod.variables().all
    assert found[f"{prefix}_UUIDS"] == uuid
    assert found[f"{prefix}_TYPES"] == device.type
    assert found[f"{prefix}_SYSFSDEVS"] == f"/sys/bus/mdev/devices/{uuid}"
    # KubeVirt's own rule: what is no letter stays, but for dots and slashes.
    assert found[f"MDEV_PCI_RESOURCE_{domain.replace('.', '_')}_{name}"] == uuid
    assert pod.device_nodes() == nodes_of(hardware, uuid)


@pytest.mark.usefixtures("simulator")
def test_a_container_gets_several_devices_of_several_resources(hardware: Hardware, pods: Pods) -> None:
    pod = pods.run({vfio("mtty-2"): 3, vfio("mdpy-vga"): 1, vfio("mbochs-medium"): 2})
    found, devices = pod.variables(), hardware.devices
    for type_id, number in (("mtty-2", 3), ("mdpy-vga", 1), ("mbochs-medium", 2)):
        uuids = found.uuids(vfio(type_id))
        assert len(set(uuids)) == number
        assert {devices[uuid].type for uuid in uuids} == {type_id}
    assert found.devices == hardware.ours
    assert pod.device_nodes() == nodes_of(hardware, *found.devices)


@pytest.mark.usefixtures("simulator")
def test_containers_of_a_pod_have_devices_of_their_own(hardware: Hardware, pods: Pods) -> None:
    pod = pods.run(
        containers=[
            pods.container({vfio("mtty-1"): 1}, name="main"),
            pods.container({vfio("mtty-1"): 2}, name="second"),
            pods.container({}, name="without"),
        ]
    )
    first, second = pod.variables().devices, pod.variables("second").devices
    assert (len(first), len(second)) == (1, 2)
    assert first | second == hardware.ours
    assert not first & second
    assert pod.device_nodes() == nodes_of(hardware, *first)
    assert pod.device_nodes("second") == nodes_of(hardware, *second)
    assert not pod.variables("without").devices


@pytest.mark.usefixtures("simulator")
def test_an_init_container_hands_its_device_on(hardware: Hardware, pods: Pods) -> None:
    # Nobody can look into an init container that has ended, so this one writes down what it had.
    told: dict[str, Any] = {"volumeMounts": [{"name": "told", "mountPath": "/told"}]}
    init = pods.container({vfio("mtty-1"): 1}, name="init", script="env >/told/init", **told)
    pod = pods.run(
        initContainers=[init],
        containers=[pods.container({vfio("mtty-1"): 2}, **told)],
        volumes=[{"name": "told", "emptyDir": {}}],
    )
    assert len(hardware.ours) == 2
    assert pod.variables().devices == hardware.ours
    assert Variables.parse(pod.execute("cat", "/told/init")).devices < hardware.ours


def test_a_device_of_an_init_container_alone_stays_while_its_pod_runs(
    hardware: Hardware, pods: Pods, agent: Agent, resource: str
) -> None:
    pods.run(initContainers=[pods.container({resource: 1}, name="init", script="true")])
    before = hardware.identities()
    (uuid,) = before
    # The kubelet's list leaves such containers out: its checkpoint is what tells.
    agent.says("device not removed", device=uuid, reason="remembered")
    assert hardware.identities() == before


@pytest.mark.usefixtures("simulator")
def test_a_sidecar_has_a_device_of_its_own(hardware: Hardware, pods: Pods) -> None:
    sidecar = pods.container({vfio("mbochs-small"): 1}, name="sidecar", restartPolicy="Always")
    pod = pods.run({vfio("mbochs-small"): 1}, initContainers=[sidecar])
    beside, within = pod.variables("sidecar").devices, pod.variables().devices
    assert beside | within == hardware.ours
    assert len(hardware.ours) == 2
    assert pod.device_nodes("sidecar") == nodes_of(hardware, *beside)
    assert pod.device_nodes() == nodes_of(hardware, *within)


def test_a_container_that_starts_anew_has_the_same_device(
    hardware: Hardware, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource)
    before, variables = hardware.identities(), pod.variables()
    pod.restart()
    pod.runs()
    assert pod.variables().devices == variables.devices
    assert hardware.identities() == before
    assert pod.device_nodes() == nodes_of(hardware, *before)


def test_a_device_that_was_removed_by_hand_is_there_again_when_its_container_starts(
    simulator: Hardware, pods: Pods, resource: str
) -> None:
    pod = pods.run(resource)
    (uuid,) = simulator.ours
    before = simulator.identity(uuid)
    simulator.simulate("remove", uuid)
    pod.restart()
    pod.runs()
    assert simulator.ours == {uuid}
    assert simulator.identity(uuid) != before
    assert pod.device_nodes() == nodes_of(simulator, uuid)
