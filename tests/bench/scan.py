"""A look at a big node, and the same files read by a bare loop."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from deviceplugin.host import mdev
from deviceplugin.simulator.node.description import load
from deviceplugin.simulator.node.kernel import SimulatedKernel

from .figures import Figure

TURNS = 9


async def measure(directory: Path) -> list[Figure]:
    return await asyncio.to_thread(_measure, directory)


def _measure(directory: Path) -> list[Figure]:
    kernel = SimulatedKernel.build(directory / "node", load("big"))
    snapshot = mdev.scan(kernel.paths).snapshot
    figures = []
    for name, known in (("scan of the big node", None), ("the same, texts known", snapshot)):
        addresses = None if known is None else list(snapshot.by_address)
        files, links = _what_is_read(lambda a=addresses, k=known: mdev.scan(kernel.paths, a, known=k))
        scans, floors = [], []
        for _ in range(TURNS):
            began = time.perf_counter()
            mdev.scan(kernel.paths, addresses, known=known)
            scans.append(time.perf_counter() - began)
            began = time.perf_counter()
            _bare(files, links)
            floors.append(time.perf_counter() - began)
        figures.append(
            Figure(
                name=name,
                measured=median(scans) * 1e3,
                unit="ms",
                floor=median(floors) * 1e3,
                judged=median(scans) / median(floors),
                goal=2.0,
                note=f"{len(files)} files and {len(links)} links; judged is the ratio",
            )
        )
    return figures


def _what_is_read(scan: Any) -> tuple[list[str], list[str]]:
    """The files that a scan opens and the links that it reads, or tries to, in their order."""
    files: list[str] = []
    links: list[str] = []
    real_open, real_readlink = os.open, os.readlink

    def noted_open(path: str, flags: int) -> int:
        files.append(path)
        return real_open(path, flags)

    def noted_readlink(path: str) -> str:
        links.append(path)
        return real_readlink(path)

    with mock.patch.object(os, "open", noted_open), mock.patch.object(os, "readlink", noted_readlink):
        scan()
    return files, links


def _bare(files: list[str], links: list[str]) -> None:
    for link in links:
        try:  # noqa: SIM105  # quicker than what it stands for
            os.readlink(link)  # noqa: PTH115
        except OSError:
            pass
    for path in files:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        os.read(fd, 4096)
        os.close(fd)
