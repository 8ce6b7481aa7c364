"""What a configuration means and this node does not have: a sentence each.

None of it is an error, since one configuration serves many nodes; but a pattern that means nothing anywhere
is a slip of the pen that nobody would notice otherwise. ``check`` tells it, and so does an agent that starts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from deviceplugin.inventory.resources import Adoption, Resource
from deviceplugin.inventory.selectors import matches
from deviceplugin.inventory.snapshot import Snapshot


def unmatched(resources: Iterable[Resource], snapshot: Snapshot) -> Iterator[str]:
    """A sentence for each pattern of the named resources that means nothing on a node, and for each resource
    that finds nothing at all. Of a node without any types nothing is said.
    """
    for resource in resources if snapshot.types else ():
        yield from (f"{resource.name} {clause}" for clause in _nothing_at_all(resource, snapshot))
        for clause in _patterns(resource, snapshot):
            yield f"{resource.name}: {clause}"


def _nothing_at_all(resource: Resource, snapshot: Snapshot) -> Iterator[str]:
    choices = resource.choices(snapshot)
    allowed = [parent for parent in snapshot.parents if resource.parents.allows(parent)]
    if not choices:
        yield f"finds none of its types here: {', '.join(resource.types)}"
    elif not allowed:
        yield "finds no parent here that its 'parents' allow"
    elif not any(parent.type(type_id) for parent in allowed for type_id in choices):
        yield f"finds none of its types on the parents that its 'parents' allow: {', '.join(choices)}"


def _patterns(resource: Resource, snapshot: Snapshot) -> Iterator[str]:
    if resource.choices(snapshot):
        for pattern in _meaningless(resource.types, snapshot):
            yield f"no type here matches its types: {pattern}"
    yield from resource.parents.finds_nothing(snapshot)
    if resource.adopts is not None:
        yield from _adoption(resource.adopts, snapshot)


def _adoption(adoption: Adoption, snapshot: Snapshot) -> Iterator[str]:
    for pattern in _meaningless(adoption.types, snapshot):
        yield f"no type here matches its adoptExisting.types: {pattern}"
    yield from adoption.parents.finds_nothing(snapshot, within="adoptExisting.")
    for uuid in sorted(adoption.uuids - snapshot.devices.keys()):
        yield f"no device here has the UUID in its adoptExisting.uuids: {uuid}"


def _meaningless(patterns: Iterable[str], snapshot: Snapshot) -> Iterator[str]:
    for pattern in patterns:
        if not any(matches(pattern, entry) for entry in snapshot.types.values()):
            yield pattern
