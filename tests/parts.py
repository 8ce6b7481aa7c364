"""Parts of the agent as tests want them: with nobody who listens, unless a test says who."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from deviceplugin.allocation import Allocation
from deviceplugin.events import Unheard
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.node import Node
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.server import Endpoint
from deviceplugin.kubelet.service import Backend
from deviceplugin.ledger import Ledger
from deviceplugin.making import Maker, MakingNode
from deviceplugin.refusals import RefusalLog
from deviceplugin.telemetry.metrics import Metrics


def nothing(*_: object) -> None:
    """Nobody listens."""


NODE: dict[str, Any] = dict.fromkeys(("on_change", "on_fault", "on_scan", "on_settled", "on_deaf"), nothing)
"""What a node tells, to nobody."""


def node(kernel: Kernel, **listeners: Any) -> Node:
    return Node(kernel, **(NODE | listeners))


def endpoint(resource: str, backend: Backend, paths: KubeletPaths, **listeners: Any) -> Endpoint:
    names = ("on_connection", "on_registration", "on_doubt")
    return Endpoint(
        resource, backend, paths, **(dict.fromkeys(names, nothing) | {"recall": recalls_nothing} | listeners)
    )


async def recalls_nothing() -> None:
    """The kubelet remembers nothing."""


def metrics(mark: NodeMark, **sources: Any) -> Metrics:
    return Metrics(mark, **({"held_back": tuple, "refusing": tuple} | sources))


def refusal_log() -> RefusalLog:
    return RefusalLog(time.monotonic, on_change=nothing, events=Unheard())


def maker(
    node: MakingNode,
    ledger: Ledger,
    *,
    knowledge: Callable[[], Knowledge] = Knowledge,
    belongs: Callable[[str, str], bool] = lambda _resource, _uuid: False,
    on_late: Callable[[], None] = nothing,
    clock: Callable[[], float] = time.monotonic,
) -> Maker:
    return Maker(
        node,
        ledger,
        knowledge=knowledge,
        refusals=refusal_log(),
        belongs=belongs,
        events=Unheard(),
        on_late=on_late,
        clock=clock,
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
