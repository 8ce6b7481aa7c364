"""Types that share a card: what one pod has, others can't have, whoever decides about them."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import SAMPLES
from tests.cluster.hardware import Hardware
from tests.cluster.node import Node
from tests.cluster.pods import Pods, vfio

pytestmark = pytest.mark.usefixtures("agent", "simulator")


def test_a_type_waits_until_the_pod_with_another_type_of_its_card_is_gone(node: Node, pods: Pods) -> None:
    first = pods.run({vfio("mdpy-vga"): 4})
    node.offers({vfio("mdpy-hd"): 0, vfio("mdpy-xga"): 0, vfio("mdpy-vga"): 4})
    second = pods.start(vfio("mdpy-hd"))
    assert "Insufficient vfio.dev/mdpy-hd" in second.cannot_be_scheduled()
    first.delete()
    second.runs()
    node.offers({vfio("mdpy-hd"): 4, vfio("mdpy-vga"): 3})


def test_a_card_is_shared_by_types_as_long_as_it_has_room(hardware: Hardware, node: Node, pods: Pods) -> None:
    for type_id in ("mbochs-large", "mbochs-medium", "mbochs-small"):
        pods.run(vfio(type_id))
    # 84 of 256 MB are taken; what exists counts as well as what still fits.
    node.offers({vfio("mbochs-large"): 1 + 2, vfio("mbochs-medium"): 1 + 10, vfio("mbochs-small"): 1 + 43})
    assert len(hardware.ours) == 3


def test_the_kubelet_refuses_a_pod_that_comes_past_the_scheduler_to_a_full_card(
    hardware: Hardware, node: Node, pods: Pods
) -> None:
    node.offers(SAMPLES)
    pods.run({vfio("mdpy-vga"): 4})
    # The node's status may not tell of it yet. The kubelet knows at once.
    status = pods.start(vfio("mdpy-hd"), bound=True).fails()
    assert vfio("mdpy-hd") in status["message"]
    assert len(hardware.ours) == 4
