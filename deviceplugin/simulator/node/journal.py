"""The state of a node on disk: one writer at a time, and each change all or nothing.

A commit replaces one JSON file; that is the moment in which it happens. The tree and the event log follow.
The lock file holds the number of the commit that they followed last, so whoever takes the lock after a writer
was killed in between sees that they are behind, and completes them before anything else.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from deviceplugin.errors import ConfigError, in_words
from deviceplugin.host.paths import HostPaths
from deviceplugin.simulator.node import devicenodes
from deviceplugin.simulator.node.cards import NodeDescription
from deviceplugin.simulator.node.description import parse
from deviceplugin.simulator.node.eventlog import EventLog
from deviceplugin.simulator.node.state import Draft, Event, State
from deviceplugin.simulator.node.tree import Tree

_WIDTH = 20
_HOME = ".node"
_DEVICE_NODES = "device-nodes"
"""A file that is there where the node has device nodes."""
_PROOF = ".mdev-proof-"
"""How a file begins that is there while it is found out whether device nodes can be made."""


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
        self.home = directory / _HOME
        try:
            text = (self.home / "description.yaml").read_text()
        except OSError as error:
            raise ConfigError(f"{directory} holds no simulated node: {in_words(error)}.") from None
        self.node = parse(text, origin=f"{directory}/.node/description.yaml")
        self.paths = HostPaths(directory)
        self.device_nodes = (self.home / _DEVICE_NODES).exists()
        self.tree = Tree(paths=self.paths, node=self.node, workshop=self.home, device_nodes=self.device_nodes)
        self.log = EventLog(self.home / "events")

    @staticmethod
    def exists(directory: Path) -> bool:
        """Whether a node is there. One whose builder has not finished, or was killed, is none."""
        return (directory / _HOME / "state.json").exists()

    @staticmethod
    def is_vacant(directory: Path) -> bool:
        """Whether there is nothing in a directory but what is left of a builder that was killed.

        Raises:
            OSError: it can't be looked into.
        """
        # Listed first: another builder may begin in this very moment.
        found = {entry.name for entry in directory.iterdir()} if directory.exists() else set()
        home = directory / _HOME
        begun = home.is_dir() and ((home / "lock").exists() or not any(home.iterdir()))
        left = {_HOME, "sys", "dev"} if begun else set()
        return all(name.startswith(_PROOF) for name in found - left)

    @classmethod
    def build(cls, directory: Path, node: NodeDescription, *, device_nodes: bool = False) -> Journal:
        """Make a node where there is none yet. Of several builders at once, one makes it.

        Raises:
            ConfigError: there is one, or something else.
            HostError: there can't be device nodes; nothing was done.
        """
        try:
            if device_nodes and not cls.exists(directory):
                devicenodes.prove(_nearest(directory) / f"{_PROOF}{uuid.uuid4()}")
            home = directory / _HOME
            home.mkdir(parents=True, exist_ok=True)
            lock = os.open(home / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if cls.exists(directory):
                    raise ConfigError(f"{directory} holds a simulated node already.")
                _clear(home)
                return cls._make(directory, node, lock, device_nodes=device_nodes)
            finally:
                os.close(lock)
        except OSError as error:
            raise ConfigError(f"A node can't be made in {directory}: {in_words(error)}.") from None

    @classmethod
    def _make(cls, directory: Path, node: NodeDescription, lock: int, *, device_nodes: bool) -> Journal:
        home = directory / _HOME
        if device_nodes:
            (home / _DEVICE_NODES).touch()
        (home / "events").touch()
        # In one piece, and after what it is read with: a node that is described can be opened.
        aside = home / "description.yaml.new"
        aside.write_text(node.source)
        aside.rename(home / "description.yaml")
        journal = cls(directory)
        state = State(first_group=node.first_group)
        journal.tree.build(state)
        journal.save(state)
        journal.followed(lock, state)
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
                    f"The node in {self.paths.root} was never completed: make it anew."
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


def _nearest(directory: Path) -> Path:
    """The directory itself, or what there is of the way to it: both are on one file system."""
    return next(place for place in (directory, *directory.absolute().parents) if place.is_dir())


def _clear(home: Path) -> None:
    """Take away what a killed builder left; last of all the description, by which that is known."""
    description = home / "description.yaml"
    if description.exists():
        root = HostPaths(home.parent)
        for directory in (root.sysfs, root.vfio.parent, *filter(Path.is_dir, [*home.iterdir()])):
            if directory.exists():
                shutil.rmtree(directory)
    for file in [*home.iterdir()]:
        if file.name not in ("lock", description.name):
            file.unlink()
    description.unlink(missing_ok=True)
