"""Another plugin registers a resource of the agent's at the kubelet, and goes."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.node import Node
from tests.cluster.pods import Pod, Pods, vfio
from tests.cluster.waiting import eventually

RESOURCE = vfio("mdpy-hd")
COUNT = 4
PLUGINS = "/var/lib/kubelet/device-plugins"
OTHER = f"""
import os, signal, sys
from concurrent.futures import ThreadPoolExecutor
from threading import Event
import grpc
from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb, deviceplugin_v1beta1_pb2_grpc as rpc

gone = Event()
signal.signal(signal.SIGTERM, lambda *_: gone.set())

class Other(rpc.DevicePluginServicer):
    def GetDevicePluginOptions(self, request, context):
        return pb.DevicePluginOptions()
    def ListAndWatch(self, request, context):
        yield pb.ListAndWatchResponse(devices=[pb.Device(ID="42", health="Healthy")])
        gone.wait()

servers = []
for number in range(int(sys.argv[1])):
    # A name of its own each time: a kubelet from 1.37 on takes none twice.
    name = f"other-{{number}}.sock"
    servers.append(grpc.server(ThreadPoolExecutor(2)))
    rpc.add_DevicePluginServicer_to_server(Other(), servers[-1])
    servers[-1].add_insecure_port(f"unix:{PLUGINS}/{{name}}")
    servers[-1].start()
    with grpc.insecure_channel("unix:{PLUGINS}/kubelet.sock") as channel:
        request = pb.RegisterRequest(version="v1beta1", endpoint=name, resource_name="{RESOURCE}")
        try:
            rpc.RegistrationStub(channel).Register(request, timeout=15)
        except grpc.RpcError as error:
            print(error, flush=True)
    if gone.wait(0.5):
        break
gone.wait()
for server in servers:
    server.stop(0).wait()
os._exit(0)
"""

BELIEVED = f"""
import asyncio
from pathlib import Path
from deviceplugin.kubelet.podresources import list_healthy

healthy = asyncio.run(list_healthy(Path("/var/lib/kubelet/pod-resources/kubelet.sock")))
print(*sorted(healthy.get("{RESOURCE}", ())))
"""


@pytest.fixture
def other(pods: Pods) -> Callable[[int], Pod]:
    """Starts another plugin, which registers so many times."""

    def start(times: int) -> Pod:
        mount = [{"name": "plugins", "mountPath": PLUGINS}]
        container = pods.container({}, volumeMounts=mount)
        container["command"] = ["python", "-c", OTHER, str(times)]
        volume = {"name": "plugins", "hostPath": {"path": PLUGINS}}
        return pods.start(containers=[container], volumes=[volume])

    return start


@pytest.mark.usefixtures("simulator")
@pytest.mark.parametrize("times", [1, 8])
def test_a_resource_is_back_when_another_plugin_of_its_name_has_gone(
    node: Node, hardware: Hardware, agent: Agent, pods: Pods, other: Callable[[int], Pod], times: int
) -> None:
    node.offers({RESOURCE: COUNT})
    plugin = other(times).runs()
    said = agent.says("another plugin may have this resource", resource=RESOURCE)
    assert "1 device of another plugin" in said["reason"] or "none of the 4" in said["reason"]
    plugin.delete()
    plugin.is_gone()
    _is_believed(agent)
    agent.is_ready()
    agent.says("the kubelet believes this agent's list again", resource=RESOURCE)
    agent.measures("mdev_another_plugin", 0, resource=RESOURCE)
    node.offers({RESOURCE: COUNT})
    running = [pods.run(RESOURCE) for _ in range(COUNT)]
    assert len(hardware.ours) == COUNT
    assert not hardware.ours - {device for pod in running for device in pod.variables().devices}


@pytest.mark.usefixtures("simulator")
def test_readiness_names_another_plugin_for_as_long_as_the_kubelet_believes_it(
    node: Node, agent: Agent, other: Callable[[int], Pod]
) -> None:
    node.offers({RESOURCE: COUNT})
    # It insists: each registration of the agent's is followed by one of its own.
    plugin = other(100)

    def named() -> None:
        status, body = agent.ask("/readyz")
        assert status == 503, body  # what a probe takes for a failure
        assert f"{RESOURCE}: the kubelet believes 1 device of another plugin" in body

    eventually(named)
    agent.measures("mdev_another_plugin", 1, resource=RESOURCE)
    plugin.delete()
    plugin.is_gone()
    _is_believed(agent)
    agent.is_ready()
    node.offers({RESOURCE: COUNT})


def _is_believed(agent: Agent) -> None:
    """Wait until the kubelet has the agent's list: what the other listed last may outlive it."""

    def believed() -> None:
        found = agent.execute("python", "-c", BELIEVED).split()
        assert len(found) == COUNT, f"the kubelet believes {found}"

    # Two attempts to mend it are at most half a minute apart.
    eventually(believed, within=120)
