"""Calls to the kubelet's own sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from deviceplugin.errors import KubeletError

_MAX_MESSAGE = 16 << 20
"""Bytes, which is what the kubelet's own clients take; a List of a full node is larger than gRPC's 4 MiB."""


@asynccontextmanager
async def kubelet_channel(socket: Path) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of its own for a call or two, so that a socket made anew is never missed.

    Raises:
        KubeletError: a call inside the block failed; says what the kubelet answered.
    """
    options = [
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.max_receive_message_length", _MAX_MESSAGE),
        ("grpc.enable_http_proxy", 0),
    ]
    async with grpc.aio.insecure_channel(f"unix:{socket}", options=options) as channel:
        try:
            yield channel
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNAVAILABLE:
                raise KubeletError(f"nobody answers at the kubelet's socket {socket}") from error
            raise KubeletError(
                f"the kubelet at {socket} answered {error.code().name}: {error.details()}"
            ) from error
