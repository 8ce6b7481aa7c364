"""What cards refused, over time: told when it begins and ends, and offered again when its time comes."""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Callable, Collection

from deviceplugin.events import Events
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.refusals import Place, Refusals, counts, differing
from deviceplugin.inventory.snapshot import Snapshot

_LEAST_WAIT = 0.05
"""Seconds to another look at the clock, should a timer have come too early."""


class RefusalLog:
    """Remembers what cards refused.

    Args:
        on_change: called when what may be offered has changed.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        on_change: Callable[[], None],
        events: Events,
    ) -> None:
        self.now = Refusals()
        self._clock = clock
        self._on_change = on_change
        self._events = events
        self._timer: asyncio.TimerHandle | None = None

    def limits(self) -> dict[Place, int]:
        """How many devices of a type a card may be offered for at the most."""
        return self.now.limits(self._clock())

    def waiting(self) -> frozenset[Place]:
        """Cards and types that are not to be tried now, if there is another way."""
        return self.now.waiting(self._clock())

    def listed(self) -> tuple[tuple[str, str, str, float], ...]:
        """Each card and type that counts as refusing, with the errno and the Unix time since when."""
        offset = time.time() - self._clock()
        return tuple(
            (card, type_id, each.reason, each.since + offset)
            for (card, type_id), each in self.now.believed.items()
        )

    def refused(self, seat: Seat, snapshot: Snapshot, error: BaseException | None) -> None:
        """A place did not take a device; ``error`` is what the kernel answered."""
        parents = snapshot.cards.get(seat.card)
        if not parents or not counts(error) or not isinstance(error, OSError):
            return
        reason = errno.errorcode.get(error.errno or 0, str(error.errno))
        self._events.refused(seat.card, reason)
        card = Card(seat.card, parents)
        self._become(self.now.refused(card, seat.type, seat.parent, reason, self._clock()))

    def made(self, seat: Seat) -> None:
        """A place took a device."""
        self._become(self.now.made(seat.card, seat.type))

    def undoing(self, card: str) -> None:
        """What a failed request made on a card is about to be removed."""
        self.now = self.now.undoing(card)

    def undone(self, card: str) -> None:
        """It was, or stays for now."""
        self.now = self.now.undone(card, self._clock())

    def seen(self, card: Card) -> None:
        """A card has settled."""
        self._become(self.now.seen(card, self._clock()))

    def forget(self, cards: Collection[str]) -> None:
        """These cards are gone."""
        self._become(self.now.forget(cards))

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _become(self, after: Refusals) -> None:
        before, self.now = self.now, after
        if after is before:
            return
        for (card, type_id), refusal in differing(after, before):
            self._events.stopped_offering(card, type_id, refusal)
        for (card, type_id), _ in differing(before, after):
            self._events.offers_again(card, type_id)
        self._wait()
        self._on_change()

    def _wait(self) -> None:
        """Have the offer worked out anew when the next back-off has passed."""
        self.close()
        now = self._clock()
        due = self.now.next_due(now)
        if due is not None:
            wait = max(_LEAST_WAIT, due - now)
            self._timer = asyncio.get_running_loop().call_later(wait, self._passed)

    def _passed(self) -> None:
        self._wait()
        self._on_change()
