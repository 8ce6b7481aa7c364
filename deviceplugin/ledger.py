"""What this process remembers of devices: nothing that can't be lost.

Only what has been seen to be so counts: a device is *fresh* if this process made it and no container
was started with it since, and *handed over* with a group if this process told the kubelet so. All
devices of an agent that was just started are used ones, and so are those that lived through a time in
which the kubelet could have started a container without saying so. A device is *pulled* if it vanished
under the pod that has it.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable


class Ledger:
    """The memory that allocation and reclaim share.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self._fresh: set[str] = set()
        self._groups: dict[str, int] = {}
        self._told: defaultdict[str, set[int]] = defaultdict(set)
        self._touched: dict[str, float] = {}
        self._pulled: set[str] = set()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    def lock(self, uuid: str) -> asyncio.Lock:
        """Held by whoever makes, hands over or removes a device."""
        return self._locks[uuid]

    def is_busy(self, uuid: str) -> bool:
        """Whether somebody holds its lock."""
        return uuid in self._locks and self._locks[uuid].locked()

    def is_fresh(self, uuid: str) -> bool:
        """Whether the device was never used since it was made."""
        return uuid in self._fresh

    def is_handed_over(self, uuid: str) -> bool:
        """Whether this process gave the device, as it is, to the kubelet."""
        return uuid in self._groups

    def told_only(self, uuid: str, group: int) -> bool:
        """Whether this process told the kubelet of this group for the device, and never of another."""
        return self._told[uuid] == {group}

    def idle_for(self, uuid: str) -> float:
        """Seconds since the kubelet last asked for the device."""
        return self.clock() - self._touched.get(uuid, float("-inf"))

    def made(self, uuid: str) -> None:
        """It is new and ready."""
        self._fresh.add(uuid)
        self._groups.pop(uuid, None)
        self._pulled.discard(uuid)
        self.touch(uuid)

    def handed_over(self, uuid: str, group: int) -> None:
        self._groups[uuid] = group
        self._told[uuid].add(group)
        self.touch(uuid)

    def touch(self, uuid: str) -> None:
        """The kubelet asked for it now."""
        self._touched[uuid] = self.clock()

    def used(self, uuids: Iterable[str]) -> None:
        """Nobody is to get them as they are: they were used, or may have been, or are about to go."""
        self._fresh.difference_update(uuids)

    def fresh(self) -> frozenset[str]:
        """All devices that were never used."""
        return frozenset(self._fresh)

    def gone(self, uuids: Iterable[str]) -> None:
        """Devices that are no more: one that comes again under the same UUID is another one.

        When the kubelet asked for it last is kept, since a look at the node can be older than the device;
        and so is what the kubelet was told, since it remembers that.
        """
        for uuid in uuids:
            self._fresh.discard(uuid)
            self._groups.pop(uuid, None)

    def vanished(self, uuids: Iterable[str], *, held: Collection[str]) -> None:
        """Devices that the node has no more: what a pod has and nobody here removed was pulled.

        Args:
            held: the devices that the kubelet is known to have given to containers.
        """
        for uuid in uuids:
            if not self.is_busy(uuid) and (uuid in self._groups or uuid in held):
                self._pulled.add(uuid)
            self.gone([uuid])

    @property
    def pulled(self) -> frozenset[str]:
        """The devices that vanished under their pods."""
        return frozenset(self._pulled)

    def released(self, uuids: Iterable[str]) -> None:
        """No pod has them any more: what was pulled before may be offered again."""
        self._pulled.difference_update(uuids)

    def forgotten(self, uuid: str) -> None:
        """The kubelet is proved to remember nothing of it."""
        self._told.pop(uuid, None)
