"""The node's status: what the cards could carry now, in the words that the scheduler reads."""

from __future__ import annotations

import pytest

from tests.cluster.conftest import SAMPLES
from tests.cluster.hardware import Hardware
from tests.cluster.installation import Agent
from tests.cluster.node import Node
from tests.cluster.pods import vfio

pytestmark = pytest.mark.usefixtures("agent")


@pytest.mark.usefixtures("simulator")
def test_the_node_offers_every_type_that_its_cards_have(node: Node) -> None:
    node.offers(SAMPLES)


def test_a_device_made_by_hand_takes_room_from_all_types_of_its_card(simulator: Hardware, node: Node) -> None:
    node.offers(SAMPLES)
    device = simulator.make("mbochs-large")
    # 64 MB of the 256, and nothing of any other card.
    node.offers({**SAMPLES, vfio("mbochs-small"): 48, vfio("mbochs-medium"): 12, vfio("mbochs-large"): 3})
    assert node.capacity[vfio("mbochs-large")] == SAMPLES[vfio("mbochs-large")]
    simulator.simulate("remove", device)
    node.offers(SAMPLES)


def test_the_types_of_a_card_that_leaves_are_offered_no_more_until_it_returns(
    simulator: Hardware, node: Node, agent: Agent
) -> None:
    node.offers(SAMPLES)
    simulator.simulate("unregister", "mdpy")
    try:
        node.offers({**SAMPLES, vfio("mdpy-vga"): 0, vfio("mdpy-xga"): 0, vfio("mdpy-hd"): 0})
        # Nothing is wrong with the agent.
        agent.is_ready()
    finally:
        simulator.simulate("register", "mdpy")
    node.offers(SAMPLES)
