"""The state of a node on disk: one writer at a time, and each change all or nothing.

A commit replaces one JSON file; that is the moment in which it happens. The tree and the event log follow.
The lock file holds the number of the commit that they followed last, so whoever takes the lock after a writer
was killed in between sees that they are behind, and completes them before anything else.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from deviceplugin.errors import ConfigError
from deviceplugin.host.paths import HostPaths
from deviceplugin.simulator.node.cards import NodeDescription
from deviceplugin.simulator.node.description import parse
from deviceplugin.simulator.node.eventlog import EventLog
from deviceplugin.simulator.node.state import Draft, Event, State
from deviceplugin.simulator.node.tree import Tree

_WIDTH = 20


class Session:
    """The node while its lock is held."""

    def __init__(self, journal: Journal, lock: int, state: State) -> None:
        self._journal = journal
        self._lock = lock
        self.state = state

    def commit(self, new: State, *, events: tuple[Draft, ...] = (), touched: tuple[str, ...] = ()) -> None:
        """Make ``new`` the node's state, on the cards ``touched``, and announce it."""
        old, journal = self.state, self._journal
        numbered = tuple(
            Event(sequence=number, action=action, devpath=devpath, subsystem=subsystem, properties=properties)
            for number, (action, devpath, subsystem, properties) in enumerate(events, old.sequence + 1)
        )
        new = replace(
            new,
            generation=old.generation + 1,
            sequence=old.sequence + len(numbered),
            events=numbered,
            touched=tuple(dict.fromkeys(touched)),
        )
        journal.save(new)
        self.state = new
        journal.tree.sync(old, new)
        journal.log.append(new.events)
        journal.followed(self._lock, new)


class Journal:
    """Where a node's state is kept."""

    def __init__(self, directory: Path) -> None:
        """Open a node that exists.

        Raises:
            ConfigError: there is none.
        """
        self.home = directory / ".node"
        try:
            text = (self.home / "description.yaml").read_text()
        except OSError as error:
            raise ConfigError(f"{directory} holds no simulated node ({error.strerror}).") from None
        self.node = parse(text, origin=f"{directory}/.node/description.yaml")
        self.paths = HostPaths(directory)
        self.tree = Tree(paths=self.paths, node=self.node, workshop=self.home)
        self.log = EventLog(self.home / "events")

    @classmethod
    def build(cls, directory: Path, node: NodeDescription) -> Journal:
        """Make a node where there is none yet.

        Raises:
            ConfigError: there is one, or something else.
        """
        home = directory / ".node"
        try:
            home.mkdir(parents=True)
            # The lock comes first: nobody may open a node that is half made.
            lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except OSError as error:
            raise ConfigError(f"A node can't be made in {directory} ({error.strerror}).") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            (home / "description.yaml").write_text(node.source)
            (home / "events").touch()
            journal = cls(directory)
            state = State(first_group=node.first_group)
            journal.tree.build(state)
            journal.save(state)
            journal.followed(lock, state)
        finally:
            os.close(lock)
        return journal

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Take the node's lock; the tree is in step with the state then."""
        lock = os.open(self.home / "lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                state = self.load()
            except FileNotFoundError:
                raise ConfigError(
                    f"The node in {self.paths.root} was never completed: build it anew."
                ) from None
            behind = state.generation - int(os.pread(lock, _WIDTH, 0) or -1)
            if behind:
                # Each commit waits for the one before to be followed: only the last can be behind.
                self.tree.repair(state, self.tree.cards_named(state) if behind == 1 else self.node.cards)
                self.log.append(state.events)
                self.followed(lock, state)
            yield Session(self, lock, state)
        finally:
            os.close(lock)

    def load(self) -> State:
        """The last state that was committed; needs no lock."""
        return msgspec.json.decode((self.home / "state.json").read_bytes(), type=State)

    def save(self, state: State) -> None:
        aside = self.home / "state.json.new"
        aside.write_bytes(msgspec.json.encode(state))
        aside.rename(self.home / "state.json")

    def followed(self, lock: int, state: State) -> None:
        """Note that tree and log show this state."""
        os.pwrite(lock, b"%0*d" % (_WIDTH, state.generation), 0)
