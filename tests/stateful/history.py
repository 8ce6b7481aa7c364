"""One history: a node, a kubelet and an agent, what happens to them, and what has to be true of it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import shutil
import signal
import struct
import tempfile
import time
import uuid as uuids
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deviceplugin.host import mdev
from deviceplugin.inventory import slots
from deviceplugin.simulator.kubelet.checkpointfile import Damage
from deviceplugin.simulator.kubelet.kubelet import AdmissionError, ContainerSpec, Pod, PodSpec, StartError
from deviceplugin.simulator.node.description import parse
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.vm import VirtualMachine
from tests.component.world import NODE_NAME, STOP_WITHIN, Stage
from tests.stateful.deeds import Reader
from tests.stateful.node import CONFIGURATIONS, NODE, PARENTS, TYPES, types_of
from tests.stateful.nursery import ForkedAgent, Nursery
from tests.stateful.points import Order, give
from tests.stateful.promises import Promises, Span

GRACE = 0.4
INTERVAL = 0.1
BACK_WITHIN = 8.0
"""Seconds until the kubelet listens to every resource, once nothing is wrong any more."""
GONE_WITHIN = GRACE + 3 * INTERVAL + 4.0
"""Seconds until a device is gone that nobody has; the last four are for a machine that does other things."""
SERVED_WITHIN = 0.3
"""Seconds that a pod waits for the kubelet to know of its resources, as a scheduled pod does."""
ANSWERS_WITHIN = 12.0
"""Seconds for any request of the kubelet's: far more than the agent's own deadlines."""
BUSY = 0.8
"""Seconds of processor per second, of an agent that has nothing to do."""


class PromiseBroken(AssertionError):
    """The agent did what it never may, or not what it has to."""


@dataclass(eq=False)
class Life:
    """A pod from its admission to its end."""

    pod: Pod
    tenures: dict[str, Span] = field(default_factory=dict)
    machines: dict[str, list[Machine]] = field(default_factory=dict)
    """By container."""


@dataclass(eq=False)
class Machine:
    """A VM that holds a device."""

    machine: VirtualMachine
    span: Span

    def stop(self) -> None:
        self.span.end()
        self.machine.stop()


class History(Stage):
    """Every action is a method; one that makes no sense at the moment does nothing."""

    def __init__(self, directory: Path, nursery: Nursery, *, seed: int = 0) -> None:
        self.node = SimulatedKernel.build(directory / "node", parse(NODE, origin="test"))
        options = ("--simulated", directory / "node")
        kubelet = {"seed": seed, "call_timeout": ANSWERS_WITHIN, "dial_timeout": 2.0}
        super().__init__(directory, self.node, *options, config="", kubelet=kubelet)
        self._nursery = nursery
        self._clock = directory / "clock"
        self._clock.write_bytes(struct.pack("d", 0.0))
        self._ahead = 0.0
        self._deeds = Reader(directory)
        self._log_read = 0
        self._refusals_read = 0
        self._refused: set[tuple[str, str]] = set()
        self._starts = 0
        self._forgot = 0
        """How often the kubelet has begun anew."""
        self._lost_memory = False
        self.promises = Promises()
        self.lives: list[Life] = []
        self.strays: list[Machine] = []
        self.under_way: set[asyncio.Task[None]] = set()
        self.configuration = 0
        self.story: list[str] = []
        self.slowest: Counter[str] = Counter()
        """Milliseconds, of what is bounded."""
        self.done: Counter[str] = Counter()

    # --- the agent -----------------------------------------------------------------------------

    async def start_agent(
        self, *extra: str, code: str | None = None, node_name: str = NODE_NAME, moved_clock: bool = False
    ) -> None:
        assert code is None
        assert not moved_clock
        self.configure(CONFIGURATIONS[self.configuration][0])
        arguments = ["run", *map(str, self.options), "--kubelet-root", str(self.kubelet.root)]
        arguments += ["--config", str(self._config), "--log-format", "json", "--node-name", node_name, *extra]
        self._starts += 1
        if self.kubelet.checkpoint.damage is not None:
            self._lost_memory = True
        self._agent = await self._nursery.start(  # type: ignore[assignment]  # all that is used of one
            arguments=arguments,
            directory=str(self.directory),
            log=str(self._log),
            grace=GRACE,
            interval=INTERVAL,
        )

    async def agent_up(self) -> None:
        """Start the agent if none runs."""
        if not self.agent_runs:
            self._agent = None
            await self.start_agent()

    async def agent_down(self, *, gently: bool = False) -> None:
        if not self.agent_runs:
            return
        if gently:
            assert self._agent is not None
            self.signal_agent(signal.SIGTERM)
            async with asyncio.timeout(STOP_WITHIN):
                code = await self._agent.wait()
            self._agent = None
            # In its first moments nothing has been begun that would have to be ended in good order; and an
            # order to die may come first.
            if code not in (0, -signal.SIGTERM, -signal.SIGKILL):
                raise PromiseBroken(f"the agent ended with {code} after SIGTERM")
        else:
            await self.kill_agent()

    async def reconfigure(self, configuration: int) -> None:
        """Have the agent replaced by one with another configuration."""
        await self.agent_down(gently=configuration % 2 == 0)
        self.configuration = configuration
        await self.agent_up()

    def order(self, order: Order | None) -> None:
        give(self.directory, order)

    def jump(self, seconds: float) -> None:
        """Have the agent's clock leap ahead."""
        if not self.under_way:
            self._ahead += seconds
            with self._clock.open("r+b") as file:
                file.write(struct.pack("d", self._ahead))

    # --- pods ----------------------------------------------------------------------------------

    def life(self, index: int) -> Life | None:
        return self.lives[index % len(self.lives)] if self.lives else None

    def resource(self, index: int) -> str:
        offered = CONFIGURATIONS[self.configuration][1]
        return offered[index % len(offered)]

    def bring(self, spec: PodSpec, *, reject: bool = False) -> asyncio.Task[None]:
        """Have the kubelet admit a pod; whoever wants to wait for that waits for the task."""
        task = asyncio.create_task(self._admit(spec, reject=reject), name="admit")
        self.under_way.add(task)
        task.add_done_callback(self._admitted)
        return task

    async def bring_in_order(self, spec: PodSpec, *, reject: bool = False) -> None:
        """Have the kubelet admit a pod once what it asks for is served, unless it is not soon."""
        wanted = {resource for container in spec.containers for resource in container.requests}
        until = time.monotonic() + SERVED_WITHIN
        while self.agent_runs and self.kubelet.running and time.monotonic() < until:
            if all(map(self.kubelet.allocatable, wanted)):
                break
            await asyncio.sleep(0.005)
        await self.bring(spec, reject=reject)

    def _admitted(self, task: asyncio.Task[None]) -> None:
        self.under_way.discard(task)

    async def _admit(self, spec: PodSpec, *, reject: bool) -> None:
        if not self.kubelet.running:
            return
        began, forgot = time.monotonic(), self._forgot
        try:
            pod = await self.kubelet.admit(spec, reject_after_allocate=reject)
        except AdmissionError as error:
            self.done["pods refused"] += 1
            self._took("admission", began, ANSWERS_WITHIN * len(spec.containers))
            if "no answer to" in error.message:
                raise PromiseBroken(f"a request was never answered: {error}") from None
            if reject and error.reason == "OutOfcpu":
                self.done["pods rejected after Allocate"] += 1
            return
        except RuntimeError:
            return  # The kubelet went down in that moment.
        if forgot != self._forgot or not self.kubelet.running:
            await self.kubelet.force_delete(pod)  # A kubelet that begins does not go on with this.
            return
        self.done["pods admitted"] += 1
        life = Life(pod)
        self.lives.append(life)
        for uuid in self._given(pod):
            self._give(life, uuid)
            if self.promises.untouched_since(uuid, began) and not self._exists(uuid):
                raise PromiseBroken(f"{uuid} was allocated and does not exist")

    def _give(self, life: Life, uuid: str) -> None:
        for other in self.lives:
            if other is not life and uuid in other.tenures and other.tenures[uuid].open:
                raise PromiseBroken(
                    f"{uuid} is {other.pod.spec.name}'s and was given to {life.pod.spec.name}"
                )
        if uuid not in life.tenures or not life.tenures[uuid].open:
            life.tenures[uuid] = self.promises.begin(uuid, f"the pod {life.pod.spec.name}")

    def _given(self, pod: Pod, container: str | None = None) -> set[str]:
        return self.kubelet.allocated(pod, container)

    async def start(self, life: Life) -> None:
        """Start the containers of a pod that do not run, in their order."""
        for container in life.pod.spec.in_order:
            if container.name in life.machines or (container.init and container.name in life.pod.started):
                continue
            if not await self._boot(life, container):
                return
            if container.init:
                self._halt(life, container.name)
        life.pod.phase = "Running"

    async def restart(self, life: Life) -> None:
        """Restart a container of a pod in its place."""
        running = sorted(life.machines)
        if running:
            name = running[-1]
            self._halt(life, name)
            await self._boot(life, next(one for one in life.pod.spec.containers if one.name == name))

    def _halt(self, life: Life, container: str) -> None:
        for machine in life.machines.pop(container, []):
            machine.stop()

    async def _boot(self, life: Life, container: ContainerSpec) -> bool:
        """What a container's start is: PreStartContainer, and a VM that opens what it was given."""
        if not self.kubelet.running or life not in self.lives:
            return False
        began, heard, forgot = time.monotonic(), len(self.kubelet.log), self._forgot
        try:
            answer = await self.kubelet.restart_container(life.pod, container.name)
        except (StartError, RuntimeError) as error:
            self.done["starts refused"] += 1
            self._took("start", began, ANSWERS_WITHIN * len(container.requests))
            if "no answer to" in str(error):
                raise PromiseBroken(f"a request was never answered: {error}") from None
            return False
        if forgot != self._forgot or life not in self.lives:
            return False
        self.done["starts"] += 1
        asked = {
            device
            for call in self.kubelet.log[heard:]
            if call.method == "PreStartContainer"
            for device in call.devices
        }
        paths = {node.host_path for node in answer.devices}
        machines = life.machines.setdefault(container.name, [])
        for uuid in sorted(self._given(life.pod, container.name)):
            self._give(life, uuid)
            sure = uuid in asked and self.promises.untouched_since(uuid, began)
            machine = self._open(life, uuid, paths, sure=sure)
            if machine is not None:
                machines.append(machine)
        return True

    def _open(self, life: Life, uuid: str, paths: set[str], *, sure: bool) -> Machine | None:
        device = mdev.find(self.node.paths, uuid)
        path = None if device is None or device.group is None else str(self.node.paths.group(device.group))
        if path not in paths:
            if sure:
                raise PromiseBroken(f"a container started with {sorted(paths)}, and {uuid} is {path}")
            return None  # Started without PreStartContainer: nobody could tell.
        owner = self._owner(uuid)
        if owner not in (None, life.pod.uid):
            raise PromiseBroken(f"{uuid} was handed to {life.pod.spec.name} as another pod left it")
        try:
            machine = VirtualMachine(self.node, uuid)
        except OSError as error:
            if sure and error.errno != errno.EIO:  # That is the driver's own failure.
                raise PromiseBroken(f"a started VM can't have {uuid}: {error}") from None
            return None
        span = self.promises.begin(uuid, f"a VM of {life.pod.spec.name}")
        with contextlib.suppress(OSError):
            (self.node.paths.device(uuid) / "owner").write_text(life.pod.uid)
        return Machine(machine, span)

    def _owner(self, uuid: str) -> str | None:
        """The pod whose VM has left something in the device."""
        try:
            return (self.node.paths.device(uuid) / "owner").read_text()
        except OSError:
            return None

    def _exists(self, uuid: str) -> bool:
        return mdev.find(self.node.paths, uuid) is not None

    async def delete(self, life: Life, *, graceful: bool = True, leave_machines: bool = False) -> None:
        """End a pod. Without grace its VMs may live on."""
        self.lives.remove(life)
        for container in tuple(life.machines):
            if leave_machines:
                self.strays += life.machines.pop(container)
            else:
                self._halt(life, container)
        for tenure in life.tenures.values():
            tenure.end()
        if graceful:
            await self.kubelet.delete(life.pod, linger=0.01)
        else:
            await self.kubelet.force_delete(life.pod)

    def end_stray(self, index: int) -> None:
        if self.strays:
            self.strays.pop(index % len(self.strays)).stop()

    # --- the kubelet ---------------------------------------------------------------------------

    async def kubelet_down(self, *, gently: bool = False) -> None:
        if self.kubelet.running:
            self._forgot += 1
            await (self.kubelet.stop() if gently else self.kubelet.kill())

    async def kubelet_up(self) -> None:
        if self.kubelet.running:
            return
        # From its end on it may be that a pod's devices are known no more.
        now = time.monotonic()
        await self.kubelet.start()
        for life in self.lives:
            known = self._given(life.pod)
            for uuid, tenure in life.tenures.items():
                if uuid not in known:
                    tenure.until = min(tenure.until, now)

    async def damage(self, damage: Damage | None) -> None:
        if damage is not None:
            self._lost_memory = True
        await self.kubelet.damage_checkpoint(damage)

    async def end_stream(self, resource: str) -> None:
        with contextlib.suppress(LookupError, TimeoutError):
            await self.kubelet.end_stream(resource)

    def heal(self, *, order: bool = True) -> None:
        """Nothing is wrong with kubelet, node and agent from now on; an order may stand all the same."""
        if order:
            self.order(None)
        self.kubelet.throttle(0)
        self.kubelet.fail_list(None)
        self.kubelet.hang_list(on=False)
        self.kubelet.refuse_registration(None)
        self.kubelet.hang_registration(on=False)
        self.kubelet.set_api_server(up=True)
        self.kubelet.delay_list()
        self.node.clear_faults()

    # --- the node ------------------------------------------------------------------------------

    def leave(self, parent: str) -> None:
        self.node.unregister(parent, wait=False)
        self.promises.meddle_with_all()

    def come_back(self, parent: str) -> None:
        self.node.register(parent)

    def make_foreign(self, index: int) -> None:
        """Somebody else makes a device."""
        parent = PARENTS[index % len(PARENTS)]
        kinds = TYPES[min(parent, "0000:3b:00.4")] if parent.startswith("0000") else TYPES[parent]
        with contextlib.suppress(OSError):
            self.create(
                parent, kinds[index % len(kinds)], str(uuids.UUID(int=(index << 64) + 0x4000, version=4))
            )

    def remove_foreign(self, index: int) -> None:
        foreign = [uuid for uuid in sorted(self.devices) if not slots.bears_mark(uuid)]
        if foreign:
            with contextlib.suppress(OSError):
                self.remove(foreign[index % len(foreign)])

    def remove_ours(self, index: int) -> None:
        """An administrator removes one that nobody holds."""
        held = {machine.machine.uuid for machine in self.machines}
        ours = [uuid for uuid in sorted(self.devices) if slots.bears_mark(uuid) and uuid not in held]
        if ours:
            uuid = ours[index % len(ours)]
            self.promises.meddle(uuid)
            with contextlib.suppress(OSError):
                self.remove(uuid)
            self.promises.meddle(uuid)

    @property
    def machines(self) -> list[Machine]:
        running = [machine for life in self.lives for some in life.machines.values() for machine in some]
        return running + self.strays

    # --- what has to be true -------------------------------------------------------------------

    def check(self) -> None:
        """What is true at any moment."""
        wrong = self.promises.broken(self._deeds.news())
        wrong += self._agent_ended_badly()
        wrong += self._log_complains()
        if not self._lost_memory:
            wrong += [f"the kubelet may crash: {crash}" for crash in self.kubelet.crashes]
        for machine in self.machines:
            uuid, span = machine.machine.uuid, machine.span
            if not self._exists(uuid) and self.promises.untouched_since(uuid, span.since):
                wrong.append(f"{uuid} is gone, and {span.who} holds it")
        if wrong:
            raise PromiseBroken("; ".join(wrong))

    def _agent_ended_badly(self) -> list[str]:
        if self._agent is None or self._agent.returncode in (None, -signal.SIGKILL):
            return []
        return [f"the agent ended with {self._agent.returncode}"]

    def _log_complains(self) -> list[str]:
        with self._log.open("rb") as file:
            file.seek(self._log_read)
            news = file.read()
            self._log_read += len(news)
        lines = news.decode(errors="replace").splitlines()
        return [
            f"the log says {line}"
            for line in lines
            if '"level":"error"' in line.replace(": ", ":") or "Traceback" in line
        ]

    def _took(self, what: str, began: float, most: float) -> float:
        took = time.monotonic() - began
        self.slowest[what] = max(self.slowest[what], round(took * 1000))
        if took > most:
            raise PromiseBroken(f"{what} took {took:.1f} s")
        return took

    async def calm(self, *_resources: str) -> None:
        """Let everything come to rest, and check what is promised of such a moment."""
        await self._let_rest()
        began = time.monotonic()
        await self.listened_to()
        self._took("kubelet listens again", began, BACK_WITHIN + 1)
        began = time.monotonic()
        await self._waited(lambda: not self._orphans(), "unused devices are gone", GONE_WITHIN, self._orphans)
        self._took("unused devices gone", began, GONE_WITHIN + 1)
        # Together, since what the kubelet knew of an agent before this one may be true by chance.
        await self._waited(
            lambda: not self._misoffered(),
            "counts are right, and what a VM holds beyond its pod is not offered",
            GONE_WITHIN,
            self._misoffered,
        )
        self.check()

    async def listened_to(self) -> None:
        """Wait until the kubelet knows every resource."""
        await self._waited(
            self._all_listened_to, "the kubelet listens to every resource", BACK_WITHIN, self._unheard
        )

    async def _let_rest(self) -> None:
        self.heal()
        for machine in [one for one in self.machines if self._is_leaving(one.machine.uuid)]:
            machine.stop()
            for life in self.lives:
                for some in life.machines.values():
                    if machine in some:
                        some.remove(machine)
            if machine in self.strays:
                self.strays.remove(machine)
        for parent in PARENTS:
            self.come_back(parent)
        if self.under_way:
            await asyncio.wait(set(self.under_way), timeout=3 * ANSWERS_WITHIN)
        await self.kubelet_up()
        await self.kubelet.damage_checkpoint(None)
        await self.agent_up()

    def _is_leaving(self, uuid: str) -> bool:
        device = self.node.state.devices.get(uuid)
        return device is None or device.phase == "leaving"

    async def _waited(
        self, condition: Callable[[], object], what: str, within: float, found: Callable[[], object]
    ) -> None:
        until = time.monotonic() + within
        while not condition():
            if time.monotonic() > until:
                raise PromiseBroken(f"not within {within:g} s: {what}; found {found()}")
            if not self.agent_runs:
                # An order that was carried out in the last moment.
                self.check()
                await self.agent_up()
            await asyncio.sleep(0.01)

    def _unheard(self) -> list[str]:
        return [
            resource
            for resource in CONFIGURATIONS[self.configuration][1]
            if not self.kubelet.plugins.listens_to(resource)
        ]

    def _all_listened_to(self) -> bool:
        return not self._unheard() and all(
            self.kubelet.list_messages(resource).count for resource in CONFIGURATIONS[self.configuration][1]
        )

    def _wanted(self) -> set[str]:
        """The devices that the kubelet knows its pods to have."""
        pods = {pod.uid for pod in self.kubelet.pods}
        return {
            device
            for (uid, _, _), entry in self.kubelet.allocations.items()
            if uid in pods
            for device in entry.devices
        }

    def _orphans(self) -> list[str]:
        kept = self._wanted() | {machine.machine.uuid for machine in self.machines}
        return [uuid for uuid in self.devices if slots.bears_mark(uuid) and uuid not in kept]

    def _offered_though_held(self) -> list[str]:
        """A pod that got one of these would fail."""
        stray = {machine.machine.uuid for machine in self.machines} - self._wanted()
        return [
            uuid
            for resource in CONFIGURATIONS[self.configuration][1]
            for uuid, (well, _) in self.kubelet.devices(resource).items()
            if well and uuid in stray
        ]

    def _misoffered(self) -> list[str]:
        return self._offered_though_held() + self._miscounted()

    def _refusing(self) -> set[tuple[str, str]]:
        """The cards and types that the agent has said to be refusing."""
        with self._log.open("rb") as file:
            file.seek(self._refusals_read)
            news = file.read()
        whole = news[: news.rfind(b"\n") + 1]
        self._refusals_read += len(whole)
        for line in whole.decode(errors="replace").splitlines():
            try:
                said = json.loads(line)
                event = said["event"]
            except (ValueError, KeyError, TypeError):
                continue  # The agent was killed while it wrote that.
            if event == "starting":
                self._refused.clear()
            elif event.startswith("card refuses a type"):
                self._refused.add((said["card"], said["type"]))
            elif event.startswith("card counts as refusing"):
                self._refused.discard((said["card"], said["type"]))
        return self._refused

    def _miscounted(self) -> list[str]:
        """Where the free slots on offer are not what the kernel says."""
        snapshot = mdev.scan(self.node.paths).snapshot
        refusing = self._refusing()
        wrong = []
        for resource in CONFIGURATIONS[self.configuration][1]:
            kinds, most = types_of(self.configuration, resource)
            healthy = {uuid for uuid, (well, _) in self.kubelet.devices(resource).items() if well}
            free = len(healthy - snapshot.devices.keys())
            entries = [
                (entry.available, (parent.card, entry.id) in refusing)
                for parent in snapshot.parents
                for entry in parent.types
                if entry.id in kinds
            ]
            rooms = [available for available, refused in entries if not refused]
            # Of what refused lately there is nothing, or one to try again, or slowly more, and never more
            # than room.
            tries = sum(available for available, refused in entries if refused)
            if most is not None:
                right = free + len(healthy & snapshot.devices.keys()) <= most or free == 0
            elif len(kinds) == 1 and not kinds[0].startswith("g-"):
                right = sum(rooms) <= free <= sum(rooms) + tries
            else:
                right = (0 < free <= sum(rooms) + tries) if any(rooms) else free <= tries
            if not right:
                wrong.append(f"{resource}: {free} free are offered, and the kernel has room for {rooms}")
        return wrong

    async def fill(self, index: int) -> None:
        """What is offered can be had, to the last."""
        await self.calm()
        resource = self.resource(index)
        free = self.kubelet.allocatable(resource) - len(
            self.kubelet.held(resource)
            & {d for d, (well, _) in self.kubelet.devices(resource).items() if well}
        )
        if not free:
            return
        spec = PodSpec("fill", containers=(ContainerSpec("c", {resource: free}),))
        try:
            pod = await self.kubelet.admit(spec)
        except AdmissionError as error:
            raise PromiseBroken(f"{free} of {resource} were offered and can't be had: {error}") from None
        life = Life(pod)
        self.lives.append(life)
        for uuid in self._given(pod):
            self._give(life, uuid)
        await self.delete(life, graceful=False)
        self.done["filled"] += 1

    async def idles(self, seconds: float = 0.3) -> None:
        """At rest the agent leaves the processor alone."""
        await self.calm()
        assert isinstance(self._agent, ForkedAgent)
        before, began = self._agent.cpu_seconds, time.monotonic()
        await asyncio.sleep(seconds)
        used = (self._agent.cpu_seconds - before) / (time.monotonic() - began)
        self.slowest["busy at rest, ms per s"] = max(
            self.slowest["busy at rest, ms per s"], round(used * 1000)
        )
        if used > BUSY:
            raise PromiseBroken(f"an agent with nothing to do uses {used:.0%} of a processor")

    async def finish(self) -> None:
        """All pods and VMs end: of the agent's devices none is left then."""
        # Pods that are still on their way are among them.
        await self._let_rest()
        for life in tuple(self.lives):
            await self.delete(life, graceful=False)
        while self.strays:
            self.end_stray(0)
        await self.calm()
        left = [uuid for uuid in self.devices if slots.bears_mark(uuid)]
        if left:
            raise PromiseBroken(f"devices are left: {left}")
        await self.agent_down(gently=True)
        self.check()

    async def tear_down(self) -> None:
        """End what still runs, whatever state it is in."""
        for task in tuple(self.under_way):
            task.cancel()
        for machine in self.machines:
            machine.stop()
        if self.agent_runs:
            await self.kill_agent()
        await self.kubelet.kill()


@contextlib.asynccontextmanager
async def history(nursery: Nursery, *, seed: int = 0, configuration: int = 0) -> AsyncIterator[History]:
    """A history that begins with a kubelet, and an agent that starts."""
    directory = Path(tempfile.mkdtemp(prefix="mdev-", dir="/tmp"))
    one = History(directory, nursery, seed=seed)
    one.configuration = configuration
    try:
        await one.kubelet.start()
        await one.start_agent()
        yield one
    finally:
        await one.tear_down()
        shutil.rmtree(directory)


def pod(name: str, *containers: Mapping[str, int], init: Mapping[str, int] | None = None) -> PodSpec:
    """A pod of such containers."""
    first = (ContainerSpec("i", init, init=True),) if init else ()
    return PodSpec(name, containers=(*first, *(ContainerSpec(f"c{n}", w) for n, w in enumerate(containers))))
