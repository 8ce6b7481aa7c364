"""What the agent tells: one event per line, and counts that begin at zero."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deviceplugin.telemetry.logs import LEVELS, LogFormat, set_up

log = logging.getLogger("deviceplugin.test")


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


def told(capsys: pytest.CaptureFixture[str]) -> list[str]:
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()


def test_an_event_is_a_line_of_json_with_its_values_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("json", "info")
    log.info("device created", extra={"device": "6d64", "group": 7, "pod": None})
    (line,) = told(capsys)
    event = json.loads(line)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", event.pop("time"))
    assert event == {
        "level": "info",
        "logger": "deviceplugin.test",
        "event": "device created",
        "device": "6d64",
        "group": 7,
    }


def test_on_a_console_an_event_is_a_line_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("console", "info")
    log.warning("left out", extra={"path": "/sys/x", "reason": "is empty", "said": 'a "b"'})
    (line,) = told(capsys)
    assert re.match(r"\d\d:\d\d:\d\d\.\d{3} warning left out  path=/sys/x reason=\"is empty\" said=", line)


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("level", LEVELS)
def test_only_events_of_the_level_or_above_are_told(
    capsys: pytest.CaptureFixture[str], log_format: LogFormat, level: str
) -> None:
    set_up(log_format, level)
    for other in LEVELS:
        log.log(getattr(logging, other.upper()), other)
    assert len(told(capsys)) == len(LEVELS) - LEVELS.index(level)


def test_setting_up_twice_tells_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("json", "info")
    set_up("json", "info")
    log.info("once")
    assert len(told(capsys)) == 1


def test_an_exception_is_a_part_of_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("json", "info")
    log.error("it failed", exc_info=KeyError("lost"))
    (line,) = told(capsys)
    assert "KeyError: 'lost'" in json.loads(line)["exception"]


def test_on_a_console_an_exception_follows_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    set_up("console", "info")
    log.error("it failed", exc_info=KeyError("lost"))
    first, *_, last = told(capsys)
    assert first.endswith("it failed")
    assert last == "KeyError: 'lost'"


values = (
    st.none()
    | st.text(max_size=20)
    | st.integers()
    | st.binary(max_size=5)
    | st.frozensets(st.integers(), max_size=2)
)


@pytest.mark.parametrize("log_format", ["json", "console"])
@given(message=st.text(max_size=20), value=values)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_is_told_it_is_one_line(
    capsys: pytest.CaptureFixture[str], log_format: LogFormat, message: str, value: Any
) -> None:
    capsys.readouterr()
    set_up(log_format, "info")
    log.info("%s", message, extra={"reason": value})
    text = capsys.readouterr().err
    assert text.endswith("\n")
    assert text.count("\n") == 1
    if log_format == "json":
        assert json.loads(text)["event"] == message
