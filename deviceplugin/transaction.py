"""All or nothing, in time: the devices of a request are locked, and what a failed one has made is undone.

It knows nothing of who asks, or of what is made.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

from deviceplugin.errors import TooSlow
from deviceplugin.ledger import Ledger


class Transactions:
    """The requests that are under way, and what is undone of failed ones.

    Args:
        undo: removes a device; called while its lock is held.
    """

    def __init__(self, ledger: Ledger, *, undo: Callable[[str], Awaitable[None]]) -> None:
        self._ledger = ledger
        self._undo = undo
        self._undoing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def begin(self, asker: str, wanted: Sequence[str], deadline: float) -> AsyncIterator[list[str]]:
        """Hold the locks of all devices; what the block has made is undone if it fails.

        The undoing keeps the locks, so that nobody gets a device that is about to go, and the request is
        answered in time even if the node takes longer for it.

        Args:
            asker: for what they are, in the error.
            deadline: seconds until the answer, the undoing included.

        Yields:
            A list, to which the block adds each device as soon as there is something to undo.

        Raises:
            TooSlow: the block was not done by the deadline.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline
        locks: dict[str, asyncio.Lock] = {}
        made: list[str] = []
        try:
            async with asyncio.timeout_at(until):
                for uuid in wanted:
                    await self._ledger.lock(uuid).acquire()
                    locks[uuid] = self._ledger.lock(uuid)
                yield made
        except BaseException as error:
            undoing = asyncio.create_task(
                self._undo_all({uuid: locks.pop(uuid) for uuid in made}), name="undo a request"
            )
            self._undoing.add(undoing)
            undoing.add_done_callback(self._undoing.discard)
            if not isinstance(error, asyncio.CancelledError):
                await asyncio.wait({undoing}, timeout=max(0.0, until - loop.time()))
            if isinstance(error, TimeoutError):
                asked = f"{len(wanted)} device{'s' if len(wanted) > 1 else ''}"
                raise TooSlow(
                    f"{asker}: asked for {asked}: the node took more than {deadline:.0f} s "
                    "to answer; what it makes after all will be removed"
                ) from error
            raise
        finally:
            for lock in locks.values():
                lock.release()

    async def _undo_all(self, made: Mapping[str, asyncio.Lock]) -> None:
        # None of them may be handed out, not even the last, while the first is being removed.
        self._ledger.used(made)
        for uuid, lock in made.items():
            try:
                await self._undo(uuid)
            finally:
                lock.release()

    def close(self) -> None:
        """Give up what is still being undone; the next agent finds it."""
        for task in tuple(self._undoing):
            task.cancel()
