"""What the kubelet believes beside what was listed, and what is done where the two differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from deviceplugin.errors import KubeletError
from deviceplugin.inventory.offer import Offer, OfferedSlot
from deviceplugin.kubelet.agreement import (
    CONFIRM,
    FIRST_PAUSE,
    LAST_PAUSE,
    PEACE,
    SETTLE,
    Agreement,
    Belief,
    Difference,
    compared,
)
from deviceplugin.kubelet.listing import LATELY, Listing

X = "vfio.dev/x"
OURS = frozenset({"a", "b"})
THEIRS = frozenset({"42"})
NOBODY: frozenset[str] = frozenset()
ENOUGH = CONFIRM + 0.01


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class FakeLine:
    """An endpoint whose every registration goes well."""

    def __init__(self, clock: Clock) -> None:
        self.resource = X
        self.clock = clock
        self.listing = Listing(X, clock)
        self.listens_since: float | None = clock() - 2 * SETTLE
        self.renewals: list[float] = []
        self.resent: list[float] = []
        self.settled = False

    def settle(self) -> None:
        self.settled = True

    @property
    def socket(self) -> str:
        return f"{len(self.renewals)}.sock"

    def renew(self) -> None:
        self.renewals.append(self.clock())
        self.listens_since = self.clock()

    def resend(self) -> None:
        self.resent.append(self.clock())
        self.listing.resend()

    def lists(self, healthy: Iterable[str], unhealthy: Iterable[str] = ()) -> None:
        slots = [OfferedSlot(each, True, None) for each in sorted(healthy)]
        slots += [OfferedSlot(each, False, None) for each in sorted(unhealthy)]
        self.listing.publish(Offer(X, tuple(slots)))


class Stage:
    """An agreement with one endpoint, and a kubelet that believes what the test says."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.line = FakeLine(self.clock)
        self.line.lists(OURS)
        self.clock.now += 2 * LATELY
        self.believed: frozenset[str] | None = OURS
        self.told: list[Difference | None] = []
        self.agreement = Agreement(
            {X: self.line},
            self.ask,
            on_dispute=lambda _resource, difference: self.told.append(difference),
            clock=self.clock,
        )

    async def ask(self) -> Mapping[str, frozenset[str]]:
        if self.believed is None:
            raise KubeletError("the kubelet answered RESOURCE_EXHAUSTED")
        return {X: self.believed} if self.believed else {}

    async def looks(self, believed: frozenset[str] | None, *, after: float = 0.0) -> None:
        self.clock.now += after
        self.believed = believed
        await self.agreement.look()

    async def sees_for(self, seconds: float, believed: frozenset[str]) -> None:
        """Looks for a while, twice a second."""
        for _ in range(int(2 * seconds)):
            await self.looks(believed, after=0.5)


@pytest.fixture
async def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize(
    ("believed", "belief"),
    [
        (OURS, Belief.SAME),
        (NOBODY, Belief.NONE),
        (THEIRS, Belief.FOREIGN),
        (OURS | THEIRS, Belief.FOREIGN),
        (frozenset({"a"}), Belief.OLD),
    ],
)
async def test_what_the_kubelet_believes_is_called_by_its_name(
    stage: Stage, believed: frozenset[str], belief: Belief
) -> None:
    assert compared(believed, stage.line.listing, stage.clock()).belief is belief


async def test_what_was_listed_a_moment_ago_is_no_difference(stage: Stage) -> None:
    stage.line.lists({"a"}, {"b"})
    assert compared(OURS, stage.line.listing, stage.clock()).belief is Belief.LATE
    await stage.sees_for(LATELY - 1, OURS)
    assert stage.told == []
    assert stage.line.renewals == stage.line.resent == []


@pytest.mark.parametrize("believed", [THEIRS, NOBODY])
async def test_a_difference_counts_when_it_is_seen_twice(stage: Stage, believed: frozenset[str]) -> None:
    await stage.looks(believed)
    await stage.looks(believed, after=CONFIRM / 2)
    assert stage.line.renewals == []
    assert stage.agreement.dispute(X) is None
    await stage.looks(believed, after=ENOUGH)
    assert len(stage.line.renewals) == 1
    assert stage.line.resent == [], "a list would cover what the kubelet believes"
    assert stage.agreement.dispute(X) is not None
    await stage.looks(OURS, after=SETTLE)
    assert stage.agreement.dispute(X) is None
    assert stage.told[-1] is None
    assert len(stage.line.renewals) == 1


async def test_a_difference_that_is_over_at_the_second_look_was_none(stage: Stage) -> None:
    await stage.looks(NOBODY)
    await stage.looks(OURS, after=ENOUGH)
    await stage.looks(NOBODY, after=ENOUGH)
    assert stage.told == []
    assert stage.line.renewals == []


@pytest.mark.parametrize("believed", [THEIRS, NOBODY])
async def test_a_list_of_ours_does_not_cover_what_was_seen(stage: Stage, believed: frozenset[str]) -> None:
    # The kubelet takes the list of a plugin that it does not call any more.
    await stage.looks(believed)
    stage.line.lists({"a"}, {"b"})
    await stage.looks(frozenset({"a"}), after=ENOUGH)
    assert len(stage.line.renewals) == 1


async def test_a_list_of_ours_ends_no_dispute_before_the_registration(stage: Stage) -> None:
    for _ in range(2):  # The second registration has to wait.
        await stage.looks(THEIRS, after=SETTLE)
        await stage.looks(THEIRS, after=ENOUGH)
    stage.line.renewals.clear()
    stage.line.listens_since = stage.clock() - SETTLE
    stage.agreement._states[X].next_try = stage.clock() + 5
    await stage.looks(THEIRS, after=SETTLE)
    await stage.looks(THEIRS, after=ENOUGH)
    await stage.looks(OURS, after=0.5)
    assert stage.agreement.dispute(X) is not None
    await stage.looks(OURS, after=5)
    assert len(stage.line.renewals) == 1


async def test_a_list_that_is_out_of_date_is_sent_again_and_then_registered(stage: Stage) -> None:
    old = frozenset({"a"})
    await stage.looks(old)
    await stage.looks(old, after=ENOUGH)
    assert len(stage.line.resent) == 1
    assert stage.line.renewals == []
    await stage.sees_for(4, old)
    assert stage.line.renewals, "sent again and again instead"


async def test_a_list_that_is_taken_when_it_is_sent_again_ends_the_matter(stage: Stage) -> None:
    await stage.looks(frozenset({"a"}))
    await stage.looks(frozenset({"a"}), after=ENOUGH)
    await stage.looks(OURS, after=ENOUGH)
    assert stage.agreement.dispute(X) is None
    assert stage.line.renewals == []


async def test_a_plugin_that_insists_is_answered_more_and_more_rarely(stage: Stage) -> None:
    await stage.sees_for(300, THEIRS)
    gaps = [
        after - before for before, after in zip(stage.line.renewals, stage.line.renewals[1:], strict=False)
    ]
    assert len(stage.line.renewals) < 20
    assert gaps == sorted(gaps)
    assert LAST_PAUSE <= max(gaps) <= LAST_PAUSE + SETTLE + CONFIRM + 1
    assert min(gaps) >= FIRST_PAUSE


async def test_after_a_long_peace_a_difference_is_mended_at_once_again(stage: Stage) -> None:
    await stage.sees_for(100, THEIRS)
    await stage.sees_for(2 * PEACE, OURS)
    before = len(stage.line.renewals)
    await stage.sees_for(1, THEIRS)
    assert len(stage.line.renewals) == before + 1


async def test_the_first_list_of_a_connection_is_given_time(stage: Stage) -> None:
    stage.line.listens_since = stage.clock()
    await stage.looks(NOBODY, after=SETTLE / 3)
    await stage.looks(NOBODY, after=SETTLE / 3)
    assert stage.told == []


async def test_a_kubelet_that_believes_the_list_is_listening_already(stage: Stage) -> None:
    await stage.looks(NOBODY)
    assert not stage.line.settled
    await stage.looks(OURS, after=ENOUGH)
    assert stage.line.settled


async def test_without_an_answer_nothing_is_known_and_nothing_done(stage: Stage) -> None:
    await stage.looks(THEIRS)
    for _ in range(10):
        await stage.looks(None, after=1)
    assert stage.told == []
    assert stage.line.renewals == []


async def test_a_doubt_is_over_when_the_kubelet_believes_us(stage: Stage) -> None:
    stage.agreement.doubt(X)
    await stage.looks(OURS)
    for _ in range(10):
        await stage.looks(None, after=1)
    assert stage.line.renewals == []


async def test_a_doubt_that_nobody_can_settle_leads_to_a_registration(stage: Stage) -> None:
    stage.agreement.doubt(X)
    for _ in range(4):
        await stage.looks(None, after=1)
    assert len(stage.line.renewals) == 1


async def test_a_doubt_about_an_empty_list_leads_to_a_registration(stage: Stage) -> None:
    # Nothing is what a kubelet that hung up believes as well.
    stage.line.lists((), OURS)
    stage.agreement.doubt(X)
    await stage.looks(NOBODY)
    assert len(stage.line.renewals) == 1


async def test_doubts_without_end_lead_to_few_registrations(stage: Stage) -> None:
    stage.line.lists((), OURS)
    for _ in range(200):
        stage.agreement.doubt(X)
        await stage.looks(NOBODY, after=0.5)
    assert len(stage.line.renewals) < 12


@pytest.mark.parametrize(
    ("difference", "sentence"),
    [
        (Difference(Belief.FOREIGN, 1, 4), "the kubelet believes 1 device of another plugin"),
        (Difference(Belief.FOREIGN, 7, 4), "the kubelet believes 7 devices of another plugin"),
        (Difference(Belief.NONE, 0, 4), "the kubelet takes none of the 4 listed devices for healthy"),
        (Difference(Belief.OLD, 0, 4), "the kubelet believes a list that is out of date"),
    ],
)
def test_a_difference_is_said_in_words(difference: Difference, sentence: str) -> None:
    assert str(difference).startswith(sentence)
