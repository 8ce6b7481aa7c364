"""What is made of the chart and the program is as they are today, and the manifests hang together."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.chart import generate, helm, manifests, valuestable


def test_nothing_that_is_made_is_stale() -> None:
    stale = [str(path.relative_to(helm.ROOT)) for path, _ in generate.stale()]
    assert stale == [], "`make chart` writes these anew"


def test_a_value_without_an_explanation_is_found() -> None:
    with pytest.raises(ValueError, match=r"image\.tag has no comment"):
        valuestable.values("image:\n  # -- Where it is.\n  repository: x\n  # Not this way.\n  tag: x\n")


def test_an_explanation_of_several_lines_is_one_sentence_of_the_table() -> None:
    text = "image:\n  # -- Its tag,\n  # or else none.\n  tag: ''\n# -- All of it.\nall:\n  of: [it]\n"
    assert valuestable.table(text).splitlines()[2:] == [
        '| `image.tag` | `""` | Its tag, or else none. |',
        '| `all` | `{"of": ["it"]}` | All of it. |',
    ]


def test_the_table_is_in_the_readme() -> None:
    readme = (helm.CHART / "README.md").read_text("utf-8")
    assert "| `simulator.enabled` | `false` |" in readme


@pytest.mark.parametrize("folder", [manifests.MANIFESTS, manifests.SIMULATOR], ids=["real", "simulated"])
def test_kustomize_finds_what_it_is_told_of(folder: Any) -> None:
    told = yaml.safe_load((folder / "kustomization.yaml").read_text("utf-8"))
    (generator,) = told["configMapGenerator"]
    daemon_set = yaml.safe_load((folder / "daemonset.yaml").read_text("utf-8"))
    volumes = {volume["name"]: volume for volume in daemon_set["spec"]["template"]["spec"]["volumes"]}
    assert all((folder / name).is_file() for name in (*told["resources"], *generator["files"]))
    assert generator["name"] == volumes["config"]["configMap"]["name"]
    assert generator["files"] == ["config.yaml"]
    assert told["namespace"] == daemon_set["metadata"]["namespace"] == "mdev-device-plugin"


def test_the_manifests_say_what_the_chart_says_without_helms_own() -> None:
    for folder, values in (
        (manifests.MANIFESTS, {}),
        (manifests.SIMULATOR, {"simulator": {"enabled": True}}),
    ):
        for name in manifests.RENDERED:
            expected = yaml.safe_load(helm.render(values, template=name))
            found = yaml.safe_load((folder / name).read_text("utf-8"))
            del expected["metadata"]["labels"]["helm.sh/chart"]
            del expected["metadata"]["labels"]["app.kubernetes.io/managed-by"]
            if name == "daemonset.yaml":
                annotations = expected["spec"]["template"]["metadata"].pop("annotations")
                assert list(annotations) == ["checksum/config"]
            assert found == expected
            assert not re.search("[Hh]elm", (folder / name).read_text("utf-8"))


def test_the_configuration_is_the_charts_default() -> None:
    (config_map,) = yaml.safe_load_all(helm.render(template="configmap.yaml"))
    ours = (manifests.MANIFESTS / "config.yaml").read_text("utf-8")
    assert yaml.safe_load(ours) == yaml.safe_load(config_map["data"]["config.yaml"])
