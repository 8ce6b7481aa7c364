"""What the agent counts, by Prometheus' conventions. Every series is there from the start, at zero."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram

from deviceplugin.reclaim import HeldBack

RESULTS = ("success", "error")
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """The agent's counters, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.allocations = self._counter("allocations", "Allocate calls answered.", result=RESULTS)
        self.starts = self._counter("prestarts", "PreStartContainer calls answered.", result=RESULTS)
        self.registrations = self._counter(
            "registrations", "Attempts to register with the kubelet.", result=RESULTS
        )
        self.reclaims = self._counter("reclaims", "Devices removed because nobody used them.")
        self.held_back = self._counter(
            "held_back", "Removals held back, once per device and reason.", reason=tuple(HeldBack)
        )
        self.faults = self._counter("faults", "Types and other things in sysfs that had to be left out.")
        self.allocation_seconds = Histogram(
            "mdev_allocation_seconds",
            "Time to answer an Allocate call.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.reclaim_seconds = Histogram(
            "mdev_reclaim_seconds",
            "Time to claim and remove a device.",
            buckets=_SECONDS,
            registry=self.registry,
        )

    def _counter(self, name: str, text: str, **labels: Iterable[str]) -> Counter:
        counter = Counter(f"mdev_{name}", text, tuple(labels), registry=self.registry)
        for label, values in labels.items():
            for value in values:
                counter.labels(**{label: str(value)})
        return counter
