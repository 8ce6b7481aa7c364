"""What the agent promises, held against what it did: who had which device from when to when."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from deviceplugin.inventory import slots
from tests.stateful.deeds import Deed


@dataclass(slots=True)
class Span:
    """That somebody had a device for a while: a VM that holds it, or a pod that was given it."""

    uuid: str
    who: str
    since: float
    until: float = math.inf

    def covers(self, moment: float) -> bool:
        return self.since < moment < self.until

    @property
    def open(self) -> bool:
        return self.until == math.inf

    def end(self) -> None:
        self.until = min(self.until, time.monotonic())


class Promises:
    """Every span of a history, and the judgement over the agent's deeds."""

    def __init__(self) -> None:
        self._spans: list[Span] = []
        self._meddled: dict[str, float] = {}
        self._meddled_with_all = -math.inf
        self.killed: list[str] = []
        self.delayed: list[str] = []

    def begin(self, uuid: str, who: str) -> Span:
        span = Span(uuid, who, time.monotonic())
        self._spans.append(span)
        return span

    def meddle(self, uuid: str) -> None:
        """Somebody else removes a device, or its parent leaves."""
        self._meddled[uuid] = time.monotonic()

    def meddle_with_all(self) -> None:
        """A parent leaves, with devices that came into being in that very moment too."""
        self._meddled_with_all = time.monotonic()

    def untouched_since(self, uuid: str, moment: float) -> bool:
        return max(self._meddled.get(uuid, -math.inf), self._meddled_with_all) < moment

    def broken(self, deeds: list[Deed]) -> list[str]:
        """What of this the agent should not have done."""
        wrong = []
        for deed in deeds:
            match deed.kind:
                case "remove":
                    if not slots.bears_mark(deed.about):
                        wrong.append(f"a device that bears another mark was removed: {deed.about}")
                    wrong += [
                        f"{deed.about} was removed while {span.who} had it"
                        for span in self._spans
                        if span.uuid == deed.about and span.covers(deed.moment)
                    ]
                case "create":
                    if not slots.bears_mark(deed.about):
                        wrong.append(f"a device without the mark was made: {deed.about}")
                case "shrunk":
                    wrong.append(f"a list shrank: {deed.about}")
                case "kill":
                    self.killed.append(deed.about)
                case "delay":
                    self.delayed.append(deed.about)
        oldest = time.monotonic() - 60.0
        self._spans = [span for span in self._spans if span.until > oldest]
        return wrong
