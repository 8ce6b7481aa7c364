"""The sockets that a kubelet leaves on its node, in the state in which the real one leaves them.

gRPC deletes the file that it bound when a server stops; a kubelet's socket remains when it dies. So servers
bind a name of their own, and the name that others know is a second one for the same socket.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import grpc


def clear(directory: Path) -> None:
    """Delete every socket in a directory that may not exist yet, and nothing else."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in directory.iterdir():
        if stat.S_ISSOCK(path.lstat().st_mode):
            path.unlink()


async def serve(add_services: Callable[[grpc.aio.Server], None], path: Path) -> grpc.aio.Server:
    """Serve on a unix socket; ``path`` must be free, or the remains of an earlier server."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_services(server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    return server


def appear(bound: Path, path: Path) -> None:
    """Make a bound socket appear under a free name, as a new file does."""
    os.link(bound, path)


def replace(bound: Path, path: Path) -> None:
    """Put a bound socket in the place of whatever has that name, by renaming."""
    bound.replace(path)
