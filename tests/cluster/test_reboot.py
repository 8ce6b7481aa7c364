"""A node that goes down with everything on it, and comes back without a single device."""

from __future__ import annotations

import pytest

from tests.cluster.environment import SIMULATED
from tests.cluster.hardware import Hardware
from tests.cluster.installation import Release
from tests.cluster.node import Node
from tests.cluster.pods import Pod, Pods, told, vfio
from tests.cluster.waiting import eventually, until

OURS = "delete the pod so that it is allocated anew"
"""What our sentence says of a container that would get another device's node."""
THEIRS = "no healthy devices present"
"""The kubelet's words for a pod that it has looked at before the agent was there."""
KILL_PODS = """
for process in /proc/[0-9]*; do
  grep -qs kubepods $process/cgroup || continue
  grep -qs %s $process/cgroup || kill -KILL ${process#/proc/} || true
done
"""
"""Ends every process of every pod, but for those of one container."""
KILL_SHIMS = """
for process in /proc/[0-9]*; do
  # By the kernel's word, and not by the command line: this script's own has the name too.
  case $(cat $process/comm) in containerd-shim*) ;; *) continue ;; esac
  grep -qsz k8s.io $process/cmdline && kill -KILL ${process#/proc/}
done 2>/dev/null
true
"""
"""Ends what containerd has beside each pod, and leaves there if it is killed."""


def reboot(node: Node, hardware: Hardware) -> None:
    """End all that runs on the node, take its devices, number the next ones anew, and start everything."""
    process = hardware.process(hardware.pod.container_id)
    try:
        node.service("kill", "kubelet")
        node.service("kill", "containerd")
        # One container is left: the simulator is in there.
        node.execute("sh", "-c", KILL_PODS % hardware.pod.container_id)
        plugin = "/opt/mdev-device-plugin/bin/mdev-device-plugin"
        node.execute("chroot", f"/proc/{process}/root", plugin, "simulate", SIMULATED, "reboot")
        node.execute("sh", "-c", KILL_PODS % "no-container")
        node.execute("sh", "-c", KILL_SHIMS)
    finally:
        # Without them nothing could be tidied up, and every test after this one would fail.
        node.service("start", "containerd")
        node.service("start", "kubelet")


def outcome(pod: Pod, container_before: str) -> str:
    """What became of a pod: nothing if it runs again, or the reason that its status gives."""

    def settled() -> str:
        found = pod.there
        if found["status"]["phase"] == "Failed":
            return str(found["status"]["message"])
        waiting = str(pod.status().get("state", {}).get("waiting", {}).get("message", ""))
        if OURS in waiting:
            return waiting
        assert pod.container_id not in {"", container_before}, told(found)
        pod.runs()
        return ""

    return eventually(settled, within=120)


def works(hardware: Hardware, pod: Pod) -> None:
    """Whether a pod's container has the nodes of its own devices, and no others."""
    uuids, devices = pod.variables().devices, hardware.devices
    assert uuids <= devices.keys()
    assert pod.device_nodes() == {"/dev/vfio/vfio"} | {f"/dev/vfio/{devices[uuid].group}" for uuid in uuids}


@pytest.mark.usefixtures("agent")
def test_a_container_that_would_get_another_device_s_node_is_not_started(
    simulator: Hardware, pods: Pods
) -> None:
    pod = pods.run(vfio("mtty-1"))
    container = pod.container_id
    # What the kubelet remembers for the pod is a group that its device, made again, does not have any more.
    simulator.simulate("reboot")
    pod.end()
    reason = outcome(pod, container)
    assert OURS in reason
    assert "vfio.dev/mtty-1" in reason
    pod.delete()
    works(simulator, pods.run(vfio("mtty-1")))


@pytest.mark.usefixtures("agent", "services")
def test_a_reboot_ends_pods_with_devices_and_controllers_replace_theirs(
    node: Node, simulator: Hardware, release: Release, pods: Pods
) -> None:
    node.need_commands()
    alone, deployment = pods.run({vfio("mtty-1"): 2}), pods.deploy(vfio("mbochs-small"))
    deployed = deployment.pod
    containers = {pod: pod.container_id for pod in (alone, deployed)}

    def replaced() -> Pod:
        return deployment.pod.runs()

    old = {device.group for device in simulator.devices.values()}
    reboot(node, simulator)
    until(lambda: node.is_ready, f"{node.name} is ready")
    simulator.pod.runs()
    agent = release.settled()
    agent.is_ready()
    # The kubelet has looked at them before the agent was there, whatever their restartPolicy.
    for pod, container in containers.items():
        assert THEIRS in outcome(pod, container)
    replacement = eventually(replaced)
    works(simulator, replacement)
    # What the others had is nobody's any more, and they stay as they are.
    until(lambda: simulator.ours == replacement.variables().devices, "no device is left of the old pods")
    assert alone.there["status"]["phase"] == "Failed"
    alone.delete()
    another = pods.run(vfio("mtty-1"))
    works(simulator, another)
    # Groups have other numbers than before, so that mistaking one would have been seen.
    assert not old & {device.group for device in simulator.devices.values()}
