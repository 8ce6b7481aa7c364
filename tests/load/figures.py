"""What is measured of the agent between the pods, the table of it, and whether it is flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.figures import percentile

RESIDENT = 14.0
"""MiB of RSS. What was freed stays resident in arenas of malloc, up to eight for each CPU:
on two CPUs that came to 8 MiB in a thousand pods and to 11 in two thousand, and stayed there; with
MALLOC_ARENA_MAX=1 it is 3. Whether it *is* freed, the heap and the blocks tell, far more sharply."""
SHARED = 6.0
"""MiB by which PSS rises beside that when another process ends that has the same libraries loaded."""
HEAP = 1.5
"""MiB that malloc has given out: what is remembered of cards (see ``_full``), and gRPC's buffers."""
BLOCKS = 10_000
"""Of Python's own memory: eight cards of 66 states, each a dictionary of counts and a set of pairs."""
FDS = 2
"""A channel to the kubelet that is just being closed."""
THREADS = 4
"""gRPC keeps a pool of its own, which grows and shrinks with what was under way a moment ago."""
TASKS = 1
"""A look at the node that somebody just asked for."""
ENTRIES = 8
"""Of one container: what a look that is under way has in its hands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The agent at one moment, with no pod and no device on the node."""

    pods: int
    """How many there were until then."""
    rss: float
    """MiB."""
    pss: float
    """MiB."""
    heap: float | None
    """MiB that malloc has given out and not got back; None where it does not say."""
    blocks: int
    """Objects that Python has in memory."""
    fds: int
    threads: int
    tasks: int
    slots: int
    """How many device IDs the agent has ever advertised."""
    cards: int
    entries: Mapping[str, int] = field(default_factory=dict)
    allocated: Sequence[float] = ()
    """The seconds that each Allocate took since the row before."""


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    head = ("PODS", "RSS", "PSS", "HEAP", "BLOCKS", "FDS", "THREADS", "TASKS", "ENTRIES", "P50", "P99")
    lines = [head, *(_cells(row) for row in rows)]
    return "\n".join("".join(cell.rjust(9) for cell in line) for line in lines)


def _cells(row: Row) -> tuple[str, ...]:
    times = [f"{percentile(row.allocated, at) * 1e3:.1f} ms" if row.allocated else "" for at in (50, 99)]
    heap = "" if row.heap is None else f"{row.heap:.2f}"
    numbers = (row.blocks, row.fds, row.threads, row.tasks, sum(row.entries.values()))
    return (str(row.pods), f"{row.rss:.1f}", f"{row.pss:.1f}", heap, *map(str, numbers), *times)


def what_grew(first: Row, last: Row) -> list[str]:
    """What the last row has more of than the first, beyond what may be: a sentence each."""
    figures = [
        ("MiB of RSS", first.rss, last.rss, RESIDENT),
        ("MiB of PSS", first.pss, last.pss, RESIDENT + SHARED),
        ("MiB of malloc's heap", first.heap or 0.0, last.heap or 0.0, HEAP),
        ("Python's blocks", first.blocks, last.blocks, BLOCKS),
        ("file descriptors", first.fds, last.fds, FDS),
        ("threads", first.threads, last.threads, THREADS),
        ("tasks", first.tasks, last.tasks, TASKS),
    ]
    for name, after in sorted(last.entries.items()):
        before = first.entries.get(name, 0)
        full = _full(name, last)
        figures.append((name, before, after, ENTRIES if full is None else max(ENTRIES, full - before)))
    return [
        f"{name}: {_number(before)} after {first.pods} pods and {_number(after)} after {last.pods}, "
        f"where {_number(allowed)} more may be"
        for name, before, after, allowed in figures
        if after > before + allowed
    ]


def _number(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _full(name: str, row: Row) -> int | None:
    """How many entries something can have that fills up in the course of time; None of anything else."""
    return {
        # One for each ID that ever was a pod's.
        "ledger.Ledger._touched": row.slots,
        "ledger.Ledger._locks": row.slots,
        # The states of each card, the empty one beside the 64 others.
        "inventory.pools.Knowledge.seen": 66 * row.cards,
        # What was translated for the kubelet: each slot, healthy and not, and what is listed now.
        "inventory.offer.OfferedSlot": 3 * row.slots,
        "api.deviceplugin_v1beta1_pb2.Device": 2 * row.slots,
    }.get(name)
