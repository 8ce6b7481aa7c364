"""What the agent counts, by Prometheus' conventions. Every series is there from the start, at zero.

What merely *is*, slots and devices, is worked out when somebody asks, from the last snapshot and offers.
These are frozen data, so a scrape takes no lock, keeps nobody waiting and never touches sysfs.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from deviceplugin import __version__
from deviceplugin.host.mdev import Fault, FaultKind
from deviceplugin.inventory.cards import cards_of
from deviceplugin.inventory.offer import Offer
from deviceplugin.inventory.slots import NodeMark, Owner
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.reclaim import HeldBack

Refusing = tuple[str, str, str, float]
"""A card, a type that it refuses, the errno, and the Unix time since when."""
REFUSED_SINCE = "mdev_refused_since_timestamp_seconds"
RESULTS = ("success", "error")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def result(success: bool) -> str:
    """How something went, as a label's value."""
    return "success" if success else "error"


class Metrics:
    """The agent's metrics, in a registry of their own.

    Args:
        mark: what this node's devices bear in their IDs.
        held_back: the reasons of the devices that are held back now, one each.
        refusing: what cards refuse now: card, type, errno, and the Unix time since when.
    """

    def __init__(
        self,
        mark: NodeMark,
        *,
        held_back: Callable[[], Collection[HeldBack]],
        refusing: Callable[[], Collection[Refusing]],
    ) -> None:
        self.mark = mark
        self.registry = CollectorRegistry()
        self.snapshot = Snapshot()
        """The node as the next scrape will show it."""
        self.offers: Mapping[str, Offer] = {}
        """What is advertised, by resource. Replaced as a whole: scrapes read it in a thread."""
        self.allocations = self._counter("allocations", "Allocate calls answered.", "resource", "result")
        self.allocation_seconds = self._histogram("allocation", "Time to answer an Allocate call.")
        self.made = self._counter(
            "devices_made", "Devices made, by the type that they became.", "resource", "type"
        )
        self.refusals = self._counter(
            "refusals", "Devices that a card refused to make, by what its driver answered.", "card", "errno"
        )
        self.predictions = self._counter(
            "count_predictions",
            "Counts of a type foretold by what was learned of its card, by whether the kernel agreed.",
            "result",
        )
        self.starts = self._counter(
            "container_starts", "PreStartContainer calls answered.", "resource", "result"
        )
        self.reclaims = self._counter("reclaims", "Removals of unused devices that were tried.", "result")
        self.reclaim_seconds = self._histogram("reclaim", "Time to claim and remove a device.")
        self.held_back = self._counter(
            "removals_held_back", "Removals held back, once per device and reason.", "reason"
        )
        self.registrations = self._counter(
            "registrations", "Attempts to register with the kubelet.", "result"
        )
        self.connected = Gauge(
            "mdev_kubelet_connected",
            "Whether the kubelet listens to a resource's list.",
            ("resource",),
            registry=self.registry,
        )
        self.another_plugin = Gauge(
            "mdev_another_plugin",
            "Whether the kubelet believes something else of a resource than was listed.",
            ("resource",),
            registry=self.registry,
        )
        self.disputes = self._counter(
            "another_plugin_seen", "Times that the kubelet was found to believe another plugin.", "resource"
        )
        self.scan_seconds = self._histogram("scan", "Time to read the types and devices of one card.")
        self.faults = self._counter("faults", "Things in sysfs that had to be left out.", "kind")
        self.event_failures = self._counter(
            "event_source_failures", "Times that the kernel's events could not be followed any further."
        )
        for counter in (self.reclaims, self.registrations, self.predictions):
            for each in RESULTS:
                counter.labels(result=each)
        for reason in HeldBack:
            self.held_back.labels(reason=reason.value)
        for kind in FaultKind:
            self.faults.labels(kind=kind.value)
        Info("mdev_build", "The agent's version.", registry=self.registry).info({"version": __version__})
        ProcessCollector(registry=self.registry)
        self.registry.register(_State(self, held_back, refusing))

    def add_resource(self, resource: str, types: Iterable[str] = ()) -> None:
        """Begin the series of a resource and of the types that it may become, at zero."""
        self.connected.labels(resource=resource)
        self.another_plugin.labels(resource=resource)
        self.disputes.labels(resource=resource)
        for type_id in types:
            self.made.labels(resource=resource, type=type_id)
        for each in RESULTS:
            self.allocations.labels(resource=resource, result=each)
            self.starts.labels(resource=resource, result=each)

    # --- what happens ------------------------------------------------------------------------------

    def count_foretold(self, rightly: int, wrongly: int) -> None:
        """The kernel showed counts that had been foretold."""
        self.predictions.labels(result=result(True)).inc(rightly)
        self.predictions.labels(result=result(False)).inc(wrongly)

    def count_removal(self, success: bool, seconds: float) -> None:
        """The removal of an unused device was tried."""
        self.reclaims.labels(result=result(success)).inc()
        self.reclaim_seconds.observe(seconds)

    def count_held_back(self, reason: HeldBack) -> None:
        """A device that may be unused stays for another reason than before."""
        self.held_back.labels(reason=reason.value).inc()

    def count_registration(self, _resource: str, success: bool) -> None:
        """A registration with the kubelet was tried."""
        self.registrations.labels(result=result(success)).inc()

    def count_fault(self, fault: Fault) -> None:
        """Something in sysfs had to be left out."""
        self.faults.labels(kind=fault.kind.value).inc()

    def count_event_failure(self, _error: Exception) -> None:
        """The kernel's events could not be followed any further."""
        self.event_failures.inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mdev_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"mdev_{name}_duration_seconds", text, buckets=_SECONDS, registry=self.registry)


class _State(Collector):
    """Slots, devices and what is held back, as they are when somebody asks."""

    def __init__(
        self,
        metrics: Metrics,
        held_back: Callable[[], Collection[HeldBack]],
        refusing: Callable[[], Collection[Refusing]],
    ) -> None:
        self._metrics = metrics
        self._held_back = held_back
        self._refusing = refusing

    def describe(self) -> Iterable[Metric]:
        """Nothing: what is not known yet needs no check for names used twice."""
        return ()

    def collect(self) -> Iterator[Metric]:
        snapshot = self._metrics.snapshot
        yield _slots(self._metrics.offers, snapshot)
        yield _available(snapshot)
        yield _devices(snapshot, self._metrics.mark)
        yield _refusals(self._refusing())
        now = Tally(self._held_back())
        family = GaugeMetricFamily(
            "mdev_devices_held_back", "Devices that may be unused and stay all the same.", labels=["reason"]
        )
        for reason in HeldBack:
            family.add_metric([reason.value], now[reason])
        yield family


def _slots(offers: Mapping[str, Offer], snapshot: Snapshot) -> Metric:
    family = GaugeMetricFamily(
        "mdev_slots",
        "Slots of a resource: free ones, those whose device exists, and those that can't be had now.",
        labels=["resource", "state"],
    )
    for resource, offer in offers.items():
        occupied = sum(slot.id in snapshot.devices for slot in offer.slots)
        free = sum(slot.healthy and slot.id not in snapshot.devices for slot in offer.slots)
        for state, number in (
            ("free", free),
            ("occupied", occupied),
            ("unavailable", len(offer.slots) - free - occupied),
        ):
            family.add_metric([resource, state], number)
    return family


def _refusals(refusing: Collection[Refusing]) -> Metric:
    family = GaugeMetricFamily(
        REFUSED_SINCE,
        "Since when a card refuses a type that it counts as free; none is offered, or one to try again.",
        labels=["card", "type", "errno"],
    )
    for card, type_id, errno, since in refusing:
        family.add_metric([card, type_id, errno], since)
    return family


def _available(snapshot: Snapshot) -> Metric:
    family = GaugeMetricFamily(
        "mdev_available_instances",
        "How many more devices the kernel says could be made, added up over a card's parents.",
        labels=["card", "type"],
    )
    for card in cards_of(snapshot):
        for type_id, number in card.counts.items():
            family.add_metric([card.address, type_id], number)
    return family


def _devices(snapshot: Snapshot, mark: NodeMark) -> Metric:
    family = GaugeMetricFamily(
        "mdev_devices",
        "Mediated devices that exist: the agent's own, those that this plugin made under another node's "
        "name, and those that somebody else made.",
        labels=["card", "type", "owner"],
    )
    for card in cards_of(snapshot):
        found = Tally(
            (device.type, mark.owner(device.uuid)) for parent in card.parents for device in parent.devices
        )
        for type_id in sorted(card.types.keys() | card.existing.keys()):
            for owner in Owner:
                family.add_metric([card.address, type_id, owner.value], found[type_id, owner])
    return family
