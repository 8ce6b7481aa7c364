"""A source of events that is opened anew whenever it fails.

No source is trusted to live: a full socket buffer, an error of the library or an end of the source are all
met in the same way. The source is closed, with whatever waits in it, and after a pause another one is opened.
Each time the listener is told that events were missed, so that it looks at everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import NoReturn

from deviceplugin.errors import in_words
from deviceplugin.host.kernel import Uevent, UeventsLost, UeventSource

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.1
LAST_PAUSE = 30.0
"""Seconds before a source is opened again; each failure doubles them."""
LASTING = 10.0
"""Seconds: a source that lived so long has worked, and the next failure is a new one."""


class Listening:
    """Hears events for as long as it runs.

    Args:
        open_source: begins to listen; may raise anything.
        on_event: called with each event.
        on_missed: called when events may have been missed: at every beginning and every failure.
        on_failure: called with the exception whenever the source fails.
    """

    def __init__(
        self,
        open_source: Callable[[], UeventSource],
        *,
        on_event: Callable[[Uevent], None],
        on_missed: Callable[[], None],
        on_failure: Callable[[Exception], None],
    ) -> None:
        self._open_source = open_source
        self._on_event = on_event
        self._on_missed = on_missed
        self._on_failure = on_failure
        self._failing = False
        self.hears = False
        """Whether a source is open."""

    async def run(self) -> NoReturn:
        """Listen until cancelled."""
        clock = asyncio.get_running_loop().time
        pause = FIRST_PAUSE
        while True:
            began = clock()
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001  # whatever a library raises, the agent goes on
                self._failed(error)
            if clock() - began >= LASTING:
                pause = FIRST_PAUSE
            self._on_missed()
            await asyncio.sleep(pause)
            pause = min(2 * pause, LAST_PAUSE)

    async def _listen(self) -> None:
        """Pass on what one source tells, until it fails.

        Raises:
            Exception: what it failed with.
        """
        source = self._open_source()
        try:
            self.hears = True
            self._on_missed()
            if self._failing:
                await self._pass_on(source, LASTING)
                self._failing = False
                log.info("the kernel's events are heard again")
            await self._pass_on(source, None)
        finally:
            self.hears = False
            with contextlib.suppress(OSError):
                source.close()

    async def _pass_on(self, source: UeventSource, seconds: float | None) -> None:
        """Pass on a source's events for so long; without end if None.

        Raises:
            Exception: the source failed.
        """
        loop = asyncio.get_running_loop()
        failed: asyncio.Future[None] = loop.create_future()
        descriptor = source.fileno()

        def receive() -> None:
            if failed.done():
                return
            try:
                for event in source.receive():
                    self._on_event(event)
            except Exception as error:  # noqa: BLE001  # raised again by whoever waits
                failed.set_exception(error)

        loop.add_reader(descriptor, receive)
        try:
            await asyncio.wait({failed}, timeout=seconds)
        finally:
            loop.remove_reader(descriptor)
            if not failed.done():
                failed.cancel()
        if not failed.cancelled():
            failed.result()

    def _failed(self, error: Exception) -> None:
        """Count every failure, and say the first of several in a row."""
        self._on_failure(error)
        if not self._failing:
            self._failing = True
            log.warning(
                "the kernel's events can't be followed, looking at everything instead",
                extra={"reason": _reason(error)},
            )


def _reason(error: Exception) -> str:
    if isinstance(error, UeventsLost):
        return "the kernel dropped events, which came faster than they were read"
    return in_words(error) if isinstance(error, OSError) else repr(error)
