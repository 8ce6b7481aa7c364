"""What the process remembers of devices."""

from __future__ import annotations

import pytest

from deviceplugin.ledger import Ledger

ONE, TWO = "one", "two"


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(clock: Clock) -> Ledger:
    return Ledger(clock)


def test_a_device_that_was_found_at_start_up_counts_as_used(ledger: Ledger) -> None:
    assert not ledger.is_fresh(ONE)
    assert not ledger.is_handed_over(ONE)
    assert ledger.idle_for(ONE) == float("inf")


def test_a_device_is_fresh_from_its_making_to_its_first_use(ledger: Ledger) -> None:
    ledger.made(ONE)
    assert ledger.is_fresh(ONE)
    ledger.handed_over(ONE, 7)
    assert ledger.is_fresh(ONE)
    ledger.used([ONE])
    assert not ledger.is_fresh(ONE)
    ledger.handed_over(ONE, 7)
    assert not ledger.is_fresh(ONE)


def test_a_device_that_is_made_anew_is_fresh_again_and_has_not_been_handed_over(ledger: Ledger) -> None:
    ledger.made(ONE)
    ledger.handed_over(ONE, 7)
    ledger.used([ONE])
    ledger.made(ONE)
    assert ledger.is_fresh(ONE)
    assert not ledger.is_handed_over(ONE)


def test_while_the_kubelet_was_away_any_device_may_have_been_used(ledger: Ledger) -> None:
    for device in (ONE, TWO):
        ledger.made(device)
        ledger.handed_over(device, 7)
    ledger.used(ledger.fresh())
    assert not ledger.is_fresh(ONE)
    assert not ledger.is_fresh(TWO)
    assert ledger.told_only(ONE, 7)


def test_a_device_that_is_gone_is_forgotten_but_for_when_it_was_asked_for(
    ledger: Ledger, clock: Clock
) -> None:
    ledger.made(ONE)
    ledger.handed_over(ONE, 7)
    clock.now += 3
    ledger.gone([ONE, TWO])
    assert not ledger.is_fresh(ONE)
    assert not ledger.is_handed_over(ONE)
    assert ledger.idle_for(ONE) == 3


def test_every_request_begins_the_grace_period_anew(ledger: Ledger, clock: Clock) -> None:
    ledger.made(ONE)
    clock.now += 5
    assert ledger.idle_for(ONE) == 5
    ledger.handed_over(ONE, 7)
    assert ledger.idle_for(ONE) == 0
    clock.now += 2
    ledger.touch(ONE)
    assert ledger.idle_for(ONE) == 0
    clock.now += 2
    ledger.used([ONE])
    assert ledger.idle_for(ONE) == 2


async def test_a_device_has_one_lock_and_no_other_devices(ledger: Ledger) -> None:
    async with ledger.lock(ONE):
        assert ledger.lock(ONE).locked()
        assert not ledger.lock(TWO).locked()
    assert not ledger.lock(ONE).locked()


def test_what_the_kubelet_was_told_is_kept_until_it_is_proved_to_have_forgotten(ledger: Ledger) -> None:
    ledger.handed_over(ONE, 7)
    ledger.gone([ONE])
    assert ledger.told_only(ONE, 7)
    assert not ledger.told_only(ONE, 8)
    ledger.handed_over(ONE, 8)
    assert not ledger.told_only(ONE, 8)
    ledger.forgotten(ONE)
    ledger.handed_over(ONE, 8)
    assert ledger.told_only(ONE, 8)


async def test_a_device_is_busy_while_somebody_holds_its_lock(ledger: Ledger) -> None:
    assert not ledger.is_busy(ONE)
    async with ledger.lock(ONE):
        assert ledger.is_busy(ONE)
    assert not ledger.is_busy(ONE)


def test_a_device_that_vanishes_under_its_pod_was_pulled_until_it_is_made_again_or_released(
    ledger: Ledger,
) -> None:
    ledger.handed_over(ONE, 7)
    ledger.vanished([ONE, TWO], held=())
    assert ledger.pulled == {ONE}
    assert not ledger.is_handed_over(ONE)
    ledger.made(ONE)
    assert not ledger.pulled
    ledger.vanished([ONE, TWO], held=[ONE, TWO])
    assert ledger.pulled == {ONE, TWO}
    ledger.released([ONE])
    assert ledger.pulled == {TWO}
    ledger.released([TWO])
    assert not ledger.pulled


async def test_a_device_that_this_process_removes_was_not_pulled(ledger: Ledger) -> None:
    ledger.handed_over(ONE, 7)
    async with ledger.lock(ONE):
        ledger.vanished([ONE], held=[ONE])
    assert not ledger.pulled
