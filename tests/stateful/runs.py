"""Runs of a certain length from a certain seed."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.stateful.machine import Machine, Stage

HISTORY = 50
"""Steps of one history."""


def run(*, steps: int, seed_: int, stage: Stage) -> None:
    """Take that many steps, in histories of some length each.

    Raises:
        AssertionError: a promise was broken; says which and after what.
    """

    @seed(seed_)
    class Seeded(Machine):
        pass

    Seeded.stage = stage
    length = min(HISTORY, steps)
    run_state_machine_as_test(
        Seeded,
        settings=settings(
            max_examples=max(1, steps // length),
            stateful_step_count=length,
            deadline=None,
            database=None,
            # A history that failed is told as it was: played again it might take another turn.
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            report_multiple_bugs=False,
        ),
    )
