"""What happens to devices and cards, told to whoever listens: the log and the metrics, or a plan."""

from __future__ import annotations

from typing import Protocol

from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.refusals import Refusal
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.snapshot import Device


class Events(Protocol):
    """Hears what happens, after it did."""

    def created(self, resource: Resource, device: Device, seat: Seat) -> None:
        """A device was made, and its attributes are set."""

    def attribute_set(
        self, resource: Resource, device: Device, attribute: str, value: str, reads: str | None
    ) -> None:
        """A device's attribute was written; ``reads`` is what it reads now, if it can be read."""

    def renewing(self, resource: Resource, uuid: str) -> None:
        """A used device was removed, to be made anew."""

    def undone(self, uuid: str) -> None:
        """A device of a failed request was removed."""

    def left_over(self, uuid: str, reason: str) -> None:
        """A device of a failed request could not be removed."""

    def came_late(self, uuid: str) -> None:
        """A device came after its request was given up, and stays for its container."""

    def refused(self, card: str, errno: str) -> None:
        """A card refused a device; ``errno`` is the error's name."""

    def stopped_offering(self, card: str, type_id: str, refusal: Refusal) -> None:
        """A card counts as refusing a type from now on."""

    def offers_again(self, card: str, type_id: str) -> None:
        """A card counts as refusing a type no more."""


class Unheard:
    """Hears nothing: for what is only tried out."""

    def created(self, resource: Resource, device: Device, seat: Seat) -> None:
        """Not heard."""

    def attribute_set(
        self, resource: Resource, device: Device, attribute: str, value: str, reads: str | None
    ) -> None:
        """Not heard."""

    def renewing(self, resource: Resource, uuid: str) -> None:
        """Not heard."""

    def undone(self, uuid: str) -> None:
        """Not heard."""

    def left_over(self, uuid: str, reason: str) -> None:
        """Not heard."""

    def came_late(self, uuid: str) -> None:
        """Not heard."""

    def refused(self, card: str, errno: str) -> None:
        """Not heard."""

    def stopped_offering(self, card: str, type_id: str, refusal: Refusal) -> None:
        """Not heard."""

    def offers_again(self, card: str, type_id: str) -> None:
        """Not heard."""


def log_fields(resource: Resource, device: Device) -> dict[str, object]:
    """A device of a resource, as a line of the log has it."""
    return {
        "resource": resource.name,
        "device": device.uuid,
        "type": device.type,
        "parent": device.parent,
        "group": device.group,
    }
