"""The configuration file: YAML, versioned and strict.

Everything works without one. A file that can't be used is refused as a whole, with a sentence that
names the file, the line and what was expected; an unknown key with the nearest known one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import msgspec

from deviceplugin.configform import ATTRIBUTE, KERNELS_OWN, AdoptSection, ConfigFile, ResourceSection
from deviceplugin.errors import ConfigError
from deviceplugin.inventory import slots
from deviceplugin.inventory.resources import Adoption, Discovery, Placement, Resource, name_problem
from deviceplugin.inventory.variables import clash
from deviceplugin.settings import Config, ReclaimSettings
from deviceplugin.yamlfile import Steps, read_yaml

_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
MIN_GRACE = 0.5
"""Seconds: between the answer to an Allocate and the kubelet's note of it nothing protects a device."""
MIN_INTERVAL = 0.1
"""Seconds."""


def load(path: Path) -> Config:
    """Read a configuration file.

    Raises:
        ConfigError: it can't be used; nothing of it is.
    """
    document = read_yaml(path, ConfigFile, what="configuration")
    file = document.content
    for where, problem in _problems(file):
        raise ConfigError(f"{document.place(*where)}: {problem}")
    return Config(
        discovery=Discovery(
            domain=file.discovery.domain,
            by_name=file.discovery.name == "name",
            include=file.discovery.include,
            exclude=file.discovery.exclude,
        ),
        resources=tuple(_resource(section) for section in file.resources),
        reclaim=ReclaimSettings(
            enabled=file.reclaim.enabled,
            grace=_seconds(file.reclaim.grace),
            interval=_seconds(file.reclaim.interval),
        ),
        cdi=file.handover.cdi,
    )


def schema() -> dict[str, object]:
    """The JSON schema of the configuration file."""
    generated = msgspec.json.schema(ConfigFile)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "mdev-device-plugin configuration",
        **generated,
    }


def _problems(file: ConfigFile) -> Iterator[tuple[Steps, str]]:
    """What the form alone does not forbid: where, and what is wrong there."""
    if problem := name_problem(f"{file.discovery.domain}/type"):
        yield ("discovery", "domain"), problem
    seen: dict[str, None] = {}
    for position, section in enumerate(file.resources):
        if section.name in seen:
            yield ("resources", position, "name"), f"the resource {section.name!r} is there twice"
        elif problem := clash(section.name, seen):
            yield ("resources", position, "name"), problem
        seen[section.name] = None
        for where, problem in _resource_problems(section):
            yield ("resources", position, *where), problem
    for key, text, least in (
        ("grace", file.reclaim.grace, MIN_GRACE),
        ("interval", file.reclaim.interval, MIN_INTERVAL),
    ):
        if not _DURATION.fullmatch(text) or _seconds(text) < least:
            yield (
                ("reclaim", key),
                f"{text!r} is not a duration of at least {least:g} s; write it as in '10s', '500ms' or '1m'",
            )


def _resource_problems(section: ResourceSection) -> Iterator[tuple[Steps, str]]:
    if problem := name_problem(section.name):
        yield ("name",), problem
    for place, uuid in enumerate(section.adopt_existing.uuids if section.adopt_existing else ()):
        where = ("adoptExisting", "uuids", place)
        if not slots.is_uuid(uuid.lower()):
            yield where, f"{uuid!r} is not a UUID as in '0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0'"
        elif slots.bears_mark(uuid.lower()):
            yield where, f"{uuid!r} bears this plugin's own mark: such devices are its own already"
    for place, (attribute, value) in enumerate(section.ordered()):
        if problem := _attribute_problem(attribute, value):
            step = attribute if isinstance(section.attributes, dict) else place
            yield ("attributes", step), problem


def _attribute_problem(attribute: str, value: str) -> str | None:
    if not ATTRIBUTE.fullmatch(attribute):
        return (
            f"{attribute!r} is not an attribute of a device: a file name is expected, or a directory's "
            "and a file's, as in 'nvidia/vgpu_params'"
        )
    if attribute in KERNELS_OWN:
        return f"{attribute!r} is the kernel's own and can't be set"
    if "\0" in value:
        return f"the value of {attribute!r} has a NUL byte in it"
    return None


def _resource(section: ResourceSection) -> Resource:
    return Resource(
        name=section.name,
        types=section.types,
        parents=section.parents.selector(),
        placement=Placement(section.placement),
        mixed=section.mixed,
        max=section.max,
        max_per_card=section.max_per_card,
        adopts=_adoption(section.adopt_existing) if section.adopt_existing is not None else None,
        attributes=section.ordered(),
    )


def _adoption(section: AdoptSection) -> Adoption:
    return Adoption(
        types=section.types,
        parents=section.parents.selector(),
        uuids=frozenset(uuid.lower() for uuid in section.uuids),
    )


def _seconds(text: str) -> float:
    found = _DURATION.fullmatch(text)
    assert found is not None, "checked before"
    return float(found[1]) * _UNITS[found[2]]
