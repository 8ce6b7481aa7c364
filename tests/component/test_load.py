"""However many pods came and went, the agent is as it was; ``make test-load`` has a thousand of them."""

from __future__ import annotations

from tests.component.conftest import Begin
from tests.load.figures import table, what_grew
from tests.load.pods import QUICK, Load

TYPES = ("mtty-1", "mtty-2", "mdpy-hd", "mbochs-small", "mbochs-large")
LEAKING = """
import asyncio, os, threading
from deviceplugin.agent import Agent
allocate, kept = Agent.allocate, []
async def leaking(self, resource, ids):
    os.open(os.devnull, os.O_RDONLY)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    self._work.append(asyncio.create_task(asyncio.Event().wait()))
    kept.append(("x" * (1 << 21) + str(len(kept)), [object() for _ in range(3000)]))
    return await allocate(self, resource, ids)
Agent.allocate = leaking
"""
"""An agent that loses something of each kind with every device."""


async def test_an_agent_has_no_more_after_many_pods_than_after_a_few(begin: Begin) -> None:
    world = await begin(config=f"{QUICK}\nhandover: {{cdi: true}}", agent=False, kubelet=False)
    load = await Load(world, TYPES, alive=5, every=20).begin()
    await load.in_a_row(60)
    await load.at_once(20, "mbochs-small")
    print(table(load.rows))
    assert [row.pods for row in load.rows] == [0, 20, 40, 60, 80]
    assert what_grew(load.rows[1], load.rows[-1]) == []
    assert not world.devices
    assert not list(world.node.paths.cdi.iterdir())


async def test_what_an_agent_loses_is_named(begin: Begin) -> None:
    world = await begin(config=QUICK, agent=False, kubelet=False)
    load = Load(world, TYPES, alive=5, every=15, patience=0.5)
    await load.begin(lambda code: LEAKING + code)
    await load.in_a_row(30)
    named = {sentence.split(":")[0] for sentence in what_grew(load.rows[1], load.rows[-1])}
    # What comes and goes, such as the slots of lists on their way, may be counted at another moment too.
    assert named >= {
        *("MiB of RSS", "MiB of PSS", "MiB of malloc's heap", "Python's blocks"),
        *("file descriptors", "threads", "tasks", "agent.Agent._work"),
    }
