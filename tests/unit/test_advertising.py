"""What is advertised from one look at the node to the next, and what is said of it."""

from __future__ import annotations

import pytest

from deviceplugin.advertising import Advertising
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import Offer
from deviceplugin.inventory.resources import DEFAULT_CAP, Resource
from deviceplugin.inventory.selectors import ParentSelector
from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot
from deviceplugin.kubelet.checkpoint import Checkpoint, Holding
from deviceplugin.settings import Config


def node(count: int, type_id: str = "passthrough") -> Capacity:
    kinds = (ParentType(type_id, "", "vfio-ap", "", count),)
    return Capacity(Snapshot((Parent("matrix", "matrix", "vfio_ap", None, None, kinds, ()),)))


@pytest.fixture
def published() -> dict[str, Offer]:
    return {}


@pytest.fixture
def advertising(published: dict[str, Offer]) -> Advertising:
    return Advertising(
        Config(), node_name="n", publish=lambda offer: published.update({offer.resource: offer})
    )


def test_a_count_that_means_nothing_is_capped_and_said_once(
    advertising: Advertising, published: dict[str, Offer], caplog: pytest.LogCaptureFixture
) -> None:
    for count in (65536, 65535, 65534):
        advertising.update(node(count), pulled=(), stuck=())
    assert published["vfio.dev/passthrough"].healthy == DEFAULT_CAP
    assert len(caplog.messages) == 1
    assert "the driver counts 65536 instances" in caplog.text


def test_a_resource_whose_type_left_is_still_advertised_and_can_be_had_no_more(
    advertising: Advertising, published: dict[str, Offer]
) -> None:
    advertising.update(node(2), pulled=(), stuck=())
    advertising.update(Capacity(Snapshot()), pulled=(), stuck=())
    offer = published["vfio.dev/passthrough"]
    assert (len(offer.slots), offer.healthy) == (2, 0)


def test_what_the_kubelet_remembers_of_an_earlier_agent_is_ours_to_serve(advertising: Advertising) -> None:
    advertising.update(node(2), pulled=(), stuck=())
    earlier = "6d646576-aa02-8002-8000-6fde7755db27"
    assert not advertising.was_offered("vfio.dev/passthrough", earlier)
    advertising.remember(Checkpoint((0, 0, 0), {earlier: (Holding("vfio.dev/passthrough", frozenset()),)}))
    assert advertising.was_offered("vfio.dev/passthrough", earlier)
    assert not advertising.was_offered("vfio.dev/other", earlier)


def test_what_the_configuration_means_and_the_node_does_not_have_is_said_at_the_first_look(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = Config(
        resources=(
            Resource(name="a.b/c", types=("passthrough", "mistyped"), parents=ParentSelector(pci=("1:*",))),
        )
    )
    advertising = Advertising(config, node_name="n", publish=lambda _offer: None)
    for _ in range(2):
        advertising.update(node(2), pulled=(), stuck=())
    assert caplog.messages == [
        "a.b/c finds no parent here that its 'parents' allow",
        "a.b/c: no type here matches its types: mistyped",
        "a.b/c: no parent here matches its parents.pci: 1:*",
    ]


def test_nothing_is_said_of_a_node_that_has_no_types_yet(caplog: pytest.LogCaptureFixture) -> None:
    config = Config(resources=(Resource(name="a.b/c", types=("passthrough",)),))
    advertising = Advertising(config, node_name="n", publish=lambda _offer: None)
    advertising.update(Capacity(Snapshot()), pulled=(), stuck=())
    advertising.update(node(2, "other"), pulled=(), stuck=())
    assert caplog.messages == []


def alike(*type_ids: str) -> Capacity:
    kinds = tuple(ParentType(type_id, "", "vfio-pci", "", 2) for type_id in type_ids)
    return Capacity(Snapshot((Parent("matrix", "matrix", "driver", None, None, kinds, ()),)))


def test_of_two_types_that_would_become_one_variable_the_first_is_offered(
    advertising: Advertising, published: dict[str, Offer], caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        advertising.update(alike("big_1", "small", "big-1"), pulled=(), stuck=())
    assert published.keys() == {"vfio.dev/big-1", "vfio.dev/small"}
    (message,) = caplog.messages
    assert message.startswith("vfio.dev/big_1 is not offered: the resource names")
    assert "'vfio.dev/big-1' become the same variable" in message


def test_the_one_that_is_offered_already_or_that_pods_have_stays_the_one(
    advertising: Advertising, published: dict[str, Offer]
) -> None:
    advertising.held = {"6d646576-aa02-8002-8000-6fde7755db27": "vfio.dev/big_1"}
    for types in (("big-1", "big_1"), ("big-1",)):
        advertising.update(alike(*types), pulled=(), stuck=())
        assert published.keys() == {"vfio.dev/big_1"}


def test_a_configured_resource_goes_before_a_discovered_one(published: dict[str, Offer]) -> None:
    config = Config(resources=(Resource(name="vfio.dev/Big.1", types=("big-1",)),))
    offers = published.update
    advertising = Advertising(config, node_name="n", publish=lambda offer: offers({offer.resource: offer}))
    advertising.update(alike("big-1", "small"), pulled=(), stuck=())
    assert published.keys() == {"vfio.dev/Big.1", "vfio.dev/small"}
