"""What ``plan`` is asked for, understood: ``4xvfio.dev/nvidia-222=2`` and the like."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping

import click

from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.selectors import matches
from deviceplugin.inventory.snapshot import Snapshot
from deviceplugin.planning.plan import Request

_REQUEST = re.compile(r"(?:(?P<pods>\d{1,4})x)?(?P<what>.+?)(?:=(?P<devices>\d{1,4}))?", re.ASCII)
_NEAR = 3
"""Names that are told of where one is unknown."""


def request(text: str, resources: Mapping[str, Resource], snapshot: Snapshot) -> Request:
    """Understand a request: pods x what = devices in one container.

    Raises:
        UsageError: it is none, or means nothing on this node.
    """
    found = _REQUEST.fullmatch(text)
    if text in resources or found is None:
        return Request(text, _resource(text, resources, snapshot))
    pods, devices = int(found["pods"] or 1), int(found["devices"] or 1)
    if not pods or not devices:
        raise click.UsageError(f"{text!r} asks for nothing: write it as in '4xvfio.dev/nvidia-222=2'")
    return Request(text, _resource(found["what"], resources, snapshot), devices, pods)


def _resource(what: str, resources: Mapping[str, Resource], snapshot: Snapshot) -> Resource:
    if what in resources:
        return resources[what]
    patterns = tuple(part.strip() for part in what.split(","))
    types = snapshot.types.values()
    for pattern in patterns:
        if not any(matches(pattern, entry) for entry in types):
            known = [name for entry in types for name in (entry.id, entry.name) if name]
            wanted, among = (what, [*resources, *known]) if len(patterns) == 1 else (pattern, known)
            raise click.UsageError(f"nothing here is called {wanted!r}; {_nearest(wanted, among)}")
    if len(patterns) > 1 or re.search(r"[*?[]", what):
        return Resource(name=what, types=patterns)  # Nobody offers it: what if one did?
    meant = {entry.id for entry in types if matches(what, entry)}
    offering = [resource for resource in resources.values() if meant.intersection(resource.choices(snapshot))]
    if not offering:
        raise click.UsageError(
            f"the type {what!r} is here, and no resource of the configuration offers it to pods"
        )
    # Of several that which means just this type, else that which prefers it most.
    return min(offering, key=lambda resource: _distance(meant, resource.choices(snapshot)))


def _distance(meant: set[str], choices: tuple[str, ...]) -> tuple[bool, int]:
    return set(choices) != meant, min(choices.index(type_id) for type_id in meant.intersection(choices))


def _nearest(wanted: str, known: Iterable[str]) -> str:
    by_lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(wanted.lower(), by_lower, n=_NEAR, cutoff=0)
    names = [repr(by_lower[name]) for name in near]
    return f"the nearest known {'name is' if len(names) == 1 else 'names are'} {', '.join(names)}"
