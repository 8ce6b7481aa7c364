"""``types``: what the node's cards offer, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from deviceplugin.cli.look import Look, look
from deviceplugin.cli.offers import offered
from deviceplugin.cli.options import (
    config_for,
    config_option,
    host_root_option,
    kernel_for,
    node_name_for,
    node_name_option,
    output_option,
    simulated_option,
)
from deviceplugin.cli.refused import Refused, refused
from deviceplugin.cli.tables import cell, note, print_json, screen_width, table
from deviceplugin.inventory.capacity import Capacity, max_instances
from deviceplugin.inventory.cards import Card, anywhere, cards_of
from deviceplugin.inventory.pools import Knowledge
from deviceplugin.inventory.snapshot import ParentType
from deviceplugin.planning.forecast import first_look

_HEADER = ("CARD", "TYPE", "NAME", "API", "AVAIL", "ROOM", "HAVE", "TAKES", "NUMA", "REFUSED", "RESOURCES")
_USUAL_API = "vfio-pci"
_WIDE = 110
"""Columns from which on the API has its place in the table even if it is the usual one for all types."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardType:
    """A type on a card, with the keys of the JSON output."""

    card: str
    type: str
    name: str
    api: str
    available: int
    room: int
    existing: int
    max: int | None
    part: str | None
    takes: dict[str, int] | None
    numa_node: int | None
    refused: Refused | None
    resources: tuple[str, ...]


@click.command("types")
@config_option
@node_name_option
@simulated_option
@host_root_option
@click.option(
    "--http",
    metavar="HOST:PORT",
    envvar="MDEV_HTTP",
    show_envvar=True,
    help="Where this node's agent serves its metrics, to be asked what cards refuse.",
)
@output_option
def command(
    config: Path | None,
    node_name: str | None,
    simulated: Path | None,
    host_root: Path | None,
    http: str | None,
    output: str,
) -> None:
    """List the types that this node's cards offer.

    \b
    CARD       the card's address: of virtual functions that of their physical one
    API        what the type's devices are to whoever uses them: vfio-pci, vfio-ccw, vfio-ap
    AVAIL      what the kernel says could still be created, summed over the card's parents
    ROOM       what surely fits: less than AVAIL where drivers are known to overstate
    HAVE       how many devices of the type exist on the card, whoever made them
    TAKES      what one more takes: a part of the card, or so many of its other types; '-' if unknown
    NUMA       the card's NUMA node
    REFUSED    since when the card refuses the type though it counts it as free, and the errno;
               there if the agent says so of any (--http)
    RESOURCES  what a pod asks for to get one
    """  # noqa: D301  # click keeps the lines behind \b as they are
    found = look(kernel_for(simulated, host_root), config_for(config))
    for problem in found.problems:
        note(problem)
    types = list(_card_types(found, refused(http)))
    if output == "json":
        print_json(
            {
                "version": 1,
                "types": [asdict(entry) for entry in types],
                "cards": list(_cards(found)),
                "resources": [asdict(entry) for entry in offered(found, node_name_for(node_name))],
            }
        )
    elif types:
        click.echo(_table(types, screen_width()))
    if found.nothing:
        note(found.nothing)


def _table(types: list[CardType], width: int | None) -> str:
    shown = list(range(len(_HEADER)))
    if width is not None and width < _WIDE and {entry.api for entry in types} == {_USUAL_API}:
        shown.remove(_HEADER.index("API"))
    if not any(entry.refused for entry in types):
        shown.remove(_HEADER.index("REFUSED"))
    rows = [[cells[column] for column in shown] for cells in map(_row, types)]
    right = (*_HEADER[4:7], "NUMA")
    return table([_HEADER[column] for column in shown], rows, right=right, shrinks="NAME", width=width)


def _card_types(found: Look, refusing: Mapping[tuple[str, str], Refused]) -> Iterator[CardType]:
    capacity = Capacity(found.snapshot)
    knowledge = first_look(found.snapshot)
    choices = {name: resource.choices(found.snapshot) for name, resource in found.resources.items()}
    for card in capacity.cards:
        for type_id, entry in sorted(card.types.items()):
            carrying = [parent for parent in card.parents if parent.type(type_id) is not None]
            yield CardType(
                card=card.address,
                type=type_id,
                name=entry.name,
                api=entry.api,
                available=card.counts[type_id],
                room=capacity.room(card, type_id),
                existing=card.existing[type_id],
                max=max_instances(entry),
                part=_part(knowledge, card, entry),
                takes=_takes(knowledge, card, type_id),
                numa_node=card.numa_node,
                refused=refusing.get((card.address, type_id)),
                resources=tuple(
                    name
                    for name, resource in found.resources.items()
                    if type_id in choices[name] and any(map(resource.parents.allows, carrying))
                ),
            )


def _part(knowledge: Knowledge, card: Card, entry: ParentType) -> str | None:
    """Which part of the card one is: its description tells, or a card alike that carries no other type."""
    whole = max_instances(entry)
    if whole is None and not card.divided:
        for load, counts in knowledge.seen.get(card.address, {}).items():
            carried = dict(load)
            if not carried.keys() - {entry.id}:
                whole = counts.get(entry.id, 0) + carried.get(entry.id, 0)
    return f"1/{whole}" if whole else None


def _takes(knowledge: Knowledge, card: Card, type_id: str) -> dict[str, int] | None:
    """How many of each other type one more takes the place of now, where that was seen of alike cards."""
    if card.divided or not card.stated(type_id, anywhere):
        return None
    after = card.having(card.address, type_id)
    known = {
        other: (knowledge.expected(card, other) or 0) - left
        for other in sorted(card.types)
        if other != type_id and (left := knowledge.expected(after, other)) is not None
    }
    return {other: number for other, number in known.items() if number} if known else None


def _cards(found: Look) -> Iterator[dict[str, object]]:
    for card in cards_of(found.snapshot):
        pci = card.parents[0].pci
        yield {
            "card": card.address,
            "driver": card.driver,
            "pci": str(pci) if pci is not None else None,
            "numa_node": card.numa_node,
            "parents": [parent.address for parent in card.parents],
            "existing": card.existing.total(),
        }


def _row(entry: CardType) -> tuple[str, ...]:
    return (
        entry.card,
        entry.type,
        cell(entry.name),
        cell(entry.api),
        str(entry.available),
        str(entry.room),
        str(entry.existing),
        _told(entry),
        cell(entry.numa_node),
        cell(entry.refused),
        cell(", ".join(entry.resources)),
    )


def _told(entry: CardType) -> str:
    if entry.part is None and entry.takes is not None:
        return ", ".join(f"{number} {other}" for other, number in entry.takes.items()) or "none of the others"
    return cell(entry.part)
