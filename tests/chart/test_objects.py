"""What the chart renders to is what Kubernetes knows, strictly read, whatever the values."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.chart import helm, kubernetes, manifests
from tests.chart.cases import CASES, EVERYTHING

COMBINATIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "everything": EVERYTHING,
    "everything, simulated": EVERYTHING | {"simulator": {"enabled": True, "description": "models: {}\n"}},
    "simulated": {"simulator": {"enabled": True}},
}


@pytest.mark.parametrize("values", COMBINATIONS.values(), ids=COMBINATIONS)
def test_every_object_is_what_kubernetes_knows(values: dict[str, Any]) -> None:
    objects = helm.objects(values)
    assert {"DaemonSet", "ConfigMap", "ServiceAccount"} <= {found["kind"] for found in objects}
    assert [problem for found in objects for problem in kubernetes.problems(found)] == []


@pytest.mark.parametrize("case", CASES, ids=str)
def test_no_value_makes_an_object_that_kubernetes_does_not_know(case: Any) -> None:
    objects = helm.objects(case.values)
    assert [problem for found in objects for problem in kubernetes.problems(found)] == []


def test_a_field_that_kubernetes_does_not_know_would_be_found() -> None:
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "one", "imagee": "x"}]}}
    (problem,) = kubernetes.problems(pod)
    assert problem.startswith("Pod $.spec.containers[0]: ")
    assert "'imagee' was unexpected" in problem
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "PodMonitor", "spec": {"selektor": {}}}
    assert any("'selektor' was unexpected" in problem for problem in kubernetes.problems(monitor))


def test_each_template_makes_one_object_in_the_releases_namespace() -> None:
    for template in (helm.CHART / "templates").rglob("*.yaml"):
        name = str(template.relative_to(helm.CHART / "templates"))
        (found,) = yaml.safe_load_all(helm.render(EVERYTHING, template=name))
        assert found["metadata"]["namespace"] == helm.NAME


def test_the_manifests_are_what_kubernetes_knows() -> None:
    for folder in (manifests.MANIFESTS, manifests.SIMULATOR):
        for name in (*manifests.RENDERED, "namespace.yaml"):
            found = yaml.safe_load((folder / name).read_text("utf-8"))
            assert kubernetes.problems(found) == []
