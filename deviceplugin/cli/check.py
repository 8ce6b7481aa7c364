"""``check``: whether a configuration can be used, and what it comes to on this node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import click

from deviceplugin.cli.look import Look, look
from deviceplugin.cli.offers import Offered, offered
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
from deviceplugin.inventory.unmatched import unmatched
from deviceplugin.settings import Config

_HEADER = ("RESOURCE", "DEVICES", "BY NUMA NODE", "TYPES, PREFERRED FIRST")


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
    rows = list(offered(found, node_name_for(node_name)))
    warnings = tuple(_warnings(config, found))
    if output == "json":
        print_json(
            {
                "version": 1,
                "file": str(file),
                "resources": [asdict(entry) for entry in rows],
                "warnings": warnings,
            }
        )
        return
    if rows:
        click.echo(table(_HEADER, map(_row, rows), right=("DEVICES",)))
    else:
        click.echo("No resource would be offered here.")
    for warning in warnings:
        note(f"warning: {warning}")


def _warnings(config: Config, found: Look) -> Iterator[str]:
    yield from found.problems
    if found.nothing:
        yield found.nothing
        return
    yield from unmatched(config.resources, found.snapshot)
    if len(found.resources) == len(config.resources) and not config.resources:
        yield "discovery leaves out every type of this node"


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
