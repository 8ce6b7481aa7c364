"""The description of a simulated node: what it may say, and how it is refused."""
# ruff: noqa: E501 - a row of a table is one line

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.errors import ConfigError
from deviceplugin.simulator.node.description import load, names, parse

GOOD = """
models:
  serial:
    driver: serial
    pools: {ports: 4}
    types:
    - {id: serial-1, name: One, takes: {ports: 1}}
cards:
- {model: serial, address: serial0}
"""


def with_change(path: str, value: object) -> str:
    """The good description with one thing changed; a path is dotted."""
    raw: Any = yaml.safe_load(GOOD)
    *way, last = path.split(".")
    at = raw
    for key in way:
        at = at[int(key) if isinstance(at, list) else key]
    at[int(last) if isinstance(at, list) else last] = value
    return yaml.safe_dump(raw)


def test_the_package_has_nodes_of_every_kind() -> None:
    assert names() == ["big", "intel-gvtg", "nvidia-a2", "nvidia-t4", "s390", "samples"]


@pytest.mark.parametrize("name", names())
def test_every_node_of_the_package_is_valid(name: str) -> None:
    node = load(name)
    assert node.cards
    assert parse(node.source, origin=name) == node


def test_a_file_of_ones_own_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert list(load(path).card_of) == ["serial0"]


def test_a_type_that_never_fits_is_not_offered() -> None:
    (card,) = load("intel-gvtg").cards
    assert list(card.model.offered) == ["i915-GVTg_V5_8", "i915-GVTg_V5_4", "i915-GVTg_V5_2"]


def test_virtual_functions_are_the_parents_of_their_card() -> None:
    (card,) = load("nvidia-a2").cards
    assert len(card.parents) == 16
    assert card.parents[:5] == (
        "0000:41:00.4",
        "0000:41:00.5",
        "0000:41:00.6",
        "0000:41:00.7",
        "0000:41:01.0",
    )


def test_repeated_cards_count_up() -> None:
    assert [card.address for card in load("big").cards[:5]] == [
        "0000:10:00.0",
        "0000:11:00.0",
        "0000:12:00.0",
        "0000:13:00.0",
        "0000:90:00.0",
    ]
    subchannels = [card.address for card in load("s390").cards[1:]]
    assert len(subchannels) == 200
    assert subchannels[10] == "0.0.010a"
    assert subchannels[-1] == "0.0.01c7"


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ("model", {}, "the key 'model' is unknown; the nearest known one is 'models'"),
        ("models.serial.drivers", "x", "the key 'drivers' in models[serial] is unknown; the nearest known one is 'driver'"),
        ("models.serial.types.0.take", {}, "the key 'take' in models[serial].types[0] is unknown; the nearest known one is 'takes'"),
        ("models.serial.attributes", {"a": {"acces": "rw"}}, "'acces' in models[serial].attributes[a] is unknown"),
        ("cards.0.adress", "x", "nearest known one is 'address'"),
        ("cards.0.address", 1.5, "expected `str`, got `float` at cards[0].address. Quote the address"),
        ("cards.0.address", "../x", "matching regex"),
        ("cards.0.model", "parallel", "of the unknown model 'parallel' (models: serial)"),
        ("cards.0.repeat", 0, "`int` >= 1"),
        ("cards.0.numa", 1, "not on a PCI bus"),
        ("cards", [], "has no cards"),
        ("cards", None, "expected `array`, got `null`"),
        ("cards", [{"model": "serial", "address": "a"}, {"model": "serial", "address": "a"}], "address a is given more than once"),
        ("cards", [{"model": "serial", "address": "serial", "repeat": 2}], "no number ends it"),
        ("models.serial.pools.ports", -1, "`int` >= 0"),
        ("models.serial.pools.ports", "many", "expected `int`, got `str`"),
        ("models.serial.types.0.takes", {"prots": 1}, "takes from the unknown pool 'prots' (pools: ports)"),
        ("models.serial.types.0.takes", {}, "nothing limits the type 'serial-1'"),
        ("models.serial.types.0.id", "a/b", "matching regex"),
        ("models.serial.types", [], "has no types"),
        ("models.serial.types", [{"id": "a", "max": 1}, {"id": "a", "max": 1}], "has the type 'a' more than once"),
        ("models.serial.vfs", 4, "only a model on the bus 'pci'"),
        ("models.serial.bus", "pci", "'serial0' is not a PCI address"),
        ("models.serial.mixes", "all", "invalid enum value"),
        ("models.serial.attributes", {"remove": "rw"}, "would hide a file"),
        ("models.serial.attributes", {"../x": "rw"}, "matching regex"),
    ],
)  # fmt: skip
def test_a_description_that_makes_no_sense_is_refused_in_a_sentence(
    path: str, value: object, says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(with_change(path, value), origin="mine.yaml")
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert says in message
    assert message.endswith((".", ")."))
    assert "\n" not in message


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("# nothing\n", "is empty"),
        ("{", "not valid YAML"),
        ("a: b: c", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("!!python/object:os.system {}", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        ("just words", "expected `object`, got `str`"),
        ("[]", "expected `object`, got `array`"),
        ("1: 2", "the key 1 is unknown"),
        ("&a {models: *a, cards: *a}", "mine.yaml"),
    ],
)
def test_what_is_no_description_is_refused(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, origin="mine.yaml")
    assert says in str(caught.value)


def test_a_file_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no node 'nosuch': neither a file nor one of big, "):
        load("nosuch")
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(binary)
    with pytest.raises(ConfigError, match="can't be read"):
        load(tmp_path)


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
_PLACES = [
    "models", "models.serial", "models.serial.types", "models.serial.types.0", "models.serial.types.0.takes",
    "models.serial.pools", "models.serial.attributes", "models.serial.instances", "cards", "cards.0",
    "cards.0.address", "cards.0.repeat", "first_group",
]  # fmt: skip


@given(place=st.sampled_from(_PLACES), value=_VALUES)
def test_whatever_is_written_is_read_or_refused(place: str, value: object) -> None:
    with suppress(ConfigError):
        assert parse(with_change(place, value), origin="mine.yaml").cards
