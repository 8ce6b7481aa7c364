"""A node, a kubelet and an agent, each as real as it gets without hardware and without a cluster.

The agent is a process of its own and the sockets are real ones. Tests wait for conditions, never for time
to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import grpc.aio

from deviceplugin.api import deviceplugin_v1beta1_pb2 as pb
from deviceplugin.api import deviceplugin_v1beta1_pb2_grpc as rpc
from deviceplugin.host import mdev
from deviceplugin.host.kernel import Kernel
from deviceplugin.inventory.slots import SlotId, resource_hash
from deviceplugin.inventory.snapshot import Device
from deviceplugin.simulator.kubelet.kubelet import ContainerSpec, Pod, PodSpec, SimulatedKubelet
from deviceplugin.simulator.node.description import load, parse
from deviceplugin.simulator.node.kernel import SimulatedKernel
from deviceplugin.simulator.node.vm import VirtualMachine, hold
from tests.component import clock

NODE_NAME = "n"
TUNED = "reclaim: {grace: 1s, interval: 1s}"
NEVER = "reclaim: {enabled: false}"
PATIENCE = 60.0
"""Seconds; more than anything here takes on a machine that is busy with something else: only a failure is."""
STOP_WITHIN = 25.0
"""Seconds; an agent waits five for what is under way, and tests have drivers that take thirty."""
BACK_OFF = 10.0
"""Seconds for which a type is not offered on a card that has refused it."""


def vfio(type_id: str) -> str:
    """The resource that a type is offered as by default."""
    return f"vfio.dev/{type_id}"


class Stage:
    """An agent between a kubelet and some node. ``directory`` has to have a short path.

    Args:
        options: what tells the agent which node that is.
        launcher: the command that starts the agent's own, if any.
    """

    def __init__(
        self,
        directory: Path,
        kernel: Kernel,
        *options: str | Path,
        config: str,
        kubelet: Mapping[str, Any],
        launcher: tuple[str, ...] = (),
    ) -> None:
        self.directory = directory
        self.kernel = kernel
        self._launcher = launcher
        self.options = options
        self.kubelet = SimulatedKubelet(directory / "k", **{"list_empty_for": 0.0, **kubelet})
        self.excused = False
        """Whether the agent may end badly or log errors."""
        self._config = directory / "config.yaml"
        self._log = directory / "log"
        self._log.touch()
        self._clock = directory / "clock"
        self._ahead = 0.0
        self._agent: asyncio.subprocess.Process | None = None
        self.configure(config)

    # --- the agent ---------------------------------------------------------------------------------

    def configure(self, text: str) -> None:
        """What the next agent that is started reads."""
        self._config.write_text(f"version: v1\n{text}\n")

    async def start_agent(
        self,
        *extra: str,
        code: str | None = None,
        node_name: str = NODE_NAME,
        moved_clock: bool = False,
    ) -> None:
        """Start the agent with these further options, and don't wait for anything.

        For one on a moved clock time passes as ``time_passes`` says, besides by itself.
        """
        assert self._agent is None
        if moved_clock:
            assert code is None
            clock.put_ahead(self._clock, self._ahead)
            code = clock.program(self._clock)
        with self._log.open("ab") as log:
            self._agent = await asyncio.create_subprocess_exec(
                *self._launcher,
                sys.executable,
                *(("-m", "deviceplugin") if code is None else ("-c", code)),
                "run",
                *self.options,
                *("--kubelet-root", self.kubelet.root),
                *("--config", self._config),
                *("--log-format", "json", "--node-name", node_name),
                *extra,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    def time_passes(self, seconds: float) -> None:
        """Have an agent on a moved clock find that so much time has passed."""
        self._ahead += seconds
        clock.put_ahead(self._clock, self._ahead)

    async def stop_agent(self, *, within: float = STOP_WITHIN) -> float:
        """End the agent with SIGTERM, which has to go well; returns the seconds that it took."""
        self.signal_agent(signal.SIGTERM)
        return await self.agent_ends(within=within)

    async def agent_ends(self, *, within: float = STOP_WITHIN, code: int = 0) -> float:
        """Wait for the agent's end."""
        assert self._agent is not None
        began = time.monotonic()
        async with asyncio.timeout(within):
            found = await self._agent.wait()
        self._agent = None
        assert found == code, f"the agent ended with {found}"
        return time.monotonic() - began

    async def kill_agent(self) -> None:
        """End the agent with SIGKILL."""
        self.signal_agent(signal.SIGKILL)
        assert self._agent is not None
        await self._agent.wait()
        self._agent = None

    def signal_agent(self, number: signal.Signals) -> None:
        assert self._agent is not None
        with contextlib.suppress(ProcessLookupError):
            self._agent.send_signal(number)

    @property
    def agent_runs(self) -> bool:
        return self._agent is not None and self._agent.returncode is None

    @property
    def log(self) -> list[dict[str, Any]]:
        """The events that all agents of this world have logged so far."""
        events = []
        for line in self._log.read_text(errors="replace").splitlines():
            # The last one may not be whole yet; any other that is none is for ``end`` to find.
            with contextlib.suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict) and "event" in event:
                    events.append(event)
        return events

    @property
    def raw_log(self) -> str:
        return self._log.read_text(errors="replace")

    def _not_events(self) -> Iterator[str]:
        """The lines that are no events of the agent's; one that a kill cut short has no end."""
        for line in self.raw_log.splitlines(keepends=True):
            try:
                is_event = "event" in json.loads(line)
            except ValueError:
                is_event = not line.endswith("\n")
            if not is_event:
                yield line

    def logged(self, event: str, **values: object) -> list[dict[str, Any]]:
        """The events that begin so and have these values."""
        return [
            entry
            for entry in self.log
            if str(entry["event"]).startswith(event)
            and all(entry.get(key) == value for key, value in values.items())
        ]

    async def says(self, event: str, *, within: float = PATIENCE, **values: object) -> dict[str, Any]:
        """Wait until the agent has logged that; returns the last such event."""
        await self.until(lambda: self.logged(event, **values), f"log: {event} {values}", within=within)
        return self.logged(event, **values)[-1]

    # --- waiting -----------------------------------------------------------------------------------

    async def until(
        self, condition: Callable[[], object], what: str = "the condition", *, within: float = PATIENCE
    ) -> float:
        """Wait until it holds; returns the seconds that took."""
        began = time.monotonic()
        while not condition():
            assert time.monotonic() < began + within, f"{what}: not within {within:g} s"
            await asyncio.sleep(0.005)
        return time.monotonic() - began

    async def offers(self, *, within: float = PATIENCE, **counts: int) -> float:
        """Wait until types (``mbochs_small=64``) are offered so often; returns the seconds that took."""
        wanted = {vfio(name.replace("_", "-")): count for name, count in counts.items()}
        began = time.monotonic()
        try:
            await self.kubelet.wait_for(lambda: self.allocatable(*wanted) == wanted, timeout=within)
        except TimeoutError:
            raise AssertionError(f"wanted {wanted}, found {self.allocatable(*wanted)}") from None
        return time.monotonic() - began

    def allocatable(self, *resources: str) -> dict[str, int]:
        return {resource: self.kubelet.allocatable(resource) for resource in resources}

    async def calm(self, *resources: str) -> None:
        """Wait until the agent listens and has nothing more to say of these resources."""
        for resource in resources:
            await self.kubelet.wait_for(self._was_told_of(resource), PATIENCE)

    def _was_told_of(self, resource: str) -> Callable[[], bool]:
        return lambda: self.kubelet.list_messages(resource).count > 0

    # --- pods --------------------------------------------------------------------------------------

    async def admit(self, requests: Mapping[str, int] | str, *, name: str = "vm") -> Pod:
        """Admit a pod with one container that asks for this; a type's name means one of it."""
        return await self.kubelet.admit(self.spec(requests, name=name))

    def spec(self, requests: Mapping[str, int] | str, *, name: str = "vm") -> PodSpec:
        """A pod with one container that asks for this; a type's name means one of it."""
        wanted = {vfio(requests): 1} if isinstance(requests, str) else requests
        return PodSpec(name, containers=(ContainerSpec("c", wanted),))

    async def run_pod(self, requests: Mapping[str, int] | str, *, name: str = "vm") -> Pod:
        """Admit such a pod and start it."""
        pod = await self.admit(requests, name=name)
        await self.kubelet.start_containers(pod)
        return pod

    def handed(self, pod: Pod, container: str = "c") -> pb.ContainerAllocateResponse:
        """What the container got, as the kubelet remembers it."""
        return self.kubelet.answer(pod, container)

    def ids(self, pod: Pod, container: str = "c") -> set[str]:
        """The device IDs that the kubelet gave to a container."""
        return self.kubelet.allocated(pod, container)

    # --- the node ----------------------------------------------------------------------------------

    @property
    def devices(self) -> dict[str, Device]:
        """Every device of the node, by UUID."""
        paths = self.kernel.paths
        found = (mdev.find(paths, path.name) for path in paths.devices.iterdir())
        return {device.uuid: device for device in found if device is not None}

    def create(self, parent: str, type_id: str, uuid: str) -> None:
        """Make a device as somebody else would."""
        self.kernel.write(self.kernel.paths.create(parent, type_id), uuid)

    def remove(self, uuid: str) -> None:
        """Remove a device as somebody else would."""
        self.kernel.write(self.kernel.paths.remove(uuid), "1")

    async def beside(self, function: Callable[[], object]) -> None:
        """Do something that may block."""
        await asyncio.to_thread(function)

    # --- the plugin, past the kubelet --------------------------------------------------------------

    def sockets(self) -> set[str]:
        """The plugins' sockets that are there."""
        return {path.name for path in self.kubelet.plugin_directory.glob("*.sock")} - {"kubelet.sock"}

    def socket(self, resource: str) -> Path:
        """Where a resource's endpoint listens now."""
        return self.kubelet.plugin_directory / self._registered(resource)[-1]

    def _registered(self, resource: str) -> list[str]:
        """The sockets that the agent which runs now has registered for a resource, the last one last."""
        sockets: list[str] = []
        for entry in self.log:
            if entry["event"] == "starting":  # Those of the agent before it are gone.
                sockets.clear()
            elif entry["event"] == "registered" and entry["resource"] == resource:
                sockets.append(entry["socket"])
        return sockets

    @contextlib.asynccontextmanager
    async def plugin(self, resource: str) -> AsyncIterator[rpc.DevicePluginAsyncStub]:
        """The endpoint of a resource, to be called as no kubelet would."""
        await self.until(lambda: self._registered(resource), f"{resource} registered")
        options = [("grpc.use_local_subchannel_pool", 1)]
        async with grpc.aio.insecure_channel(f"unix:{self.socket(resource)}", options=options) as channel:
            yield rpc.DevicePluginStub(channel)

    # --- the end -----------------------------------------------------------------------------------

    async def end(self) -> list[str]:
        """End everything; returns what went wrong that no test may ignore."""
        try:
            wrong = await self._end_agent()
        finally:
            await self.kubelet.kill()
        wrong += [f"the kubelet may crash: {crash}" for crash in self.kubelet.crashes]
        wrong += [
            f"an error in the log: {event}" for event in self.log if event["level"] in {"error", "critical"}
        ]
        wrong += [f"a line in the log that is no event: {line!r}" for line in self._not_events()]
        if "Traceback" in self.raw_log:
            wrong.append("a traceback in the log")
        return [] if self.excused else wrong

    async def _end_agent(self) -> list[str]:
        wrong = []
        if self._agent is not None:
            if self._agent.returncode is not None:
                wrong.append(f"the agent had ended with {self._agent.returncode}")
            try:
                self.signal_agent(signal.SIGTERM)
                async with asyncio.timeout(STOP_WITHIN):
                    code = await self._agent.wait()
                if code != 0 and not wrong:
                    wrong.append(f"the agent ended with {code} after SIGTERM")
            except TimeoutError:
                wrong.append(f"the agent did not end within {STOP_WITHIN} s of SIGTERM")
                self.signal_agent(signal.SIGKILL)
                await self._agent.wait()
            self._agent = None
        return wrong


class World(Stage):
    """A stage whose node is simulated, so that a test can play with that too."""

    def __init__(
        self, directory: Path, node: str | Path, *, config: str, text: str | None, kubelet: Mapping[str, Any]
    ) -> None:
        description = load(node) if text is None else parse(text, origin="test")
        self.node = SimulatedKernel.build(directory / "node", description)
        options = ("--simulated", directory / "node")
        super().__init__(directory, self.node, *options, config=config, kubelet=kubelet)

    @property
    def creates_under_way(self) -> int:
        """How many devices a driver is making, which nobody can see yet."""
        return sum(device.phase == "creating" for device in self.node.state.devices.values())

    def mark(self, uuid: str) -> None:
        """Leave something behind in a device, as a VM does."""
        (self.node.paths.device(uuid) / "left-behind").write_text("somebody's secret")

    def is_marked(self, uuid: str) -> bool:
        return (self.node.paths.device(uuid) / "left-behind").exists()

    @contextlib.contextmanager
    def vm(self, uuid: str) -> Iterator[VirtualMachine]:
        """Have a VM hold a device."""
        with hold(self.node, uuid) as machine:
            yield machine


def slot(resource: str, index: int = 0, *, numa_node: int | None = None, node_name: str = NODE_NAME) -> str:
    """The device ID of a slot."""
    return str(SlotId(numa_node, index, resource_hash(node_name, resource)))


def allocate_request(*containers: list[str]) -> pb.AllocateRequest:
    return pb.AllocateRequest(
        container_requests=[pb.ContainerAllocateRequest(devices_ids=ids) for ids in containers]
    )
