"""What cards refused to make although their counts say that there is room, and when they are tried again.

A driver may answer every create with an error and go on counting: its card has died, or it has lost memory of
devices that are gone. If such room stayed on offer, the node would fail every pod that comes. So what a card
refused is not offered until something about the card has moved, or a back-off has passed, which doubles with
each refusal. Then one device of the type is offered, to try again, and slowly more. A success ends it.

All of it is a value, with the time handed in, and lives as long as the process.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf

from deviceplugin.inventory.cards import Card, anywhere
from deviceplugin.inventory.snapshot import Parent

FIRST = 10.0
"""Seconds for which a refusal is believed at first."""
LONGEST = 600.0
"""Seconds for which it is believed at the most."""
QUIET = 1.0
"""Seconds after a refusal, or after the removal of what its request had made, in which what moves on the card
is taken for a consequence of that request."""
GROWTH = 60.0
"""Seconds, at the least, in which what is offered to try again doubles while nobody asks for it."""
SEVERAL = 2
"""So many parents of one card have to refuse for the card to count as refusing."""

_DOUBLINGS = 10
_OF_NO_ROOM = frozenset(
    {
        errno.EEXIST,  # The device is there.
        errno.EAGAIN,  # The parent is just being registered, or something of it removed.
        errno.EBUSY,
        errno.EINTR,
        errno.ENODEV,  # The parent goes away, and will be seen to.
        errno.ENOENT,
    }
)
"""What says nothing of a card's room or health."""

Place = tuple[str, str]
"""A card and a type."""


def counts(error: BaseException | None) -> bool:
    """Whether an error of a create says something of its card's room or health."""
    return isinstance(error, OSError) and error.errno is not None and error.errno not in _OF_NO_ROOM


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """That a card does not take a type."""

    reason: str
    """The last errno."""
    since: float
    parents: frozenset[str]
    """Those that refused."""
    needed: int
    """How many of them it takes to believe it of the card."""
    pause: float
    """The seconds for which it is believed."""
    again: float
    """When to try again."""
    quiet: float
    """Until when what moves is our own doing."""
    known: tuple[Parent, ...] = ()
    """What the card was like then."""

    @property
    def believed(self) -> bool:
        return len(self.parents) >= self.needed

    def limit(self, now: float) -> int:
        """How many devices are offered at the most."""
        return 0 if now < self.again else 1 << min(_DOUBLINGS, self._doublings(now))

    def next_due(self, now: float) -> float | None:
        """When that grows next; None when it is as good as no limit."""
        if now < self.again:
            return self.again
        done = self._doublings(now)
        return None if done >= _DOUBLINGS else self.again + (done + 1) * self._interval

    @property
    def _interval(self) -> float:
        return max(self.pause, GROWTH)

    def _doublings(self, now: float) -> int:
        return int((now - self.again) // self._interval)


@dataclass(frozen=True)
class Refusals:
    """All refusals that are remembered; each change makes another value."""

    by_place: Mapping[Place, Refusal] = field(default_factory=dict)

    @property
    def believed(self) -> dict[Place, Refusal]:
        """The cards that count as refusing a type, those included whose time to try again has come."""
        return {place: each for place, each in self.by_place.items() if each.believed}

    def waiting(self, now: float) -> frozenset[Place]:
        """What is not to be tried now."""
        return frozenset(place for place, each in self.believed.items() if now < each.again)

    def limits(self, now: float) -> dict[Place, int]:
        """How many devices are offered at the most: none now; then one to try again.

        It doubles with the time in which nobody tries: a pod may need several at once.
        """
        return {place: each.limit(now) for place, each in self.believed.items()}

    def next_due(self, now: float) -> float | None:
        """When more of one may be offered next."""
        due = (each.next_due(now) for each in self.believed.values())
        return min((time for time in due if time is not None), default=None)

    def refused(self, card: Card, type_id: str, parent: str, reason: str, now: float) -> Refusals:
        """A parent of a card did not take a device of a type."""
        place = (card.address, type_id)
        before = self.by_place.get(place)
        if before is None and not card.counts[type_id]:
            return self  # It is not offered anyway.
        if before is None:
            offering = len(card.offering(type_id, anywhere))
            after = Refusal(
                reason=reason,
                since=now,
                parents=frozenset({parent}),
                needed=max(1, min(SEVERAL, offering)) if card.divided else 1,
                pause=FIRST,
                again=now + FIRST,
                quiet=now + QUIET,
                known=card.parents,
            )
        else:
            # Requests that were under way together have found out the same thing.
            due = before.believed and now >= before.again
            pause = min(LONGEST, before.pause * 2) if due else before.pause
            after = replace(
                before,
                reason=reason,
                parents=before.parents | {parent},
                pause=pause,
                again=now + pause,
                quiet=max(before.quiet, now + QUIET),
            )
        return Refusals({**self.by_place, place: after})

    def made(self, card: str, type_id: str) -> Refusals:
        """A card took a device of a type."""
        return self._without({(card, type_id)})

    def undoing(self, card: str) -> Refusals:
        """A request takes back what it made on a card: that the card moves says nothing."""
        return self._with(card, quiet=inf)

    def undone(self, card: str, now: float) -> Refusals:
        """It has taken it back."""
        return self._with(card, quiet=now + QUIET)

    def _with(self, card: str, *, quiet: float) -> Refusals:
        return Refusals(
            {
                place: replace(each, quiet=quiet) if place[0] == card else each
                for place, each in self.by_place.items()
            }
        )

    def seen(self, card: Card, now: float) -> Refusals:
        """Take in what a card is like once it has settled."""
        changed: dict[Place, Refusal] = {}
        agreed: set[Place] = set()
        for place, each in self.by_place.items():
            if place[0] != card.address or each.known == card.parents:
                continue
            if now < each.quiet:
                # Where the kernel says it by now, too, somebody was quicker.
                left = each.parents & {parent.address for parent in card.offering(place[1], anywhere)}
                if left:
                    changed[place] = replace(each, known=card.parents, parents=left)
                else:
                    agreed.add(place)
            else:
                changed[place] = replace(each, known=card.parents, again=min(each.again, now))
        if not changed and not agreed:
            return self
        return Refusals(
            {place: each for place, each in {**self.by_place, **changed}.items() if place not in agreed}
        )

    def forget(self, cards: Collection[str]) -> Refusals:
        """What is left when these cards are gone."""
        gone = {place for place in self.by_place if place[0] in cards}
        return self._without(gone)

    def _without(self, places: Collection[Place]) -> Refusals:
        if self.by_place.keys().isdisjoint(places):
            return self
        return Refusals({place: each for place, each in self.by_place.items() if place not in places})


def differing(one: Refusals, other: Refusals) -> Iterator[tuple[Place, Refusal]]:
    """What counts as refusing in the one and not in the other."""
    there = other.believed
    return ((place, each) for place, each in one.believed.items() if place not in there)
