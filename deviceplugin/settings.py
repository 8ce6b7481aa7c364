"""What the agent is to do, checked and ready. ``config`` makes it of a file; it needs none.

Apart from ``config``, since reading a file takes libraries that an agent without one does without.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from deviceplugin.inventory.resources import Discovery, Resource


@dataclass(frozen=True, slots=True, kw_only=True)
class ReclaimSettings:
    """How devices are taken back."""

    enabled: bool = True
    grace: float = 10.0
    """Seconds in which a device is left alone after the kubelet asked for it."""
    interval: float = 5.0
    """Seconds between rounds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the agent is to do, checked and ready."""

    discovery: Discovery = field(default_factory=Discovery)
    resources: tuple[Resource, ...] = ()
    reclaim: ReclaimSettings = field(default_factory=ReclaimSettings)
    cdi: bool = False
    """Whether containers get their devices by CDI names."""
