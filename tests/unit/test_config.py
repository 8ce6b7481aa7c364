"""The configuration file: what it says, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin import config
from deviceplugin.errors import ConfigError
from deviceplugin.inventory.resources import Adoption, Discovery, Placement, Resource
from deviceplugin.inventory.selectors import ParentFilter, ParentSelector
from deviceplugin.settings import Config, ReclaimSettings

FROM_THE_DESIGN = """
version: v1
discovery:                      # which types become resources of their own
  domain: vfio.dev              # vfio.dev/<type>
  name: id                      # or: name (GRID T4-1Q -> GRID_T4-1Q, as KubeVirt's users write it)
  include: ["*"]
  exclude: []
resources:                      # named ones, beside the discovered
- name: nvidia.com/GRID_T4-1Q
  types: [nvidia-222, "GRID T4-2Q"]      # in order of preference, by ID or name
  parents: {}                   # optional selectors: address globs, driver, NUMA node
  placement: pack               # or spread
  max: 8                        # quota on this node
  attributes: {nvidia/vgpu_params: "frame_rate_limiter=0"}   # written after create, in this order
reclaim: {enabled: true, grace: 10s, interval: 5s}
"""


def load(directory: Path, text: str) -> Config:
    path = directory / "config.yaml"
    path.write_text(text, "utf-8")
    return config.load(path)


def with_change(path: str, value: object) -> Any:
    """The design's example with one thing changed; a path is dotted, numbers are positions."""
    raw: Any = yaml.safe_load(FROM_THE_DESIGN)
    *way, last = path.split(".")
    at = raw
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at.setdefault(key, {})
    at[last] = value
    return raw


def test_the_designs_example_is_understood(tmp_path: Path) -> None:
    assert load(tmp_path, FROM_THE_DESIGN) == Config(
        discovery=Discovery(domain="vfio.dev", by_name=False, include=("*",), exclude=()),
        resources=(
            Resource(
                name="nvidia.com/GRID_T4-1Q",
                types=("nvidia-222", "GRID T4-2Q"),
                parents=ParentSelector(),
                placement=Placement.PACK,
                max=8,
                attributes=(("nvidia/vgpu_params", "frame_rate_limiter=0"),),
            ),
        ),
        reclaim=ReclaimSettings(enabled=True, grace=10.0, interval=5.0),
    )


def test_a_file_that_says_no_more_than_its_version_changes_nothing(tmp_path: Path) -> None:
    assert load(tmp_path, "version: v1\n") == Config()


def test_selectors_and_names_arrive_where_they_belong(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "version: v1\n"
        "discovery: {name: name, domain: example.org, exclude: ['*C']}\n"
        "resources:\n"
        "- name: a/b\n"
        "  types: ['*Q']\n  placement: spread\n  max: null\n  maxPerCard: 3\n  mixed: false\n"
        "  parents:\n    addresses: ['0000:3b:*']\n    drivers: [nvidia]\n"
        "    numaNodes: [0, 1]\n    pci: ['10de:*']\n"
        "    exclude: {addresses: ['0000:3b:00.4'], pci: ['10de:25b6']}\n"
        "  attributes: {second: '2', first: '1'}\n",
    )
    assert loaded.discovery == Discovery(domain="example.org", by_name=True, exclude=("*C",))
    (resource,) = loaded.resources
    assert resource.parents == ParentSelector(
        addresses=("0000:3b:*",),
        drivers=("nvidia",),
        numa_nodes=(0, 1),
        pci=("10de:*",),
        exclude=ParentFilter(addresses=("0000:3b:00.4",), pci=("10de:25b6",)),
    )
    assert (resource.placement, resource.max) == (Placement.SPREAD, None)
    assert (resource.max_per_card, resource.mixed, resource.adopts) == (3, False, None)
    assert resource.attributes == (("second", "2"), ("first", "1"))


@pytest.mark.parametrize(
    ("uuid", "said"),
    [
        ("nonsense", "'nonsense' is not a UUID"),
        ("6D646576-aa02-8002-8000-6fde7755db27", "bears this plugin's own mark"),
    ],
)
def test_a_uuid_that_nobody_else_can_have_made_is_refused(tmp_path: Path, uuid: str, said: str) -> None:
    text = f"version: v1\nresources:\n- name: a/b\n  types: [c]\n  adoptExisting:\n    uuids:\n    - {uuid}\n"
    with pytest.raises(ConfigError, match=rf"config.yaml:7: .*{said}"):
        load(tmp_path, text)


def test_what_is_adopted_is_told_by_type_parent_and_uuid(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "version: v1\n"
        "resources:\n"
        "- {name: a/all, types: ['*'], adoptExisting: {}}\n"
        "- name: a/some\n"
        "  types: ['*']\n"
        "  adoptExisting:\n"
        "    types: [vfio_ap-passthrough]\n"
        "    parents: {drivers: [vfio_ap]}\n"
        "    uuids: [0F1E2D3C-4B5A-6978-8796-A5B4C3D2E1F0]\n",
    )
    every, some = loaded.resources
    assert every.adopts == Adoption()
    assert some.adopts == Adoption(
        types=("vfio_ap-passthrough",),
        parents=ParentSelector(drivers=("vfio_ap",)),
        uuids=frozenset({"0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"}),
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10s", 10.0), ("500ms", 0.5), ("1m", 60.0), ("1.5h", 5400.0), ("0.5s", 0.5), ("999999h", 3599996400.0)],
)
def test_durations_are_read_with_their_unit(tmp_path: Path, text: str, seconds: float) -> None:
    assert load(tmp_path, f"version: v1\nreclaim: {{grace: {text}}}\n").reclaim.grace == seconds


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("reclaim.grace", "10", "'10' is not a duration of at least 0.5 s"),
        ("reclaim.grace", "10 s", "is not a duration"),
        ("reclaim.grace", "-1s", "is not a duration"),
        ("reclaim.grace", "1e3s", "is not a duration"),
        ("reclaim.grace", "499ms", "at least 0.5 s"),
        ("reclaim.grace", "\u0661s", "is not a duration"),
        ("reclaim.grace", "1s\n", "is not a duration"),
        ("reclaim.interval", "99ms", "at least 0.1 s"),
        ("reclaim.interval", "", "is not a duration"),
        ("discovery.domain", "Vfio.dev", "needs a lower-case domain"),
        ("discovery.domain", "kubernetes.io", "kubernetes.io"),
        ("discovery.domain", "", "needs a lower-case domain"),
        ("discovery.domain", "vfio.dev/", "exactly one '/'"),
        ("resources.0.name", "nvidia.com", "exactly one '/'"),
        ("resources.0.name", "requests.nvidia.com/a", "requests."),
        ("resources.0.attributes", {"remove": "1"}, "'remove' is the kernel's own"),
        ("resources.0.attributes", {"uevent": "add"}, "'uevent' is the kernel's own"),
        ("resources.0.attributes", {"/etc/passwd": "1"}, "is not an attribute"),
        ("resources.0.attributes", {"a": "1", "../remove": "1"}, "is not an attribute"),
        ("resources.0.attributes", {"a": "1", "a/../remove": "1"}, "is not an attribute"),
        ("resources.0.attributes", {"a": "1", "./remove": "1"}, "is not an attribute"),
        ("resources.0.attributes", {"a": "1", "b[0]": "1"}, "is not an attribute"),
        ("resources.0.attributes", {"a": "1", "b": "\0"}, "has a NUL byte"),
    ],
)
def test_what_the_form_does_not_forbid_is_refused_with_its_line(
    tmp_path: Path, path: str, value: object, said: str
) -> None:
    # One key a line, so that a line says which key is meant.
    text = yaml.safe_dump(with_change(path, value), sort_keys=False, default_flow_style=False)
    key = list(value)[-1] if isinstance(value, dict) else path.rpartition(".")[2]
    line = max(number for number, row in enumerate(text.splitlines(), 1) if row.strip(" -'").startswith(key))
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert said in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path}/config.yaml:{line}: ")


def test_a_resource_that_is_there_twice_is_refused_at_the_second(tmp_path: Path) -> None:
    text = "version: v1\nresources:\n- {name: a/b, types: [x]}\n- {name: a/b, types: [y]}\n"
    with pytest.raises(ConfigError, match=r"config\.yaml:4: the resource 'a/b' is there twice"):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("other", "variable"),
    [
        ("a.b/x_y", "MDEV_A_B_X_Y_SYSFSDEVS"),
        ("a.b/X.Y", "MDEV_A_B_X_Y_SYSFSDEVS"),
        ("a.b/x-y", "MDEV_A_B_X_Y_SYSFSDEVS"),
        ("a/b.x.y", "MDEV_A_B_X_Y_SYSFSDEVS"),
        ("pci.resource.a.b/x.y", None),
        ("a.b/x.y.z", None),
    ],
)
def test_resources_whose_variables_are_the_same_are_refused_by_name(
    tmp_path: Path, other: str, variable: str | None
) -> None:
    resources = "".join(f"- {{name: {name}, types: [t]}}\n" for name in ("c/first", "a.b/x.y", other))
    text = f"version: v1\nresources:\n{resources}"
    if variable is None:
        assert len(load(tmp_path, text).resources) == 3
        return
    with pytest.raises(ConfigError) as refused:
        load(tmp_path, text)
    assert f":5: the resource names '{other}' and 'a.b/x.y' become the same variable" in str(refused.value)
    assert variable in str(refused.value)


def test_a_resource_whose_variable_is_kubevirts_of_another_is_refused(tmp_path: Path) -> None:
    names = ("a.b/c-uuids", "a.b/c_uuids", "pci.resource.a.b/c")
    first, second, third = (f"- {{name: {name}, types: [t]}}\n" for name in names)
    with pytest.raises(ConfigError, match="same variable in a container, MDEV_PCI_RESOURCE_A_B_C_UUIDS"):
        load(tmp_path, f"version: v1\nresources:\n{second}{third}")
    assert len(load(tmp_path, f"version: v1\nresources:\n{first}{third}").resources) == 2


def test_attributes_can_be_a_list_where_keys_would_be_sorted(tmp_path: Path) -> None:
    content = with_change(
        "resources.0.attributes",
        [{"name": "second", "value": "2"}, {"name": "first", "value": "1"}, {"name": "second", "value": "3"}],
    )
    (resource,) = load(tmp_path, json.dumps(content)).resources
    assert resource.attributes == (("second", "2"), ("first", "1"), ("second", "3"))


def test_a_bad_attribute_in_a_list_is_refused_with_its_line(tmp_path: Path) -> None:
    lines = (
        "version: v1",
        "resources:",
        "- name: a/b",
        "  types: [c]",
        "  attributes:",
        "  - {name: good, value: '1'}",
        "  - {name: ../remove, value: '1'}",
    )
    with pytest.raises(ConfigError, match=r"config.yaml:7: '../remove' is not an attribute"):
        load(tmp_path, "\n".join(lines))


# The schema.


def accepted_by_schema(content: object) -> bool:
    validator = jsonschema.Draft202012Validator(config.schema())
    return bool(validator.is_valid(content))


def accepted_by_load(directory: Path, content: object) -> bool:
    try:
        load(directory, json.dumps(content))
    except ConfigError:
        return False
    return True


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(config.schema())


def test_the_schema_explains_every_key_of_the_sections() -> None:
    definitions: Any = config.schema()["$defs"]
    for name in ("DiscoverySection", "ResourceSection", "ReclaimSection"):
        for key, entry in definitions[name]["properties"].items():
            assert key == "parents" or "description" in entry, f"{name}.{key}"


@pytest.mark.parametrize(
    "content",
    [
        {"version": "v1"},
        {},
        [],
        "version: v1",
        {"version": "v2"},
        {"version": 1},
        {"version": "v1", "more": 1},
        {"version": "v1", "resources": None},
        {"version": "v1", "resources": []},
        {"version": "v1", "resources": [{}]},
        {"version": "v1", "handover": {"cdi": False}},
        {"version": "v1", "handover": {"cdi": True}},
        {"version": "v1", "handover": {"cdi": 0}},
        with_change("resources.0.max", 0),
        with_change("resources.0.max", None),
        with_change("resources.0.max", 16384),
        with_change("resources.0.max", 16385),
        with_change("resources.0.max", -1),
        with_change("resources.0.max", 1.5),
        with_change("resources.0.max", True),
        with_change("resources.0.max", "8"),
        with_change("resources.0.types", []),
        with_change("resources.0.types", [""]),
        with_change("resources.0.types", ["x" * 256]),
        with_change("resources.0.types", ["x" * 257]),
        with_change("resources.0.types", "nvidia-1"),
        with_change("resources.0.placement", "spread"),
        with_change("resources.0.placement", "Spread"),
        with_change("resources.0.attributes", {"a": "1"}),
        with_change("resources.0.attributes", {"a": 1}),
        with_change("resources.0.attributes", {"remove": "1"}),
        with_change("resources.0.attributes", {"../remove": "1"}),
        with_change("resources.0.attributes", []),
        with_change("resources.0.attributes", [{"name": "b", "value": "2"}, {"name": "a", "value": "1"}]),
        with_change("resources.0.attributes", [{"name": "remove", "value": "1"}]),
        with_change("resources.0.attributes", [{"name": "a"}]),
        with_change("resources.0.attributes", [{"name": "a", "value": 1}]),
        with_change("resources.0.attributes", [{"a": "1"}]),
        with_change("resources.0.attributes", "a"),
        with_change("resources.0.parents", {"addresses": ["*"], "drivers": ["*"], "numaNodes": [0]}),
        with_change("resources.0.parents", {"numaNodes": [-1]}),
        with_change("resources.0.parents", {"numaNodes": [4095]}),
        with_change("resources.0.parents", {"numaNodes": ["0"]}),
        with_change("resources.0.parents", {"address": "*"}),
        with_change("resources.0.parents", None),
        with_change("resources.0.name", "a"),
        with_change("resources.0.name", "A/b"),
        with_change("resources.0.name", "a/" + "b" * 64),
        with_change("discovery.domain", "Vfio.dev"),
        with_change("discovery.name", "name"),
        with_change("discovery.name", "uuid"),
        with_change("discovery.include", []),
        with_change("discovery.include", ["*", 5]),
        with_change("reclaim.enabled", False),
        with_change("reclaim.enabled", "yes"),
        with_change("reclaim.grace", "500ms"),
        with_change("reclaim.grace", 10),
        with_change("reclaim.grace", "10"),
        with_change("reclaim.grace", "soon"),
        with_change("reclaim.interval", "1m"),
        with_change("reclaim.interval", "-1s"),
    ],
    ids=lambda content: json.dumps(content)[-60:],
)
def test_the_schema_accepts_what_is_loaded_and_nothing_else(tmp_path: Path, content: object) -> None:
    assert accepted_by_schema(content) == accepted_by_load(tmp_path, content)


@given(
    st.sampled_from(sorted(with_change("version", "v1"))),
    st.none() | st.integers() | st.text() | st.booleans(),
)
def test_a_section_of_a_wrong_kind_is_refused_by_the_schema_too(section: str, value: object) -> None:
    assert not accepted_by_schema({"version": "v1", section: value}) or (section, value) == ("version", "v1")
