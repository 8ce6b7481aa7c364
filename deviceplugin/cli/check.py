"""``check``: whether a configuration can be used, and what it comes to on this node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from deviceplugin.cli.look import Look, look
from deviceplugin.cli.options import (
    host_root_option,
    kernel_for,
    node_name_for,
    node_name_option,
    output_option,
    simulated_option,
)
from deviceplugin.cli.tables import NOTHING, note, print_json, table
from deviceplugin.config import load
from deviceplugin.inventory.capacity import Capacity
from deviceplugin.inventory.offer import offer
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.settings import Config

_HEADER = ("RESOURCE", "DEVICES", "BY NUMA NODE", "TYPES, PREFERRED FIRST")


@dataclass(frozen=True, slots=True)
class NodeCount:
    numa_node: int | None
    devices: int


@dataclass(frozen=True, slots=True)
class Offered:
    """A resource as it would be offered, with the keys of the JSON output."""

    resource: str
    types: tuple[str, ...]
    devices: int
    numa_nodes: tuple[NodeCount, ...]


@click.command("check")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@simulated_option
@host_root_option
@node_name_option
@output_option
def command(
    file: Path, simulated: Path | None, host_root: Path | None, node_name: str | None, output: str
) -> None:
    """Check a configuration file, and say what it would offer here.

    A file that can't be used is an error that names the line, and exit code 2. What merely finds nothing on
    this node is a warning: another node may have it.
    """
    config = load(file)
    found = look(kernel_for(simulated, host_root), config)
    offered = [
        _offered(resource, Capacity(found.snapshot), node_name_for(node_name))
        for resource in found.resources.values()
    ]
    warnings = tuple(_warnings(config, found))
    if output == "json":
        print_json(
            {
                "version": 1,
                "file": str(file),
                "resources": [asdict(entry) for entry in offered],
                "warnings": warnings,
            }
        )
        return
    if offered:
        click.echo(table(_HEADER, map(_row, offered), right=("DEVICES",)))
    else:
        click.echo("No resource would be offered here.")
    for warning in warnings:
        note(f"warning: {warning}")


def _offered(resource: Resource, capacity: Capacity, node_name: str) -> Offered:
    healthy = [slot for slot in offer(capacity, resource, node_name=node_name).slots if slot.healthy]
    nodes = dict.fromkeys(slot.numa_node for slot in healthy)
    return Offered(
        resource=resource.name,
        types=resource.choices(capacity.snapshot),
        devices=len(healthy),
        numa_nodes=tuple(NodeCount(node, sum(slot.numa_node == node for slot in healthy)) for node in nodes),
    )


def _warnings(config: Config, found: Look) -> Iterator[str]:
    yield from found.problems
    if found.nothing:
        yield found.nothing
        return
    for resource in config.resources:
        if problem := _finds_nothing(resource, found.snapshot):
            yield f"{resource.name} {problem}"
    if len(found.resources) == len(config.resources) and not config.resources:
        yield "discovery leaves out every type of this node"


def _finds_nothing(resource: Resource, snapshot: Snapshot) -> str | None:
    choices = resource.choices(snapshot)
    if not choices:
        return f"finds none of its types here: {', '.join(resource.types)}"
    allowed = [parent for parent in snapshot.parents if resource.parents.allows(parent)]
    if not allowed:
        return "finds no parent here that its 'parents' allow"
    if not any(parent.type(type_id) for parent in allowed for type_id in choices):
        return f"finds none of its types on the parents that its 'parents' allow: {', '.join(choices)}"
    return None


def _row(entry: Offered) -> tuple[str, ...]:
    return (
        entry.resource,
        str(entry.devices),
        ", ".join(
            f"{'none' if count.numa_node is None else count.numa_node}: {count.devices}"
            for count in entry.numa_nodes
        )
        or NOTHING,
        ", ".join(entry.types) or NOTHING,
    )
