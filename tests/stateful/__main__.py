"""A long run: ``python -m tests.stateful --steps N --seed S``."""

from __future__ import annotations

import argparse
import time

from tests.stateful.machine import Stage
from tests.stateful.runs import run


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.stateful", description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    chosen = parser.parse_args()
    print(f"seed {chosen.seed}, {chosen.steps} steps", flush=True)
    stage, began = Stage(), time.monotonic()
    try:
        run(steps=chosen.steps, seed_=chosen.seed, stage=stage)
    finally:
        took = time.monotonic() - began
        print(f"{took:.0f} s; again with --steps {chosen.steps} --seed {chosen.seed}")
        stage.close()


if __name__ == "__main__":
    main()
