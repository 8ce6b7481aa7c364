"""The configuration file: YAML, versioned and strict.

Everything works without one. A file that can't be used is refused as a whole, with a sentence that
names the file, the line and what was expected; an unknown key with the nearest known one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from deviceplugin.errors import ConfigError
from deviceplugin.inventory import slots
from deviceplugin.inventory.resources import Adoption, Discovery, Placement, Resource, name_problem
from deviceplugin.inventory.selectors import ParentFilter, ParentSelector
from deviceplugin.inventory.slots import MAX_NUMA_NODE, MAX_SLOTS
from deviceplugin.settings import Config, ReclaimSettings
from deviceplugin.yamlfile import Steps, read_yaml

_DURATION = re.compile(r"(\d{1,6}(?:\.\d{1,6})?)(ms|s|m|h)", re.ASCII)
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_ATTRIBUTE = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9_.]*(/[A-Za-z0-9_][-A-Za-z0-9_.]*)?", re.ASCII)
_KERNELS_OWN = ("remove", "uevent")
"""Attributes of every device that are not the driver's."""
MIN_GRACE = 0.5
"""Seconds: between the answer to an Allocate and the kubelet's note of it nothing protects a device."""
MIN_INTERVAL = 0.1
"""Seconds."""


# --- the file's own form -------------------------------------------------------------------------------

# What `_problems` says in words, as the published schema says it: without lookarounds, which not every
# validator's regular expressions know (Helm's don't).
_DOMAIN = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"


def _as_text(pattern: str, *, but_not: tuple[str, ...]) -> dict[str, object]:
    return {"pattern": f"^{pattern}$", "not": {"anyOf": [{"pattern": other} for other in but_not]}}


_AS_DOMAIN = _as_text(_DOMAIN, but_not=(r"^requests\.", r"kubernetes\.io$"))
_AS_NAME = _as_text(
    rf"{_DOMAIN}/[A-Za-z0-9]([-A-Za-z0-9_.]{{0,61}}[A-Za-z0-9])?",
    but_not=(r"^requests\.", r"^[^/]*kubernetes\.io/"),
)
_PCI = r"^[0-9a-f*?\[\]-]{1,12}:[0-9a-f*?\[\]-]{1,12}$"
_AS_UUID = {"pattern": r"^[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}$"}
_AS_DURATION = {"pattern": r"^[0-9]{1,6}(\.[0-9]{1,6})?(ms|s|m|h)$"}
_AS_ATTRIBUTE = {"pattern": f"^{_ATTRIBUTE.pattern}$", "not": {"enum": list(_KERNELS_OWN)}}
_AS_ATTRIBUTES = {"propertyNames": _AS_ATTRIBUTE}

Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    pass


class DiscoverySection(_Strict):
    """Which types become resources of their own."""

    domain: Annotated[
        str, msgspec.Meta(description="Resources are called <domain>/<type>.", extra_json_schema=_AS_DOMAIN)
    ] = "vfio.dev"
    name: Annotated[
        Literal["id", "name"],
        msgspec.Meta(description="Call them by the type's ID, or by its name with spaces turned into '_'."),
    ] = "id"
    include: Annotated[
        tuple[Pattern, ...], msgspec.Meta(description="Globs over type IDs and names; all by default.")
    ] = ("*",)
    exclude: Annotated[
        tuple[Pattern, ...], msgspec.Meta(description="Globs over type IDs and names to leave out.")
    ] = ()


class ParentFilterSection(_Strict):
    """Parents by what they are: of each key one entry has to match."""

    addresses: Annotated[
        tuple[Pattern, ...], msgspec.Meta(description="Globs over the address of the parent or its card.")
    ] = ()
    drivers: Annotated[tuple[Pattern, ...], msgspec.Meta(description="Globs over the driver's name.")] = ()
    numaNodes: Annotated[  # noqa: N815  # the file's spelling
        tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMA_NODE)], ...],
        msgspec.Meta(description="NUMA nodes."),
    ] = ()
    pci: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=_PCI)], ...],
        msgspec.Meta(description="Globs over the PCI vendor and device ID, as in 10de:25b6 or 10de:*."),
    ] = ()

    def fields(self) -> dict[str, Any]:
        """The fields of a ``ParentFilter``."""
        return {
            "addresses": self.addresses,
            "drivers": self.drivers,
            "numa_nodes": self.numaNodes,
            "pci": self.pci,
        }


class ParentsSection(ParentFilterSection):
    """Which parents may carry a resource's devices."""

    exclude: Annotated[
        ParentFilterSection, msgspec.Meta(description="Parents that may not, of those that could.")
    ] = msgspec.field(default_factory=ParentFilterSection)

    def selector(self) -> ParentSelector:
        return ParentSelector(**self.fields(), exclude=ParentFilter(**self.exclude.fields()))


class AdoptSection(_Strict):
    """Which devices that somebody else made a resource offers as they are. All keys have to match."""

    types: Annotated[
        tuple[Pattern, ...],
        msgspec.Meta(description="Globs over type IDs and names; within the resource's own types."),
    ] = ()
    parents: ParentsSection = msgspec.field(default_factory=ParentsSection)
    uuids: Annotated[
        tuple[Annotated[str, msgspec.Meta(extra_json_schema=_AS_UUID)], ...],
        msgspec.Meta(description="The devices' UUIDs; any by default."),
    ] = ()


class AttributeSection(_Strict):
    """An attribute of a new device."""

    name: Annotated[
        str,
        msgspec.Meta(
            description="A file in the device's directory, as in nvidia/vgpu_params.",
            extra_json_schema=_AS_ATTRIBUTE,
        ),
    ]
    value: Annotated[str, msgspec.Meta(description="What is written to it; a newline follows.")]


class ResourceSection(_Strict):
    """A resource with a name of its own."""

    name: Annotated[
        str,
        msgspec.Meta(
            description="What pods ask for, as in nvidia.com/GRID_T4-1Q.", extra_json_schema=_AS_NAME
        ),
    ]
    types: Annotated[
        tuple[Pattern, ...],
        msgspec.Meta(min_length=1, description="Globs over type IDs and names, the preferred first."),
    ]
    parents: ParentsSection = msgspec.field(default_factory=ParentsSection)
    placement: Annotated[
        Literal["pack", "spread"], msgspec.Meta(description="Fill the fullest card, or take the emptiest.")
    ] = "pack"
    mixed: Annotated[
        bool,
        msgspec.Meta(
            description="Whether a container may get devices of several types where no type has room for all."
        ),
    ] = True
    max: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=MAX_SLOTS)] | None,
        msgspec.Meta(description="At most so many devices are made for it on a node."),
    ] = None
    maxPerCard: Annotated[  # noqa: N815
        Annotated[int, msgspec.Meta(ge=0, le=MAX_SLOTS)] | None,
        msgspec.Meta(description="At most so many devices are made for it on a card."),
    ] = None
    adoptExisting: Annotated[  # noqa: N815
        AdoptSection | None,
        msgspec.Meta(
            description="Offer devices as well that somebody else made, and never remove them; {} for all "
            "of its types on its parents."
        ),
    ] = None
    attributes: Annotated[
        Annotated[dict[str, str], msgspec.Meta(extra_json_schema=_AS_ATTRIBUTES)]
        | tuple[AttributeSection, ...],
        msgspec.Meta(
            description="Written to a new device, in this order, before it is handed over: a mapping, or a "
            "list of names and values for tools that sort the keys of a mapping, as Helm does."
        ),
    ] = msgspec.field(default_factory=dict)

    def ordered(self) -> tuple[tuple[str, str], ...]:
        """The attributes' names and values."""
        if isinstance(self.attributes, dict):
            return tuple(self.attributes.items())
        return tuple((entry.name, entry.value) for entry in self.attributes)


class ReclaimSection(_Strict):
    """How devices are taken back."""

    enabled: Annotated[bool, msgspec.Meta(description="Whether devices are removed at all.")] = True
    grace: Annotated[
        str,
        msgspec.Meta(
            description="How long a device is left alone after it was asked for, as in 10s.",
            extra_json_schema=_AS_DURATION,
        ),
    ] = "10s"
    interval: Annotated[
        str,
        msgspec.Meta(
            description="How often devices are looked through, as in 5s.", extra_json_schema=_AS_DURATION
        ),
    ] = "5s"


class HandoverSection(_Strict):
    """What containers get."""

    cdi: Annotated[
        bool,
        msgspec.Meta(
            description="Hand devices over by their CDI names, instead of as device nodes.",
        ),
    ] = False


class ConfigFile(_Strict):
    """Configuration of mdev-device-plugin."""

    version: Annotated[Literal["v1"], msgspec.Meta(description="The version of this format.")]
    discovery: DiscoverySection = msgspec.field(default_factory=DiscoverySection)
    resources: tuple[ResourceSection, ...] = ()
    reclaim: ReclaimSection = msgspec.field(default_factory=ReclaimSection)
    handover: HandoverSection = msgspec.field(default_factory=HandoverSection)


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
    seen: set[str] = set()
    for position, section in enumerate(file.resources):
        if section.name in seen:
            yield ("resources", position, "name"), f"the resource {section.name!r} is there twice"
        seen.add(section.name)
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
    for place, uuid in enumerate(section.adoptExisting.uuids if section.adoptExisting else ()):
        where = ("adoptExisting", "uuids", place)
        if not slots.is_uuid(uuid.lower()):
            yield where, f"{uuid!r} is not a UUID as in '0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0'"
        elif slots.is_ours(uuid.lower()):
            yield where, f"{uuid!r} bears this plugin's own mark: such devices are its own already"
    for place, (attribute, value) in enumerate(section.ordered()):
        if problem := _attribute_problem(attribute, value):
            step = attribute if isinstance(section.attributes, dict) else place
            yield ("attributes", step), problem


def _attribute_problem(attribute: str, value: str) -> str | None:
    if not _ATTRIBUTE.fullmatch(attribute):
        return (
            f"{attribute!r} is not an attribute of a device: a file name is expected, or a directory's "
            "and a file's, as in 'nvidia/vgpu_params'"
        )
    if attribute in _KERNELS_OWN:
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
        max_per_card=section.maxPerCard,
        adopts=_adoption(section.adoptExisting) if section.adoptExisting is not None else None,
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
