"""The chart and the manifests, as a running API server and helm take them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.cluster import Cluster, Object
from tests.cluster.conftest import SAMPLES
from tests.cluster.environment import SYSTEM
from tests.cluster.hardware import Hardware
from tests.cluster.installation import RELEASE, SELECTOR, Agent, Release
from tests.cluster.node import Node

TESTS = "app.kubernetes.io/component=test"
MANIFESTS = Path(__file__).parents[2] / "manifests"
EVERYTHING: dict[str, Any] = {
    "log": {"format": "console", "level": "debug"},
    "labels": {"example.com/team": "graphics"},
    "annotations": {"example.com/note": "all of it"},
    "podLabels": {"example.com/tier": "node"},
    "podAnnotations": {"example.com/note": "of the pods"},
    "imagePullSecrets": [{"name": "registry"}],
    "extraEnv": [{"name": "EXAMPLE", "value": "1"}],
    "extraArgs": ["--log-level=debug"],
    "extraVolumes": [{"name": "more", "emptyDir": {}}],
    "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    "dashboard": {"enabled": True},
    "networkPolicy": {
        "enabled": True,
        "from": [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}],
    },
    "test": {"resource": "vfio.dev/mtty-1"},
    "serviceAccount": {"annotations": {"example.com/note": "of the account"}},
}


def known(cluster: Cluster, objects: list[Object]) -> list[Object]:
    """Those whose kind this API server knows: not every cluster has KubeVirt or Prometheus Operator."""
    served = set(cluster.kubectl("api-versions").split())
    return [each for each in objects if each["apiVersion"] in served]


@pytest.mark.parametrize("simulated", [True, False], ids=["simulated", "hardware"])
@pytest.mark.parametrize("more", [{}, EVERYTHING], ids=["by default", "with everything"])
def test_the_api_server_finds_nothing_wrong_with_the_chart(
    cluster: Cluster, release: Release, more: dict[str, Any], simulated: bool
) -> None:
    objects = release.render({**more, "simulator": {"enabled": simulated}})
    assert {each["kind"] for each in objects} >= {"DaemonSet", "ConfigMap", "ServiceAccount"}
    cluster.validate(*known(cluster, objects))


def test_the_api_server_finds_nothing_wrong_with_the_manifests(cluster: Cluster) -> None:
    found: list[Object] = []
    for directory in sorted(path.parent for path in MANIFESTS.rglob("kustomization.yaml")):
        found.extend(yaml.safe_load_all(cluster.kubectl("kustomize", str(directory))))
    for path in sorted(MANIFESTS.glob("examples/*.yaml")):
        found.extend(each for each in yaml.safe_load_all(path.read_text()) if each and "kind" in each)
    objects = known(cluster, [each for each in found if each])
    assert {"DaemonSet", "Pod"} <= {each["kind"] for each in objects}
    for each in objects:
        # Their own namespace is not there.
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = SYSTEM
        cluster.validate(each)


@pytest.mark.usefixtures("agent", "simulator")
def test_helm_s_test_asks_for_a_device_and_finds_what_it_should(
    cluster: Cluster, release: Release, hardware: Hardware
) -> None:
    try:
        told = release.helm("test", RELEASE, "--logs", "--timeout", "60s")
    finally:
        for pod in cluster.list("pod", namespace=SYSTEM, selector=f"{SELECTOR},{TESTS}"):
            cluster.delete("pod", pod["metadata"]["name"], namespace=SYSTEM)
    assert "Succeeded" in told
    assert "device node /dev/vfio/vfio" in told
    hardware.is_rid_of()


@pytest.mark.usefixtures("simulator")
def test_without_the_simulator_an_agent_is_ready_on_a_node_without_any_card(
    release: Release, node: Node, agent: Agent
) -> None:
    bare = release.upgrade({"simulator": {"enabled": False}})
    assert bare.name != agent.name
    assert bare.ask("/healthz")[0] == 200
    assert bare.ask("/readyz")[0] == 200
    bare.says("this node has no mediated device type yet; waiting for one")
    node.offers(dict.fromkeys(SAMPLES, 0))
    # All that it kept of being privileged: DAC_OVERRIDE (1) and NET_ADMIN (12).
    status_file = bare.execute("cat", "/proc/1/status")
    capabilities = dict(line.split(":\t") for line in status_file.splitlines() if line.startswith("Cap"))
    narrowed = f"{1 << 1 | 1 << 12:016x}"
    assert capabilities["CapEff"] == capabilities["CapPrm"] == capabilities["CapBnd"] == narrowed
    assert "NoNewPrivs:\t1" in status_file
