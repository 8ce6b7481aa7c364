"""Making files so that readers see them whole or not at all, and quickly.

Plain system calls on strings, since a node has tens of thousands of files and these calls are what a create
takes its time for.
"""
# ruff: noqa: PTH104, PTH108, PTH115, PTH211

from __future__ import annotations

import errno
import os
import shutil
import threading
from contextlib import suppress
from itertools import count
from pathlib import Path

_SHORT = 100
"""How many bytes a file may have whose content is the name of its copy."""


class Files:
    """A workshop in which things are made before they are seen, on the file system where they are needed."""

    def __init__(self, workshop: Path) -> None:
        self._asides = workshop / "aside"
        self._patterns = workshop / "patterns"
        self._numbers = count()

    def prepare(self) -> None:
        """Make the workshop itself."""
        self._asides.mkdir()
        self._patterns.mkdir()

    def clear(self) -> None:
        """Take away what a killed writer left."""
        for leftover in self._asides.iterdir():
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover)
            else:
                leftover.unlink()

    def aside(self) -> str:
        """A new name to make something under."""
        return f"{self._asides}/{os.getpid()}-{threading.get_ident()}-{next(self._numbers)}"

    def discard(self, directory: Path) -> None:
        """Take a directory away in one piece."""
        aside = self.aside()
        with suppress(FileNotFoundError):
            directory.rename(aside)
            shutil.rmtree(aside)

    def put(self, path: Path, content: str, *, mode: int = 0o444) -> None:
        """Make a file that nothing else is like."""
        # What is only for writing can't be read without root; it is then made anew.
        with suppress(FileNotFoundError, PermissionError):
            if path.read_text() == content:
                return
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = self.aside()
        write(aside, content.encode(), mode=mode)
        os.rename(aside, path)

    def share(self, path: str, content: bytes, *, mode: int) -> None:
        """Make a file that is one of many alike: a link to one copy, which is quicker by far than a file."""
        pattern = f"{self._patterns}/{mode:o}-{content.hex()}"
        if len(content) > _SHORT:
            write(path, content, mode=mode)
            return
        try:
            os.link(pattern, path)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.EMLINK):
                raise
            aside = self.aside()
            write(aside, content, mode=mode)
            os.rename(aside, pattern)
            os.link(pattern, path)

    def exchange(self, path: str, content: bytes, *, mode: int) -> None:
        """Replace a file in one piece by one of many alike."""
        aside = self.aside()
        self.share(aside, content, mode=mode)
        os.rename(aside, path)
        # Renaming a file over a link to the same file does nothing, not even take the old name away.
        with suppress(FileNotFoundError):
            os.unlink(aside)

    def link(self, path: Path, target: Path) -> None:
        """Make a symbolic link, relative as the kernel makes them, whatever is there now."""
        text = os.path.relpath(target, path.parent)
        try:
            path.symlink_to(text)
        except FileExistsError:
            if os.readlink(path) != text:
                aside = self.aside()
                os.symlink(text, aside)
                os.rename(aside, path)


def write(path: str, content: bytes, *, mode: int) -> None:
    """Write a file, not in one piece."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    try:
        if content:
            os.write(fd, content)
    finally:
        os.close(fd)
