"""Which slots the kubelet should choose for a container."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import combinations

from deviceplugin.inventory import slots

_NUMA_NODES = 8
"""So many are tried in all combinations; a machine with more gets what comes."""


def preferred(
    available: Sequence[str],
    required: Sequence[str],
    size: int,
    *,
    existing: Collection[str],
    fresh: Collection[str],
    busy: Collection[str] = (),
) -> tuple[str, ...]:
    """The required IDs, and the best of the available ones up to ``size`` in all.

    Never-used devices come first, then as few NUMA nodes as these allow, then slots that have no device
    before those whose device would have to be made anew; last what somebody is busy with. Fails for
    nothing: what makes no sense is left out of the choice.
    """
    must = tuple(dict.fromkeys(required))
    others = [uuid for uuid in dict.fromkeys(available) if uuid not in must]
    count = max(0, min(size - len(must), len(others)))

    def rank(uuid: str) -> tuple[object, ...]:
        slot = slots.parse(uuid)
        return (uuid in busy, uuid not in fresh, uuid in existing, slot.index if slot else 0, uuid)

    ranked = sorted(others, key=rank)
    unused = [uuid for uuid in others if uuid in fresh and uuid not in busy]
    most = min(count, len(unused))
    for nodes in _node_sets({_numa_node(uuid) for uuid in must}, {_numa_node(uuid) for uuid in others}):
        chosen = [uuid for uuid in ranked if _numa_node(uuid) in nodes][:count]
        if len(chosen) == count and len(set(unused).intersection(chosen)) == most:
            return (*must, *chosen)
    return (*must, *ranked[:count])


def _node_sets(required: set[int | None], others: set[int | None]) -> Iterator[set[int | None]]:
    """Sets of NUMA nodes that contain the required ones, the smallest first."""
    more = sorted(others - required, key=lambda node: -1 if node is None else node)
    if len(more) <= _NUMA_NODES:
        for extra in range(len(more) + 1):
            for chosen in combinations(more, extra):
                yield required.union(chosen)


def _numa_node(uuid: str) -> int | None:
    slot = slots.parse(uuid)
    return None if slot is None else slot.numa_node
