"""The file that describes a simulated node: YAML, read strictly.

``docs/nodes.md`` explains the format. A description that makes no sense is refused here with one sentence,
so that nothing behind this module has to doubt what it is told.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
import yaml

from deviceplugin.errors import ConfigError, in_words
from deviceplugin.simulator.node.cards import Attribute, Card, Model, Name, NodeDescription, TypeDescription
from deviceplugin.yamlfile import MAX_BYTES, StrictLoader

OF_THE_KERNEL = {"remove", "uevent", "driver", "subsystem", "mdev_type", "iommu_group", "vfio-dev"}
"""What every device has, so that no attribute of a driver can be called so."""
FIRST_VF = 4
"""How far behind its physical function a card's first virtual function is, as on NVIDIA's cards."""


@dataclass(frozen=True, kw_only=True)
class CardEntry:
    """One line of the file: a card, or several alike."""

    model: str
    address: Name
    numa: Annotated[int, msgspec.Meta(ge=0, le=1023)] | None = None
    repeat: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 1


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The file as it is written."""

    models: dict[Name, Model]
    cards: tuple[CardEntry, ...]
    description: str = ""
    first_group: Annotated[int, msgspec.Meta(ge=0, le=2**20)] = 0


def names() -> list[str]:
    """The nodes that come with the package."""
    nodes = resources.files("deviceplugin.simulator.node") / "nodes"
    return sorted(
        entry.name.removesuffix(".yaml") for entry in nodes.iterdir() if entry.name.endswith(".yaml")
    )


def load(name_or_file: str | Path) -> NodeDescription:
    """Read a description: one of the package's by its name, else a file.

    Raises:
        ConfigError: there is no such node, or its description can't be used.
    """
    if str(name_or_file) in names():
        path = resources.files("deviceplugin.simulator.node") / "nodes" / f"{name_or_file}.yaml"
        return parse(path.read_text("utf-8"), origin=f"{name_or_file}.yaml")
    try:
        with Path(name_or_file).open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        known = ", ".join(names())
        raise ConfigError(
            f"There is no node {str(name_or_file)!r}: neither a file nor one of {known}."
        ) from None
    except UnicodeDecodeError:
        raise ConfigError(f"{name_or_file}: the node description is not UTF-8 text.") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{name_or_file}: the node description can't be read: {in_words(error)}.") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{name_or_file}: larger than {MAX_BYTES >> 20} MiB, so it is no node description.")
    return parse(text, origin=str(name_or_file))


def parse(text: str, *, origin: str) -> NodeDescription:
    """Read a description from its text; ``origin`` is what messages call it.

    Raises:
        ConfigError: the description can't be used.
    """
    try:
        raw = yaml.load(text, Loader=StrictLoader)  # noqa: S506  # a subclass of the safe loader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{origin}: the node description is not valid YAML: {problem}.") from None
    if raw is None:
        raise ConfigError(f"{origin}: the node description is empty.")
    try:
        contents = msgspec.convert(_known_keys_only(raw, Contents, origin=origin), Contents, strict=True)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{origin}: {_sentence(str(error))}") from None
    for name, model in contents.models.items():
        _check_model(model, where=f"{origin}: model {name!r}")
    cards = tuple(card for entry in contents.cards for card in _cards(entry, contents.models, origin=origin))
    _check_addresses(cards, origin=origin)
    return NodeDescription(cards=cards, first_group=contents.first_group, source=text)


_INSIDE: dict[str, Any] = {
    "models": Model,
    "types": TypeDescription,
    "cards": CardEntry,
    "attributes": Attribute,
}


def _known_keys_only(raw: Any, shape: Any, *, origin: str, where: str = "") -> Any:
    """Refuse keys that the format does not have: msgspec ignores them in dataclasses."""
    if not isinstance(raw, dict):
        return raw
    known = [entry.name for entry in fields(shape)]
    for key, value in raw.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0)
            place = f" in {where}" if where else ""
            raise ConfigError(
                f"{origin}: the key {key!r}{place} is unknown; the nearest known one is {near[0]!r}."
            )
        inner = _INSIDE.get(key)
        if inner is None:
            continue
        entries = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for position, entry in entries:
            _known_keys_only(
                entry, inner, origin=origin, where=f"{where}{'.' * bool(where)}{key}[{position}]"
            )
    return raw


def _sentence(message: str) -> str:
    what, _, where = message.partition(" - at ")
    place = where.strip("`").removeprefix("$").removeprefix(".")
    hint = " Quote the address: YAML takes it for a number." if "address" in place and "got `" in what else ""
    return f"{what[:1].lower()}{what[1:]}{f' at {place}' if place else ''}.{hint}"


def _check_model(model: Model, *, where: str) -> None:
    if not model.types:
        raise ConfigError(f"{where} has no types.")
    if model.vfs and model.bus != "pci":
        raise ConfigError(f"{where} has virtual functions, which only a model on the bus 'pci' can have.")
    for type_id, times in Counter(kind.id for kind in model.types).items():
        if times > 1:
            raise ConfigError(f"{where} has the type {type_id!r} more than once.")
    for kind in model.types:
        _check_type(kind, model, where=where)


def _check_type(kind: TypeDescription, model: Model, *, where: str) -> None:
    for pool in kind.takes:
        if pool not in model.pools:
            known = ", ".join(model.pools) or "none"
            raise ConfigError(
                f"{where}: type {kind.id!r} takes from the unknown pool {pool!r} (pools: {known})."
            )
    if not (any(kind.takes.values()) or kind.max or model.vfs or model.instances is not None):
        raise ConfigError(f"{where}: nothing limits the type {kind.id!r}; give it takes or max.")
    for path in (*model.attributes, *kind.attributes):
        if path.partition("/")[0] in OF_THE_KERNEL:
            raise ConfigError(f"{where}: the attribute {path!r} would hide a file that every device has.")


def _cards(entry: CardEntry, models: dict[str, Model], *, origin: str) -> list[Card]:
    model = models.get(entry.model)
    if model is None:
        known = ", ".join(models) or "none"
        raise ConfigError(
            f"{origin}: card {entry.address} is of the unknown model {entry.model!r} (models: {known})."
        )
    if entry.numa is not None and model.bus != "pci":
        raise ConfigError(
            f"{origin}: card {entry.address} can't have a NUMA node, since it is not on a PCI bus."
        )
    cards = []
    for index in range(entry.repeat):
        address = _counted_up(entry.address, index, pci=model.bus == "pci", origin=origin)
        parents = tuple(_vf(address, number) for number in range(model.vfs)) or (address,)
        cards.append(Card(address=address, model=model, numa=entry.numa, parents=parents))
    return cards


def _counted_up(address: str, index: int, *, pci: bool, origin: str) -> str:
    """The address of the index-th of several cards: PCI counts buses, all others their last number."""
    if pci:
        match = re.fullmatch(r"([0-9a-f]{4}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", address)
        if match is None:
            raise ConfigError(f"{origin}: {address!r} is not a PCI address as in '0000:3b:00.0'.")
        bus = int(match[2], 16) + index
        if bus > 0xFF:  # noqa: PLR2004 - the last bus
            raise ConfigError(f"{origin}: repeating {address} runs out of PCI buses.")
        return f"{match[1]}:{bus:02x}:{match[3]}.{match[4]}"
    if index == 0:
        return address
    match = re.fullmatch(r"(.*?)([0-9a-f]*[0-9])", address) or re.fullmatch(r"(.*\.)([0-9a-f]+)", address)
    if match is None:
        raise ConfigError(f"{origin}: {address!r} can't be repeated, since no number ends it.")
    return f"{match[1]}{int(match[2], 16) + index:0{len(match[2])}x}"


def _vf(address: str, number: int) -> str:
    bus, _, function = address.rpartition(":")
    slot, _, function = function.partition(".")
    position = int(slot, 16) * 8 + int(function) + FIRST_VF + number
    return f"{bus}:{position // 8:02x}.{position % 8}"


def _check_addresses(cards: tuple[Card, ...], *, origin: str) -> None:
    if not cards:
        raise ConfigError(f"{origin}: the node has no cards.")
    seen = Counter(address for card in cards for address in {card.address, *card.parents})
    for address, times in seen.items():
        if times > 1:
            raise ConfigError(f"{origin}: the address {address} is given more than once.")
