"""Events in the log, and counted."""

from __future__ import annotations

import logging

from deviceplugin.events import log_fields
from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.refusals import Refusal
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device
from deviceplugin.telemetry.metrics import Metrics

log = logging.getLogger(__name__)


class Recorder:
    """Writes each event to the log, and counts those that have a metric; see ``events.Events``."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def created(self, resource: Resource, device: Device, seat: Seat) -> None:
        """A device was made, and its attributes are set."""
        self._metrics.made.labels(resource=resource.name, type=device.type).inc()
        log.info("device created", extra=log_fields(resource, device) | {"placement": seat.reason})
        if not seat.aligned:
            log.warning(
                "device is on another NUMA node than its slot: there was no room left on that",
                extra=log_fields(resource, device),
            )

    def attribute_set(
        self, resource: Resource, device: Device, attribute: str, value: str, reads: str | None
    ) -> None:
        """A device's attribute was written."""
        log.info(
            "attribute set",
            extra=log_fields(resource, device) | {"attribute": attribute, "value": value, "reads": reads},
        )

    def renewing(self, resource: Resource, uuid: str) -> None:
        """A used device was removed, to be made anew."""
        log.info("used device removed to be made anew", extra={"resource": resource.name, "device": uuid})

    def undone(self, uuid: str) -> None:
        """A device of a failed request was removed."""
        log.info("device of a failed request removed", extra={"device": uuid})

    def left_over(self, uuid: str, reason: str) -> None:
        """A device of a failed request could not be removed."""
        log.warning("device of a failed request stays for now: %s", reason, extra={"device": uuid})

    def came_late(self, uuid: str) -> None:
        """A device came after its request was given up, and stays for its container."""
        log.info("device came after all and stays for its container", extra={"device": uuid})

    def refused(self, card: str, errno: str) -> None:
        """A card refused a device."""
        self._metrics.refusals.labels(card=card, errno=errno).inc()

    def stopped_offering(self, card: str, type_id: str, refusal: Refusal) -> None:
        """A card counts as refusing a type from now on."""
        log.warning(
            "card refuses a type that it counts as free: it is not offered for now",
            extra={
                "card": card,
                "type": type_id,
                "reason": refusal.reason,
                "again_after_s": round(refusal.pause),
            },
        )

    def offers_again(self, card: str, type_id: str) -> None:
        """A card counts as refusing a type no more."""
        log.info("card counts as refusing a type no more", extra={"card": card, "type": type_id})
