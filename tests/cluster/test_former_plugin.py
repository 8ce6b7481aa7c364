"""Taking over from another plugin, whose devices a kubelet remembers that restarts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.installation import Agent, Release, Values, merged
from tests.cluster.node import Node
from tests.cluster.pods import Pods, vfio
from tests.cluster.waiting import PATIENCE, Never, eventually, until

CARDS = "nvidia-t4"
"""Its cards have NUMA nodes, which the kubelet asks about only where one device at least has them."""
RESOURCE = vfio("nvidia-230")
COUNT = 32
PLUGINS = "/var/lib/kubelet/device-plugins"
FORMER = f"""
import os, signal, socket
from concurrent.futures import ThreadPoolExecutor
from threading import Event
import grpc
from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb, deviceplugin_v1beta1_pb2_grpc as rpc

gone = Event()
signal.signal(signal.SIGTERM, lambda *_: gone.set())

class Former(rpc.DevicePluginServicer):
    def GetDevicePluginOptions(self, request, context):
        return pb.DevicePluginOptions()
    def ListAndWatch(self, request, context):
        # Called by its VFIO group, as KubeVirt's own plugin does.
        topology = pb.TopologyInfo(nodes=[pb.NUMANode(ID=0)])
        yield pb.ListAndWatchResponse(devices=[pb.Device(ID="42", health="Healthy", topology=topology)])
        gone.wait()
    def Allocate(self, request, context):
        node = pb.DeviceSpec(host_path="/dev/null", container_path="/dev/vfio/42", permissions="mrw")
        return pb.AllocateResponse(container_responses=[pb.ContainerAllocateResponse(devices=[node])])

name = f"former-{{socket.gethostname()}}.sock"
server = grpc.server(ThreadPoolExecutor(2))
rpc.add_DevicePluginServicer_to_server(Former(), server)
server.add_insecure_port(f"unix:{PLUGINS}/{{name}}")
server.start()
with grpc.insecure_channel("unix:{PLUGINS}/kubelet.sock") as channel:
    request = pb.RegisterRequest(version="v1beta1", endpoint=name, resource_name="{RESOURCE}")
    rpc.RegistrationStub(channel).Register(request, timeout=15)
gone.wait()
server.stop(0).wait()
os._exit(0)
"""


@pytest.fixture
def single_numa_node(node: Node, services: None) -> Iterator[None]:  # noqa: ARG001  # they run again after this
    """A kubelet that has all devices of a pod from one NUMA node."""
    with node.kubelet_settings(topologyManagerPolicy="single-numa-node"):
        yield


@pytest.fixture
def without_agent(release: Release) -> Release:
    release.uninstall()
    return release


def registered(agent: Agent, node: Node) -> int:
    """How often the agent has registered the resource."""
    return sum(
        (line["event"], line.get("resource")) == ("registered", RESOURCE) for line in agent.log_on(node)
    )


@pytest.mark.usefixtures("simulator", "single_numa_node")
def test_a_kubelet_that_restarts_neither_crashes_nor_ends_the_pod_of_a_former_plugin(
    node: Node, without_agent: Release, values: Values, pods: Pods
) -> None:
    mount = [{"name": "plugins", "mountPath": PLUGINS}]
    container = pods.container({}, volumeMounts=mount, command=["python", "-c", FORMER])
    volume = {"name": "plugins", "hostPath": {"path": PLUGINS}}
    former = pods.run(containers=[container], volumes=[volume])
    node.offers({RESOURCE: 1})
    old = pods.run(RESOURCE)
    assert old.device_nodes() == {"/dev/vfio/42"}
    kept = old.container_id
    former.delete()
    former.is_gone()

    agent = without_agent.upgrade(merged(values, {"simulator": {"node": CARDS}}))
    agent.says(
        f"{RESOURCE}: the kubelet remembers devices of another plugin, for instance '42'; they are listed as "
        "Unhealthy, and their pods run on until a container of theirs has to start again"
    )
    offers_beside_one_that_is_unhealthy(node)

    # The kubelet hears of its pods only when it has the agent's list, and looks for their devices in there.
    before = registered(agent, node)
    node.service("kill", "kube-apiserver")
    node.service("restart", "kubelet")
    kubelet = node.processes("kubelet")
    until(lambda: registered(agent, node) > before, "the agent has registered again")
    node.service("start", "kube-apiserver")
    new = pods.start(RESOURCE)

    def runs() -> None:
        if node.processes("kubelet") != kubelet:
            raise Never("the kubelet has crashed")
        new.runs(within=0)

    # The kubelet takes up the pods that it has before it starts a new one. The scheduler may wait for half a
    # minute before it looks for the API server again.
    eventually(runs, within=3 * PATIENCE)
    assert len(new.variables().uuids(RESOURCE)) == 1
    agent.is_ready()
    offers_beside_one_that_is_unhealthy(node)
    assert old.runs().device_nodes() == {"/dev/vfio/42"}
    assert (old.container_id, old.restarts) == (kept, 0)
    assert node.processes("kubelet") == kubelet


def offers_beside_one_that_is_unhealthy(node: Node) -> None:
    """Wait until the kubelet knows of the agent's devices, and of one that nobody may have."""
    node.offers({RESOURCE: COUNT})

    def shown() -> None:
        known = node.capacity.get(RESOURCE)
        assert known == COUNT + 1, f"{node.name} knows of {known} devices of {RESOURCE}"

    eventually(shown)
