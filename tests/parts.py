"""Parts of the agent as tests want them: with nobody who listens, unless a test says who."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from deviceplugin.allocation import Allocation
from deviceplugin.events import Unheard
from deviceplugin.host.node import Node
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.ledger import Ledger
from deviceplugin.making import Maker, MakingNode
from deviceplugin.refusals import RefusalLog


def nothing(*_: object) -> None:
    """Nobody listens."""


def refusal_log() -> RefusalLog:
    return RefusalLog(time.monotonic, on_change=nothing, events=Unheard())


def maker(
    node: MakingNode,
    ledger: Ledger,
    *,
    knowledge: Callable[[], Knowledge] = Knowledge,
    belongs: Callable[[str, str], bool] = lambda _resource, _uuid: False,
    on_late: Callable[[], None] = nothing,
) -> Maker:
    return Maker(
        node,
        ledger,
        knowledge=knowledge,
        refusals=refusal_log(),
        belongs=belongs,
        events=Unheard(),
        on_late=on_late,
    )


def allocation(node: Node, ledger: Ledger, **others: Any) -> Allocation:
    return Allocation(
        node,
        ledger,
        specs=None,
        knowledge=Knowledge,
        refusals=refusal_log(),
        events=Unheard(),
        on_occupied=nothing,
        on_withdrawn=nothing,
        on_late=nothing,
        **others,
    )
