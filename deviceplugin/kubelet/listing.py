"""A resource's list of devices as it is now, and as it was a moment ago, for all who listen to it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.inventory.offer import Offer
from deviceplugin.kubelet.translation import offered

LATELY = 10.0
"""Seconds that the kubelet may take to make a list its own: it writes a file for each."""
_KEPT = 64
"""Lists that are remembered at the most; the kubelet is behind by a few."""


class Listing:
    """What is listed.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, resource: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.offer = Offer(resource)
        self.response = pb.ListAndWatchResponse()
        self.ids: frozenset[str] = frozenset()
        self.healthy: frozenset[str] = frozenset()
        self.revision = 0
        self.changed = asyncio.Event()
        self._clock = clock
        self._replaced: deque[tuple[frozenset[str], float]] = deque(maxlen=_KEPT)

    def publish(self, offer: Offer) -> None:
        """List this from now on; sent only if it differs."""
        if offer != self.offer:
            if self.revision:
                self._replaced.append((self.healthy, self._clock()))
            self.offer = offer
            self.response = offered(offer)
            self.ids = frozenset(slot.id for slot in offer.slots)
            self.healthy = frozenset(slot.id for slot in offer.slots if slot.healthy)
            self.resend()

    def resend(self) -> None:
        """Send the list as it is once more."""
        self.revision += 1
        self.changed.set()
        self.changed = asyncio.Event()

    def was_lately(self, healthy: frozenset[str], now: float) -> bool:
        """Whether just these were listed as Healthy until a moment ago."""
        return any(now - until < LATELY and before == healthy for before, until in self._replaced)

    def forget(self, until: float) -> None:
        """Remember no longer what was replaced before that."""
        while self._replaced and self._replaced[0][1] < until:
            self._replaced.popleft()
