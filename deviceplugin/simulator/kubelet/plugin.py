"""One device plugin that a simulated kubelet is connected to, and the calls to it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

import grpc

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.simulator.kubelet.changes import Changes

IN_ORDER = 0.03
"""Seconds after the end of a plugin's list in which answers count that it gave before."""


class PluginError(Exception):
    """A plugin could not be called or answered with an error; the text is the kubelet's."""


@dataclass(frozen=True, slots=True)
class Call:
    """An RPC that the kubelet made or served."""

    method: str
    resource: str = ""
    devices: tuple[str, ...] = ()


class Plugin:
    """A registered endpoint.

    Args:
        key: what the kubelet finds it by.
        stub: the DevicePlugin service at the other end of the channel.
        changes: told of each change of what is under way.
        log: gets every call.
        call_timeout: seconds; where the kubelet itself has no deadline, this one ends a test that hangs.
    """

    def __init__(
        self,
        resource: str,
        key: str,
        channel: grpc.aio.Channel,
        stub: Any,
        *,
        changes: Changes,
        log: list[Call],
        call_timeout: float,
    ) -> None:
        self.resource = resource
        self.key = key
        self.stub = stub
        self.options = pb.DevicePluginOptions()
        self.stream: Any = None
        self.stopped_at: float | None = None
        self._channel = channel
        self._changes = changes
        self._log = log
        self._call_timeout = call_timeout
        self._under_way = 0

    async def close(self) -> None:
        """Hang up."""
        if self.stopped_at is None:
            self.stopped_at = time.monotonic()
        if self.stream is not None:
            self.stream.cancel()
        await self._channel.close()

    def check_open(self) -> None:
        """See that it has not been stopped.

        Raises:
            PluginError: it has.
        """
        if self.stopped_at is not None:
            raise PluginError(f"endpoint of {self.resource} has been stopped")

    async def answered(self) -> None:
        """Let answers in that came before the end of the list: a kubelet reads them in their order."""
        with contextlib.suppress(TimeoutError):
            await self._changes.wait_for(lambda: not self._under_way, IN_ORDER)

    async def call(
        self,
        method: str,
        request: object,
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - the deadline goes over the wire
        devices: tuple[str, ...] = (),
    ) -> Any:
        """Call a method, and return its answer.

        Raises:
            PluginError: there is none, or it is an error.
        """
        self._log.append(Call(method, self.resource, devices))
        self._under_way += 1
        self._changes.notify()
        try:
            async with asyncio.timeout(self._call_timeout):
                return await getattr(self.stub, method)(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            name = "".join(word.capitalize() for word in error.code().name.split("_"))
            raise PluginError(f"rpc error: code = {name} desc = {error.details()}") from None
        except TimeoutError:
            raise PluginError(f"rpc error: code = DeadlineExceeded desc = no answer to {method}") from None
        except asyncio.CancelledError:
            if is_cancelled():
                raise
            raise PluginError("rpc error: code = Canceled desc = the connection is closing") from None
        finally:
            self._under_way -= 1
            self._changes.notify()


def is_cancelled() -> bool:
    """Whether it is the running task that was cancelled, rather than an RPC that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
