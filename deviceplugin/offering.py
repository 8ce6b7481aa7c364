"""The one loop that works out what every resource advertises, whenever something moved that it is made of.

Whatever moves while it waits leads to one round. What has to be listed before a next step is taken is asked
for with ``now``: the first list of a registration, and what a failed request has shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

from deviceplugin.adoption import Adoptable
from deviceplugin.advertising import Advertising
from deviceplugin.host.node import Node
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.state import State


class Offering:
    """Keeps the offers true.

    Args:
        hung: the cards of which nothing can be had now.
        on_round: called after each round.
    """

    def __init__(
        self,
        state: State,
        node: Node,
        advertising: Advertising,
        adoptable: Adoptable,
        *,
        hung: Callable[[], frozenset[str]],
        on_round: Callable[[], None],
    ) -> None:
        self._state = state
        self._node = node
        self._advertising = advertising
        self._adoptable = adoptable
        self._hung = hung
        self._on_round = on_round
        self._begun = False

    def begin(self) -> None:
        """Work out the first offers: everything that they need is known."""
        self._begun = True
        self._state.tell()
        self.now()

    async def run(self) -> NoReturn:
        """Work out the offers whenever something moved; runs until it is cancelled."""
        while True:
            await self._state.changed.wait()
            self.now()
            # Should a round lead to another one, whoever else has something to do gets a turn.
            await asyncio.sleep(0)

    def end(self) -> None:
        """Work out nothing more."""
        self._begun = False

    def now(self) -> None:
        """Have listed what moved until now, without waiting for the loop; nothing before the beginning."""
        if not self._state.changed.is_set():
            return
        self._state.changed.clear()
        if not self._begun:
            return
        try:
            self._work_out()
        except BaseException:
            # Nothing is lost by it: the loop meets the same error, and the agent ends by that.
            self._state.changed.set()
            raise

    def _work_out(self) -> None:
        capacity = Capacity(
            self._node.snapshot,
            self._state.knowledge,
            hung=self._hung(),
            limits=self._state.refusals.limits(),
        )
        self._advertising.update(
            capacity,
            pulled=self._state.ledger.pulled,
            stuck=self._state.occupied,
            free=self._adoptable.free,
        )
        self._adoptable.look_soon()
        self._on_round()
