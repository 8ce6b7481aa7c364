"""Structured logs on standard error, one event per line.

An event is a fixed sentence with values under the same keys everywhere: ``resource``, ``device``,
``type``, ``parent``, ``pod``, ``reason`` … They are given as ``extra`` to the standard library's loggers.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Literal

log = logging.getLogger(__name__)

LogFormat = Literal["json", "console"]
LEVELS = ("debug", "info", "warning", "error")

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_up(log_format: LogFormat, level: str) -> None:
    """Send all logs to standard error, and have Python write nothing else there."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json() if log_format == "json" else _Console())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Python would print these itself.
    logging.captureWarnings(True)
    sys.unraisablehook = _unraisable
    threading.excepthook = _in_thread


def _unraisable(found: sys.UnraisableHookArgs, /) -> None:
    error = found.exc_value
    log.error(
        "an exception that nobody could be told of",
        exc_info=(found.exc_type, error, found.exc_traceback) if error is not None else None,
        extra={"reason": found.err_msg, "where": repr(found.object)},
    )


def _in_thread(found: threading.ExceptHookArgs, /) -> None:
    if found.exc_value is not None and found.exc_type is not SystemExit:
        log.error(
            "a thread ended with an exception",
            exc_info=(found.exc_type, found.exc_value, found.exc_traceback),
            extra={"where": found.thread.name if found.thread is not None else None},
        )


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
            **_values(record),
        }
        if record.exc_info:
            event["exception"] = self.formatException(record.exc_info)
        return json.dumps(event, default=str)


class _Console(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        values = " ".join(
            f"{key}={json.dumps(value, default=str) if _needs_quotes(value) else value}"
            for key, value in _values(record).items()
        )
        line = f"{_time(record)[11:23]} {record.levelname.lower():7} {_one_line(record)}  {values}".rstrip()
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _values(record: logging.LogRecord) -> dict[str, Any]:
    return {key: value for key, value in vars(record).items() if key not in _STANDARD and value is not None}


def _one_line(record: logging.LogRecord) -> str:
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in record.getMessage()
    )


def _needs_quotes(value: object) -> bool:
    return any(character in " \"'=\n" or not character.isprintable() for character in str(value))
