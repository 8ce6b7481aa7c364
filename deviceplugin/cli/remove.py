"""``devices remove``: take away devices that the agent left, if nobody uses them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import click

from deviceplugin.cli.options import (
    host_root_option,
    kernel_for,
    kubelet_for,
    kubelet_root_option,
    node_name_for,
    node_name_option,
    output_option,
    simulated_option,
)
from deviceplugin.cli.tables import cell, print_json, screen_width, table
from deviceplugin.errors import DeviceBusy, HostError, KubeletError
from deviceplugin.host import mdev, vfio
from deviceplugin.host.kernel import Kernel
from deviceplugin.host.node import REMOVE_DEADLINE
from deviceplugin.host.threads import in_thread
from deviceplugin.inventory import slots
from deviceplugin.inventory.slots import NodeMark, Owner
from deviceplugin.inventory.snapshot import Device
from deviceplugin.kubelet import checkpoint
from deviceplugin.kubelet.paths import KubeletPaths
from deviceplugin.kubelet.podresources import Holder, list_holders


class Result(StrEnum):
    """What became of a device."""

    REMOVED = "removed"
    NO_DEVICE = "no-device"
    """There is none."""
    FOREIGN = "foreign"
    """Somebody else made it."""
    OTHER_NODE = "other-node"
    """It bears another node's name, and --other-nodes was not given."""
    IN_USE = "in-use"
    """A pod or a VM has it."""
    UNKNOWN = "unknown"
    """The kubelet can't be asked whether a pod has it."""
    FAILED = "failed"
    """The driver refused or did not answer, or its use can't be determined."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a device, with the keys of the JSON output."""

    uuid: str
    result: Result
    why: str | None
    """A sentence; None for what was removed."""


def _uuids(_ctx: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for text in values:
        if not slots.is_uuid(text):
            raise click.BadParameter(
                f"{text!r} is not a UUID as sysfs writes it: 36 characters, lower case; "
                "'mdev-device-plugin devices' lists those that exist"
            )
    return tuple(dict.fromkeys(values))


@click.command("remove", short_help="Remove devices that the agent left and nobody uses.")
@click.argument("uuids", metavar="UUID...", nargs=-1, required=True, callback=_uuids)
@click.option(
    "--other-nodes",
    is_flag=True,
    help="Remove what bears another node's name too: that of this node before it was renamed, or of a node "
    "on the same kernel. The latter's kubelet is not asked, and a pod of it that has not opened its device "
    "yet would lose it: only that the VFIO group can be opened is proof then.",
)
@node_name_option
@kubelet_root_option
@simulated_option
@host_root_option
@output_option
@click.pass_context
def remove(
    ctx: click.Context,
    uuids: tuple[str, ...],
    other_nodes: bool,
    node_name: str | None,
    kubelet_root: Path,
    simulated: Path | None,
    host_root: Path | None,
    output: str,
) -> None:
    """Remove devices that this plugin made and nobody uses.

    A device is left alone, with a sentence that says why, if somebody else made it, if it bears another
    node's name, if the kubelet names it or can't be asked, or if its VFIO group is open. The group is kept
    open while the device is removed, so no VM can get it meanwhile. That needs root. Writing to the
    device's file 'remove' does none of this, and on a device in use it can't be taken back.

    A running agent removes unused devices by itself, and notices what is removed here.

    Exit codes: 0 all were removed, 1 something was not, 2 called wrongly.
    """
    kernel = kernel_for(simulated, host_root)
    name = node_name_for(node_name)
    kubelet = kubelet_for(ctx, kubelet_root, simulated, host_root)
    outcomes = asyncio.run(_Removal(kernel, name, kubelet, other_nodes=other_nodes).of(uuids))
    if output == "json":
        print_json({"version": 1, "devices": [asdict(outcome) for outcome in outcomes]})
    else:
        rows = [(outcome.uuid, outcome.result, cell(outcome.why)) for outcome in outcomes]
        click.echo(table(("UUID", "RESULT", "WHY"), rows, wraps=True, width=screen_width()))
    if any(outcome.result is not Result.REMOVED for outcome in outcomes):
        ctx.exit(1)


class _NotRemoved(Exception):  # no error: it says what becomes of a device
    def __init__(self, result: Result, why: str) -> None:
        super().__init__(why)
        self.result = result


class _Removal:
    """One call's removals.

    Args:
        kubelet: the one to ask; None where there is none.
    """

    def __init__(
        self, kernel: Kernel, node_name: str, kubelet: KubeletPaths | None, *, other_nodes: bool
    ) -> None:
        self._kernel = kernel
        self._node_name = node_name
        self._mark = NodeMark.of(node_name)
        self._kubelet = kubelet
        self._other_nodes = other_nodes
        self._hung: set[str] = set()
        """The parents whose driver has not answered."""

    async def of(self, uuids: Iterable[str]) -> list[Outcome]:
        """Remove these, one after the other."""
        outcomes = []
        for uuid in uuids:
            try:
                await self._remove(uuid)
            except _NotRemoved as error:
                outcomes.append(Outcome(uuid, error.result, str(error)))
            else:
                outcomes.append(Outcome(uuid, Result.REMOVED, None))
        return outcomes

    async def _remove(self, uuid: str) -> None:
        try:
            device = mdev.find(self._kernel.paths, uuid)
        except HostError as error:
            raise _NotRemoved(Result.FAILED, str(error)) from error
        if device is None:
            raise _NotRemoved(Result.NO_DEVICE, "there is no such device")
        self._check_owner(uuid)
        await self._check_pods(uuid)
        await self._write(device)

    def _check_owner(self, uuid: str) -> None:
        owner = self._mark.owner(uuid)
        if owner is Owner.FOREIGN:
            raise _NotRemoved(
                Result.FOREIGN,
                f"this plugin did not make it: its UUID does not begin with {slots.MARK} as those of its own "
                "do; whoever made it has to remove it",
            )
        if owner is Owner.OTHER_NODE and not self._other_nodes:
            raise _NotRemoved(
                Result.OTHER_NODE,
                f"it was made under another node's name than {self._node_name!r} (--node-name); with "
                "--other-nodes it is removed all the same, if this node was renamed or that node is gone",
            )

    async def _check_pods(self, uuid: str) -> None:
        """Ask the kubelet, for each device anew: a pod may have got it while another was removed."""
        if self._kubelet is None:
            return
        try:
            named = await _named(self._kubelet)
        except KubeletError as error:
            raise _NotRemoved(
                Result.UNKNOWN,
                f"it is not known whether a pod has it: {error}. Call this again as root, while the "
                "kubelet runs, and with --kubelet-root if its directory is another one; on a machine without "
                "a kubelet, a reboot removes what is left",
            ) from error
        if uuid in named:
            raise _NotRemoved(Result.IN_USE, named[uuid])

    async def _write(self, device: Device) -> None:
        if device.parent in self._hung:
            raise _NotRemoved(
                Result.FAILED, f"it was not tried, since the driver of {device.parent} does not answer"
            )
        given_up = threading.Event()
        try:
            removed = await asyncio.wait_for(
                in_thread(
                    lambda: vfio.remove_unused(
                        self._kernel, device.uuid, still_wanted=lambda: not given_up.is_set()
                    ),
                    name=f"remove {device.uuid}",
                ),
                REMOVE_DEADLINE,
            )
        except TimeoutError as error:
            given_up.set()
            self._hung.add(device.parent)
            raise _NotRemoved(
                Result.FAILED,
                f"the driver of {device.parent} did not answer within {REMOVE_DEADLINE:g} s; what it has "
                "begun goes on, and this command may not end before it does",
            ) from error
        except DeviceBusy as error:
            raise _NotRemoved(
                Result.IN_USE, f"{error}; 'fuser /dev/vfio/{device.group}' on the node finds by what"
            ) from error
        except HostError as error:
            raise _NotRemoved(Result.FAILED, str(error)) from error
        if not removed:
            raise _NotRemoved(Result.NO_DEVICE, "there is no such device any more")


async def _named(kubelet: KubeletPaths) -> dict[str, str]:
    """What the kubelet says of each device that it names.

    Its checkpoint comes second: it has what a list made a moment ago does not have yet, and what no list
    has: init containers, and everything just after the kubelet's start.

    Raises:
        KubeletError: it can't be asked, or has no checkpoint: a kubelet that ever gave a device away, or
            heard of one, has.
    """
    holders = await list_holders(kubelet.pod_resources)
    memory = checkpoint.read(kubelet.checkpoint)
    if memory is None:
        raise KubeletError(f"the kubelet has no checkpoint {kubelet.checkpoint}")
    remembered = (
        "the kubelet's checkpoint names it, for an init container or for a pod whose end it has not written "
        "down yet: it writes when a pod gets a device and when an agent starts; try again then"
    )
    return dict.fromkeys(memory.devices, remembered) | {
        uuid: _of_pod(holder) for uuid, holder in holders.items()
    }


def _of_pod(holder: Holder) -> str:
    return f"the pod {holder} has it, in its container {holder.container}"
