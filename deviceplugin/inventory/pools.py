"""What the devices of a card take from each other, learned from the counts that the kernel gives.

Types draw on something common at different rates, or exclude each other, and every driver has a rule of its
own that nothing in sysfs tells. But each settled state of a card says something of it: with one
``mbochs-large`` more, ``mbochs-small`` fell from 64 to 48, so the first takes 16 of the second.

The model is simple on purpose: one device of T takes a fixed number r of U's, whatever else is there, and
what the kernel counts is rounded down and never less than nothing. With that, pools, shared instance counts
and cards that carry one type at a time are the same thing, the last being an r that leaves nothing. A driver
that counts otherwise (GVT-g takes the least of three pools) is followed as well as the model can, and the
difference shows as wrong predictions.

Predictions rank places and tell people what would fit. They never add to what is offered: there only what was
*seen* on that very card counts, see ``Knowledge.proved``. All of it lives as long as the process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor

from deviceplugin.inventory.cards import Card, anywhere

_REMEMBERED = 64
"""States of one card that are remembered."""

Load = frozenset[tuple[str, int]]
"""How many devices of each type a card carries."""
Counts = Mapping[str, int]
"""What the kernel said then, by type."""
Pair = tuple[str, str, str]
"""A driver, and two of its types: the one that is made, and the one that it takes from."""


@dataclass(frozen=True, slots=True)
class Rate:
    """How many devices of a type one of another takes the place of: more than ``low``, less than ``high``."""

    low: Fraction = Fraction(-1)
    high: Fraction | None = None
    """None: no bound, it may well take all."""

    def narrowed(self, other: Rate) -> Rate | None:
        """What both allow; None if they contradict each other."""
        low = max(self.low, other.low)
        highs = [bound for bound in (self.high, other.high) if bound is not None]
        high = min(highs, default=None)
        return Rate(low, high) if high is None or low < high else None

    def inverse(self) -> Rate:
        """How much the other type then takes of this one, if both draw on one pool."""
        low = Fraction(-1) if self.high is None else 1 / self.high
        return Rate(low, 1 / self.low if self.low > 0 else None)

    def allows(self, value: Fraction) -> bool:
        return self.low < value and (self.high is None or value < self.high)


@dataclass(frozen=True, slots=True)
class Surprise:
    """A prediction that the kernel did not confirm."""

    driver: str
    card: str
    type: str
    expected: int
    found: int
    carried: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        load = ", ".join(f"{number} {type_id}" for type_id, number in self.carried) or "nothing"
        return (
            f"learned of {self.card} ({self.driver}): with {load} on it {self.found} more {self.type} fit, "
            f"by the kernel's count; the estimate was {self.expected}"
        )


@dataclass(frozen=True, slots=True)
class Lesson:
    """What came of looking at a card: what is known now, and how good what was known before has been."""

    knowledge: Knowledge
    confirmed: int = 0
    """Counts that were as expected."""
    surprises: tuple[Surprise, ...] = ()


@dataclass(frozen=True)
class Knowledge:
    """All that was learned, as a value: learning makes another one."""

    rates: Mapping[Pair, Rate] = field(default_factory=dict)
    seen: Mapping[str, Mapping[Load, Counts]] = field(default_factory=dict)
    """The states that each card was seen in, the oldest first."""
    _rates: dict[Pair, Fraction | None] = field(default_factory=dict, compare=False, repr=False)
    _amounts: dict[tuple[str, str], Fraction | None] = field(default_factory=dict, compare=False, repr=False)

    def learn(self, card: Card) -> Lesson:
        """Take in a card as it is once it has settled, and say what of it was expected."""
        load, now = _load(card.existing), dict(card.counts)
        states = self.seen.get(card.address, {})
        if states.get(load) == now:
            return Lesson(self)
        if any(now.keys() != counts.keys() for counts in states.values()):
            states = {}  # Its types are others than before: it is another card by now.
        elif load in states:
            states = {}  # The same load leaves another room: somebody changed the card itself.
        confirmed, surprises = self._checked(card, now) if states and not card.divided else (0, ())
        rates = dict(self.rates)
        for surprise in surprises:
            for other in card.types:
                rates.pop((card.driver, other, surprise.type), None)
        if not card.divided:
            for before, counts in states.items():
                _compare(rates, card.driver, (dict(before), counts), (dict(load), now))
        states = {**states, load: now}
        for oldest in list(states)[:-_REMEMBERED]:
            if oldest:  # An empty card says most.
                del states[oldest]
        return Lesson(Knowledge(rates, {**self.seen, card.address: states}), confirmed, surprises)

    def forget(self, cards: set[str]) -> Knowledge:
        """What is left when these cards are gone."""
        return Knowledge(self.rates, {card: seen for card, seen in self.seen.items() if card not in cards})

    def proved(self, card: Card, type_id: str) -> int:
        """How many more devices of a type a card is known to take, since it once carried as much or more.

        This holds for every driver that, having room for some devices, has room for fewer of them.
        """
        load = card.load
        most = 0
        for state in self.seen.get(card.address, {}):
            carried = dict(state)
            if all(carried.get(kind, 0) >= number for kind, number in load.items()):
                most = max(most, carried.get(type_id, 0) - load[type_id])
        return most

    def rate(self, card: Card, made: str, taken: str) -> Fraction | None:
        """How many devices of ``taken`` one of ``made`` takes the place of; None while nothing is known."""
        if made == taken:
            return Fraction(1)
        key = (card.address, made, taken)
        if key not in self._rates:
            rate = self.rates.get((card.driver, made, taken))
            self._rates[key] = None if rate is None else self._likeliest(card, made, taken, rate)
        return self._rates[key]

    def knows(self, card: Card, made: str) -> bool:
        """Whether it was seen what a type takes from every other one of a card."""
        return all(self.rate(card, made, other) is not None for other in card.types)

    def whole(self, card: Card, type_id: str) -> int:
        """The most of a type that a card was ever said to take."""
        return max((counts.get(type_id, 0) for counts in self.seen.get(card.address, {}).values()), default=0)

    def expected(self, card: Card, type_id: str) -> int | None:
        """How many more devices of a type would fit a card, as far as can be told; None if it can't.

        What the card was seen in is remembered; anything else is worked out from the rates.
        """
        stated = card.stated(type_id, anywhere)
        if not card.imagined:
            return stated
        states = self.seen.get(card.address, {})
        load = _load(card.load)
        if load in states:
            return min(stated, states[load].get(type_id, 0))
        worked_out = self._worked_out(card, type_id)
        return None if worked_out is None else min(stated, worked_out)

    def _worked_out(self, card: Card, type_id: str) -> int | None:
        """What the rates say, whether or not the card was seen like that."""
        estimates = [
            self._less(card, self._amount(card, type_id), card.load, type_id),
            # What is there may be of a type of which nothing is known; what comes to it is not.
            self._less(card, Fraction(card.counts[type_id]), card.load - card.existing, type_id)
            if card.imagined
            else None,
        ]
        known = [estimate for estimate in estimates if estimate is not None]
        return max(0, floor(max(known))) if known else None

    def _less(
        self, card: Card, amount: Fraction | None, load: Mapping[str, int], type_id: str
    ) -> Fraction | None:
        """What is left of an amount when a load is taken from it; None if that is unknown."""
        for kind, number in load.items():
            rate = self.rate(card, kind, type_id)
            if amount is None or rate is None:
                return None
            amount -= number * rate
        return amount

    def _amount(self, card: Card, type_id: str) -> Fraction | None:
        """How many devices of a type the whole card is worth: at least what each of its states says."""
        key = (card.address, type_id)
        if key not in self._amounts:
            most: Fraction | None = None
            for state, counts in self.seen.get(card.address, {}).items():
                # Where none is left, it may lack any amount.
                if counts.get(type_id):
                    without = {kind: -number for kind, number in state}
                    worth = self._less(card, Fraction(counts[type_id]), without, type_id)
                    most = worth if most is None else most if worth is None else max(most, worth)
            self._amounts[key] = most
        return self._amounts[key]

    def _checked(self, card: Card, now: Counts) -> tuple[int, tuple[Surprise, ...]]:
        """How many counts are as was expected, and those that are not."""
        carried = tuple(sorted(card.existing.items()))
        confirmed, surprises = 0, []
        for type_id, number in now.items():
            expected = self._worked_out(card, type_id)
            if expected == number:
                confirmed += 1
            elif expected is not None:
                surprises.append(Surprise(card.driver, card.address, type_id, expected, number, carried))
        return confirmed, tuple(surprises)

    def _likeliest(self, card: Card, made: str, taken: str, rate: Rate) -> Fraction:
        """The likeliest number that a rate allows."""
        empty = self.seen.get(card.address, {}).get(frozenset(), {})
        full, whole = empty.get(made, 0), empty.get(taken, 0)
        if full and whole and rate.allows(Fraction(whole, full)):
            return Fraction(whole, full)  # As of one pool that both fill.
        back = self.rates.get((card.driver, taken, made))
        if back is not None and (both := rate.narrowed(back.inverse())) is not None:
            rate = both  # Of one pool each takes of the other as much as the other way round.
        if rate.high is None:
            return max(rate.low + 1, Fraction(whole))  # It leaves nothing.
        return _simplest(rate.low, rate.high)


def _load(carried: Mapping[str, int]) -> Load:
    return frozenset((type_id, number) for type_id, number in carried.items() if number)


def _compare(
    rates: dict[Pair, Rate],
    driver: str,
    one: tuple[Mapping[str, int], Counts],
    other: tuple[Mapping[str, int], Counts],
) -> None:
    """Learn from two states of a card that differ in the number of devices of one type."""
    kinds = one[0].keys() | other[0].keys()
    differing = [kind for kind in kinds if one[0].get(kind, 0) != other[0].get(kind, 0)]
    if len(differing) != 1:
        return
    (made,) = differing
    less, more = (one, other) if one[0].get(made, 0) < other[0].get(made, 0) else (other, one)
    number = more[0].get(made, 0) - less[0].get(made, 0)
    for taken, before in less[1].items():
        if taken == made or not before:
            continue
        after = more[1].get(taken, 0)
        high = Fraction(before - after + 1, number) if after else None
        seen = Rate(Fraction(before - after - 1, number), high)
        pair = (driver, made, taken)
        # The newer of two that contradict each other is believed.
        rates[pair] = rates.get(pair, Rate()).narrowed(seen) or seen


def _simplest(low: Fraction, high: Fraction) -> Fraction:
    """The fraction with the least denominator strictly between two numbers; nothing below zero."""
    low = max(low, Fraction(-1, 1 << 20))
    denominator = 1
    while True:
        numerator = max(0, floor(low * denominator) + 1)
        if low < Fraction(numerator, denominator) < high:
            return Fraction(numerator, denominator)
        denominator += 1
        if denominator > ceil(1 / (high - low)) + 1:
            return (low + high) / 2
