"""Whether the kubelet believes what it was sent: the one place where another plugin shows.

Another plugin may register the same resource. The newest registration wins, and nothing tells the older
plugin: its stream stays open. When the other ends, a kubelet before 1.37 takes the resource for dead, and a
later one keeps the other's last list. So what the kubelet takes for healthy is compared with what was listed.
A difference that stays leads to a new registration, at growing intervals, since two plugins that both insist
must not keep the kubelet busy.

A list takes the kubelet a moment. What was listed lately is therefore no difference, and one look is no
proof. Where the kubelet can't be asked nothing is known, and nothing is done.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import NoReturn, Protocol

from deviceplugin.errors import KubeletError
from deviceplugin.kubelet.listing import LATELY, Listing

log = logging.getLogger(__name__)

PERIOD = 5.0
"""Seconds between looks where there is no reason for one."""
NEAR = 0.25
"""The fewest seconds between two looks."""
ATTENTIVE = 5.0
"""Seconds of frequent looks after something that another plugin may have caused."""
SETTLE = 1.0
"""Seconds that the kubelet has for the first list of a connection."""
CONFIRM = 0.3
"""Seconds from a difference to the look that confirms it, at least."""
FIRST_PAUSE = 0.5
LAST_PAUSE = 30.0
"""Seconds from one attempt to mend a difference to the next; each doubles the time."""
PEACE = 2 * LAST_PAUSE
"""Seconds of agreement after which the next difference is mended at once again."""
_UNKNOWN = 3
"""Looks without an answer after which a stream that ended is taken for the kubelet's."""


class Belief(Enum):
    """What the kubelet takes for healthy, beside what was listed."""

    SAME = auto()
    LATE = auto()
    """What was listed a moment ago."""
    OLD = auto()
    """IDs of ours, but no list of late."""
    NONE = auto()
    """Nothing, where something is listed: so it looks when another plugin has ended."""
    FOREIGN = auto()
    """IDs that were never listed: another plugin's."""


@dataclass(frozen=True, slots=True)
class Difference:
    """How what the kubelet believes differs from what was listed."""

    belief: Belief
    foreign: int
    """How many devices the kubelet takes for healthy that were not listed."""
    listed: int
    """How many were listed as Healthy."""

    def __str__(self) -> str:
        match self.belief:
            case Belief.FOREIGN:
                devices = "1 device" if self.foreign == 1 else f"{self.foreign} devices"
                return (
                    f"the kubelet believes {devices} of another plugin, which has registered the same "
                    "resource; the agent registers anew, now and then: remove the other plugin, or give the "
                    "resource of one of the two another name"
                )
            case Belief.NONE:
                return (
                    f"the kubelet takes none of the {self.listed} listed devices for healthy, as after the "
                    "end of another plugin with the same resource; the agent registers anew"
                )
            case _:
                return "the kubelet believes a list that is out of date; it is sent again"


def compared(believed: frozenset[str], listing: Listing, now: float) -> Difference:
    """What to think of the devices that the kubelet takes for healthy."""
    foreign = len(believed - listing.ids)
    if believed == listing.healthy:
        belief = Belief.SAME
    elif listing.was_lately(believed, now):
        belief = Belief.LATE
    elif foreign:
        belief = Belief.FOREIGN
    else:
        belief = Belief.OLD if believed else Belief.NONE
    return Difference(belief, foreign, len(listing.healthy))


class Line(Protocol):
    """An endpoint, as far as it matters here."""

    @property
    def resource(self) -> str: ...
    @property
    def listing(self) -> Listing: ...
    @property
    def listens_since(self) -> float | None:
        """When the kubelet began to listen, on the monotonic clock; None while it does not."""
        ...

    @property
    def socket(self) -> str:
        """The name of the connection's socket: another one for each connection."""
        ...

    def settle(self) -> None:
        """The kubelet has its list: whoever asks for it from here on is somebody else."""
        ...

    def resend(self) -> None: ...
    def renew(self) -> None:
        """Register under a new socket."""
        ...


@dataclass(slots=True)
class _State:
    """What was seen of a resource."""

    suspected: tuple[str, int, float, Difference] | None = None
    """A difference that was seen once: on which connection, at which revision of the list, and when."""
    dispute: Difference | None = None
    """A difference that was confirmed and is not over."""
    disputed: str = ""
    """The connection on which it was found, or last tried to be mended."""
    resent: bool = False
    pause: float = FIRST_PAUSE
    next_try: float = 0.0
    last_seen: float = 0.0
    doubts: int = 0
    """Looks since a stream ended that may have been the kubelet's; 0 if none has."""


class Agreement:
    """Compares, for all resources at once, and has mended what differs.

    Args:
        lines: all endpoints by resource, read anew each time.
        ask: what the kubelet takes for healthy, by resource.
        on_dispute: called when a difference is found, and with None when it is over.
    """

    def __init__(
        self,
        lines: Mapping[str, Line],
        ask: Callable[[], Awaitable[Mapping[str, frozenset[str]]]],
        *,
        on_dispute: Callable[[str, Difference | None], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines = lines
        self._ask = ask
        self._on_dispute = on_dispute
        self._clock = clock
        self._states: dict[str, _State] = {}
        self._attentive_until = 0.0
        self._wake = asyncio.Event()
        self._cannot = ""

    def dispute(self, resource: str) -> Difference | None:
        """How the kubelet's belief differs for a resource, if it was found to."""
        return self._states[resource].dispute if resource in self._states else None

    def attend(self) -> None:
        """Something happened that another plugin may have caused: look soon, and often for a while."""
        self._attentive_until = self._clock() + ATTENTIVE
        self._wake.set()

    def doubt(self, resource: str) -> None:
        """One of several listeners of a resource hung up, which may have been the kubelet."""
        state = self._state(resource)
        state.doubts = max(state.doubts, 1)
        self.attend()

    async def run(self) -> NoReturn:
        """Compare at every period and whenever there is a reason; runs until it is cancelled."""
        while True:
            await asyncio.sleep(NEAR)
            try:
                async with asyncio.timeout(self._wait() - NEAR):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            try:
                await self.look()
            except Exception:
                # Whatever it was, the kubelet is asked again; nothing is renewed without a comparison.
                log.exception("a comparison with the kubelet failed")

    async def look(self) -> None:
        """Compare once."""
        asked = {
            resource: (line.socket, line.listing.revision)
            for resource, line in self._lines.items()
            if line.listens_since is not None
        }
        if not asked:
            return
        try:
            believed = await self._ask()
        except KubeletError as error:
            self._unanswered(str(error))
            return
        self._cannot = ""
        for resource, (socket, revision) in asked.items():
            line = self._lines[resource]
            if line.listens_since is not None and line.socket == socket:
                self._compare(line, revision, believed.get(resource, frozenset()))

    def _wait(self) -> float:
        """Seconds until the next look."""
        now = self._clock()
        if now < self._attentive_until or any(map(self._is_suspected, self._lines)):
            return NEAR
        due = [PERIOD]
        for resource, line in self._lines.items():
            if line.listens_since is not None and now - line.listens_since < SETTLE:
                due.append(line.listens_since + SETTLE - now)
            if self.dispute(resource) is not None:
                due.append(self._states[resource].next_try - now)
        return max(NEAR, min(due))

    def _is_suspected(self, resource: str) -> bool:
        """Whether a difference waits for its confirmation, on a connection that is up."""
        suspected, line = self._state(resource).suspected, self._lines[resource]
        return suspected is not None and line.listens_since is not None and suspected[0] == line.socket

    def _state(self, resource: str) -> _State:
        return self._states.setdefault(resource, _State())

    def _unanswered(self, why: str) -> None:
        if why != self._cannot:
            self._cannot = why
            log.debug("the kubelet can't be asked what it believes", extra={"reason": why})
        for resource, state in self._states.items():
            if state.doubts:
                state.doubts += 1
                if state.doubts > _UNKNOWN and resource in self._lines:
                    self._renew_for_doubt(self._lines[resource], state)

    def _compare(self, line: Line, revision: int, believed: frozenset[str]) -> None:
        now = self._clock()
        state = self._state(line.resource)
        line.listing.forget(now - LATELY)
        found = compared(believed, line.listing, now)
        if found.belief is Belief.SAME:
            self._agrees(line, state, now)
        elif found.belief is not Belief.LATE and line.listens_since is not None:
            if now - line.listens_since < SETTLE:
                return
            state.doubts = 0  # Whatever ended, the difference says what there is to do.
            if state.suspected is None or state.suspected[0] != line.socket:
                state.suspected = (line.socket, revision, now, found)
            elif now - state.suspected[2] >= CONFIRM:
                self._differs(line, state, found, now)

    def _agrees(self, line: Line, state: _State, now: float) -> None:
        suspected, state.suspected = state.suspected, None
        if suspected is not None and suspected[0] == line.socket and suspected[1] != line.listing.revision:
            # A list of ours covered what was seen; whom the kubelet would call it doesn't say.
            self._differs(line, state, suspected[3], now)
            return
        if state.dispute is not None:
            if state.disputed == line.socket and not state.resent:
                self._mend(line, state, now)
                return
            state.dispute, state.resent = None, False
            log.info("the kubelet believes this agent's list again", extra={"resource": line.resource})
            self._on_dispute(line.resource, None)
        if line.listing.healthy:
            line.settle()
            state.doubts = 0
        elif state.doubts:  # Nothing is what a kubelet that hung up would believe, too.
            self._renew_for_doubt(line, state)

    def _differs(self, line: Line, state: _State, found: Difference, now: float) -> None:
        if now - state.last_seen > PEACE:
            state.pause, state.next_try = FIRST_PAUSE, 0.0
        state.last_seen = now
        state.suspected = None
        new, state.dispute = state.dispute is None, found
        if state.disputed != line.socket:
            state.disputed, state.resent = line.socket, False
        if new:
            log.warning(
                "another plugin may have this resource",
                extra={"resource": line.resource, "reason": str(found)},
            )
        self._on_dispute(line.resource, found)
        self._attentive_until = max(self._attentive_until, now + ATTENTIVE)
        self._mend(line, state, now)

    def _mend(self, line: Line, state: _State, now: float) -> None:
        if now < state.next_try or state.dispute is None:
            return
        self._next_try(state, now)
        if state.dispute.belief is Belief.OLD and not state.resent:
            state.resent = True
            line.resend()
        else:
            # Sending the list would hide that the kubelet goes on calling the other plugin, or nobody.
            state.resent = False
            line.renew()

    def _renew_for_doubt(self, line: Line, state: _State) -> None:
        now = self._clock()
        if now >= state.next_try:
            state.doubts = 0
            self._next_try(state, now)
            line.renew()

    def _next_try(self, state: _State, now: float) -> None:
        state.next_try = now + state.pause
        state.pause = min(2 * state.pause, LAST_PAUSE)
        state.last_seen = now
