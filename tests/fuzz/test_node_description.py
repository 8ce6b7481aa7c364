"""Whatever a node's description holds: it is understood, or refused with a sentence; and none leads out of
the simulated node's directory."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin.errors import ConfigError
from deviceplugin.simulator.node.description import load, names, parse
from tests.fuzz.examples import fuzzed, json_values, mutated, texts

NODES = resources.files("deviceplugin.simulator.node") / "nodes"
VALID = tuple((NODES / f"{name}.yaml").read_bytes() for name in names())
KEYS = (
    *("models", "cards", "description", "first_group", "driver", "types", "bus", "api", "vendor", "device"),
    *("vfs", "instances", "pools", "mixes", "full", "attributes", "id", "name", "takes", "max", "access"),
    *("initial", "chops", "model", "address", "numa", "repeat"),
)
SMALL: dict[str, Any] = {
    "models": {"m": {"driver": "d", "types": [{"id": "t", "max": 1, "attributes": {"a/b": "rw"}}]}},
    "cards": [{"model": "m", "address": "p"}],
}
documents: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(["m", "t", "pci", "rw", 1, 0]) | json_values,
    lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=5) | st.lists(inner, max_size=3),
    max_leaves=15,
)


def understood(text: str) -> None:
    try:
        node = parse(text, origin="node.yaml")
    except ConfigError as error:
        assert str(error).startswith("node.yaml: ")
        assert "Traceback" not in str(error)
        return
    assert node.cards
    for card in node.cards:
        paths = [card.address, *card.parents, card.model.driver, *card.model.offered]
        for type_id in card.model.offered:
            paths += card.model.device_attributes(type_id)
        for path in paths:
            assert path.isprintable()
            assert not path.startswith("/")
            assert ".." not in path.split("/")


@fuzzed
@given(st.text(max_size=200) | st.text(alphabet="models: cards\n-[]{}&*!|>'\"#abc019.~", max_size=120))
@example("a: &a [1]\nb: *a\n")
@example("cards: !!int five\n")
@example("[" * 50_000)
@example("models: !!python/object/apply:os.system [id]\n")
def test_any_text(text: str) -> None:
    understood(text)


@fuzzed
@given(mutated(VALID))
def test_a_description_with_pieces_that_are_wrong(content: bytes) -> None:
    understood(content.decode(errors="replace"))


@fuzzed
@given(st.dictionaries(st.sampled_from(KEYS[:4]), documents))
def test_known_keys_with_whatever_values(content: dict[str, Any]) -> None:
    understood(yaml.safe_dump({**SMALL, **content}, allow_unicode=True))


@fuzzed
@given(st.sampled_from(["driver", "id", "address", "attribute"]), texts)
@example("address", "p\n")
@example("attribute", "a/../../b")
@example("id", "../x")
def test_no_name_leads_elsewhere(where: str, name: str) -> None:
    kind = {"id": name if where == "id" else "t", "max": 1}
    kind["attributes"] = {name if where == "attribute" else "a": "rw"}
    model = {"driver": name if where == "driver" else "d", "types": [kind]}
    card = {"model": "m", "address": name if where == "address" else "p"}
    understood(yaml.safe_dump({"models": {"m": model}, "cards": [card]}))


@fuzzed
@given(content=st.binary(max_size=300))
def test_a_file_of_any_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    file = tmp_path_factory.getbasetemp() / "node.yaml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match="node"):
        load(file)


def test_a_file_without_end_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than 1 MiB"):
        load(Path("/dev/zero"))


def test_a_small_file_that_means_a_huge_one_is_refused() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    with pytest.raises(ConfigError, match="aliases are not allowed"):
        parse("\n".join(lines), origin="node.yaml")
