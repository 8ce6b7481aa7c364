"""What ``values.schema.json`` takes from the program, so that chart and program can't disagree.

The rest of the file is written by hand. It is a draft-07 schema, which Helm's validators of all versions
read; the program's own is of a newer draft but uses nothing that the older one lacks.
"""

from __future__ import annotations

import json
from typing import Any, get_args

from deviceplugin.config import schema
from deviceplugin.simulator.node import description
from deviceplugin.telemetry import logs


def current(text: str) -> str:
    """The file's text with what is the program's as the program says today."""
    values = json.loads(text)
    sections = values["properties"]
    sections["log"]["properties"]["format"]["enum"] = list(get_args(logs.LogFormat))
    sections["log"]["properties"]["level"]["enum"] = list(logs.LEVELS)
    sections["simulator"]["properties"]["node"]["enum"] = description.names()
    ours = {name: entry for name, entry in values["definitions"].items() if not _is_programs(name)}
    values["definitions"] = ours | _configuration()
    return json.dumps(values, indent=2, ensure_ascii=False) + "\n"


def _configuration() -> dict[str, Any]:
    """The configuration file's schema, where the version may be left out: the chart writes it."""
    moved = json.dumps(schema()["$defs"]).replace("#/$defs/", "#/definitions/")
    definitions: dict[str, Any] = json.loads(moved)
    definitions["ConfigFile"]["required"].remove("version")
    return definitions


def _is_programs(name: str) -> bool:
    """The program's names are those of its classes."""
    return name[0].isupper()
