"""The chart as Helm renders it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/mdev-device-plugin"
NAME = "mdev-device-plugin"
"""The release and the namespace that documentation and manifests speak of."""
KUBE_VERSION = "1.37.2"
"""What Helm is told of the cluster: what it assumes by itself depends on how it was built."""


class Refused(Exception):
    """Helm did not do it; says what it answered."""


@cache
def binary() -> str:
    """The helm to use: ``$HELM``, else what the project's tools find or install."""
    if named := os.environ.get("HELM"):
        return named
    tools = [str(ROOT / "tests/tools"), "helm"]
    return subprocess.run(tools, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def run(*arguments: str, stdin: str = "") -> str:
    """Run helm.

    Raises:
        Refused: it failed.
    """
    done = subprocess.run([binary(), *arguments], check=False, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise Refused(done.stderr + done.stdout)
    return done.stdout


def render(
    values: Mapping[str, Any] | None = None, *, release: str = NAME, template: str = "", chart: Path = CHART
) -> str:
    """The chart's objects as text, with values that need be no more than what differs.

    Args:
        template: of this one alone, as in ``daemonset.yaml``.

    Raises:
        Refused: Helm refuses the values, or can't render the chart.
    """
    only = ["--show-only", f"templates/{template}"] if template else []
    return run(
        *("template", release, str(chart), "--namespace", NAME, "--kube-version", KUBE_VERSION),
        *("--values", "-", *only),
        stdin=json.dumps(values or {}),
    )


def objects(values: Mapping[str, Any] | None = None, *, release: str = NAME) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(render(values, release=release)) if found]
