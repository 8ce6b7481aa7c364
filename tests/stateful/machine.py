"""What may happen next, drawn by hypothesis.

No rule has a precondition and none looks at the world while it draws, so that the same numbers are the same
story even where the world takes another turn: processes are not deterministic. What a failed run did is told
in the error, step by step, with the agent's log.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, ClassVar

import grpc
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from deviceplugin.simulator.kubelet.checkpointfile import Damage
from tests.stateful.history import History, PromiseBroken, history, pod
from tests.stateful.node import CONFIGURATIONS, PARENTS
from tests.stateful.nursery import Nursery
from tests.stateful.points import POINTS, Order

ANY = st.integers(0, 23)
MOMENT = 0.03
"""Seconds: what happens beside the next step gets a head start of up to this."""
MENDED = 8
"""Steps after which what is broken is mended, at the latest."""
APART = 10
"""Steps from one calm moment to the next, at least."""
_TOLD = 12_000
"""Characters of the agent's log that an error repeats."""


class Stage:
    """What all machines of a process share: the event loop and the nursery."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self.nursery = Nursery()
        self.rules: Counter[str] = Counter()
        self.killed: Counter[str] = Counter()
        self.delayed: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.slowest: Counter[str] = Counter()
        self.histories = 0

    @property
    def steps(self) -> int:
        return self.rules.total()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        self.loop.run_until_complete(work)

    def take(self, one: History) -> None:
        """Add up what a history has seen."""
        self.histories += 1
        self.killed.update(one.promises.killed)
        self.delayed.update(one.promises.delayed)
        self.done.update(one.done)
        for what, milliseconds in one.slowest.items():
            self.slowest[what] = max(self.slowest[what], milliseconds)

    def close(self) -> None:
        self.run(self.nursery.close())
        self.loop.close()


class Machine(RuleBasedStateMachine):
    """One history, a step at a time."""

    stage: ClassVar[Stage]
    steps_left: ClassVar[float] = float("inf")

    def __init__(self) -> None:
        super().__init__()
        self._history = history(self.stage.nursery)
        self._pods = 0
        self.one: History
        self.stage.run(self._begin())

    async def _begin(self) -> None:
        self.one = await self._history.__aenter__()

    def _step(self, name: str, action: Callable[[], Awaitable[object] | None], *about: object) -> None:
        self.stage.rules[name] += 1
        self.one.story.append(f"{name}{about or ''}")

        async def step() -> None:
            result = action()
            if result is not None:
                await result
            for task in [task for task in self._background if task.done()]:
                self._background.remove(task)
                task.result()
            await self._look_after()
            self.one.check()

        self._run(step())

    async def _look_after(self) -> None:
        """Now and then somebody does, as the DaemonSet's controller and systemd would: or little happened."""
        steps = len(self.one.story)
        if not self.one.agent_runs and steps % 3 == 0:
            self.one.check()
            await self.one.agent_up()
        if steps % 5 == 0:
            await self.one.kubelet_up()
        if steps % MENDED == 0:
            self.one.heal(order=False)
            await self.one.damage(None)
            for parent in PARENTS:
                self.one.come_back(parent)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            self.stage.run(work)
        except Exception as error:
            told = "\n  ".join(self.one.story)
            self.failed = True
            raise PromiseBroken(
                f"{error!r}\nafter:\n  {told}\nand the agent said:\n{self.one.raw_log[-_TOLD:]}"
            ) from error

    failed = False
    _rested = 0

    @property
    def _background(self) -> list[asyncio.Task[None]]:
        if not hasattr(self, "_tasks"):
            self._tasks: list[asyncio.Task[None]] = []
        return self._tasks

    def _name(self) -> str:
        self._pods += 1
        return f"p{self._pods}"

    # --- pods ----------------------------------------------------------------------------------

    @rule(resource=ANY, count=st.integers(1, 3), start=st.booleans())
    def a_pod_comes(self, resource: int, count: int, start: bool) -> None:
        async def come() -> None:
            before = len(self.one.lives)
            await self.one.bring_in_order(pod(self._name(), {self.one.resource(resource): count}))
            if start and len(self.one.lives) > before:
                await self.one.start(self.one.lives[-1])

        self._step("a pod comes", come, resource, count, start)

    @rule(first=ANY, second=ANY, count=st.integers(1, 2), start=st.booleans())
    def a_pod_with_several_comes(self, first: int, second: int, count: int, start: bool) -> None:
        async def come() -> None:
            before = len(self.one.lives)
            one, two = self.one.resource(first), self.one.resource(second)
            await self.one.bring_in_order(
                pod(
                    self._name(),
                    {one: count, two: 1} if one != two else {one: count},
                    {one: 1},
                    init={one: 2},
                )
            )
            if start and len(self.one.lives) > before:
                await self.one.start(self.one.lives[-1])

        self._step("a pod with several comes", come, first, second, count, start)

    @rule(resource=ANY, count=st.integers(1, 2), head=st.integers(0, 3), init=st.booleans())
    def a_pod_comes_meanwhile(self, resource: int, count: int, head: int, init: bool) -> None:
        async def come() -> None:
            wanted = {self.one.resource(resource): count}
            self._background.append(self.one.bring(pod(self._name(), wanted, init=wanted if init else None)))
            await asyncio.sleep(head * MOMENT / 3)

        self._step("a pod comes meanwhile", come, resource, count, head, init)

    @rule(resource=ANY, count=st.integers(1, 3))
    def a_pod_is_rejected_after_allocate(self, resource: int, count: int) -> None:
        async def come() -> None:
            await self.one.bring_in_order(
                pod(self._name(), {self.one.resource(resource): count}), reject=True
            )

        self._step("a pod is rejected after Allocate", come, resource, count)

    @rule(which=ANY)
    def containers_start(self, which: int) -> None:
        self._step("containers start", lambda: self._with_life(which, self.one.start), which)

    @rule(which=ANY)
    def a_container_restarts(self, which: int) -> None:
        self._step("a container restarts", lambda: self._with_life(which, self.one.restart), which)

    @rule(which=ANY)
    def a_pod_ends(self, which: int) -> None:
        self._step("a pod ends", lambda: self._with_life(which, self.one.delete), which)

    @rule(which=ANY, stays=st.booleans())
    def a_pod_is_deleted_by_force(self, which: int, stays: bool) -> None:
        async def delete() -> None:
            life = self.one.life(which)
            if life is not None:
                await self.one.delete(life, graceful=False, leave_machines=stays)

        self._step("a pod is deleted by force", delete, which, stays)

    @rule(which=ANY, resource=ANY)
    def a_pod_takes_the_place_of_another(self, which: int, resource: int) -> None:
        async def change() -> None:
            life = self.one.life(which)
            if life is not None:
                await self.one.delete(life, graceful=False, leave_machines=bool(resource % 2))
            before = len(self.one.lives)
            await self.one.bring_in_order(pod(self._name(), {self.one.resource(resource): 1}))
            if len(self.one.lives) > before:
                await self.one.start(self.one.lives[-1])

        self._step("a pod takes the place of another", change, which, resource)

    @rule(which=ANY)
    def an_old_vm_ends(self, which: int) -> None:
        self._step("an old VM ends", lambda: self.one.end_stray(which), which)

    async def _with_life(self, which: int, action: Callable[[Any], Awaitable[None]]) -> None:
        life = self.one.life(which)
        if life is not None:
            await action(life)

    # --- the agent -----------------------------------------------------------------------------

    @rule(point=st.sampled_from(POINTS), nth=st.integers(1, 3))
    def the_agent_will_die(self, point: str, nth: int) -> None:
        self._step("the agent will die", lambda: self.one.order(Order(point, nth)), point, nth)

    @rule(point=st.sampled_from(POINTS), nth=st.integers(1, 2), resource=ANY)
    def the_agent_dies_over_a_pod(self, point: str, nth: int, resource: int) -> None:
        async def die() -> None:
            await self.one.agent_up()
            self.one.order(Order(point, nth))
            before = len(self.one.lives)
            await self.one.bring_in_order(pod(self._name(), {self.one.resource(resource): 1}))
            for life in self.one.lives[before:]:
                await self.one.start(life)
            # The last but one that is still there makes room, so that there is something to take back.
            for life in self.one.lives[:-1][-1:]:
                await self.one.delete(life)
            await asyncio.sleep(MOMENT)

        self._step("the agent dies over a pod", die, point, nth, resource)

    @rule(point=st.sampled_from(POINTS), nth=st.integers(1, 2), tenths=st.sampled_from((1, 3, 6)))
    def the_agent_will_dawdle(self, point: str, nth: int, tenths: int) -> None:
        # An answer that is kept longer than the grace period is none that the kubelet could remember in
        # time: nothing but the agent's own event loop stands between, and that would keep the reclaim too.
        tenths = 1 if point == "Allocate worked out" else tenths
        order = Order(point, nth, "delay", tenths / 10)
        self._step("the agent will dawdle", lambda: self.one.order(order), point, nth, tenths)

    @rule(gently=st.booleans(), at_once=st.booleans())
    def the_agent_ends(self, gently: bool, at_once: bool) -> None:
        async def end() -> None:
            await self.one.agent_down(gently=gently)
            if at_once:
                await self.one.agent_up()

        self._step("the agent ends", end, gently, at_once)

    @rule()
    def the_agent_starts(self) -> None:
        self._step("the agent starts", self.one.agent_up)

    @rule(configuration=st.integers(0, len(CONFIGURATIONS) - 1))
    def the_configuration_changes(self, configuration: int) -> None:
        self._step("the configuration changes", lambda: self.one.reconfigure(configuration), configuration)

    @rule(seconds=st.sampled_from((0.5, 5.0, 3600.0)))
    def the_clock_jumps(self, seconds: float) -> None:
        self._step("the clock jumps", lambda: self.one.jump(seconds), seconds)

    # --- the kubelet ---------------------------------------------------------------------------

    @rule(gently=st.booleans(), at_once=st.booleans())
    def the_kubelet_ends(self, gently: bool, at_once: bool) -> None:
        async def end() -> None:
            await self.one.kubelet_down(gently=gently)
            if at_once:
                await self.one.kubelet_up()

        self._step("the kubelet ends", end, gently, at_once)

    @rule()
    def the_kubelet_starts(self) -> None:
        self._step("the kubelet starts", self.one.kubelet_up)

    @rule(empty=st.sampled_from((0.0, 0.3, 1.0)), partial=st.sampled_from((0.0, 0.3)), api=st.booleans())
    def the_kubelet_restarts_and_knows_little(self, empty: float, partial: float, api: bool) -> None:
        async def restart() -> None:
            await self.one.kubelet_down()
            self.one.kubelet.delay_list(empty_for=empty, partial_for=partial)
            self.one.kubelet.set_api_server(up=api)
            await self.one.kubelet_up()

        self._step("the kubelet restarts and knows little", restart, empty, partial, api)

    @rule(damage=st.sampled_from(("corrupt", "missing", "unreadable", "frozen", None)))
    def the_checkpoint_is_damaged(self, damage: Damage | None) -> None:
        self._step("the checkpoint is damaged", lambda: self.one.damage(damage), damage)

    @rule(kind=st.sampled_from(("throttle", "fail", "hang", "well")))
    def the_list_fails(self, kind: str) -> None:
        def fail() -> None:
            kubelet = self.one.kubelet
            kubelet.throttle(3 if kind == "throttle" else 0)
            kubelet.fail_list(grpc.StatusCode.INTERNAL if kind == "fail" else None)
            kubelet.hang_list(on=kind == "hang")

        self._step("the List fails", fail, kind)

    @rule(kind=st.sampled_from(("refuse", "hang", "well")))
    def registration_fails(self, kind: str) -> None:
        def fail() -> None:
            self.one.kubelet.refuse_registration("not now" if kind == "refuse" else None)
            self.one.kubelet.hang_registration(on=kind == "hang")

        self._step("registration fails", fail, kind)

    @rule(resource=ANY)
    def a_stream_ends(self, resource: int) -> None:
        self._step("a stream ends", lambda: self.one.end_stream(self.one.resource(resource)), resource)

    # --- the node ------------------------------------------------------------------------------

    @rule(parent=st.sampled_from(PARENTS))
    def a_parent_leaves(self, parent: str) -> None:
        self._step("a parent leaves", lambda: self.one.leave(parent), parent)

    @rule(parent=st.sampled_from(PARENTS))
    def a_parent_comes_back(self, parent: str) -> None:
        self._step("a parent comes back", lambda: self.one.come_back(parent), parent)

    @rule(
        kind=st.sampled_from(("slow-create", "fail-create", "fail-remove", "fail-attach")),
        times=st.integers(1, 3),
        seconds=st.sampled_from((0.05, 0.3, 2.0)),
    )
    def a_driver_fails(self, kind: Any, times: int, seconds: float) -> None:
        self._step(
            "a driver fails",
            lambda: self.one.node.fault(kind, times=times, seconds=seconds),
            kind,
            times,
            seconds,
        )

    @rule()
    def drivers_are_well(self) -> None:
        self._step("drivers are well", self.one.node.clear_faults)

    @rule(index=ANY)
    def a_foreign_device_comes(self, index: int) -> None:
        self._step("a foreign device comes", lambda: self.one.make_foreign(index), index)

    @rule(index=ANY)
    def a_foreign_device_goes(self, index: int) -> None:
        self._step("a foreign device goes", lambda: self.one.remove_foreign(index), index)

    @rule(index=ANY)
    def somebody_removes_a_device_of_ours(self, index: int) -> None:
        self._step("somebody removes a device of ours", lambda: self.one.remove_ours(index), index)

    @rule()
    def events_are_lost(self) -> None:
        self._step("events are lost", self.one.node.lose_events)

    # --- rest ----------------------------------------------------------------------------------

    @rule(hundredths=st.sampled_from((1, 5, 20, 60)))
    def time_passes(self, hundredths: int) -> None:
        self._step("time passes", lambda: asyncio.sleep(hundredths / 100), hundredths)

    @rule(index=ANY)
    def all_is_calm_and_what_is_offered_can_be_had(self, index: int) -> None:
        if self._is_time_for_rest():
            self._step("all is calm", lambda: self.one.fill(index), index)

    @rule()
    def all_is_calm_and_the_agent_idles(self) -> None:
        if self._is_time_for_rest():
            self._step("all is calm, and idle", self.one.idles)

    def _is_time_for_rest(self) -> bool:
        """Rest takes longer than most steps do, and shows nothing new right after the last."""
        steps = len(self.one.story)
        if steps < self._rested + APART:
            return False
        self._rested = steps
        return True

    def teardown(self) -> None:
        try:
            if not self.failed:
                self.one.story.append("the end")
                self._run(self.one.finish())
        finally:
            self.stage.take(self.one)
            with contextlib.suppress(asyncio.CancelledError):
                self.stage.run(self._end())

    async def _end(self) -> None:
        await self._history.__aexit__(None, None, None)
