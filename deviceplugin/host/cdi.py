"""CDI specifications on the node: one file for each device, in the directory that container runtimes read.

A file appears whole under its name or not at all. Runtimes pass over the name that it is written under,
which does not end as a specification's does; nothing that is planted at either name is followed. A file is
ours by its name, which has a UUID with this plugin's mark in it, or says that the device was adopted; all
others are left alone. Another node's name in the mark makes no difference: sysfs shows the devices of all
nodes that share a kernel, so a file whose device it does not show is of no use to any of them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from deviceplugin.errors import HostError, in_words
from deviceplugin.inventory import slots

_PREFIX = "vfio.dev-mdev_"
_ADOPTED = "adopted-"
"""What comes before the UUID of a device that somebody else made."""
_SUFFIX = ".json"
_ASIDE = ".tmp"
_MODE = 0o644


class SpecFiles:
    """The files of our devices in a directory that others use too. All of its calls block for a moment."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, uuid: str) -> Path:
        return self.directory / f"{_stem(uuid)}{_SUFFIX}"

    def write(self, uuid: str, text: str) -> None:
        """Have a device's file say this, whatever is there now.

        Raises:
            HostError: it can't be written; what was there stays.
        """
        target = self.path(uuid)
        # A name of its own for each writing: one that nobody waits for any more may still be under way.
        aside = self.directory / f"{_stem(uuid)}.{secrets.token_hex(4)}{_ASIDE}"
        try:
            self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            fd = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with os.fdopen(fd, "w", encoding="utf-8") as file:
                    file.write(text)
                    file.flush()
                    os.fchmod(fd, _MODE)  # Whatever the umask is.
                aside.replace(target)
            except BaseException:
                with contextlib.suppress(OSError):
                    aside.unlink()
                raise
        except OSError as error:
            raise HostError(f"the CDI specification {target} can't be written: {in_words(error)}") from error

    def remove(self, uuid: str) -> None:
        """Remove all that is there of a device, which may be nothing.

        Raises:
            HostError: something of it stays; what can go has gone.
        """
        stays: HostError | None = None
        for path, owner in self._ours():
            if owner != uuid:
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                stays = HostError(f"the CDI specification {path} can't be removed: {in_words(error)}")
                stays.__cause__ = error
        if stays is not None:
            raise stays

    def uuids(self) -> frozenset[str]:
        """The devices of which there is something.

        Raises:
            HostError: the directory can't be read.
        """
        return frozenset(owner for _, owner in self._ours())

    def _ours(self) -> Iterator[tuple[Path, str]]:
        try:
            # Not all names at once: there may be a million, of others.
            with os.scandir(self.directory) as entries:
                names = sorted(entry.name for entry in entries if entry.name.startswith(_PREFIX))
        except FileNotFoundError:
            return
        except OSError as error:
            raise HostError(f"the directory {self.directory} can't be read: {in_words(error)}") from error
        for name in names:
            if name.endswith((_SUFFIX, _ASIDE)):
                stem = _PREFIX + name.removeprefix(_PREFIX).partition(".")[0]
                uuid = stem.removeprefix(_PREFIX).removeprefix(_ADOPTED)
                if slots.is_uuid(uuid) and stem == _stem(uuid):
                    yield self.directory / name, uuid


def _stem(uuid: str) -> str:
    return f"{_PREFIX}{uuid}" if slots.bears_mark(uuid) else f"{_PREFIX}{_ADOPTED}{uuid}"
