"""What is measured of the agent between the pods, the table of it, and whether it is flat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.bench.figures import percentile

MEMORY_MIB = 6.0
"""How much more memory there may be at the end than at the first look."""
FDS = 2
"""File descriptors: a channel to the kubelet that is just being closed."""
THREADS = 4
"""gRPC keeps a pool of its own, which grows and shrinks with what was under way a moment ago."""
TASKS = 1
"""A look at the node that somebody just asked for."""
ENTRIES = 8
"""Entries of one container: what a look that is under way has in its hands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The agent at one moment, with no pod and no device on the node."""

    pods: int
    """How many there were until then."""
    rss: float
    """MiB."""
    pss: float
    """MiB."""
    fds: int
    threads: int
    tasks: int
    slots: int
    """How many device IDs the agent has ever advertised."""
    entries: Mapping[str, int] = field(default_factory=dict)
    allocated: Sequence[float] = ()
    """The seconds that each Allocate took since the row before."""


def table(rows: Sequence[Row]) -> str:
    """The rows for people."""
    lines = [
        f"{'PODS':>6} {'RSS':>7} {'PSS':>7} {'FDS':>5} {'THREADS':>7} {'TASKS':>6} {'ENTRIES':>8} "
        f"{'P50':>8} {'P99':>8}"
    ]
    for row in rows:
        times = [f"{percentile(row.allocated, at) * 1e3:.1f} ms" if row.allocated else "" for at in (50, 99)]
        lines.append(
            f"{row.pods:>6} {row.rss:>7.1f} {row.pss:>7.1f} {row.fds:>5} {row.threads:>7} {row.tasks:>6} "
            f"{sum(row.entries.values()):>8} {times[0]:>8} {times[1]:>8}"
        )
    return "\n".join(lines)


def what_grew(first: Row, last: Row, *, memory: float = MEMORY_MIB) -> list[str]:
    """What the last row has more of than the first, beyond what may be: a sentence each."""
    grown = [
        f"{name}: {before:g} after {first.pods} pods, {after:g} after {last.pods}; {allowed:g} more may be"
        for name, before, after, allowed in (
            ("RSS in MiB", round(first.rss, 1), round(last.rss, 1), memory),
            ("PSS in MiB", round(first.pss, 1), round(last.pss, 1), memory),
            ("file descriptors", first.fds, last.fds, FDS),
            ("threads", first.threads, last.threads, THREADS),
            ("tasks", first.tasks, last.tasks, TASKS),
        )
        if after > before + allowed
    ]
    for name, after in sorted(last.entries.items()):
        before = first.entries.get(name, 0)
        if after > before + ENTRIES and not _bounded(name, after, last):
            grown.append(
                f"{name}: {before} after {first.pods} pods, {after} after {last.pods}; {ENTRIES} more may be"
            )
    return grown


def _bounded(name: str, number: int, row: Row) -> bool:
    """Whether something that may grow until it is full is within its bounds."""
    # Once for each ID that ever was a pod's.
    if name in {"Ledger._touched", "Ledger._locks"}:
        return number <= row.slots
    return False
