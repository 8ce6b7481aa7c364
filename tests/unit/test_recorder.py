"""What the log says of events, and what is counted."""

from __future__ import annotations

import logging

import pytest

from deviceplugin.inventory.placement import Seat
from deviceplugin.inventory.refusals import Refusal
from deviceplugin.inventory.resources import Resource
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.inventory.snapshot import Device
from deviceplugin.telemetry.metrics import Metrics
from deviceplugin.telemetry.recorder import Recorder

RESOURCE = Resource(name="a.b/c", types=("large",))
DEVICE = Device("u", "large", "card", 7)


@pytest.fixture
def metrics() -> Metrics:
    return Metrics(NodeMark.of("n"), held_back=tuple, refusing=tuple)


@pytest.mark.parametrize("aligned", [True, False])
def test_a_device_that_was_made_is_counted_and_told_of(
    metrics: Metrics, caplog: pytest.LogCaptureFixture, aligned: bool
) -> None:
    caplog.set_level(logging.INFO)
    Recorder(metrics).created(RESOURCE, DEVICE, Seat("card", "card", "large", aligned=aligned, reason="why"))
    labels = {"resource": "a.b/c", "type": "large"}
    assert metrics.registry.get_sample_value("mdev_devices_made_total", labels) == 1
    first, *more = caplog.records
    assert (first.levelname, first.message, first.__dict__["placement"]) == ("INFO", "device created", "why")
    assert first.__dict__["device"] == "u"
    assert [record.levelname for record in more] == ([] if aligned else ["WARNING"])


def test_a_card_that_refuses_is_told_of_on_the_way_in_and_out(
    metrics: Metrics, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    recorder = Recorder(metrics)
    recorder.refused("card", "EIO")
    refusal = Refusal(
        reason="EIO", since=0, parents=frozenset({"card"}), needed=1, pause=10, again=10, quiet=1
    )
    recorder.stopped_offering("card", "large", refusal)
    recorder.offers_again("card", "large")
    labels = {"card": "card", "errno": "EIO"}
    assert metrics.registry.get_sample_value("mdev_refusals_total", labels) == 1
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert caplog.records[0].__dict__["again_after_s"] == 10
