"""What a launched agent did, one line each: written before anything follows from it, so a kill loses none."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Deed:
    """One line."""

    moment: float
    """On the monotonic clock that all processes share."""
    kind: str
    about: str


class Diary:
    """The agent's side."""

    def __init__(self, directory: Path) -> None:
        self._fd = os.open(directory / "deeds", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def note(self, kind: str, about: str) -> None:
        os.write(self._fd, f"{time.monotonic():.6f}\t{kind}\t{about}\n".encode())


class Reader:
    """The test's side: each deed is read once."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "deeds"
        self._position = 0

    def news(self) -> list[Deed]:
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                data = file.read()
        except FileNotFoundError:
            return []
        whole = data[: data.rfind(b"\n") + 1]
        self._position += len(whole)
        deeds = []
        for line in whole.decode().splitlines():
            moment, kind, about = line.split("\t")
            deeds.append(Deed(float(moment), kind, about))
        return deeds
