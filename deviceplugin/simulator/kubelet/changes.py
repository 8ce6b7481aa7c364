"""Waiting for a condition without asking again and again: whoever changes something says so here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Changes:
    """What others wait for, asked anew at each change."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Callable[[], object], asyncio.Future[None]]] = []

    def notify(self) -> None:
        """Something changed: wake those whose condition holds now."""
        for predicate, future in tuple(self._waiting):
            if future.done():
                continue
            try:
                if predicate():
                    future.set_result(None)
            except Exception as error:  # noqa: BLE001 - belongs to who waits, not to who changed something
                future.set_exception(error)

    async def wait_for(self, predicate: Callable[[], object], timeout: float | None = 60) -> None:  # noqa: ASYNC109
        """Return as soon as ``predicate()`` is true.

        Raises:
            TimeoutError: it was not, for ``timeout`` seconds.
        """
        if predicate():
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (predicate, future)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            raise TimeoutError(f"What was waited for did not happen within {timeout} s.") from None
        finally:
            self._waiting.remove(entry)
