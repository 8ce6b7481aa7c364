"""What the agent of this node says that cards refuse: it alone remembers that."""

from __future__ import annotations

import contextlib
import http.client
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from deviceplugin.errors import ConfigError

_PATIENCE = 2.0
"""Seconds to wait for the agent."""
_LATEST = 1e11
"""A Unix time that no clock shows."""
_MOST = 4 << 20
"""Bytes of an answer that are read."""
_ANY = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where to ask, not to listen


@dataclass(frozen=True, slots=True)
class Refused:
    """Since when a card refuses a type, with the keys of the JSON output."""

    since: str
    """ISO 8601, UTC."""
    errno: str

    def __str__(self) -> str:
        since = datetime.fromisoformat(self.since).astimezone()
        day = "" if since.date() == datetime.now(UTC).astimezone().date() else f"{since:%Y-%m-%d} "
        return f"since {day}{since:%H:%M} ({self.errno})"


def refused(address: str | None) -> Mapping[tuple[str, str], Refused]:
    """What cards refuse, by card and type; nothing if there is no agent that answers.

    Args:
        address: where the agent serves its metrics, as ``run --http`` takes it.
    """
    if not address:
        return {}
    found: dict[tuple[str, str], Refused] = {}

    def ask() -> None:
        with contextlib.suppress(OSError, http.client.HTTPException, ConfigError, ValueError, LookupError):
            found.update(_parsed(_page(address)))

    # Beside, since whatever listens there may answer a byte at a time.
    asking = threading.Thread(target=ask, name="ask the agent", daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return dict(found) if not asking.is_alive() else {}


def _page(address: str) -> str:
    # Imported here: most often there is nothing to ask.
    from deviceplugin.telemetry.http import Address

    where = Address.parse(address)
    connection = http.client.HTTPConnection(_ANY.get(where.host, where.host), where.port, timeout=_PATIENCE)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        return answer.read(_MOST).decode() if answer.status == http.client.OK else ""
    finally:
        connection.close()


def _parsed(page: str) -> dict[tuple[str, str], Refused]:
    from prometheus_client.parser import text_string_to_metric_families

    from deviceplugin.telemetry.metrics import REFUSED_SINCE

    lines = "".join(f"{line}\n" for line in page.splitlines() if line.startswith(REFUSED_SINCE))
    found = {}
    for family in text_string_to_metric_families(lines):
        for sample in family.samples:
            card, kind, errno = (sample.labels.get(name, "") for name in ("card", "type", "errno"))
            if errno.isalnum() and 0 < sample.value < _LATEST:
                since = datetime.fromtimestamp(int(sample.value), UTC).isoformat()
                found[card, kind] = Refused(since, errno)
    return found
