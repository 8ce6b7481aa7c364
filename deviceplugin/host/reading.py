"""Reading cards, each at its own pace.

A driver may take milliseconds for each of its files, or never answer. What was read is used, however long it
took; nobody waits for it longer than a deadline, and a card is not read again while that still goes on.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from deviceplugin.errors import HostError
from deviceplugin.host import mdev
from deviceplugin.host.paths import HostPaths
from deviceplugin.host.threads import in_thread
from deviceplugin.inventory.snapshot import Parent, Snapshot

log = logging.getLogger(__name__)

SCAN_DEADLINE = 2.0
"""Seconds that are waited for a card's files to be read."""
SLOW_DEADLINE = 0.05
"""The same for a card that is known to take longer than that."""
_LOST = 3
"""A slow card that takes so many times as long as it did before is said not to answer."""
_READERS = 16
"""So many cards are read at a time."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a look saw of a card."""

    began: int
    """The number of the look, in the order in which they began."""
    card: str
    parents: tuple[Parent, ...]


@dataclass(slots=True)
class _Late:
    """A look that takes longer than anybody waits."""

    again: set[str] = field(default_factory=set)
    """The parents of which another look was asked for meanwhile."""


class CardReader:
    """Reads cards in threads.

    Args:
        on_late: called with what a look saw that nobody waited for.
        on_again: called with a card and its parents that are to be looked at again, since somebody asked for
            that in vain.
        on_scan: called with the seconds that it took to read a card.
        on_fault: called for each fault when it is found.
    """

    def __init__(
        self,
        paths: HostPaths,
        *,
        on_late: Callable[[Seen], None],
        on_again: Callable[[str, Sequence[str]], None],
        on_scan: Callable[[float], None],
        on_fault: Callable[[mdev.Fault], None],
    ) -> None:
        self._paths = paths
        self._on_late = on_late
        self._on_again = on_again
        self._on_scan = on_scan
        self._on_fault = on_fault
        self._numbers = itertools.count(1)
        self._readers = asyncio.Semaphore(_READERS)
        self._late: dict[str, _Late] = {}
        self._slow: dict[str, float] = {}
        self._faults: set[mdev.Fault] = set()
        self._suspected: set[mdev.Fault] = set()

    def next_number(self) -> int:
        """The number of whatever begins now."""
        return next(self._numbers)

    def is_slow(self, card: str) -> bool:
        """Whether what is known of a card may be much older than now."""
        return card in self._slow or card in self._late

    async def read(
        self, card: str, addresses: Sequence[str], *, known: Snapshot | None = None
    ) -> Seen | None:
        """What a card is like now; None if nobody should wait for that any longer.

        Args:
            known: see ``mdev.scan``.

        Raises:
            HostError: sysfs can't be read.
        """
        if card in self._late:
            self._late[card].again.update(addresses)
            return None
        began = self.next_number()
        clock = asyncio.get_running_loop().time
        async with self._readers:
            started = clock()
            reading = asyncio.create_task(
                in_thread(lambda: mdev.scan(self._paths, addresses, known=known), name=f"scan {card}")
            )

            def result(scan: mdev.Scan) -> Seen:
                self._on_scan(clock() - started)
                self._report(scan.faults, addresses, texts=known is None)
                return Seen(began, card, scan.snapshot.parents)

            deadline = SLOW_DEADLINE if card in self._slow else SCAN_DEADLINE
            try:
                await asyncio.wait({reading}, timeout=deadline)
            finally:
                if not reading.done():
                    self._leave(card, clock() - started >= deadline)
                    reading.add_done_callback(lambda _: self._came(card, clock() - started, reading, result))
        if not reading.done():
            return None
        self._slow.pop(card, None)
        return result(reading.result())

    def _leave(self, card: str, waited: bool) -> None:
        """Nobody waits any longer for a look that goes on."""
        if card in self._late:
            return
        self._late[card] = late = _Late()
        if card in self._slow:
            # It is known to take its time; but not any amount of it.
            most = max(SCAN_DEADLINE, _LOST * self._slow[card])
            asyncio.get_running_loop().call_later(most, self._unanswered, card, late)
        elif waited:
            self._unanswered(card, late)

    def _unanswered(self, card: str, late: _Late) -> None:
        if self._late.get(card) is late:
            log.warning("a card does not answer; it stays as it was known", extra={"card": card})

    def _came(
        self,
        card: str,
        seconds: float,
        reading: asyncio.Task[mdev.Scan],
        result: Callable[[mdev.Scan], Seen],
    ) -> None:
        """A look has ended that nobody waited for: what it saw is used all the same."""
        late = self._late.pop(card, None)
        if reading.cancelled():
            return  # The agent ends.
        if seconds < SCAN_DEADLINE:
            self._slow.pop(card, None)
        elif self._slow.get(card, 0.0) * _LOST < seconds:
            log.info("a card answers again, slowly", extra={"card": card, "seconds": round(seconds, 1)})
            self._slow[card] = seconds
        try:
            seen = result(reading.result())
        except HostError as error:
            log.warning("a card could not be looked at", extra={"card": card, "reason": str(error)})
        else:
            self._on_late(seen)
        if late is not None and late.again:
            self._on_again(card, sorted(late.again))

    def _report(self, faults: Iterable[mdev.Fault], addresses: Iterable[str], *, texts: bool) -> None:
        """Tell of new faults once; forget those that are no more, of what was read.

        What can't be read may be coming or going just then: only the second look in a row tells.
        """
        now = set(faults)
        looked_at = tuple(f"/{address}/" for address in addresses)

        def unread(fault: mdev.Fault) -> bool:
            """Whether this look did not read what that is about."""
            return not any(address in f"{fault.path}/" for address in looked_at) or not (
                texts or fault.path.endswith("/available_instances")
            )

        known = self._faults | self._suspected
        told = {fault for fault in now if fault.kind is not mdev.FaultKind.UNREADABLE or fault in known}
        for fault in sorted(told - self._faults, key=str):
            self._on_fault(fault)
        self._faults = set(filter(unread, self._faults)) | told
        self._suspected = set(filter(unread, self._suspected)) | (now - told)
