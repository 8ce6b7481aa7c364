"""``devices``: the mediated devices that exist, whose they are and who uses them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import click
from click.core import ParameterSource

from deviceplugin.cli.look import look
from deviceplugin.cli.options import (
    config_for,
    config_option,
    host_root_option,
    kernel_for,
    kubelet_for,
    kubelet_root_option,
    node_name_for,
    node_name_option,
    output_option,
    simulated_option,
)
from deviceplugin.cli.remove import remove
from deviceplugin.cli.tables import NOTHING, cell, note, print_json, table
from deviceplugin.errors import HostError, KubeletError
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.vfio import is_held
from deviceplugin.inventory import slots
from deviceplugin.inventory.resources import adopted
from deviceplugin.inventory.slots import NodeMark, Owner
from deviceplugin.inventory.snapshot import Device
from deviceplugin.kubelet import checkpoint
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.podresources import Holder, list_holders

_HEADER = ("UUID", "TYPE", "PARENT", "GROUP", "USE", "OWNER", "RESOURCE", "SLOT", "NUMA", "POD")
Use = Literal["in-use", "idle", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedDevice:
    """A device, with the keys of the JSON output."""

    uuid: str
    type: str
    parent: str
    group: int | None
    use: Use | None
    ours: bool
    other_node: bool
    adopted: bool
    resource: str | None
    slot: int | None
    numa_node: int | None
    pod_namespace: str | None
    pod_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Named:
    """The devices that the kubelet names."""

    holders: Mapping[str, Holder] = field(default_factory=dict)
    """Those of running pods."""
    resources: Mapping[str, str] = field(default_factory=dict)
    """The resource of each: of these, and of what only its checkpoint names."""
    complete: bool = True
    """Whether the kubelet could be asked; if not, any other device may be a pod's too."""


@click.group("devices", invoke_without_command=True, subcommand_metavar="[COMMAND ...]")
@config_option
@node_name_option
@kubelet_root_option
@simulated_option
@host_root_option
@click.option(
    "--no-probe",
    is_flag=True,
    help="Do not open VFIO groups, not even for a moment: USE then only tells what the kubelet does.",
)
@output_option
@click.pass_context
def command(
    ctx: click.Context,
    config: Path | None,
    node_name: str | None,
    kubelet_root: Path,
    simulated: Path | None,
    host_root: Path | None,
    no_probe: bool,
    output: str,
) -> None:
    """List the mediated devices that exist.

    A device is in use if the kubelet names it or if its VFIO group is open. The latter is found out by
    opening the group for a moment, which needs root; a VM that starts in that very moment would fail to.
    So a device that the kubelet names is never opened, nor is any other while the kubelet can't be asked:
    its use is then unknown. With --no-probe none is.

    \b
    OWNER      ours: made by this node's agent, which removes nothing else
               other-node: made by this plugin under another node's name, that of a node which
               shares this kernel, or this node's own before it was renamed
               adopted: made by somebody else, and offered as it is
               foreign: made by somebody else
    RESOURCE   what it was made for or is offered as, if the configuration is the agent's
    SLOT       which of that resource's devices it is
    """  # noqa: D301  # click keeps the lines behind \b as they are
    if ctx.invoked_subcommand is not None:
        _refuse_options(ctx)
        return
    kernel = kernel_for(simulated, host_root)
    found = look(kernel, config_for(config))
    for problem in found.problems:
        note(problem)
    kubelet = kubelet_for(ctx, kubelet_root, simulated, host_root)
    named = _ask(kubelet, no_probe) if kubelet is not None and found.snapshot.devices else _Named()
    mark = NodeMark.of(node_name_for(node_name))
    names = {slots.resource_bits(name): name for name in found.resources}
    numa = {parent.address: parent.numa_node for parent in found.snapshot.parents}
    takers = {
        uuid: name
        for name, uuids in adopted(found.resources.values(), found.snapshot).items()
        for uuid in uuids
    }
    devices = [
        _listed(
            device,
            numa[device.parent],
            mark.owner(uuid),
            names,
            named,
            _use(kernel, uuid, named, no_probe),
            takers.get(uuid),
        )
        for uuid, device in sorted(found.snapshot.devices.items())
    ]
    if output == "json":
        print_json({"version": 1, "devices": [asdict(device) for device in devices]})
    elif devices:
        click.echo(table(_HEADER, map(_row, devices), right=("GROUP", "SLOT", "NUMA")))
    else:
        note("no mediated device exists here; the agent makes one when a pod asks for it")


command.add_command(remove)


def _refuse_options(ctx: click.Context) -> None:
    """Options of the list that stand before a subcommand would mean nothing, and look as if they did."""
    for parameter in ctx.command.params:
        if ctx.get_parameter_source(str(parameter.name)) is ParameterSource.COMMANDLINE:
            raise click.UsageError(
                f"{parameter.opts[-1]} stands before {ctx.invoked_subcommand!r}; write it behind, as in "
                f"'devices {ctx.invoked_subcommand} {parameter.opts[-1]} …'",
                ctx,
            )


def _ask(paths: KubeletPaths, no_probe: bool) -> _Named:
    """Ask the kubelet, and say what it could not be asked for.

    Its checkpoint comes second: it has what a list made a moment ago does not have yet, and what no list
    has: init containers, and everything just after the kubelet's start.
    """
    holders: Mapping[str, Holder] = {}
    remembered: Mapping[str, str] = {}
    complete = True
    unopened = "" if no_probe else ", and the use of what the kubelet does not name elsewhere stays unknown"
    try:
        holders = asyncio.run(list_holders(paths.pod_resources))
    except KubeletError as error:
        if not _is_there(paths):
            note(f"pods are not shown: there is no kubelet in {paths.root}")
            return _Named()
        note(f"pods are not shown{unopened}: {error}")
        complete = False
    try:
        if (memory := checkpoint.read(paths.checkpoint)) is not None:
            remembered = memory.devices
    except KubeletError as error:
        note(f"what the kubelet remembers is not shown{unopened}: {error}")
        complete = False
    resources = {**remembered, **{uuid: holder.resource for uuid, holder in holders.items()}}
    return _Named(holders=holders, resources=resources, complete=complete)


def _is_there(paths: KubeletPaths) -> bool:
    """Whether there is any trace of a kubelet; where that can't be examined, there may be one."""
    for path in (paths.pod_resources, paths.registration, paths.checkpoint):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError:
            pass
        return True
    return False


def _use(kernel: Kernel, uuid: str, named: _Named, no_probe: bool) -> Use | None:
    if uuid in named.resources:
        return "in-use"
    if no_probe:
        return None
    if not named.complete:
        return "unknown"
    try:
        return "in-use" if is_held(kernel, uuid) else "idle"
    except HostError:
        return "unknown"


def _listed(
    device: Device,
    numa_node: int | None,
    owner: Owner,
    names: Mapping[int, str],
    named: _Named,
    use: Use | None,
    taker: str | None,
) -> ListedDevice:
    slot = slots.parse(device.uuid)
    holder = named.holders.get(device.uuid)
    resource = named.resources.get(device.uuid) or (names.get(slot.resource) if slot else taker)
    return ListedDevice(
        uuid=device.uuid,
        type=device.type,
        parent=device.parent,
        group=device.group,
        use=use,
        ours=owner is Owner.OURS,
        other_node=owner is Owner.OTHER_NODE,
        adopted=taker is not None,
        resource=resource,
        slot=slot.index if slot is not None else None,
        numa_node=numa_node,
        pod_namespace=holder.namespace if holder is not None else None,
        pod_name=holder.pod if holder is not None else None,
    )


def _owner(device: ListedDevice) -> str:
    if device.adopted:
        return "adopted"
    return Owner.OURS if device.ours else Owner.OTHER_NODE if device.other_node else Owner.FOREIGN


def _row(device: ListedDevice) -> tuple[str, ...]:
    return (
        device.uuid,
        device.type,
        device.parent,
        cell(device.group),
        cell(device.use),
        _owner(device),
        cell(device.resource),
        cell(device.slot),
        cell(device.numa_node),
        f"{device.pod_namespace}/{device.pod_name}" if device.pod_name else NOTHING,
    )
