"""``types``: what the node's cards offer, and how much of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from deviceplugin.cli.look import Look, look, numa_node
from deviceplugin.cli.options import (
    config_for,
    config_option,
    host_root_option,
    kernel_for,
    node_name_option,
    output_option,
    simulated_option,
)
from deviceplugin.cli.tables import cell, note, print_json, screen_width, table
from deviceplugin.inventory.capacity import Capacity, max_instances

_HEADER = ("CARD", "TYPE", "NAME", "API", "AVAIL", "ROOM", "HAVE", "MAX", "NUMA", "RESOURCES")


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
    numa_node: int | None
    resources: tuple[str, ...]


@click.command("types")
@config_option
@node_name_option
@simulated_option
@host_root_option
@output_option
def command(
    config: Path | None, node_name: str | None, simulated: Path | None, host_root: Path | None, output: str
) -> None:
    """List the types that this node's cards offer.

    \b
    CARD       the card's address: of virtual functions that of their physical one
    API        what the type's devices are to whoever uses them: vfio-pci, vfio-ccw, vfio-ap
    AVAIL      what the kernel says could still be created, summed over the card's parents
    ROOM       what surely fits: less than AVAIL where drivers are known to overstate
    HAVE       how many devices of the type exist on the card, whoever made them
    MAX        how many fill the card by themselves, where the driver says so
    NUMA       the card's NUMA node
    RESOURCES  what a pod asks for to get one
    """  # noqa: D301  # click keeps the lines behind \b as they are
    del node_name  # Types are the same under any name; it is taken so that commands can be exchanged.
    found = look(kernel_for(simulated, host_root), config_for(config))
    for problem in found.problems:
        note(problem)
    types = list(_card_types(found))
    if output == "json":
        print_json({"version": 1, "types": [asdict(entry) for entry in types]})
    elif types:
        rows = [_row(entry) for entry in types]
        right = _HEADER[4:9]
        click.echo(table(_HEADER, rows, right=right, shrinks="NAME", width=screen_width()))
    if found.nothing:
        note(found.nothing)


def _card_types(found: Look) -> Iterator[CardType]:
    capacity = Capacity(found.snapshot)
    cards = {card.address: card for card in capacity.cards}
    choices = {name: resource.choices(found.snapshot) for name, resource in found.resources.items()}
    for card, parents in found.snapshot.cards.items():
        entries = {entry.id: entry for parent in parents for entry in parent.types}
        for type_id, entry in sorted(entries.items()):
            carrying = [parent for parent in parents if parent.type(type_id) is not None]
            yield CardType(
                card=card,
                type=type_id,
                name=entry.name,
                api=entry.api,
                available=sum(kind.available for parent in carrying if (kind := parent.type(type_id))),
                room=capacity.room(cards[card], type_id),
                existing=sum(device.type == type_id for parent in parents for device in parent.devices),
                max=max_instances(entry),
                numa_node=numa_node(parents),
                resources=tuple(
                    name
                    for name, resource in found.resources.items()
                    if type_id in choices[name] and any(map(resource.parents.allows, carrying))
                ),
            )


def _row(entry: CardType) -> tuple[str, ...]:
    return (
        entry.card,
        entry.type,
        cell(entry.name),
        cell(entry.api),
        str(entry.available),
        str(entry.room),
        str(entry.existing),
        cell(entry.max),
        cell(entry.numa_node),
        cell(", ".join(entry.resources)),
    )
