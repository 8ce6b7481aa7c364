"""The form of the configuration file: its keys, what each may be, and what the published schema says of it.

What a form can't tell is checked in ``config``, which makes of it what the agent is to do.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

import msgspec

from deviceplugin.inventory.selectors import ParentFilter, ParentSelector
from deviceplugin.inventory.slots import MAX_NUMA_NODE, MAX_SLOTS

ATTRIBUTE = re.compile(r"[A-Za-z0-9_][-A-Za-z0-9_.]*(/[A-Za-z0-9_][-A-Za-z0-9_.]*)?", re.ASCII)
KERNELS_OWN = ("remove", "uevent")
"""Attributes of every device that are not the driver's."""

# What `config` says in words, as the published schema says it: without lookarounds, which not every
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
_AS_ATTRIBUTE = {"pattern": f"^{ATTRIBUTE.pattern}$", "not": {"enum": list(KERNELS_OWN)}}
_AS_ATTRIBUTES = {"propertyNames": _AS_ATTRIBUTE}

Pattern = Annotated[str, msgspec.Meta(min_length=1, max_length=256)]


class _Strict(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, rename="camel"):
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
    numa_nodes: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=MAX_NUMA_NODE)], ...],
        msgspec.Meta(description="NUMA nodes."),
    ] = ()
    pci: Annotated[
        tuple[Annotated[str, msgspec.Meta(pattern=_PCI)], ...],
        msgspec.Meta(description="Globs over the PCI vendor and device ID, as in 10de:25b6 or 10de:*."),
    ] = ()


class ParentsSection(ParentFilterSection):
    """Which parents may carry a resource's devices."""

    exclude: Annotated[
        ParentFilterSection, msgspec.Meta(description="Parents that may not, of those that could.")
    ] = msgspec.field(default_factory=ParentFilterSection)

    def selector(self) -> ParentSelector:
        exclude = ParentFilter(**msgspec.structs.asdict(self.exclude))
        return ParentSelector(**{**msgspec.structs.asdict(self), "exclude": exclude})


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
    max_per_card: Annotated[
        Annotated[int, msgspec.Meta(ge=0, le=MAX_SLOTS)] | None,
        msgspec.Meta(description="At most so many devices are made for it on a card."),
    ] = None
    adopt_existing: Annotated[
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
