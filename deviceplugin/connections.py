"""The resources' connections to the kubelet: what follows when one begins, ends or is in doubt."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from deviceplugin.kubelet.agreement import Agreement, Difference
from deviceplugin.kubelet.memory import KubeletMemory
from deviceplugin.kubelet.server import Endpoint, is_socket_of
from deviceplugin.ledger import Ledger
from deviceplugin.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class Connections:
    """What all endpoints tell of their connections.

    Args:
        endpoints: by resource, read anew each time.
        resource_of: which resource a device belongs to; None for one of another configuration.
    """

    def __init__(
        self,
        endpoints: Mapping[str, Endpoint],
        memory: KubeletMemory,
        ledger: Ledger,
        metrics: Metrics,
        *,
        resource_of: Callable[[str], str | None],
    ) -> None:
        self._endpoints = endpoints
        self._memory = memory
        self._ledger = ledger
        self._metrics = metrics
        self._resource_of = resource_of
        self.agreement = Agreement(endpoints, memory.healthy, on_dispute=self._disputed)

    def problems(self) -> tuple[str, ...]:
        """Why a resource is not served as it should be, a sentence for each."""
        found = {name: self.agreement.dispute(name) for name in self._endpoints}
        return tuple(
            f"{name}: {found[name] or 'the kubelet does not listen to it'}"
            for name, endpoint in self._endpoints.items()
            if found[name] is not None or not endpoint.connected
        )

    def changed(self, resource: str, up: bool) -> None:
        """The kubelet began to listen, or ended."""
        self._memory.disturb(resource)
        self._metrics.connected.labels(resource=resource).set(up)
        if not up:
            self._distrust(resource)
        level = logging.DEBUG if up else logging.INFO
        log.log(level, "kubelet %s listening", "is" if up else "stopped", extra={"resource": resource})

    def doubted(self, resource: str) -> None:
        """One of several listeners ended: the kubelet, or a stranger."""
        self._memory.disturb(resource)
        self._distrust(resource)
        self.agreement.doubt(resource)

    def plugin_moved(self, socket: str) -> None:
        """Some plugin's socket came or went."""
        if not is_socket_of(socket, self._endpoints):
            self.agreement.attend()

    def _disputed(self, resource: str, difference: Difference | None) -> None:
        self._memory.dispute(resource, on=difference is not None)
        self._metrics.another_plugin.labels(resource=resource).set(difference is not None)
        if difference is not None:
            self._metrics.disputes.labels(resource=resource).inc()

    def _distrust(self, resource: str) -> None:
        """Take fresh devices for used: without a stream containers may start without PreStartContainer."""
        self._ledger.used(
            [uuid for uuid in self._ledger.fresh() if self._resource_of(uuid) in {resource, None}]
        )
