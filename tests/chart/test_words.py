"""What Helm tells after an installation, and the pod of `helm test`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deviceplugin.handover import hand_over
from deviceplugin.host.paths import HostPaths
from deviceplugin.simulator.node.description import load
from tests.chart import helm

SIMULATED = {"simulator": {"enabled": True}}


def _notes(folder: Path, values: dict[str, Any] | None = None) -> str:
    """NOTES.txt, which Helm renders only when it installs: a copy of the chart has it as an object."""
    chart = folder / "chart"
    shutil.copytree(helm.CHART, chart, dirs_exist_ok=True)
    notes = '{"kind": "Notes", "text": {{ include (print $.Template.BasePath "/NOTES.txt") . | toJson }}}\n'
    (chart / "templates/notes.yaml").write_text(notes)
    rendered = helm.render(values, template="notes.yaml", chart=chart)
    text: str = yaml.safe_load(rendered)["text"]
    return text


def _test_pod(values: dict[str, Any]) -> dict[str, Any] | None:
    pods = [found for found in helm.objects(values) if found["kind"] == "Pod"]
    assert len(pods) < 2
    return pods[0] if pods else None


def test_the_notes_say_where_to_look_and_what_to_ask_for(tmp_path: Path) -> None:
    notes = _notes(tmp_path)
    assert "kubectl rollout status -n mdev-device-plugin daemonset/mdev-device-plugin" in notes
    assert "pod-security.kubernetes.io/enforce=privileged" in notes
    assert "-- mdev-device-plugin types" in notes
    assert "vfio.dev/<type>: 1" in notes
    assert "--set test.resource=<resource>" in notes


def test_the_notes_name_the_resources_that_the_configuration_names(tmp_path: Path) -> None:
    named = [{"name": f"example.com/{name}", "types": ["*"]} for name in ("one", "two")]
    notes = _notes(tmp_path, {"config": {"resources": named}})
    assert "example.com/one: 1" in notes
    assert "The resources that the configuration names: example.com/one, example.com/two." in notes


def test_the_notes_on_a_simulated_node_offer_the_test(tmp_path: Path) -> None:
    notes = _notes(tmp_path, SIMULATED)
    assert "with a simulated node on every node" in notes
    assert "vfio.dev/mtty-1: 1" in notes
    assert "helm test mdev-device-plugin -n mdev-device-plugin" in notes
    assert "test.resource" not in notes


def test_the_notes_tell_of_an_image_that_cannot_be_pulled(tmp_path: Path) -> None:
    assert "is in no registry" in _notes(tmp_path)
    assert "is in no registry" not in _notes(tmp_path, {"image": {"repository": "example.com/mdev"}})


@pytest.mark.parametrize(
    ("values", "resource"),
    [
        (SIMULATED, "vfio.dev/mtty-1"),
        (SIMULATED | {"config": {"discovery": {"domain": "example.com"}}}, "example.com/mtty-1"),
        (SIMULATED | {"test": {"resource": "vfio.dev/mdpy-hd"}}, "vfio.dev/mdpy-hd"),
        ({"test": {"resource": "nvidia.com/GRID_T4-1Q"}}, "nvidia.com/GRID_T4-1Q"),
    ],
)
def test_the_test_asks_for_one_device_of_the_resource(values: dict[str, Any], resource: str) -> None:
    pod = _test_pod(values)
    assert pod is not None
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    (container,) = pod["spec"]["containers"]
    assert container["resources"]["limits"][resource] == 1


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"simulator": {"enabled": True, "node": "nvidia-t4"}},
        {"simulator": {"enabled": True, "description": "models: {}"}},
        SIMULATED | {"config": {"discovery": {"include": ["mdpy-*"]}}},
        SIMULATED | {"config": {"discovery": {"name": "name"}}},
    ],
)
def test_there_is_no_test_where_no_resource_is_known(values: dict[str, Any]) -> None:
    assert _test_pod(values) is None


def test_the_simulated_node_samples_has_what_the_test_asks_for() -> None:
    types = {kind for card in load("samples").cards for kind in card.model.offered}
    assert "mtty-1" in types


def test_the_test_looks_at_the_variables_that_a_container_gets() -> None:
    resource = "nvidia.com/GRID_T4-1Q"
    pod = _test_pod({"test": {"resource": resource}})
    assert pod is not None
    *_, script = pod["spec"]["containers"][0]["command"]
    for variable in hand_over(HostPaths(), resource, ()).environment:
        assert variable in script
    subprocess.run(["sh", "-n", "-c", script], check=True)


def test_the_test_needs_no_privilege() -> None:
    pod = _test_pod(SIMULATED)
    assert pod is not None
    (container,) = pod["spec"]["containers"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert pod["spec"]["automountServiceAccountToken"] is False
    assert "volumes" not in pod["spec"]
