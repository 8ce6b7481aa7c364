"""When offers are worked out: once for all that came together, and before a step that needs it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import pytest

from deviceplugin.events import Unheard
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.offering import Offering
from deviceplugin.state import State

if TYPE_CHECKING:
    from deviceplugin.adoption import Adoptable
    from deviceplugin.advertising import Advertising
    from deviceplugin.host.node import Node


class Around:
    """A node that has nothing, and an advertising that only counts how often it is asked."""

    snapshot = Snapshot()
    free: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.rounds: list[frozenset[str]] = []
        """What was occupied in each."""
        self.state = State(lambda: 0.0, events=Unheard(), on_foretold=lambda *_: None)
        self.offering = Offering(
            self.state,
            cast("Node", self),
            cast("Advertising", self),
            cast("Adoptable", self),
            hung=frozenset,
            on_round=lambda: None,
        )

    def update(self, _capacity: object, *, stuck: frozenset[str], **_others: object) -> None:
        self.rounds.append(stuck)

    def look_soon(self) -> None:
        """Nobody looks."""


@pytest.fixture
def around() -> Around:
    return Around()


async def test_what_moves_together_leads_to_one_round(around: Around) -> None:
    around.offering.begin()
    running = asyncio.create_task(around.offering.run())
    for device in ("a", "b", "c"):
        around.state.occupy(frozenset({device}))
    for _ in range(5):
        await asyncio.sleep(0)
    around.state.occupy(frozenset({"c"}))  # Nothing new.
    for _ in range(5):
        await asyncio.sleep(0)
    assert around.rounds == [frozenset(), frozenset({"c"})]
    running.cancel()


def test_what_has_to_be_listed_now_does_not_wait_for_the_loop(around: Around) -> None:
    around.offering.begin()
    around.state.occupy(frozenset({"a"}))
    around.offering.now()
    assert around.rounds[1:] == [frozenset({"a"})]
    around.offering.now()
    assert len(around.rounds) == 2


def test_nothing_is_offered_before_the_beginning_or_after_the_end(around: Around) -> None:
    around.state.tell()
    around.offering.now()
    assert not around.rounds
    around.offering.begin()
    around.offering.end()
    around.state.tell()
    around.offering.now()
    assert len(around.rounds) == 1
