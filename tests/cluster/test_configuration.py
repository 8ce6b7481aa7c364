"""The configuration, changed by ``helm upgrade``."""

from __future__ import annotations

import pytest

from tests.cluster.commands import Refused
from tests.cluster.conftest import SAMPLES
from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent, Release, Values, merged
from tests.cluster.node import Node
from tests.cluster.pods import Pods, vfio

DISPLAY = "example.com/display"


@pytest.mark.usefixtures("simulator")
def test_a_changed_configuration_rolls_the_agent_and_changes_what_is_offered(
    hardware: Hardware, node: Node, agent: Agent, release: Release, values: Values, pods: Pods
) -> None:
    pod = pods.run(vfio("mbochs-small"))
    before = hardware.identities()
    changed = release.upgrade(
        merged(
            values,
            {
                "config": {
                    "discovery": {"exclude": ["mbochs-*", "mtty-2"]},
                    "resources": [{"name": DISPLAY, "types": ["mdpy-hd", "mbochs-large"], "max": 5}],
                }
            },
        )
    )
    assert changed.name != agent.name
    node.offers({DISPLAY: 5, vfio("mbochs-small"): 0, vfio("mtty-2"): 0, vfio("mtty-1"): 24})
    # A pod that has what is offered no more keeps it to its end, and then it is taken back.
    assert hardware.identities() == before
    display = pods.run({DISPLAY: 5})
    assert display.variables().all["MDEV_PCI_RESOURCE_EXAMPLE_COM_DISPLAY"].count(",") == 4
    assert display.variables().all["MDEV_EXAMPLE_COM_DISPLAY_TYPES"].split(",").count("mdpy-hd") == 4
    pod.delete()
    hardware.is_rid_of(*before)
    display.delete()
    hardware.is_rid_of()
    release.ensure(values)
    node.offers({**SAMPLES, DISPLAY: 0})


def test_a_misspelt_configuration_is_refused_before_anything_changes(
    agent: Agent, release: Release, values: Values
) -> None:
    revision = release.revision
    for wrong in ({"reclaim": {"gracee": "1s"}}, {"resources": [{"name": "no-domain", "types": ["x"]}]}):
        with pytest.raises(Refused, match="values don't meet the specifications of the schema"):
            release.upgrade(merged(values, {"config": wrong}))
    assert release.revision == revision
    assert release.ensure(values).name == agent.name
