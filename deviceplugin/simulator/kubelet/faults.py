"""The ways to make a simulated kubelet refuse, fail or keep silent."""

from __future__ import annotations

import grpc

from deviceplugin.simulator.kubelet.changes import Changes
from deviceplugin.simulator.kubelet.plugins import RegistrationFaults
from deviceplugin.simulator.kubelet.podlister import PodLister, RateLimit


class Faults:
    """A part of ``SimulatedKubelet``. Each fault lasts until it is taken back, beyond restarts too."""

    def __init__(self, changes: Changes, lister: PodLister) -> None:
        self._changes = changes
        self._lister = lister
        self._registration_faults = RegistrationFaults()

    def delay_list(self, *, after: float = 0.0, empty_for: float = 0.0, partial_for: float = 0.0) -> None:
        """Have List come to itself more slowly after the next start: see ``list_after`` and its kin."""
        self._lister.after, self._lister.empty_for, self._lister.partial_for = after, empty_for, partial_for

    def set_api_server(self, *, up: bool) -> None:
        """Matters for the time after a start: see ``api_server_up``."""
        self._lister.api_server_up = up
        self._changes.notify()

    def throttle(self, requests: int) -> None:
        """Answer the next requests to pod-resources with RESOURCE_EXHAUSTED."""
        self._lister.throttle = requests

    def limit_list(self, limit: RateLimit) -> None:
        """Have another rate limit for requests to pod-resources."""
        self._lister.limit = limit

    def fail_list(self, code: grpc.StatusCode | None) -> None:
        """Answer requests to pod-resources with an error, until None."""
        self._lister.fail = code

    def hang_list(self, *, on: bool = True) -> None:
        """Leave requests to pod-resources without an answer, until this is off again."""
        self._lister.hang = on
        self._changes.notify()

    def forget_allocatable(self, *, on: bool = True) -> None:
        """Know no GetAllocatableResources, as old kubelets do."""
        self._lister.too_old = on

    def refuse_registration(self, text: str | None) -> None:
        """Answer Register with this error, until None."""
        self._registration_faults.refuse = text

    def hang_registration(self, *, on: bool = True) -> None:
        """Leave Register requests without an answer, until this is off again."""
        self._registration_faults.hang = on
        self._changes.notify()
