"""What the environment says of the cluster under test, and what a test does that lacks something of it."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import NoReturn

import pytest

from deviceplugin import __version__

SYSTEM = "mdev-test-system"
"""The namespace of the chart."""
PODS = "mdev-test"
"""The namespace of everything else."""
DIRECTORY = "/var/lib/mdev-device-plugin-test"
"""What the tests have on the node."""
SIMULATED = f"{DIRECTORY}/samples"
"""Where the chart puts the simulated node of that name."""


@dataclass(frozen=True, slots=True)
class Environment:
    """The variables that ``tests/cluster/run`` explains."""

    image: str
    node: str | None
    node_exec: tuple[str, ...]
    node_service: tuple[str, ...]
    hardware: str | None
    helm: str
    everything: bool

    @classmethod
    def read(cls) -> Environment:
        variables = os.environ
        return cls(
            image=variables.get("MDEV_TEST_IMAGE") or f"localhost/mdev-device-plugin:{__version__}",
            node=variables.get("MDEV_TEST_NODE") or None,
            node_exec=tuple(shlex.split(variables.get("MDEV_TEST_NODE_EXEC", ""))),
            node_service=tuple(shlex.split(variables.get("MDEV_TEST_NODE_SERVICE", ""))),
            hardware=variables.get("MDEV_TEST_HARDWARE") or None,
            helm=variables.get("MDEV_TEST_HELM") or "helm",
            everything=variables.get("MDEV_TEST_ALL") == "1",
        )

    def lacks(self, what: str, why: str) -> NoReturn:
        """Leave a test out for want of something, or fail it where nothing is to be left out."""
        if self.everything:
            pytest.fail(f"{what} is lacking, which {why}; MDEV_TEST_ALL=1 lets nothing be left out")
        pytest.skip(f"{what} is lacking, which {why}")
