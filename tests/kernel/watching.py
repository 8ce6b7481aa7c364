"""What the kernel tells of devices, with the time at which it was heard."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Self

from deviceplugin.host.kernel import Kernel


class Devices:
    """Hears of each device that is made (``bind``) or removed (``remove``), for as long as it is entered.

    Args:
        ours: which of them are counted.
    """

    def __init__(self, kernel: Kernel, *, ours: Callable[[str], bool]) -> None:
        self.counts: Counter[str] = Counter()
        self.at: dict[tuple[str, str], float] = {}
        """When each event of a device was last heard, on the monotonic clock."""
        self._source = kernel.uevents()
        self._ours = ours
        self._heard = asyncio.Event()

    async def next(self, action: str) -> None:
        """Wait for one more such event."""
        before = self.counts[action]
        while self.counts[action] == before:
            self._heard.clear()
            await self._heard.wait()

    def _receive(self) -> None:
        for event in self._source.receive():
            uuid = PurePosixPath(event.devpath).name
            if event.subsystem == "mdev" and self._ours(uuid):
                self.counts[event.action] += 1
                self.at[event.action, uuid] = time.monotonic()
        self._heard.set()

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._source.fileno(), self._receive)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._source.fileno())
        self._source.close()
