"""Taking devices back, which nobody tells us to do.

There is no Deallocate. A device is removed when all of this holds, asked in this order: the kubelet has
been calm for a while and listens to us; nobody asked for the device within its grace period; the pod
resources don't name it, twice; a checkpoint written after that doesn't either; and its group can be
opened, which proves that no VM has it and keeps it so while it is removed. Whatever is unknown means
that the device stays.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import NoReturn, Protocol

from deviceplugin.errors import DeviceBusy, HostError, KubeletError
from deviceplugin.host.node import Node
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.kubelet.checkpoint import Checkpoint
from deviceplugin.ledger import Ledger
from deviceplugin.pods import Pods
from deviceplugin.settings import ReclaimSettings

log = logging.getLogger(__name__)

_SECOND_LOOK = 1.0
"""The most seconds between the two questions to the kubelet."""


class HeldBack(StrEnum):
    """Why a device that may be unused stays all the same."""

    KUBELET_AWAY = "kubelet-away"
    """The kubelet does not listen to us, or only just began to."""
    LIST_FAILED = "list-failed"
    """The pod resources can't be had."""
    CHECKPOINT_FAILED = "checkpoint-failed"
    """The kubelet's checkpoint can't be had, or not afresh."""
    REMEMBERED = "remembered"
    """The kubelet's checkpoint names it: an init container's, or its pod's end is not done yet."""
    IN_USE = "in-use"
    """Its group is open: a VM that outlived its pod."""
    FAILED = "failed"
    """The node refused, or its use can't be determined."""


class Memory(Protocol):
    """The kubelet's word; see ``kubelet.memory``."""

    def calm_for(self, resource: str | None) -> float: ...

    async def devices_now(self) -> Checkpoint: ...


class Reclaim:
    """Removes devices that are proved to be unused.

    Args:
        mark: what this node's devices bear in their IDs; no other is ever removed.
        resource_of: which resource a device belongs to; None for one of another configuration.
        about: what the log says of a device.
        on_held_back: called when the reason that keeps a device changes.
        on_tried: called with whether a removal went well and the seconds that it took.
        on_remembered: called with each fresh checkpoint.
        on_occupied: called with ``occupied`` after each round, and when a device is found to be so.
    """

    def __init__(
        self,
        node: Node,
        ledger: Ledger,
        memory: Memory,
        pods: Pods,
        settings: ReclaimSettings,
        *,
        mark: NodeMark,
        resource_of: Callable[[str], str | None],
        about: Callable[[str], dict[str, object]],
        on_held_back: Callable[[HeldBack], None],
        on_tried: Callable[[bool, float], None],
        on_remembered: Callable[[Checkpoint], None],
        on_occupied: Callable[[frozenset[str]], None],
    ) -> None:
        self._node = node
        self._ledger = ledger
        self._memory = memory
        self._pods = pods
        self._settings = settings
        self._mark = mark
        self._resource_of = resource_of
        self._about = about
        self._on_held_back = on_held_back
        self._on_tried = on_tried
        self._on_remembered = on_remembered
        self._on_occupied = on_occupied
        self._told: dict[str, HeldBack] = {}
        self._occupied: set[str] = set()

    @property
    def held_back(self) -> Mapping[str, HeldBack]:
        """The devices that may be unused and stay all the same."""
        return self._told

    @property
    def occupied(self) -> frozenset[str]:
        """The devices that something holds of which no pod knows, as far as was ever seen."""
        return frozenset(self._occupied)

    def found_occupied(self, uuid: str) -> None:
        """A device can't be had: watch it until it can, if anybody looks."""
        if not self._settings.enabled:
            return
        self._occupied.add(uuid)
        self._hold_back({uuid}, HeldBack.IN_USE, "something has it that is no pod")
        self._on_occupied(self.occupied)

    async def run(self) -> NoReturn:
        """Look for unused devices at every interval; runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.interval)
            try:
                await self.round()
            except Exception:
                # Whatever it was, pods get their devices all the same, and nothing is removed without proof.
                log.exception("a round of the reclaim failed")
            self._on_occupied(self.occupied)

    async def round(self) -> None:
        """Remove what is proved to be unused now."""
        devices = self._node.snapshot.devices
        present = {uuid for uuid in devices if self._mark.is_ours(uuid) or uuid in self._occupied}
        self._pods.keep(present | self._ledger.pulled)
        idle = {uuid for uuid in present if self._ledger.idle_for(uuid) >= self._settings.grace}
        for uuid in self._told.keys() - idle:
            del self._told[uuid]
        # Whatever can't be asked now: what was occupied is taken to be so until something else is seen.
        self._occupied &= idle
        away = {uuid for uuid in idle if self._calm_for(uuid) < self._settings.grace}
        self._hold_back(away, HeldBack.KUBELET_AWAY, "the kubelet was not there, or has only just come")
        idle -= away
        if not idle:
            return
        begun = self._ledger.clock()
        try:
            unnamed = await self._unnamed(idle)
            if unnamed:
                await asyncio.sleep(min(_SECOND_LOOK, self._settings.interval / 4))
                unnamed = await self._unnamed(unnamed)
        except KubeletError as error:
            self._hold_back(idle, HeldBack.LIST_FAILED, str(error))
            return
        if not unnamed:
            return
        try:
            checkpoint = await self._memory.devices_now()
        except KubeletError as error:
            self._hold_back(unnamed, HeldBack.CHECKPOINT_FAILED, str(error))
            return
        self._on_remembered(checkpoint)
        remembered = checkpoint.devices.keys()
        self._hold_back(unnamed & remembered, HeldBack.REMEMBERED, "the kubelet's checkpoint names it")
        for uuid in sorted(unnamed - remembered):
            await (self._remove if self._mark.is_ours(uuid) else self._look_whether_free)(uuid, begun)

    def _calm_for(self, uuid: str) -> float:
        return self._memory.calm_for(self._resource_of(uuid))

    async def _unnamed(self, candidates: set[str]) -> set[str]:
        """Those of the candidates that the kubelet doesn't name."""
        named = (await self._pods.holders()).keys()
        for uuid in candidates & named:
            self._told.pop(uuid, None)
        self._occupied -= named
        return candidates - named

    def _still_proved(self, uuid: str, begun: float) -> bool:
        """False if it was asked for since the proof began, or the kubelet is another one by now."""
        since = max(self._settings.grace, self._ledger.clock() - begun)
        return self._ledger.idle_for(uuid) >= since and self._calm_for(uuid) >= since

    async def _look_whether_free(self, uuid: str, begun: float) -> None:
        """See if a device that somebody else made can be had again."""
        async with self._ledger.lock(uuid):
            if not self._still_proved(uuid, begun):
                return
            try:
                if not await self._node.is_held(uuid):
                    self._occupied.discard(uuid)
                    self._told.pop(uuid, None)
            except HostError as error:
                self._hold_back({uuid}, HeldBack.FAILED, str(error))

    async def _remove(self, uuid: str, begun: float) -> None:
        async with self._ledger.lock(uuid):
            if not self._still_proved(uuid, begun):
                return
            self._ledger.used([uuid])
            about = self._described(uuid)
            began = self._ledger.clock()
            try:
                removed = await self._node.remove_unused(uuid)
            except DeviceBusy as error:
                self._occupied.add(uuid)
                self._hold_back({uuid}, HeldBack.IN_USE, str(error))
                return
            except HostError as error:
                self._on_tried(False, self._ledger.clock() - began)
                self._hold_back({uuid}, HeldBack.FAILED, str(error))
                return
            self._ledger.gone([uuid])
            self._ledger.forgotten(uuid)
            self._occupied.discard(uuid)
            self._told.pop(uuid, None)
        if removed:
            self._on_tried(True, self._ledger.clock() - began)
            proof = "kubelet calm, not listed twice, not in its fresh checkpoint, group held by us"
            log.info("device removed", extra=about | {"proof": proof})

    def _hold_back(self, uuids: set[str] | frozenset[str], reason: HeldBack, why: str) -> None:
        """Say once for each device what keeps it."""
        for uuid in sorted(uuids):
            if self._told.get(uuid) is not reason:
                self._told[uuid] = reason
                self._on_held_back(reason)
                reasons = {"reason": reason.value, "detail": why}
                log.info("device not removed", extra=self._described(uuid) | reasons)

    def _described(self, uuid: str) -> dict[str, object]:
        return self._about(uuid) | {"pod": self._pods.of(uuid)}
