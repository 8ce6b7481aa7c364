"""Random nodes, resources and histories."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from deviceplugin.inventory.resources import Placement, Resource
from deviceplugin.inventory.selectors import ParentFilter, ParentSelector
from tests.properties.model import Asked, Card, Driver, Type

EXAMPLES = int(os.environ.get("PROPERTIES_EXAMPLES") or 0)
"""So many examples of each property in a long run."""


def examples(number: int) -> settings:
    """As many examples as a test run has the time for, the same ones each time; more if asked for."""
    return settings(
        max_examples=EXAMPLES or number,
        deadline=None,
        derandomize=not EXAMPLES,
        database=None,
        report_multiple_bugs=False,
        suppress_health_check=list(HealthCheck),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A node, what can be asked for on it, and what happens."""

    cards: tuple[Card, ...]
    resources: tuple[tuple[Resource, Asked], ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens. What ``pick`` means depends on what there is to pick from then."""

    what: Literal["ask", "ask-late", "beyond", "remove", "foreign"]
    pick: int
    size: int


@st.composite
def pool_drivers(draw: st.DrawFn, name: str, *, described: bool | None = None) -> Driver:
    """Drivers whose types take of one pool what goes into each other, as real ones do."""
    number = draw(st.integers(1, 3))
    takes = draw(st.lists(st.sampled_from([1, 2, 4, 8]), min_size=number, max_size=number))
    return Driver(
        name=name,
        pools=(draw(st.sampled_from([8, 16])),),
        types=tuple(
            Type(
                id=f"{name}-{index}",
                takes=(take,),
                described=draw(st.booleans()) if described is None else described,
            )
            for index, take in enumerate(takes)
        ),
    )


@st.composite
def odd_drivers(draw: st.DrawFn, name: str) -> Driver:
    """Drivers with any of the rules that docs/nodes.md knows, several at once."""
    pools = tuple(draw(st.lists(st.integers(1, 12), min_size=1, max_size=3)))
    described = draw(st.sampled_from(["all", "none", "some"]))
    types = []
    for index in range(draw(st.integers(1, 3))):
        takes = tuple(draw(st.integers(0, max(1, size // 2))) for size in pools)
        most = draw(st.none() | st.integers(1, 4))
        types.append(
            Type(
                id=f"{name}-{index}",
                takes=takes,
                max=most if any(takes) or most is not None else 3,
                described=described == "all" or (described == "some" and draw(st.booleans())),
            )
        )
    return Driver(
        name=name,
        pools=pools,
        types=tuple(types),
        instances=draw(st.none() | st.none() | st.integers(1, 6)),
        mixes=draw(st.sampled_from(["any", "any", "none", "size"])),
    )


@st.composite
def cards(draw: st.DrawFn, drivers: tuple[Driver, ...], *, at_most: int = 4) -> tuple[Card, ...]:
    numa = draw(st.sampled_from([(None,), (0,), (0, 1), (0, 1)]))
    vfs = {driver.name: draw(st.sampled_from([0, 0, 1, 2, 4, 5])) for driver in drivers}
    return tuple(
        Card(
            address=f"card{number}",
            driver=(driver := draw(st.sampled_from(drivers))),
            numa_node=draw(st.sampled_from(numa)),
            factor=draw(st.sampled_from([1, 1, 1, 2])),
            vfs=vfs[driver.name],
        )
        for number in range(draw(st.integers(1, at_most)))
    )


@st.composite
def resources(draw: st.DrawFn, name: str, node: tuple[Card, ...]) -> tuple[Resource, Asked]:
    """A resource with all of its options, and the same in the model's words."""
    listed = sorted({entry.id for card in node for entry in card.driver.types})
    types = tuple(draw(st.lists(st.sampled_from(listed), min_size=1, max_size=3, unique=True)))
    addresses = sorted({card.address for card in node} | {p for card in node for p in card.parents})
    nodes = sorted({card.numa_node for card in node if card.numa_node is not None})
    wanted: list[str] = []
    unwanted: list[str] = []
    numa: list[int] = []
    if draw(st.integers(0, 3)) == 0:
        wanted = draw(st.lists(st.sampled_from(addresses), min_size=1, max_size=4, unique=True))
    if draw(st.integers(0, 3)) == 0:
        unwanted = draw(st.lists(st.sampled_from(addresses), min_size=1, max_size=2, unique=True))
    if nodes and draw(st.integers(0, 5)) == 0:
        numa = [draw(st.sampled_from(nodes))]
    per_card = draw(st.sampled_from([None, None, None, 0, 1, 2, 3]))
    allowed = frozenset(
        parent
        for card in node
        for parent in card.parents
        if (not wanted or parent in wanted or card.address in wanted)
        and not (parent in unwanted or card.address in unwanted)
        and (not numa or card.numa_node in numa)
    )
    resource = Resource(
        name=f"test/{name}",
        types=types,
        parents=ParentSelector(
            addresses=tuple(wanted),
            numa_nodes=tuple(numa),
            exclude=ParentFilter(addresses=tuple(unwanted)),
        ),
        placement=draw(st.sampled_from(Placement)),
        mixed=draw(st.sampled_from([True, True, False])),
        max=draw(st.sampled_from([None, None, None, 0, 1, 3, 6])),
        max_per_card=per_card,
    )
    return resource, Asked(types=types, parents=allowed, per_card=per_card)


STEPS = st.builds(
    Step,
    st.sampled_from(["ask", "ask", "ask", "ask-late", "beyond", "remove", "remove", "foreign"]),
    st.integers(0, 1 << 16),
    st.integers(1, 5),
)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any node with any history."""
    drivers = tuple(
        draw(pool_drivers(name) if draw(st.booleans()) else odd_drivers(name))
        for name in ("red", "blue")[: draw(st.integers(1, 2))]
    )
    node = draw(cards(drivers))
    return Case(
        cards=node,
        resources=tuple(draw(resources(name, node)) for name in ("a", "b")[: draw(st.integers(1, 2))]),
        steps=tuple(draw(st.lists(STEPS, max_size=8))),
    )
