"""Which pod has which device, as far as the kubelet has told: for the logs, never as a proof.

Allocate does not say for whom, so the kubelet is asked soon after a container started, and with every
round of the reclaim. Whatever it does not name may be anybody's all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn, Protocol

from deviceplugin.errors import KubeletError
from deviceplugin.ledger import Ledger

log = logging.getLogger(__name__)

SETTLE = 0.5
"""Seconds from a container's start to the question: the pods of a burst are asked for once."""
AGAIN = 2.0
"""Seconds between questions while a pod is without a device that it had."""


class Lister(Protocol):
    """Who can be asked; see ``kubelet.memory``."""

    async def holders(self) -> Mapping[str, object]: ...


class Pods:
    """The pods' names, and what became of devices that vanished under them.

    Args:
        about: what the log says of a device beside its pod; nothing of one that is not this agent's.
        on_released: called when a device that had vanished under a pod is no pod's any more.
    """

    def __init__(
        self,
        lister: Lister,
        ledger: Ledger,
        *,
        about: Callable[[str], dict[str, object]],
        on_released: Callable[[], None],
    ) -> None:
        self._lister = lister
        self._ledger = ledger
        self._about = about
        self._on_released = on_released
        self._names: dict[str, str] = {}
        self._wanted = asyncio.Event()

    def of(self, uuid: str) -> str | None:
        """The pod that has a device, or had it last: ``namespace/name``."""
        return self._names.get(uuid)

    def keep(self, uuids: Collection[str]) -> None:
        """Forget the pods of all devices but these."""
        for uuid in self._names.keys() - set(uuids):
            del self._names[uuid]

    def ask_soon(self) -> None:
        """A container starts, or lost a device."""
        self._wanted.set()

    async def run(self) -> NoReturn:
        """Ask when there is something to learn; runs until it is cancelled."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(AGAIN if self._ledger.pulled else SETTLE)
            self._wanted.clear()
            try:
                await self.holders()
            except KubeletError as error:
                log.debug("pods can't be named", extra={"reason": str(error)})
            except Exception:
                log.exception("pods can't be named")
            if self._ledger.pulled:
                self._wanted.set()

    async def holders(self) -> Mapping[str, object]:
        """Ask the kubelet which pod has which device.

        Raises:
            KubeletError: it did not answer in time, or refused.
        """
        found = await self._lister.holders()
        for uuid, holder in found.items():
            about = self._about(uuid)
            if about and self._names.get(uuid) != str(holder):
                self._names[uuid] = str(holder)
                log.info("device belongs to a pod", extra=about | {"pod": str(holder)})
        if released := self._ledger.pulled - found.keys():
            self._ledger.released(released)
            self._on_released()
        return found
