"""Which type and which card the devices of a pod get, seen by the pod and the administrator."""

from __future__ import annotations

import asyncio
import errno
import uuid

import pytest

from deviceplugin.simulator.kubelet.kubelet import AdmissionError, Pod
from tests.component.conftest import Begin
from tests.component.test_seen_from_outside import becomes, started, value
from tests.component.world import NEVER, PATIENCE, World

RESOURCE = "example.com/gpu"
CARDS = """
models:
  exclusive:          # one type at a time: one large, or two small
    driver: gpu
    bus: pci
    pools: {memory: 2}
    mixes: none
    types:
    - {id: large, name: GPU Large, takes: {memory: 2}}
    - {id: small, name: GPU Small, takes: {memory: 1}}
  only-large:
    driver: gpu
    bus: pci
    vendor: 0x10de
    device: 0x25b6
    pools: {memory: 2}
    types: [{id: large, name: GPU Large, takes: {memory: 2}}]
cards:
- {model: exclusive, address: "0000:01:00.0"}
- {model: only-large, address: "0000:02:00.0"}
"""
FIRST, SECOND = "0000:01:00.0", "0000:02:00.0"


def choice(**more: object) -> str:
    options = "".join(f", {key}: {value}" for key, value in more.items())
    return (
        "discovery: {include: []}\n"
        f"resources: [{{name: {RESOURCE}, types: [large, small]{options}}}]\n{NEVER}"
    )


async def ready(world: World, number: int) -> None:
    await world.kubelet.wait_for(lambda: world.kubelet.allocatable(RESOURCE) == number)


def became(world: World, pod: Pod) -> list[tuple[str, str]]:
    """The type and parent of each of a pod's devices."""
    devices = [world.devices[device] for device in world.ids(pod)]
    return sorted((device.type, device.parent) for device in devices)


async def test_the_preferred_type_is_taken_while_there_is_room_and_everybody_is_told(begin: Begin) -> None:
    world = await begin(text=CARDS, config=choice(parents="{addresses: ['0000:01:*']}"))
    await ready(world, 1)
    pod = await world.run_pod({RESOURCE: 1})
    assert became(world, pod) == [("large", FIRST)]
    answer = world.handed(pod)
    assert answer.envs["MDEV_EXAMPLE_COM_GPU_TYPES"] == "large"
    assert list(answer.annotations.values()) == [f"large on {FIRST}"]
    (told,) = world.logged("device created")
    assert (told["type"], told["placement"]) == (
        "large",
        "choice 1 of 2, pack: a card with no devices, the only place",
    )


async def test_the_next_choice_is_taken_where_the_first_has_no_room(begin: Begin) -> None:
    world = await begin(text=CARDS, config=choice(parents="{addresses: ['0000:01:*']}"))
    await ready(world, 1)
    world.create(FIRST, "small", str(uuid.uuid4()))
    assert became(world, await world.run_pod({RESOURCE: 1})) == [("small", FIRST)]


async def test_several_devices_are_of_one_type_where_one_has_room_for_all(begin: Begin) -> None:
    world = await begin(text=CARDS, config=choice())
    await ready(world, 2)
    assert became(world, await world.run_pod({RESOURCE: 2})) == [("large", FIRST), ("large", SECOND)]


async def test_where_no_type_has_room_for_all_a_container_gets_several(begin: Begin) -> None:
    world = await begin(text=CARDS, config=choice())
    await ready(world, 2)
    world.create(FIRST, "small", str(uuid.uuid4()))
    assert became(world, await world.run_pod({RESOURCE: 2})) == [("large", SECOND), ("small", FIRST)]


async def test_several_types_in_one_container_can_be_forbidden(begin: Begin) -> None:
    world = await begin(text=CARDS, config=choice(mixed="false"), agent=False)
    world.create(FIRST, "small", str(uuid.uuid4()))
    await world.start_agent()
    await ready(world, 2)
    with pytest.raises(AdmissionError, match="of none of large, small do 2 fit, and 'mixed: false' forbids"):
        await world.run_pod({RESOURCE: 2})
    assert all(not device.uuid.startswith("6d646576") for device in world.devices.values())
    assert became(world, await world.run_pod({RESOURCE: 1}, name="alone")) == [("large", SECOND)]


async def test_a_card_that_refuses_leads_to_another_way_even_if_what_was_made_has_to_go(begin: Begin) -> None:
    world = await begin(text=CARDS, config=choice())
    await ready(world, 2)
    world.node.fault("fail-create", parent=SECOND, errno=errno.EIO)
    # The first becomes a large one on the first card; the second then has no place but if that goes again.
    assert became(world, await world.run_pod({RESOURCE: 2})) == [("small", FIRST), ("small", FIRST)]
    assert len(world.devices) == 2


async def test_parents_are_told_by_their_pci_ids_and_left_out_by_them(begin: Begin) -> None:
    config = f"""
discovery: {{include: []}}
resources:
- {{name: example.com/these, types: ["*"], parents: {{pci: ["10de:25b6"]}}}}
- {{name: example.com/others, types: ["*"], parents: {{exclude: {{pci: ["10de:*"]}}}}}}
{NEVER}"""
    world = await begin(text=CARDS, config=config)
    ready = {f"example.com/{name}": 1 for name in ("these", "others")}
    await world.until(lambda: world.allocatable(*ready) == ready)
    assert became(world, await world.run_pod({"example.com/these": 1}))[0][1] == SECOND
    assert became(world, await world.run_pod({"example.com/others": 1}, name="b"))[0][1] == FIRST


POOLS = """
models:
  pool:
    driver: gpu
    pools: {memory: 8}
    types:
    - {id: small, takes: {memory: 1}}
    - {id: large, takes: {memory: 4}}
cards:
- {model: pool, address: card-0, repeat: 3}
"""


async def test_a_quota_per_card_leaves_the_rest_of_each_card_to_others(begin: Begin) -> None:
    config = f"resources: [{{name: {RESOURCE}, types: [small], maxPerCard: 2}}]\n{NEVER}"
    world = await begin(text=POOLS, config=config)
    await ready(world, 6)
    pods = [await world.run_pod({RESOURCE: number}, name=f"of-{number}") for number in (3, 1, 2)]
    cards = [parent for pod in pods for _, parent in became(world, pod)]
    assert [cards.count(card) for card in sorted(set(cards))] == [2, 2, 2]
    await world.offers(small=6 * 3)


async def test_packing_and_spreading_choose_cards_as_they_say(begin: Begin) -> None:
    config = f"""
resources:
- {{name: example.com/pack, types: [small]}}
- {{name: example.com/spread, types: [small], placement: spread}}
{NEVER}"""
    world = await begin(text=POOLS, config=config)
    ready = {f"example.com/{name}": 24 for name in ("pack", "spread")}
    await world.until(lambda: world.allocatable(*ready) == ready)
    pack = await world.run_pod({"example.com/pack": 3}, name="pack")
    ((_, begun),) = set(became(world, pack))
    again = await world.run_pod({"example.com/pack": 2}, name="again")
    assert set(became(world, again)) == {("small", begun)}
    spread = await world.run_pod({"example.com/spread": 3}, name="spread")
    assert len(set(became(world, spread))) == 3


async def pools_offered(begin: Begin) -> tuple[World, int]:
    """A node of three pooled cards, offered, and the agent's port; what empty cards are like is learned."""
    world, port = await started(begin, text=POOLS, config=NEVER)
    await world.offers(small=24, large=6)
    looks = 3 * 3  # The first, and two more once the agent listens to events, of each card.
    async with asyncio.timeout(PATIENCE):
        while True:
            page = await becomes(port, "/metrics", 200)
            if value(page, "mdev_scan_duration_seconds_count") >= looks:
                return world, port
            await asyncio.sleep(0.02)


async def foretold(port: int, at_least: int) -> tuple[float, float]:
    """How many counts were foretold rightly and wrongly, once there are so many."""
    async with asyncio.timeout(PATIENCE):
        while True:
            page = await becomes(port, "/metrics", 200)
            right, wrong = (
                value(page, "mdev_count_predictions_total", result=result) for result in ("success", "error")
            )
            if right + wrong >= at_least:
                return right, wrong
            await asyncio.sleep(0.02)


async def test_packing_spares_the_card_whose_last_large_device_it_would_cost(begin: Begin) -> None:
    world, port = await pools_offered(begin)
    # Learned on the first card: four small ones take one large.
    for number in range(4):
        world.create("card-0", "small", str(uuid.uuid4()))
        await foretold(port, 1 + 2 * number)
    # 4 of 8 are left there, and 3 on the second card: one more costs a large one here and none there.
    for _ in range(5):
        world.create("card-1", "small", str(uuid.uuid4()))
    await world.offers(small=15, large=3)
    assert became(world, await world.run_pod("small")) == [("small", "card-1")]


async def test_what_is_learned_of_a_pool_foretells_its_counts(begin: Begin) -> None:
    world, port = await pools_offered(begin)
    # What a type takes of itself is known; what of the other, from its first device on.
    for kind, counts in (("small", 1), ("large", 2), ("small", 4), ("large", 6)):
        await world.run_pod(kind, name=f"{kind}-{counts}")
        assert await foretold(port, counts) == (counts, 0)
    page = await becomes(port, "/metrics", 200)
    for kind in ("small", "large"):
        assert value(page, "mdev_devices_made_total", resource=f"vfio.dev/{kind}", type=kind) == 2
    assert not world.logged("and the kernel says")
