"""Every value does what its comment says, and what is not a value is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.chart import helm, valuestable
from tests.chart.cases import CASES, Case

DEFAULTS: dict[str, Any] = yaml.safe_load((helm.CHART / "values.yaml").read_text("utf-8"))
THE_USERS = {"labels", "annotations", "podLabels", "podAnnotations", "nodeSelector", "affinity"}
"""Values whose keys are whatever the user likes."""
SECTIONS = [key for key, value in DEFAULTS.items() if isinstance(value, dict) and key not in THE_USERS]


def _lines(text: str) -> set[str]:
    return {line.strip() for line in text.splitlines()}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_value_does_what_it_is_for_and_nothing_of_it_is_there_otherwise(case: Case) -> None:
    without = _lines(helm.render(case.besides))
    with_it = _lines(helm.render(case.values))
    assert set(case.appears) <= with_it
    assert not set(case.appears) & without
    assert set(case.vanishes) <= without
    assert not set(case.vanishes) & with_it
    assert case.appears or case.vanishes


def test_no_value_is_without_a_case() -> None:
    explained = {value.path for value in valuestable.values((helm.CHART / "values.yaml").read_text("utf-8"))}
    assert {case.path for case in CASES} == explained


def test_helm_finds_nothing_to_criticise() -> None:
    assert "0 chart(s) failed" in helm.run("lint", "--strict", str(helm.CHART))


@pytest.mark.parametrize("section", ["", *SECTIONS])
def test_a_misspelt_key_is_refused_by_its_name_and_place(section: str) -> None:
    wrong = {"enabeld": True}
    with pytest.raises(helm.Refused) as refused:
        helm.render({section: wrong} if section else wrong)
    place = f"/{section}" if section else ""
    assert f"'{place}': additional properties 'enabeld' not allowed" in str(refused.value)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"image": {"tag": 1}}, "'/image/tag': got number, want string"),
        ({"image": {"digest": "0a0a"}}, "'/image/digest': '0a0a' does not match"),
        ({"image": {"pullPolicy": "Sometimes"}}, "'/image/pullPolicy': value must be one of 'Always'"),
        ({"imagePullSecrets": ["mine"]}, "'/imagePullSecrets/0': got string, want object"),
        ({"kubelet": {"root": "var/lib/kubelet"}}, "'/kubelet/root': 'var/lib/kubelet' does not match"),
        ({"log": {"level": "verbose"}}, "'/log/level': value must be one of 'debug', 'info'"),
        ({"http": {"port": 70000}}, "'/http/port': maximum: got 70,000, want 65,535"),
        ({"capabilities": ["cap_net_admin"]}, "'/capabilities/0': 'cap_net_admin' does not match"),
        ({"simulator": {"node": "nvidia"}}, "'/simulator/node': value must be one of 'big'"),
        ({"updateStrategy": {"rollingUpdate": {"maxSurge": 1}}}, "maxSurge': value must be 0"),
        ({"labels": {"app.kubernetes.io/name": "x"}}, "'/labels/app.kubernetes.io~1name': false schema"),
        ({"podLabels": {"app.kubernetes.io/instance": "x"}}, "'/podLabels/app.kubernetes.io~1instance'"),
        ({"podAnnotations": {"a": True}}, "'/podAnnotations/a': got boolean, want string"),
        ({"resources": {"memory": "1Gi"}}, "'/resources': additional properties 'memory' not allowed"),
        ({"podMonitor": {"interval": "often"}}, "'/podMonitor/interval': 'often' does not match"),
        ({"test": {"resource": "nvidia-222"}}, "'/test/resource': 'nvidia-222' does not match"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused_with_its_place(values: dict[str, Any], says: str) -> None:
    with pytest.raises(helm.Refused) as refused:
        helm.render(values)
    assert says in str(refused.value)


def test_a_chart_that_depends_on_this_one_may_have_global_values() -> None:
    assert helm.render({"global": {"imageRegistry": "example.com"}}) == helm.render()
