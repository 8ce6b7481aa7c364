"""What the agent knows of its node beside what a look shows, and that any of it has moved.

Offers are made of this. Whoever finds something out puts it here; nobody works out an offer for that:
``offering`` does, once for all that came together.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Sequence

from deviceplugin.events import Events
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.ledger import Ledger
from deviceplugin.refusals import RefusalLog

log = logging.getLogger(__name__)


class State:
    """The facts that offers are made of.

    Args:
        clock: seconds, monotonic.
        events: hears what cards refuse.
        on_foretold: called with how many counts were foretold rightly, and how many wrongly.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        *,
        events: Events,
        on_foretold: Callable[[int, int], None],
    ) -> None:
        self.changed = asyncio.Event()
        """Set when an offer may be another one; ``offering`` clears it."""
        self.ledger = Ledger(clock)
        self.refusals = RefusalLog(clock, on_change=self.tell, events=events)
        self.knowledge = Knowledge()
        """What was learned of the node's cards."""
        self.occupied: frozenset[str] = frozenset()
        """The devices that something holds of which no pod knows: pods that got one would only fail."""
        self._on_foretold = on_foretold
        self._surprised: set[tuple[str, str]] = set()

    def tell(self) -> None:
        """Something moved that offers are made of."""
        self.changed.set()

    def node_moved(self, *, gone: Iterable[str], held: Collection[str], cards_gone: set[str]) -> None:
        """The node is not what it was.

        Args:
            gone: the devices that it has no more.
            held: the devices that the kubelet is known to have given to containers.
            cards_gone: the cards that it has no more.
        """
        self.ledger.vanished(gone, held=held)
        self.knowledge = self.knowledge.forget(cards_gone)
        self.refusals.forget(cards_gone)
        self.tell()

    def settled(self, cards: Sequence[Card]) -> None:
        """Learn from what cards are like of which two looks in succession showed the same."""
        before = self.knowledge
        for card in cards:
            self.refusals.seen(card)
            lesson = self.knowledge.learn(card)
            self.knowledge = lesson.knowledge
            self._on_foretold(lesson.confirmed, len(lesson.surprises))
            for surprise in lesson.surprises:
                if (surprise.driver, surprise.type) not in self._surprised:
                    self._surprised.add((surprise.driver, surprise.type))
                    # No fault, and nothing to do: estimates only rank cards, and the metric counts them.
                    log.debug("%s", surprise, extra={"parent": surprise.card, "type": surprise.type})
        if self.knowledge is not before:
            self.tell()

    def occupy(self, devices: frozenset[str]) -> None:
        """These, and no others, are held by something of which no pod knows."""
        if devices != self.occupied:
            self.occupied = devices
            self.tell()
