"""What cards refused, and when that is offered again."""

from __future__ import annotations

import asyncio
import errno
from dataclasses import replace

import pytest

from deviceplugin.events import Unheard
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.cards import Card
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.refusals import FIRST, GROWTH, LONGEST, QUIET, Refusal, Refusals, counts
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device, Parent, ParentType, Snapshot
from deviceplugin.refusals import RefusalLog

PLACE = ("card", "large")


def parent(address: str = "card", *, large: int = 3, small: int = 6, devices: int = 0) -> Parent:
    types = (
        ParentType("large", "", "vfio-pci", "", large),
        ParentType("small", "", "vfio-pci", "", small),
    )
    there = tuple(Device(f"{n}", "small", address, n) for n in range(devices))
    return Parent(address, "card", "driver", None, None, types, there)


def whole(*, large: int = 3, small: int = 6, devices: int = 0) -> Card:
    return Card("card", (parent(large=large, small=small, devices=devices),))


def functions(number: int) -> Card:
    return Card("card", tuple(parent(f"vf{n}", large=1, small=1) for n in range(number)))


def refused(
    before: Refusals, now: float, card: Card | None = None, parent: str = "card", kind: str = "large"
) -> Refusals:
    return before.refused(card or whole(), kind, parent, "EIO", now)


def offered(refusals: Refusals, now: float, kind: str = "large") -> int:
    capacity = Capacity(Snapshot(whole().parents), limits=refusals.limits(now))
    return sum(capacity.of(Resource(name="a/b", types=(kind,))).values())


def test_what_a_card_refused_is_not_offered_until_the_back_off_has_passed_and_then_once() -> None:
    refusals = refused(Refusals(), 100)
    assert [offered(refusals, 100 + after) for after in (0, FIRST - 1, FIRST)] == [0, 0, 1]
    assert refusals.next_due(100) == 100 + FIRST
    assert refusals.waiting(100) == {PLACE}
    assert not refusals.waiting(100 + FIRST)


def test_what_nobody_tries_is_offered_in_growing_numbers() -> None:
    refusals = refused(Refusals(), 0)
    times = [FIRST, FIRST + GROWTH - 1, FIRST + GROWTH, FIRST + 2 * GROWTH]
    assert [refusals.limits(now)[PLACE] for now in times] == [1, 1, 2, 4]
    assert refusals.next_due(FIRST) == FIRST + GROWTH
    assert refusals.next_due(FIRST + GROWTH) == FIRST + 2 * GROWTH
    assert refusals.next_due(FIRST + 11 * GROWTH) is None
    assert refused(refusals, FIRST + 5 * GROWTH).limits(FIRST + 5 * GROWTH) == {PLACE: 0}


def test_a_card_that_says_itself_that_it_is_full_is_not_held_back_afterwards() -> None:
    assert not refused(Refusals(), 0, whole(large=0)).by_place


def test_types_are_refused_each_for_itself() -> None:
    refusals = refused(Refusals(), 0)
    assert (offered(refusals, 0, "large"), offered(refusals, 0, "small")) == (0, 6)


def test_the_back_off_doubles_with_each_try_up_to_its_bound() -> None:
    refusals, now, pauses = Refusals(), 0.0, []
    for _ in range(9):
        refusals = refused(refusals, now)
        again = refusals.next_due(now)
        assert again is not None
        pauses.append(again - now)
        now = again
    assert pauses[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert pauses[-2:] == [LONGEST, LONGEST]
    assert refusals.believed[PLACE].since == 0


def test_requests_that_were_refused_at_the_same_time_count_once() -> None:
    refusals = Refusals()
    for after in range(5):
        refusals = refused(refusals, after)
    assert refusals.next_due(5) == 4 + FIRST


def test_a_success_ends_it() -> None:
    refusals = refused(refused(Refusals(), 0), FIRST)
    assert offered(refusals.made("card", "small"), FIRST) == 0
    assert offered(refusals.made(*PLACE), FIRST) == 3


@pytest.mark.parametrize(
    "card",
    [
        whole(devices=1),
        whole(large=2),
        whole(small=5),
        Card("card", (replace(parent(), driver="other"),)),
        Card("card", (parent(), parent("another"))),
    ],
    ids=["a device", "its count", "another count", "its driver", "its parents"],
)
def test_a_card_that_moved_is_tried_again_once(card: Card) -> None:
    refusals = refused(Refusals(), 0).seen(whole(), 5)
    assert offered(refusals, 5) == 0
    refusals = refusals.seen(card, 6)
    assert refusals.limits(6) == {PLACE: 1}
    assert refused(refusals, 6).next_due(6) == 6 + 2 * FIRST


def test_what_a_request_made_beside_and_took_back_is_no_reason_to_try_again() -> None:
    refusals = refused(Refusals(), 0).undoing("card")
    for now, devices in ((1.5, 1), (9.0, 0), (9.1, 1)):
        refusals = refusals.seen(whole(devices=devices), now)
    refusals = refusals.undone("card", 9.2)
    refusals = refusals.seen(whole(), 9.2 + QUIET / 2)
    assert refusals.limits(9.9) == {PLACE: 0}
    assert refusals.seen(whole(devices=1), 9.3 + QUIET).limits(9.3 + QUIET) == {PLACE: 1}


def test_a_refusal_that_the_counts_then_agree_with_needs_no_remembering() -> None:
    refusals = refused(Refusals(), 0)
    assert not refusals.seen(whole(large=0), QUIET / 2).by_place
    assert refusals.seen(whole(large=0), QUIET * 2).by_place


def test_of_virtual_functions_it_takes_two_unless_there_is_only_one() -> None:
    card = functions(16)
    refusals = refused(Refusals(), 0, card, "vf0")
    assert not refusals.limits(0)
    assert refused(refusals, 0, card, "vf0").limits(0) == {}
    assert refused(refusals, 0, card, "vf1").limits(0) == {PLACE: 0}
    assert refused(Refusals(), 0, functions(1), "vf0").limits(0) == {PLACE: 0}
    assert not refused(refusals.made(*PLACE), 0, card, "vf1").limits(0)


@pytest.mark.parametrize("taken", [1, 2])
def test_functions_that_had_a_device_already_when_they_refused_say_nothing_of_their_card(taken: int) -> None:
    card = functions(16)
    refusals = refused(refused(Refusals(), 0, card, "vf0"), 0, card, "vf1")
    assert refusals.limits(0) == {PLACE: 0}
    # Devices that were made a moment before, which the look before the refusals did not show yet.
    used = [parent(f"vf{number}", large=0, small=0, devices=1) for number in range(taken)]
    refusals = refusals.seen(Card("card", (*used, *card.parents[taken:])), QUIET / 2)
    assert not refusals.limits(QUIET / 2)
    assert len(refusals.by_place) == (taken == 1)


def test_a_card_that_goes_takes_its_refusals_along() -> None:
    refusals = refused(Refusals(), 0)
    assert refusals.forget({"another"}) is refusals
    assert not refusals.forget({"card"}).by_place


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO, errno.ENOSPC, errno.EUSERS, errno.ETIMEDOUT])
def test_what_says_something_of_a_card(number: int) -> None:
    assert counts(OSError(number, ""))


@pytest.mark.parametrize("number", [errno.EEXIST, errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.ENODEV])
def test_what_says_nothing_of_a_card(number: int) -> None:
    assert not counts(OSError(number, ""))
    assert not counts(None)


class Told(Unheard):
    """A log of refusals with a clock that is set by hand, and what it told."""

    def __init__(self) -> None:
        self.time = 1000.0
        self.changes = asyncio.Queue[float]()
        self.refusals: list[tuple[str, str]] = []
        self.said: list[str] = []
        self.log = RefusalLog(
            lambda: self.time,
            on_change=lambda: self.changes.put_nowait(self.time),
            events=self,
        )

    def refused(self, card: str, errno: str) -> None:
        self.refusals.append((card, errno))

    def stopped_offering(self, card: str, type_id: str, refusal: Refusal) -> None:
        self.said.append(f"{card} stopped {type_id}: {refusal.reason}")

    def offers_again(self, card: str, type_id: str) -> None:
        self.said.append(f"{card} offers {type_id} again")

    def refuse(self, number: int = errno.EIO) -> None:
        seat = Seat("card", "card", "large", aligned=True)
        self.log.refused(seat, Snapshot(whole().parents), OSError(number, ""))


async def test_it_is_said_once_on_the_way_in_and_once_on_the_way_out() -> None:
    told = Told()
    told.refuse(errno.EEXIST)
    for _ in range(3):
        told.refuse()
    assert told.refusals == [("card", "EIO")] * 3
    assert told.log.limits() == {PLACE: 0}
    ((card, kind, reason, _),) = told.log.listed()
    assert (card, kind, reason) == ("card", "large", "EIO")
    for _ in range(2):
        told.log.made(Seat("card", "card", "large", aligned=True))
    assert told.said == ["card stopped large: EIO", "card offers large again"]
    assert not told.log.listed()
    told.log.close()


async def test_the_offer_is_worked_out_anew_when_the_back_off_has_passed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("deviceplugin.inventory.refusals.FIRST", 0.01)
    told = Told()
    told.refuse()
    assert await told.changes.get() == 1000
    told.time += 1
    async with asyncio.timeout(60):
        assert await told.changes.get() == 1001
    assert told.log.limits() == {PLACE: 1}
    assert told.log._timer is not None  # For what is offered when nobody tries it.
    told.log.close()
