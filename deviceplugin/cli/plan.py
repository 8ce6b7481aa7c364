"""``plan``: what a sequence of pods would get on a node, and why."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import groupby
from pathlib import Path

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from deviceplugin.cli.look import look, resources_of
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
from deviceplugin.cli.requests import request
from deviceplugin.cli.tables import cell, note, print_json, screen_width, table
from deviceplugin.inventory.resources import Resource
from deviceplugin.planning.dry_run import World
from deviceplugin.planning.forecast import Bounds, ExpectedNode, first_look
from deviceplugin.planning.plan import PlannedPod, Planner, Request, Step
from deviceplugin.settings import Config

_HEADER = ("POD", "TYPE", "NAME", "CARD", "PARENT", "WHY")
_LEFT = "LEFT FOR PODS"
_IF = "if it still fits"
_GAP = "  "
_WIDE = 100
"""Columns from which on a type's name has its place beside its ID."""
_LEAST_TEXT = 24
"""Characters of a sentence in a line, however narrow the terminal."""
_UNSURE = (
    "a range is what can be told before the devices are there: of a type beside others only its driver knows "
    "how many go together"
)


def _nodes(_ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The nodes that come with the package, and files."""
    from deviceplugin.simulator.node import description

    known = [CompletionItem(name) for name in description.names() if name.startswith(incomplete)]
    return known or [CompletionItem(incomplete, type="file")]


@click.command("plan")
@click.argument("requests", metavar="REQUEST...", nargs=-1, required=True)
@click.option(
    "--node",
    metavar="NAME|FILE",
    shell_complete=_nodes,
    help="Plan for a node that is described: a name of 'simulate --list', or a file.",
)
@simulated_option
@host_root_option
@config_option
@node_name_option
@output_option
@click.pass_context
def command(
    ctx: click.Context,
    requests: tuple[str, ...],
    node: str | None,
    simulated: Path | None,
    host_root: Path | None,
    config: Path | None,
    node_name: str | None,
    output: str,
) -> None:
    """Show what pods would get on a node, one after the other, and what is left then. Nothing is made.

    \b
    REQUEST    vfio.dev/nvidia-222        a resource
               nvidia-222, "GRID T4-1B"   a type by ID or name: the resource that offers it
               nvidia-222,nvidia-230      types in order of preference, as a resource of their own
               ...=2                      so many devices in one container
               4x...                      so many such pods in a row

    On a node that is described with --node, all counts are exact. On this machine, or a simulated one, what
    its cards would take once they carry more is expected from what they show now; where that does not tell,
    a range is shown. Devices of this plugin that are there count as in use.

    Requests that fail are a part of the plan, and no failure of the command.
    """  # noqa: D301  # click keeps the lines behind \b as they are
    settings = config_for(config)
    if node is not None:
        for name in ("simulated", "host_root"):
            if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--node and --{name.replace('_', '-')} exclude each other")
        world, resources = _described(node, settings)
    else:
        world, resources = _looked_at(simulated, host_root, settings)
    wanted = [request(text, resources, world.surely) for text in requests]
    everything = {**resources, **{each.resource.name: each.resource for each in wanted}}
    planner = Planner(world, everything, node_name=node_name_for(node_name))
    before, rooms = planner.left(), planner.rooms()
    steps = asyncio.run(_steps(planner, wanted))
    if output == "json":
        print_json(
            {
                "version": 1,
                "node": node,
                "exact": node is not None,
                "left": _left(before),
                "rooms": _rooms(rooms),
                "requests": [_step(step) for step in steps],
            }
        )
        return
    width = screen_width()
    click.echo(_placed(steps, width))
    click.echo()
    click.echo(_remaining(everything, world, before, steps, width))
    click.echo()
    click.echo(_summary(steps))
    ranges = (bound for counts in (before, *(step.left for step in steps)) for bound in counts.values())
    if any(bound.at_least != bound.at_most for bound in ranges):
        note(_UNSURE)


async def _steps(planner: Planner, wanted: Sequence[Request]) -> list[Step]:
    return [await planner.run(each) for each in wanted]


def _described(node: str, config: Config) -> tuple[World, Mapping[str, Resource]]:
    # Imported here, since a real node never needs it.
    from deviceplugin.simulator.node.description import load
    from deviceplugin.simulator.node.state import State
    from deviceplugin.simulator.node.view import DescribedNode

    description = load(node)
    world = DescribedNode(description, State(first_group=description.first_group))
    resources, problems = resources_of(world.surely, config)
    for problem in problems:
        note(problem)
    return world, resources


def _looked_at(
    simulated: Path | None, host_root: Path | None, config: Config
) -> tuple[World, Mapping[str, Resource]]:
    found = look(kernel_for(simulated, host_root), config)
    for problem in found.problems:
        note(problem)
    if found.nothing:
        raise click.ClickException(f"there is nothing to plan with: {found.nothing}")
    return ExpectedNode(found.snapshot, first_look(found.snapshot)), found.resources


# --- for people ----------------------------------------------------------------------------------------


def _placed(steps: Sequence[Step], width: int | None) -> str:
    """Each request with its pods: where their devices are, or why they get none."""
    # The parent says nothing where it is the card itself.
    divided = any(each.parent != each.card for step in steps for pod in step.pods for each in pod.devices)
    hidden = {"" if divided else "PARENT", "NAME" if width is not None and width < _WIDE else ""}
    shown = [column for column, name in enumerate(_HEADER) if name not in hidden]
    rows: list[Sequence[str] | str] = []
    for number, step in enumerate(steps, 1):
        rows.append(_heading(number, step))
        rows.extend(
            row if isinstance(row, str) else [row[column] for column in shown]
            for row in _pods(step.pods, width)
        )
    header = [_HEADER[column] for column in shown]
    return table(header, rows, right=("POD",), wraps=True, width=width)


def _heading(number: int, step: Step) -> str:
    asked = step.request
    pods = "1 pod" if asked.pods == 1 else f"{asked.pods} pods, each"
    return f"({number}) {pods} with {asked.devices} {asked.resource.name}"


def _pods(pods: Sequence[PlannedPod], width: int | None) -> Iterator[Sequence[str] | str]:
    """A row for each device; pods that fail alike are told of once."""
    numbered = enumerate(pods, 1)
    for error, group in groupby(numbered, key=lambda entry: entry[1].error):
        members = list(group)
        if error is not None:
            lead = f"{members[0][0]:>{len(_HEADER[0])}}{_GAP}"
            more = len(members) - 1
            so_do = f", as {'does' if more == 1 else 'do'} the {more} after it" if more else ""
            text = f"fails{so_do}: {error}"
            lines = [text] if width is None else textwrap.wrap(text, max(_LEAST_TEXT, width - len(lead)))
            yield from (
                f"{lead if place == 0 else ' ' * len(lead)}{line}" for place, line in enumerate(lines)
            )
            continue
        for number, pod in members:
            for place, device in enumerate(pod.devices):
                why = device.reason if pod.certain else f"{_IF}: {device.reason}"
                if device.perhaps_card is not None:
                    kind = "" if device.perhaps_type == device.type else f" as {device.perhaps_type}"
                    why = f"{why}; on {device.perhaps_card}{kind} {_IF} there"
                label = "" if place else str(number)
                yield label, device.type, cell(device.name), device.card, device.parent, why


def _remaining(
    resources: Mapping[str, Resource],
    world: World,
    before: Mapping[str, Bounds],
    steps: Sequence[Step],
    width: int | None,
) -> str:
    """How many devices of each resource pods could have before, and after each request."""
    columns = [("NOW", before), *((f"({number})", step.left) for number, step in enumerate(steps, 1))]
    types = {name: resource.choices(world.surely) for name, resource in resources.items()}
    named = [
        (
            name,
            cell(world.surely.types[choices[0]].name if len(choices) == 1 else ", ".join(choices)),
        )
        for name, choices in types.items()
    ]
    cut = 0
    while True:
        # The first counts and the last say most.
        kept = columns if not cut else [*columns[: -1 - cut], ("…", {}), columns[-1]]
        header = (_LEFT, "NAME", *(title for title, _ in kept))
        rows = [(*row, *(_bounds(counts[row[0]]) if counts else "" for _, counts in kept)) for row in named]
        text = table(header, rows, right=header[2:])
        if width is None or max(map(len, text.splitlines())) <= width:
            return text
        if cut >= len(columns) - 2:
            return table(header, rows, right=header[2:], shrinks="NAME", width=width)
        cut += 1


def _bounds(count: Bounds) -> str:
    if count.at_least == count.at_most:
        return str(count.at_most)
    return f"{count.at_least}-{count.at_most}"


def _summary(steps: Sequence[Step]) -> str:
    pods = [pod for step in steps for pod in step.pods]
    served = sum(pod.error is None for pod in pods)
    unsure = sum(pod.error is None and not pod.certain for pod in pods)
    if served == len(pods):
        said = f"All {served} pods get what they ask for" if served > 1 else "The pod gets what it asks for"
    elif served:
        said = f"{served} of {len(pods)} pods get what they ask for"
    else:
        said = "No pod gets what it asks for"
    return f"{said}{f', {unsure} of them perhaps' if unsure else ''}."


# --- for programs --------------------------------------------------------------------------------------


def _left(left: Mapping[str, Bounds]) -> list[dict[str, object]]:
    return [{"resource": name} | asdict(bounds) for name, bounds in left.items()]


def _rooms(rooms: Mapping[tuple[str, str], Bounds]) -> list[dict[str, object]]:
    return [{"card": card, "type": kind} | asdict(bounds) for (card, kind), bounds in rooms.items()]


def _step(step: Step) -> dict[str, object]:
    return {
        "request": step.request.text,
        "resource": step.request.resource.name,
        "devices": step.request.devices,
        "pods": [{"placed": pod.error is None} | asdict(pod) for pod in step.pods],
        "left": _left(step.left),
        "rooms": _rooms(step.rooms),
    }
