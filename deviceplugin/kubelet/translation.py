"""The core's words in the kubelet's: errors as gRPC status codes, offers and handovers as messages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator
from functools import lru_cache
from typing import Any

import grpc
import grpc.aio

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.errors import (
    AllocationError,
    BadRequest,
    KubeletError,
    NoRoom,
    PluginError,
    TooSlow,
    UnknownDevice,
)
from deviceplugin.handover import Handover
from deviceplugin.inventory.offer import Offer, OfferedSlot

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]

_MAX_DETAILS = 2000
"""Characters of an error: it travels in a header, and headers have a limit."""
_CODES: tuple[tuple[type[PluginError], grpc.StatusCode], ...] = (
    (BadRequest, grpc.StatusCode.INVALID_ARGUMENT),
    (UnknownDevice, grpc.StatusCode.NOT_FOUND),
    (NoRoom, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (TooSlow, grpc.StatusCode.DEADLINE_EXCEEDED),
    (AllocationError, grpc.StatusCode.FAILED_PRECONDITION),
    (KubeletError, grpc.StatusCode.UNAVAILABLE),
    (PluginError, grpc.StatusCode.INTERNAL),
)


@contextlib.asynccontextmanager
async def translated(context: Context) -> AsyncIterator[None]:
    """The one place where errors become gRPC status codes."""
    try:
        yield
    except PluginError as error:
        code = next(code for kind, code in _CODES if isinstance(error, kind))
        log.warning("request refused: %s", error, extra={"code": code.name})
        await context.abort(code, str(error)[:_MAX_DETAILS])


def offered(offer: Offer) -> pb.ListAndWatchResponse:
    """The list that the kubelet gets of an offer."""
    return pb.ListAndWatchResponse(devices=map(_device, offer.slots))


@lru_cache(1 << 13)
def _device(slot: OfferedSlot) -> pb.Device:
    """A line of the list. Nothing changes it: appending it to a message makes a copy."""
    nodes = () if slot.numa_node is None else (slot.numa_node, *slot.other_numa_nodes)
    numa = pb.TopologyInfo(nodes=[pb.NUMANode(ID=node) for node in nodes]) if nodes else None
    return pb.Device(ID=slot.id, health="Healthy" if slot.healthy else "Unhealthy", topology=numa)


def granted(given: Handover) -> pb.ContainerAllocateResponse:
    """What the kubelet gives to a container."""
    return pb.ContainerAllocateResponse(
        envs=given.environment,
        annotations=given.annotations,
        devices=[
            pb.DeviceSpec(
                container_path=node.container_path, host_path=node.host_path, permissions=node.permissions
            )
            for node in given.nodes
        ],
        cdi_devices=[pb.CDIDevice(name=name) for name in given.cdi_names],
    )
