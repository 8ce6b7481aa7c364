"""The examples beside the manifests: valid, and of one mind with the program and the chart."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner

from deviceplugin.cli.kubevirt import command as kubevirt
from deviceplugin.handover import hand_over
from deviceplugin.host.paths import HostPaths
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel
from tests.chart import helm, kubernetes, manifests

EXAMPLES = manifests.MANIFESTS / "examples"
RESOURCE = "vfio.dev/nvidia-222"


def _example(name: str) -> Any:
    return yaml.safe_load((EXAMPLES / name).read_text("utf-8"))


def test_the_pod_with_qemu_is_what_kubernetes_knows() -> None:
    assert kubernetes.problems(_example("qemu-pod.yaml")) == []


def test_the_pod_with_qemu_uses_a_variable_that_it_gets() -> None:
    (container,) = _example("qemu-pod.yaml")["spec"]["containers"]
    assert container["resources"]["limits"][RESOURCE] == 1
    (variable,) = (
        name for name in hand_over(HostPaths(), RESOURCE, ()).environment if name.endswith("_SYSFSDEVS")
    )
    assert f"sysfsdev=${variable}" in container["command"][-1]


def test_the_labels_of_node_feature_discovery_choose_the_nodes() -> None:
    rule = _example("nfd-rule.yaml")["spec"]["rules"][0]
    (daemon_set,) = (
        found for found in helm.objects(_example("nfd-values.yaml")) if found["kind"] == "DaemonSet"
    )
    assert kubernetes.problems(daemon_set) == []
    affinity = daemon_set["spec"]["template"]["spec"]["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    ((label, value),) = rule["labels"].items()
    assert term["matchExpressions"] == [{"key": label, "operator": "In", "values": [value]}]


def test_kubevirt_is_permitted_what_its_virtual_machine_asks_for() -> None:
    configuration = _example("kubevirt-cr.yaml")["spec"]["configuration"]
    machine = _example("kubevirt-vm.yaml")
    (device,) = machine["spec"]["template"]["spec"]["domain"]["devices"]["gpus"]
    permitted = {
        entry["resourceName"]: entry for entry in configuration["permittedHostDevices"]["mediatedDevices"]
    }
    assert device["deviceName"] == RESOURCE
    assert permitted[RESOURCE]["externalResourceProvider"] is True


def test_kubevirt_is_told_what_the_program_tells_it(tmp_path: Path) -> None:
    SimulatedKernel.build(tmp_path, load("nvidia-t4"))
    printed = CliRunner().invoke(
        kubevirt, ["--simulated", str(tmp_path), "-o", "json"], catch_exceptions=False
    )
    told = json.loads(printed.stdout)["spec"]["configuration"]
    example = _example("kubevirt-cr.yaml")["spec"]["configuration"]
    assert example["mediatedDevicesConfiguration"] == told["mediatedDevicesConfiguration"]
    (device,) = example["permittedHostDevices"]["mediatedDevices"]
    assert device in told["permittedHostDevices"]["mediatedDevices"]
