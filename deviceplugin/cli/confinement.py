"""What ``run`` may write on a node, held by the kernel.

The kernel makes the directory of the VFIO groups when their module is loaded, and removes it with that;
others may make the kubelet's anew. A process that is confined already can't be let into one that comes later:
the agent ends then, and is started anew by whoever started it.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from deviceplugin.errors import HostError, in_words
from deviceplugin.host import landlock
from deviceplugin.host.paths import HostPaths
from deviceplugin.kubelet.paths import KubeletPaths

log = logging.getLogger(__name__)

INTERVAL = 2.0
"""Seconds between looks at the directories."""

Identity = tuple[int, int] | None
"""Which directory something is; None where there is none."""


class Confinement:
    """The agent's process, confined to what it has to write.

    Args:
        cdi: the directory of CDI specifications; None where none are written.
    """

    def __init__(self, host: HostPaths, kubelet: KubeletPaths, cdi: Path | None) -> None:
        self._vfio = host.vfio
        self._sysfs = host.sysfs / "devices"
        self._changed = [_existing(kubelet.plugins.resolve())]
        if cdi is not None:
            try:
                cdi.mkdir(mode=0o755, parents=True, exist_ok=True)
            except OSError as error:
                log.warning("%s can't be made, for CDI specifications: %s", cdi, in_words(error))
            self._changed.append(_existing(cdi.resolve()))
        self._let_in: dict[Path, Identity] = {}
        self.holds = False
        """Whether the kernel holds it to that."""

    def begin(self) -> None:
        """Confine this process, if the kernel can; the log says whether it does."""
        self._let_in = {path: _identity(path) for path in (*self._changed, self._vfio)}
        try:
            self.holds = landlock.confine(
                change=self._changed, write=[self._sysfs, self._vfio, Path("/dev/null")]
            )
        except HostError as error:
            log.warning("not confined by Landlock: %s", error)
        else:
            if self.holds:
                where = [str(path) for path in (*self._changed, self._sysfs, self._vfio)]
                log.info("confined by Landlock", extra={"writes": where})
            else:
                log.info("not confined by Landlock, which this kernel does not have")

    async def void(self) -> None:
        """Return when one of its directories is another than this process was let into."""
        while not (came := self._came() if self.holds else []):  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(INTERVAL)
        log.warning(
            "a directory was made after the agent was confined, which it can't be let into; it ends, to be "
            "started anew",
            extra={"path": str(came[0])},
        )

    def _came(self) -> list[Path]:
        return [path for path, known in self._let_in.items() if _identity(path) not in {None, known}]


def _existing(path: Path) -> Path:
    """A path, or the nearest directory above it that exists."""
    return next(each for each in (path, *path.parents) if each.exists())


def _identity(path: Path) -> Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
