"""The agent's configuration goes through the chart to the program as it was meant."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator  # type: ignore[import-untyped]

from deviceplugin.config import load
from deviceplugin.settings import Config
from tests.chart import helm, valuesschema

SCHEMA = helm.CHART / "values.schema.json"
EXAMPLE = yaml.safe_load(
    """
    discovery: {domain: example.com, name: name, include: ["GRID *"], exclude: [nvidia-230]}
    resources:
    - name: nvidia.com/GRID_T4-1Q
      types: [nvidia-230, "GRID T4-2Q"]
      parents: {addresses: ["0000:3b:*"], drivers: [nvidia], numaNodes: [0]}
      placement: spread
      max: 16384
      attributes: {nvidia/vgpu_params: "frame_rate_limiter=0, x=\\"1\\""}
    reclaim: {enabled: false, grace: 1m, interval: 500ms}
    handover: {cdi: false}
    """
)


def _config_map(values: dict[str, Any]) -> dict[str, str]:
    (found,) = yaml.safe_load_all(helm.render(values, template="configmap.yaml"))
    data: dict[str, str] = found["data"]
    return data


def _loaded(text: str, folder: Path) -> Config:
    path = folder / "config.yaml"
    path.write_text(text)
    return load(path)


def test_the_program_reads_what_was_given_to_the_chart(tmp_path: Path) -> None:
    direct = _loaded(yaml.safe_dump({"version": "v1", **EXAMPLE}), tmp_path)
    assert _loaded(_config_map({"config": EXAMPLE})["config.yaml"], tmp_path) == direct
    assert direct != Config()


def test_without_any_the_program_reads_its_defaults(tmp_path: Path) -> None:
    assert _loaded(_config_map({})["config.yaml"], tmp_path) == Config()


def test_a_whole_configuration_file_with_its_version_will_do() -> None:
    whole = {"version": "v1", **EXAMPLE}
    assert _config_map({"config": whole}) == _config_map({"config": EXAMPLE})
    with pytest.raises(helm.Refused, match="'/config/version': value must be 'v1'"):
        helm.render({"config": {"version": "v2"}})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"discovry": {}}, "'/config': additional properties 'discovry' not allowed"),
        ({"discovery": {"domian": "x"}}, "'/config/discovery': additional properties 'domian' not allowed"),
        ({"discovery": {"domain": "Vfio.dev"}}, "'/config/discovery/domain': 'Vfio.dev' does not match"),
        ({"discovery": {"domain": "kubernetes.io"}}, "'/config/discovery/domain': 'not' failed"),
        ({"reclaim": {"grace": 10}}, "'/config/reclaim/grace': got number, want string"),
        ({"reclaim": {"grace": "10 s"}}, "'/config/reclaim/grace': '10 s' does not match"),
        ({"handover": {"cdi": "yes"}}, "'/config/handover/cdi': got string, want boolean"),
        ({"resources": [{"name": "a.b/c"}]}, "'/config/resources/0': missing property 'types'"),
        ({"resources": [{"name": "c", "types": ["d"]}]}, "'/config/resources/0/name': 'c' does not match"),
        ({"resources": [{"name": "a.b/c", "types": []}]}, "'/config/resources/0/types': minItems"),
    ],
)
def test_a_configuration_that_the_program_would_refuse_is_refused_by_helm(config: Any, says: str) -> None:
    with pytest.raises(helm.Refused) as refused:
        helm.render({"config": config})
    assert says in str(refused.value)


def test_a_changed_configuration_rolls_the_pods() -> None:
    def checksum(values: dict[str, Any]) -> str:
        (found,) = yaml.safe_load_all(helm.render(values, template="daemonset.yaml"))
        text: str = found["spec"]["template"]["metadata"]["annotations"]["checksum/config"]
        return text

    described = {"simulator": {"enabled": True, "description": "one"}}
    of_each = [
        checksum({}),
        checksum({"config": EXAMPLE}),
        checksum(described),
        checksum({"simulator": described["simulator"] | {"description": "two"}}),
    ]
    assert len(set(of_each)) == len(of_each)
    assert checksum({"log": {"level": "debug"}}) == of_each[0]


def test_the_schema_is_one_that_old_and_new_validators_read() -> None:
    schema = json.loads(SCHEMA.read_text("utf-8"))
    Draft7Validator.check_schema(schema)
    defaults = yaml.safe_load((helm.CHART / "values.yaml").read_text("utf-8"))
    assert list(Draft7Validator(schema).iter_errors(defaults)) == []
    # Go's regular expressions know neither lookarounds nor backreferences.
    patterns = re.findall(r'"pattern": "((?:[^"\\]|\\.)*)"', SCHEMA.read_text("utf-8"))
    assert len(patterns) > 10
    assert not [pattern for pattern in patterns if re.search(r"\(\?[=!<]|\\\\[1-9]", pattern)]


def test_the_programs_schema_is_the_charts() -> None:
    assert valuesschema.current(SCHEMA.read_text("utf-8")) == SCHEMA.read_text("utf-8")
    defined = json.loads(SCHEMA.read_text("utf-8"))["definitions"]
    assert defined["ConfigFile"]["required"] == []
    assert defined["ConfigFile"]["additionalProperties"] is False
