"""How long the kubelet's word on a resource can be trusted already."""

from __future__ import annotations

from pathlib import Path

from deviceplugin.kubelet.memory import KubeletMemory
from deviceplugin.kubelet.paths import KubeletPaths

X = "vfio.dev/x"


class Line:
    connected = True

    def resend(self) -> None:
        raise NotImplementedError


def test_a_kubelet_that_believes_another_plugin_is_not_calm_until_that_is_over_for_a_while() -> None:
    now = [100.0]
    memory = KubeletMemory(KubeletPaths(Path("/nowhere")), {X: Line()}, lambda: now[0])
    memory.disturb(X)
    now[0] += 50
    assert memory.calm_for(X) == 50
    memory.dispute(X, on=True)
    now[0] += 50
    assert memory.calm_for(X) == 0
    assert memory.calm_for(None) == 0
    memory.dispute(X, on=False)
    assert memory.calm_for(X) == 0
    now[0] += 7
    assert memory.calm_for(X) == 7
