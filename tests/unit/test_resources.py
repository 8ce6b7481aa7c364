"""What pods can ask for: names, patterns, discovery."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deviceplugin.inventory.resources import Discovery, Resource, name_problem
from deviceplugin.inventory.selectors import ParentFilter, ParentSelector, matches
from deviceplugin.inventory.snapshot import Parent, ParentType, PciId, Snapshot


def kind(type_id: str, name: str = "") -> ParentType:
    return ParentType(id=type_id, name=name, api="vfio-pci", description="", available=1)


def parent(
    *types: ParentType, address: str = "mtty", card: str = "", driver: str = "", numa: int | None = None
) -> Parent:
    return Parent(address, card or address, driver, numa, None, types, ())


def node(*types: ParentType) -> Snapshot:
    return Snapshot((parent(*types),))


def kubelet_takes(name: str) -> bool:
    """``IsExtendedResourceName`` of Kubernetes (pkg/apis/core/v1/helper), word for word."""
    if "/" not in name or "kubernetes.io/" in name or name.startswith("requests."):
        return False
    prefix, *rest = f"requests.{name}".split("/")
    if len(rest) != 1:
        return False
    subdomain = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
    return (
        len(prefix) <= 253
        and re.fullmatch(subdomain, prefix, re.ASCII) is not None
        and len(rest[0]) <= 63
        and re.fullmatch(r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]", rest[0], re.ASCII) is not None
    )


@pytest.mark.parametrize(
    "name",
    [
        "vfio.dev/nvidia-11",
        "nvidia.com/GRID_T4-1Q",
        "a/b",
        "vfio.dev/" + "n" * 63,
        "vfio.dev/" + "n" * 64,
        "vfio.dev/",
        "/nvidia-11",
        "nvidia-11",
        "vfio.dev/a/b",
        "Vfio.dev/a",
        "vfio.dev/-a",
        "vfio.dev/a\n",
        "vfio..dev/a",
        "vfio.dev/ä",
        "kubernetes.io/a",
        "node.kubernetes.io/a",
        "mykubernetes.io/a",
        "kubernetes.io.vfio.dev/a",
        "requests.vfio.dev/a",
        "requests/a",
        "d" * 244 + "/a",
        "d" * 245 + "/a",
        "d" * 253 + "/a",
    ],
)
def test_a_resource_name_is_accepted_exactly_where_the_kubelet_takes_it(name: str) -> None:
    problem = name_problem(name)
    assert (problem is None) == kubelet_takes(name), problem or "accepted, and the kubelet would refuse it"


@given(st.from_regex(r"[a-zA-Z0-9./_-]{1,40}", fullmatch=True))
def test_any_text_is_judged_as_the_kubelet_does(name: str) -> None:
    assert (name_problem(name) is None) == kubelet_takes(name)


@given(st.text(max_size=30))
def test_a_refused_name_is_told_with_a_sentence_that_repeats_it(name: str) -> None:
    problem = name_problem(name)
    assert problem is None or repr(name) in problem


def test_a_type_is_meant_by_its_id_or_by_its_name() -> None:
    grid = kind("nvidia-222", "GRID T4-1Q")
    assert all(matches(pattern, grid) for pattern in ("nvidia-222", "GRID T4-1Q", "GRID_T4-1Q", "GRID*", "*"))
    assert not any(matches(pattern, grid) for pattern in ("nvidia-22", "nvidia-2222", "grid t4-1q", ""))


def test_a_type_without_a_name_is_not_meant_by_an_empty_pattern() -> None:
    assert not matches("", kind("mtty-1"))


def test_the_preferred_type_comes_first_however_many_patterns_mean_it() -> None:
    snapshot = node(kind("nvidia-1"), kind("nvidia-2"), kind("nvidia-3"))
    resource = Resource(name="a/b", types=("nvidia-3", "nvidia-*", "nvidia-1"))
    assert resource.choices(snapshot) == ("nvidia-3", "nvidia-1", "nvidia-2")


@pytest.mark.parametrize(
    ("selector", "allowed"),
    [
        (ParentSelector(), True),
        (ParentSelector(addresses=("0000:41:00.5",)), True),
        (ParentSelector(addresses=("0000:41:00.0",)), True),
        (ParentSelector(addresses=("0000:42:*",)), False),
        (ParentSelector(addresses=("0000:42:*", "0000:41:*")), True),
        (ParentSelector(drivers=("nvidia",)), True),
        (ParentSelector(drivers=("i915",)), False),
        (ParentSelector(numa_nodes=(1,)), True),
        (ParentSelector(numa_nodes=(0,)), False),
        (ParentSelector(addresses=("*",), drivers=("nvidia",), numa_nodes=(0,)), False),
    ],
)
def test_a_selector_allows_what_all_its_fields_allow(selector: ParentSelector, allowed: bool) -> None:
    vf = parent(address="0000:41:00.5", card="0000:41:00.0", driver="nvidia", numa=1)
    assert selector.allows(vf) is allowed


def test_a_parent_without_a_numa_node_is_on_none_that_is_asked_for() -> None:
    assert not ParentSelector(numa_nodes=(0,)).allows(parent())


def test_every_type_becomes_a_resource_of_its_own() -> None:
    found, problems = Discovery().discover(node(kind("mtty-1", "Single port serial"), kind("mtty-2")))
    assert [resource.name for resource in found] == ["vfio.dev/mtty-1", "vfio.dev/mtty-2"]
    assert problems == ()


def test_types_can_be_called_by_their_names() -> None:
    found, _ = Discovery(domain="nvidia.com", by_name=True).discover(
        node(kind("nvidia-222", "GRID T4-1Q"), kind("nvidia-223"))
    )
    assert [resource.name for resource in found] == ["nvidia.com/GRID_T4-1Q", "nvidia.com/nvidia-223"]


def test_types_of_one_name_make_one_resource() -> None:
    snapshot = node(kind("nvidia-1", "A"), kind("nvidia-2", "A"))
    (resource,), _ = Discovery(by_name=True).discover(snapshot)
    assert resource.choices(snapshot) == ("nvidia-1", "nvidia-2")


def test_what_is_excluded_or_not_included_is_not_offered() -> None:
    snapshot = node(kind("nvidia-1", "GRID A"), kind("nvidia-2", "GRID B"), kind("mtty-1"))
    found, problems = Discovery(include=("GRID*",), exclude=("nvidia-2",)).discover(snapshot)
    assert [resource.name for resource in found] == ["vfio.dev/nvidia-1"]
    assert problems == ()


def test_a_type_that_no_resource_can_be_called_after_is_told_and_takes_nothing_else_along() -> None:
    found, problems = Discovery().discover(node(kind("bad type"), kind("x" * 64), kind("mtty-1")))
    assert [resource.name for resource in found] == ["vfio.dev/mtty-1"]
    assert len(problems) == 2
    assert "'bad type'" in problems[0]


type_texts = st.text("ab_ *?[]!-1", min_size=1, max_size=5)


@given(st.dictionaries(type_texts, st.just("") | type_texts, min_size=1, max_size=6))
def test_a_resource_that_is_called_by_a_types_id_gives_out_that_type_and_no_other(
    types: dict[str, str],
) -> None:
    snapshot = node(*(kind(type_id, name) for type_id, name in types.items()))
    found, _ = Discovery().discover(snapshot)
    for resource in found:
        assert resource.choices(snapshot) == (resource.name.removeprefix("vfio.dev/"),)


def test_a_pci_id_reads_as_lspci_writes_it() -> None:
    assert str(PciId(0x10DE, 0x25B6)) == "10de:25b6"


def named(name: str, type_id: str = "nvidia-230") -> ParentType:
    return ParentType(type_id, name, "vfio-pci", "", 1)


@pytest.mark.parametrize("name", ["GRID T4-1Q", "NVIDIA T4-1Q", "T4-1Q"])
@pytest.mark.parametrize("pattern", ["GRID T4-1Q", "GRID_T4-1Q", "NVIDIA T4-1Q", "T4-1Q", "T4-*Q", "*T4-1Q"])
def test_a_types_name_is_known_in_every_generation_of_its_driver(name: str, pattern: str) -> None:
    assert matches(pattern, named(name))


def test_a_name_means_no_other_type() -> None:
    assert not matches("T4-1Q", named("GRID T4-1B"))
    assert not matches("T4-1Q", named("GRID T4-1Q extended"))
    assert not matches("GRID T4-1Q", named("NVIDIA A2-1Q"))
    assert not matches("GRID *", named("NVIDIA T4-1Q"))
    assert not matches("1Q", named("GRID T4-1Q"))


def card(address: str, *, pci: PciId | None = None, numa: int | None = None, of: str | None = None) -> Parent:
    return Parent(address, of or address, "nvidia", numa, pci, (), ())


A2, T4 = (
    card("0000:41:00.4", pci=PciId(0x10DE, 0x25B6), of="0000:41:00.0"),
    card("0000:3b:00.0", pci=PciId(0x10DE, 0x1EB8), numa=1),
)
MTTY = card("mtty")


@pytest.mark.parametrize(
    ("selector", "allowed"),
    [
        (ParentSelector(), {A2, T4, MTTY}),
        (ParentSelector(pci=("10de:25b6",)), {A2}),
        (ParentSelector(pci=("10de:*",)), {A2, T4}),
        (ParentSelector(pci=("*",)), {A2, T4}),
        (ParentSelector(exclude=ParentFilter(pci=("10de:*",))), {MTTY}),
        (ParentSelector(exclude=ParentFilter(addresses=("0000:41:00.0",))), {T4, MTTY}),
        (ParentSelector(pci=("10de:*",), exclude=ParentFilter(numa_nodes=(1,))), {A2}),
        (ParentSelector(exclude=ParentFilter(drivers=("nvidia",), numa_nodes=(1,))), {A2, MTTY}),
    ],
)
def test_parents_are_selected_and_excluded(selector: ParentSelector, allowed: set[Parent]) -> None:
    assert {parent for parent in (A2, T4, MTTY) if selector.allows(parent)} == allowed


def test_an_empty_exclusion_excludes_nothing() -> None:
    assert ParentSelector(exclude=ParentFilter()).allows(MTTY)


def test_each_pattern_that_means_no_parent_is_told() -> None:
    selector = ParentSelector(
        addresses=("mtty", "mdpy"),
        numa_nodes=(1, 7),
        pci=("8086:*",),
        exclude=ParentFilter(drivers=("i915",)),
    )
    assert list(selector.finds_nothing(Snapshot((A2, T4, MTTY)))) == [
        "no parent here matches its parents.addresses: mdpy",
        "no parent here matches its parents.numaNodes: 7",
        "no parent here matches its parents.pci: 8086:*",
        "no parent here matches its parents.exclude.drivers: i915",
    ]
