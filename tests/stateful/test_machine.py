"""A short history from a fixed seed; ``python -m tests.stateful`` takes longer ones."""

from __future__ import annotations

from tests.stateful.machine import Stage
from tests.stateful.runs import run


def test_the_agent_keeps_its_promises_whatever_happens() -> None:
    stage = Stage()
    try:
        run(steps=300, seed_=1, stage=stage)
        assert stage.steps >= 200
    finally:
        stage.close()
