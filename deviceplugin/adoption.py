"""Which of the devices that somebody else made are free: none is offered before that was seen.

Seeing it takes the group lock for a moment, and a VM that starts in that very moment would fail. So a device
is looked at before it is first offered, again while something has it, and after its pod has ended; never
while the kubelet's records name it or are unknown, nor soon after the kubelet asked for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from typing import NoReturn

from deviceplugin.errors import HostError
from deviceplugin.host.node import Node
from deviceplugin.ledger import Ledger

log = logging.getLogger(__name__)


class Adoptable:
    """Looks at others' devices that are to be offered.

    Args:
        adopted: the devices that are to be offered.
        held: the devices that the kubelet's records name; None while these are not known.
        read_again: has the kubelet's records read again.
        grace: seconds in which a device is left alone after the kubelet asked for it.
        interval: seconds between looks at what is in use.
        on_change: called when other devices than before are free.
    """

    def __init__(
        self,
        node: Node,
        ledger: Ledger,
        *,
        adopted: Callable[[], Collection[str]],
        held: Callable[[], Collection[str] | None],
        read_again: Callable[[], None],
        grace: float,
        interval: float,
        on_change: Callable[[], None],
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._adopted = adopted
        self._held = held
        self._read_again = read_again
        self._grace = grace
        self._interval = interval
        self._on_change = on_change
        self._free: set[str] = set()
        self._seen: set[str] = set()
        self._told: set[str] = set()
        self._wanted = asyncio.Event()

    @property
    def free(self) -> frozenset[str]:
        """The devices that were seen free since they came, or since a pod had them."""
        return frozenset(self._free)

    def look_soon(self) -> None:
        """There may be devices that nobody has looked at yet."""
        if set(self._adopted()) - self._seen - set(self._held() or ()):
            self._wanted.set()

    def is_in_use(self, uuid: str) -> None:
        """A device was found in use, or is about to be."""
        self._free.discard(uuid)

    async def run(self) -> NoReturn:
        """Look at what is new, and now and then at what is in use; runs until it is cancelled."""
        while True:
            try:
                async with asyncio.timeout(self._interval):
                    await self._wanted.wait()
            except TimeoutError:
                if self._adopted():
                    self._read_again()  # A pod that had one may have ended.
            self._wanted.clear()
            try:
                await self.look()
            except Exception:
                # What was not looked at is not offered; the next look comes.
                log.exception("a look at what others made failed")

    async def look(self) -> None:
        """Look at each device that is not known to be free and that no pod has."""
        held = self._held()
        if held is None:
            return
        before, candidates = self.free, set(self._adopted()).difference(held)
        # One that goes may come back in use, and what a pod had is looked at when the pod has ended.
        there = candidates & self._node.snapshot.devices.keys()
        for known in (self._free, self._seen, self._told):
            known.intersection_update(there)
        unknown = [uuid for uuid in sorted(candidates - self._free) if self._may_look(uuid)]
        await asyncio.gather(*map(self._look, unknown))
        if self.free != before:
            self._on_change()

    def _may_look(self, uuid: str) -> bool:
        device = self._node.snapshot.devices.get(uuid)
        return device is not None and device.group is not None and self._ledger.idle_for(uuid) >= self._grace

    async def _look(self, uuid: str) -> None:
        if self._ledger.is_busy(uuid):
            return
        async with self._ledger.lock(uuid):
            try:
                in_use = await self._node.is_held(uuid)
                why = "something has it that is no pod"
            except HostError as error:
                in_use, why = True, str(error)
        self._seen.add(uuid)
        if not in_use:
            self._free.add(uuid)
            self._told.discard(uuid)
        elif uuid not in self._told:
            self._told.add(uuid)
            log.info("device of somebody else's is not offered yet", extra={"device": uuid, "reason": why})
