"""The sockets that a kubelet leaves on its node, in the state in which the real one leaves them.

gRPC deletes the file that it bound when a server stops; a kubelet's socket remains when it dies. So servers
bind a name of their own, and the name that others know is a second one for the same socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import grpc

from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.api import podresources_v1_pb2_grpc as pods_rpc


class Sockets:
    """A kubelet's sockets under its root directory."""

    def __init__(self, root: Path) -> None:
        self.plugin_directory = root / "device-plugins"
        self.registration = self.plugin_directory / "kubelet.sock"
        self.pod_resources = root / "pod-resources" / "kubelet.sock"
        self._bound_registration = root / ".registration.sock"
        self._servers: list[grpc.aio.Server] = []

    def clear(self) -> None:
        """Make the directories and delete every socket among the plugins, and nothing else. Blocks."""
        self.plugin_directory.mkdir(parents=True, exist_ok=True)
        self.pod_resources.parent.mkdir(parents=True, exist_ok=True)
        for path in self.plugin_directory.iterdir():
            # A plugin may delete its own meanwhile.
            with contextlib.suppress(FileNotFoundError):
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()

    async def serve_registration(self, servicer: rpc.RegistrationServicer) -> None:
        """Serve where plugins register; the socket appears as a new file."""

        def add(server: grpc.aio.Server) -> None:
            rpc.add_RegistrationServicer_to_server(servicer, server)

        await self._serve(add, self._bound_registration)
        await asyncio.to_thread(os.link, self._bound_registration, self.registration)

    async def serve_pod_resources(self, servicer: pods_rpc.PodResourcesListerServicer) -> None:
        """Serve what pods hold; the socket takes the old one's place by renaming."""

        def add(server: grpc.aio.Server) -> None:
            pods_rpc.add_PodResourcesListerServicer_to_server(servicer, server)

        bound = self.pod_resources.with_name(".new.sock")
        await self._serve(add, bound)
        await asyncio.to_thread(bound.replace, self.pod_resources)

    async def _serve(self, add_service: Callable[[grpc.aio.Server], None], path: Path) -> None:
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_service(server)
        server.add_insecure_port(f"unix:{path}")
        await server.start()
        self._servers.append(server)

    async def stop(self, grace: float | None) -> None:
        """Stop serving; the sockets' files remain."""
        while self._servers:
            await self._servers.pop().stop(grace)
