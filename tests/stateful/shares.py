"""What one process does of a long run. Apart from ``__main__``, which a spawned process does not load."""

from __future__ import annotations

import time
import traceback
from typing import Any

from tests.stateful.machine import Stage
from tests.stateful.runs import run

ROUND = 2000
"""Steps between two lines of progress in each process."""
LEAST = 500
"""Steps for which it is worth to begin: the first history of a seed is a short one."""
FIGURES = ("rules", "killed", "delayed", "done")


def share_of(steps: int, seed: int, go_on: bool) -> dict[str, Any]:
    """One process's share."""
    stage, broken, began = Stage(), 0, time.monotonic()
    try:
        while stage.steps < steps and (go_on or not broken):
            try:
                run(steps=min(ROUND, max(LEAST, steps - stage.steps)), seed_=seed, stage=stage)
            except Exception:  # noqa: BLE001  # whatever it was, it is told
                broken += 1
                print(f"BROKEN with seed {seed}:\n{traceback.format_exc()}", flush=True)
            speed = stage.steps / (time.monotonic() - began)
            print(f"{stage.steps} steps of seed {seed}, {speed:.1f} a second, {broken} broken", flush=True)
            seed += 1
    finally:
        stage.close()
    found = {name: dict(getattr(stage, name)) for name in FIGURES}
    return {**found, "slowest": dict(stage.slowest), "broken": broken, "histories": stage.histories}
