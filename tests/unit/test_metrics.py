"""What a scraper sees: every series from the start, and the node as it is."""

from __future__ import annotations

from prometheus_client import generate_latest

from deviceplugin import __version__
from deviceplugin.host.mdev import FaultKind
from deviceplugin.inventory import slots
from deviceplugin.inventory.offer import Offer, OfferedSlot
from deviceplugin.inventory.slots import NodeMark, SlotId
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot
from deviceplugin.reclaim import HeldBack
from deviceplugin.telemetry.metrics import Metrics
from tests import parts

OURS = "6d646576-aa02-8002-8000-6fde7755db27"
MARK = NodeMark(0xAA02)
FOREIGN = "c0b1a9b0-8f3c-4c2a-9c39-0d0a3c0c5a11"


def series(metrics: Metrics) -> dict[str, float]:
    """Each series that a scraper would see, with its value."""
    lines = generate_latest(metrics.registry).decode().splitlines()
    pairs = (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    return {name: float(value) for name, value in pairs}


def test_every_series_is_there_from_the_start() -> None:
    metrics = parts.metrics(MARK)
    metrics.add_resource("vfio.dev/a")
    seen = series(metrics)
    for outcome in ("success", "error"):
        assert seen[f'mdev_registrations_total{{result="{outcome}"}}'] == 0
        assert seen[f'mdev_reclaims_total{{result="{outcome}"}}'] == 0
        for counter in ("allocations", "container_starts"):
            assert seen[f'mdev_{counter}_total{{resource="vfio.dev/a",result="{outcome}"}}'] == 0
    for reason in HeldBack:
        assert seen[f'mdev_removals_held_back_total{{reason="{reason.value}"}}'] == 0
        assert seen[f'mdev_devices_held_back{{reason="{reason.value}"}}'] == 0
    for kind in FaultKind:
        assert seen[f'mdev_faults_total{{kind="{kind.value}"}}'] == 0
    for what in ("allocation", "reclaim", "scan"):
        assert seen[f"mdev_{what}_duration_seconds_count"] == 0
    assert seen['mdev_kubelet_connected{resource="vfio.dev/a"}'] == 0
    assert seen[f'mdev_build_info{{version="{__version__}"}}'] == 1
    assert seen["process_resident_memory_bytes"] > 0


def test_cards_and_slots_are_shown_as_they_are() -> None:
    kinds = (ParentType("a", "", "vfio-pci", "", 3), ParentType("b", "", "vfio-pci", "", 1))
    others = str(SlotId(None, 0, slots.resource_hash("another", "vfio.dev/a")))
    devices = (
        Device(OURS, "a", "vf0", 1),
        Device(FOREIGN, "b", "vf0", 2),
        Device(others, "b", "vf0", 3),
    )
    metrics = parts.metrics(MARK, held_back=lambda: (HeldBack.IN_USE, HeldBack.IN_USE))
    metrics.snapshot = Snapshot(
        (
            Parent("vf0", "card", "d", None, None, kinds, devices),
            Parent("vf1", "card", "d", None, None, kinds, ()),
        )
    )
    offered = (OfferedSlot(OURS, True, None), OfferedSlot("free", True, None), OfferedSlot("no", False, None))
    metrics.offers = {"vfio.dev/a": Offer("vfio.dev/a", offered)}
    seen = series(metrics)
    assert seen['mdev_available_instances{card="card",type="a"}'] == 6
    assert seen['mdev_available_instances{card="card",type="b"}'] == 2
    assert seen['mdev_devices{card="card",owner="ours",type="a"}'] == 1
    assert seen['mdev_devices{card="card",owner="foreign",type="a"}'] == 0
    assert seen['mdev_devices{card="card",owner="foreign",type="b"}'] == 1
    assert seen['mdev_devices{card="card",owner="other-node",type="a"}'] == 0
    assert seen['mdev_devices{card="card",owner="other-node",type="b"}'] == 1
    for state in ("free", "occupied", "unavailable"):
        assert seen[f'mdev_slots{{resource="vfio.dev/a",state="{state}"}}'] == 1
    assert seen['mdev_devices_held_back{reason="in-use"}'] == 2


def test_a_card_that_left_leaves_no_series_behind() -> None:
    metrics = parts.metrics(MARK)
    kinds = (ParentType("a", "", "vfio-pci", "", 3),)
    metrics.snapshot = Snapshot((Parent("card", "card", "d", None, None, kinds, ()),))
    assert 'mdev_available_instances{card="card",type="a"}' in series(metrics)
    metrics.snapshot = Snapshot()
    assert not [name for name in series(metrics) if "card=" in name]


def test_two_agents_in_one_process_count_by_themselves() -> None:
    one, other = parts.metrics(MARK), parts.metrics(MARK)
    one.reclaims.labels(result="success").inc()
    assert series(one)['mdev_reclaims_total{result="success"}'] == 1
    assert series(other)['mdev_reclaims_total{result="success"}'] == 0
