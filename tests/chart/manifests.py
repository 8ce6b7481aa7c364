"""The manifests for clusters without Helm: what the chart renders to, less what only Helm needs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.chart.helm import ROOT, render

MANIFESTS = ROOT / "manifests"
SIMULATOR = MANIFESTS / "simulator"
BY_HAND = ("kustomization.yaml", "namespace.yaml", "config.yaml")
"""What both sets have and is the same in both."""
RENDERED = ("serviceaccount.yaml", "daemonset.yaml")
_SETS: dict[Path, dict[str, Any]] = {MANIFESTS: {}, SIMULATOR: {"simulator": {"enabled": True}}}

_HEADER = "# Made of charts/mdev-device-plugin by `make chart`.\n"
_HELMS_OWN = re.compile(
    # Kustomize gives a changed configuration another name, which rolls the pods as well.
    r" *annotations:\n *#.*\n *checksum/config:.*\n"
    r"| *(helm\.sh/chart|app\.kubernetes\.io/managed-by):.*\n"
    r"|^---\n# Source:.*\n",
    re.MULTILINE,
)


def current() -> Iterator[tuple[Path, str]]:
    """The files that are made, each with the text that it should have."""
    for folder, values in _SETS.items():
        for name in RENDERED:
            yield folder / name, _HEADER + _HELMS_OWN.sub("", render(values, template=name)).strip() + "\n"
    for name in BY_HAND:
        yield SIMULATOR / name, (MANIFESTS / name).read_text("utf-8")
