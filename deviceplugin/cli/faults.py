"""``simulate DIR fault`` and ``clear-faults``: have a simulated node's hardware go wrong on purpose."""

from __future__ import annotations

import difflib
import errno as errnos
import math
from collections.abc import Mapping
from typing import get_args

import click

from deviceplugin.errors import in_words
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.state import FaultKind

_ERRNOS = {name: number for name, number in vars(errnos).items() if name.startswith("E")}
_TAKES: dict[FaultKind, tuple[str, ...]] = {
    "slow-create": ("seconds", "times"),
    "fail-create": ("errno", "times"),
    "fail-remove": ("errno", "times"),
    "fail-attach": ("errno", "times"),
    "odd-count": ("content",),
    "no-name": (),
}
"""Which options make sense for a kind, beside where it strikes."""
_SHOWN = 8
"""So many names an error lists."""


def _errno(_ctx: click.Context, _parameter: click.Parameter, name: str | None) -> int | None:
    if name is None or name.upper() in _ERRNOS:
        return None if name is None else _ERRNOS[name.upper()]
    near = difflib.get_close_matches(name.upper(), _ERRNOS, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else "it is a name such as EIO, ENOSPC or EBUSY"
    raise click.BadParameter(f"{name!r} is no errno; {hint}")


def _seconds(_ctx: click.Context, _parameter: click.Parameter, seconds: float | None) -> float | None:
    if seconds is not None and not math.isfinite(seconds):
        raise click.BadParameter(f"{seconds:g} is no number of seconds")
    return seconds


@click.command("fault", short_help="Have something go wrong from now on.")
@click.argument("kind", metavar="KIND", type=click.Choice(get_args(FaultKind)))
@click.option("--parent", metavar="ADDRESS", help="Only on this parent.  [default: on every parent]")
@click.option("--type", "type_id", metavar="TYPE", help="Only with this type.  [default: with every type]")
@click.option(
    "--seconds",
    metavar="SECONDS",
    type=click.FloatRange(min=0),
    callback=_seconds,
    help="How long a slow-create takes.",
)
@click.option(
    "--errno", "number", metavar="NAME", callback=_errno, help="What is answered, by name.  [default: EIO]"
)
@click.option("--content", metavar="TEXT", help="What is read in place of a count.  [default: no such file]")
@click.option(
    "--times",
    metavar="N",
    type=click.IntRange(min=1),
    help="Go wrong so many times, then no more.  [default: until 'clear-faults']",
)
@click.pass_obj
def fault(
    kernel: SimulatedKernel,
    kind: FaultKind,
    parent: str | None,
    type_id: str | None,
    seconds: float | None,
    number: int | None,
    content: str | None,
    times: int | None,
) -> None:
    """Have something go wrong from now on, for the agent and everyone else.

    \b
    KIND         what happens then
    slow-create  making a device takes --seconds; its room is taken meanwhile
    fail-create  making a device fails with --errno
    fail-remove  the driver removes the device itself, and the removal answers --errno
    fail-attach  a VM ('hold') that opens a device gets --errno
    odd-count    how many are available reads --content, or is not there
    no-name      the types' names are not there

    Of several faults that apply, the last one counts.
    """  # noqa: D301  # click keeps the lines behind \b as they are
    given = {"seconds": seconds, "errno": number, "content": content, "times": times}
    for option, value in given.items():
        if value is not None and option not in _TAKES[kind]:
            takes = ", ".join(f"--{name}" for name in ("parent", "type", *_TAKES[kind]))
            raise click.UsageError(f"{kind} takes no --{option} (it takes {takes})")
    if kind == "slow-create" and seconds is None:
        raise click.UsageError("slow-create needs --seconds, as in '--seconds 5'")
    _check_place(kernel, parent, type_id)
    kernel.fault(
        kind,
        parent=parent,
        type=type_id,
        seconds=seconds or 0,
        errno=errnos.EIO if number is None else number,
        content=None if content is None else f"{content}\n".encode(),
        times=times,
    )
    how = {
        "seconds": f"{seconds or 0:g} s",
        "errno": in_words(errnos.EIO if number is None else number),
        "content": "no such file" if content is None else f"reads {content!r}",
    }
    told = [how[option] for option in _TAKES[kind] if option in how]
    told.append(f"{times} time{'' if times == 1 else 's'}" if times else "until 'clear-faults'")
    click.echo(f"{kind}, {type_id or 'every type'} on {parent or 'every parent'}: {', '.join(told)}")


@click.command("clear-faults", short_help="Have nothing go wrong any more.")
@click.pass_obj
def clear_faults(kernel: SimulatedKernel) -> None:
    """Have nothing go wrong any more: every fault of this node ends."""
    kernel.clear_faults()


def _check_place(kernel: SimulatedKernel, parent: str | None, type_id: str | None) -> None:
    cards = kernel.node.card_of
    if parent is not None and parent not in cards:
        raise click.UsageError(f"there is no parent {parent!r} on this node (parents: {_listed(cards)})")
    offering = [cards[parent]] if parent is not None else cards.values()
    types = {kind: None for card in offering for kind in card.model.offered}
    if type_id is not None and type_id not in types:
        where = f"{parent!r} does not offer" if parent is not None else "no parent offers"
        raise click.UsageError(f"{where} the type {type_id!r} (types: {_listed(types)})")


def _listed(names: Mapping[str, object]) -> str:
    return ", ".join([*names][:_SHOWN]) + (" …" if len(names) > _SHOWN else "")
