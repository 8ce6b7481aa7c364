"""Whatever the configuration file holds: it is understood, or refused with one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from deviceplugin import config
from deviceplugin.errors import ConfigError
from deviceplugin.inventory.resources import name_problem
from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot
from tests.fuzz.examples import fuzzed, json_values, mutated, texts

VALID = (
    b"version: v1\n",
    b"""version: v1
discovery: {domain: vfio.dev, name: id, include: ["*"], exclude: [a]}
resources:
- name: nvidia.com/GRID_T4-1Q
  types: [nvidia-230, "GRID T4-2Q"]
  parents: {addresses: ["0000:3b:*"], drivers: [nvidia], numaNodes: [0]}
  placement: pack
  max: 8
  attributes: {nvidia/vgpu_params: frame_rate_limiter=0}
- name: a.b/c
  types: [x]
  attributes: [{name: one, value: "1"}]
reclaim: {enabled: true, grace: 10s, interval: 5s}
handover: {cdi: false}
""",
)
KEYS = (
    *("version", "discovery", "resources", "reclaim", "handover", "domain", "name", "include", "exclude"),
    *("types", "parents", "addresses", "drivers", "numaNodes", "placement", "max", "attributes", "value"),
    *("enabled", "grace", "interval", "cdi"),
)
VALUES = (
    "v1",
    "vfio.dev",
    "a.b/c",
    "id",
    "name",
    "pack",
    "spread",
    "*",
    "10s",
    "500ms",
    "1h",
    "nvidia/x",
    0,
    1,
    True,
)
documents: st.SearchStrategy[Any] = st.recursive(
    st.sampled_from(VALUES) | json_values,
    lambda inner: st.dictionaries(st.sampled_from(KEYS), inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=20,
)
TYPE = ParentType("nvidia-1", "GRID T4-1Q", "vfio-pci", "", 1)
NODE = Snapshot((Parent("0000:3b:00.0", "0000:3b:00.0", "nvidia", 0, None, (TYPE,), ()),))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "config.yaml"


def load(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    try:
        loaded = config.load(file)
    except ConfigError as error:
        assert str(file) in str(error)
        assert "Traceback" not in str(error)
        return
    # What was let through can be worked with, and leads nowhere.
    for resource in loaded.resources:
        assert name_problem(resource.name) is None
        resource.choices(NODE)
        resource.parents.allows(NODE.parents[0])
        for name, value in resource.attributes:
            assert not any(part in {"", ".", ".."} for part in name.split("/"))
            assert re.fullmatch(r"[-\w./]+", name, re.ASCII)
            (name + value).encode()
    assert loaded.reclaim.grace >= config.MIN_GRACE
    assert loaded.reclaim.interval >= config.MIN_INTERVAL
    loaded.discovery.discover(NODE)


@fuzzed
@given(st.binary(max_size=400))
@example(b"\xff\xfe")
@example(b"version: v1\nresources: &a [*a]\n")
@example(b"a: " + b"[" * 100_000)
def test_any_bytes(file: Path, content: bytes) -> None:
    load(file, content)


@fuzzed
@given(st.text(alphabet="version: v1\n-[]{}&*!|>?#'\"%@`,\t\x85abc019.~<=", max_size=120))
@example("version: v1\nreclaim: !!timestamp 9999-99-99\n")
@example("version: v1\nresources: !!set {a, b}\n")
@example("? [a, b]\n: c\n")
@example("version: 1e\n.inf: .nan\n")
def test_text_that_looks_like_yaml(file: Path, content: str) -> None:
    load(file, content.encode())


@fuzzed
@given(mutated(VALID))
def test_a_configuration_with_pieces_that_are_wrong(file: Path, content: bytes) -> None:
    load(file, content)


@fuzzed
@given(st.fixed_dictionaries({"version": st.just("v1")}, optional=dict.fromkeys(KEYS[1:5], documents)))
def test_known_keys_with_whatever_values(file: Path, content: dict[str, Any]) -> None:
    load(file, yaml.safe_dump(content, allow_unicode=True).encode("utf-8", "surrogatepass"))


@fuzzed
@given(texts, texts)
@example("a/../../b", "x")
@example("a\n", "x")
@example("../remove", "1")
def test_attributes_lead_nowhere_else(file: Path, name: str, value: str) -> None:
    section = {"name": "a.b/c", "types": ["x"], "attributes": {name: value}}
    text = yaml.safe_dump({"version": "v1", "resources": [section]})
    load(file, text.encode("utf-8", "surrogatepass"))
