"""The chart's dashboard shows what the agents really say, and can be read."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deviceplugin.host.mdev import FaultKind
from deviceplugin.inventory.offer import Offer, OfferedSlot
from deviceplugin.inventory.slots import NodeMark
from deviceplugin.inventory.snapshot import Parent, ParentType, Snapshot
from deviceplugin.reclaim import HeldBack
from tests import parts

Panel = dict[str, Any]

DASHBOARD = json.loads(
    (Path(__file__).parents[2] / "charts/mdev-device-plugin/dashboards/mdev-device-plugin.json").read_text()
)
DATA_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS = 24
UNITS = {"none", "s", "bytes", "percentunit", "opm", "bool_yes_no", "dateTimeFromNow"}
"""Grafana's names of the units that are used; it shows a name that it does not know as it stands."""
OF_THE_SCRAPE = {"node", "pod", "instance", "job", "namespace"}
"""Labels that the chart's PodMonitor, and Prometheus' operator for it, give to every series."""
WORDS = {"and", "or", "unless", "on", "by", "group_left"}
"""What PromQL has beside metrics, labels and functions."""

ROWS = [panel for panel in DASHBOARD["panels"] if panel["type"] == "row"]
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
EACH_PANEL = pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])


@cache
def exported() -> dict[str, set[str]]:
    """The labels of each metric that an agent with a card and a resource says, by the metric's name."""
    metrics = parts.metrics(NodeMark(0))
    metrics.add_resource("r", ["t"])
    kinds = (ParentType("t", "", "vfio-pci", "", 1),)
    metrics.snapshot = Snapshot((Parent("p", "c", "d", None, None, kinds, ()),))
    metrics.offers = {"r": Offer("r", (OfferedSlot("s", True, None),))}
    found: dict[str, set[str]] = {}
    for family in metrics.registry.collect():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def expressions(panel: Panel) -> Iterator[str]:
    for target in panel["targets"]:
        yield target["expr"]


def metrics_in(expression: str) -> dict[str, set[str]]:
    """The metrics that a PromQL expression names, with the labels that it selects by."""
    bare = re.sub(r'"[^"]*"', "", expression)
    bare = re.sub(r"\b(?:by|on|group_left) \([^)]*\)|\[[^]]*\]", "", bare)
    found: dict[str, set[str]] = {}
    for name, matchers in re.findall(r"\b([a-z_]\w*)\b(?!\s*\()(\{[^}]*\})?", bare):
        if name not in WORDS:
            found.setdefault(name, set()).update(re.findall(r"\w+", matchers))
    return found


def labels_in(text: str) -> set[str]:
    """The labels that an expression groups by, or a legend shows."""
    inside = re.findall(r"\b(?:by|on|group_left) \(([^)]*)\)|\{\{(\w+)\}\}", text)
    return {name for pair in inside for part in pair for name in re.findall(r"\w+", part)}


def test_expressions_are_taken_apart() -> None:
    quantile = 'sum by (le) (rate(some_bucket{node=~"$node|[a]",x!="a"}[$__rate_interval])) or vector(0)'
    assert metrics_in(quantile) == {"some_bucket": {"node", "x"}}
    assert labels_in(quantile) == {"le"}
    join = 'count(m{a=~"b"} * on (job) group_left (d) n unless m) > 0'
    assert metrics_in(join) == {"m": {"a"}, "n": set()}
    assert labels_in(join + "{{type}}") == {"job", "d", "type"}


@EACH_PANEL
def test_every_metric_and_label_exists(panel: Panel) -> None:
    for target in panel["targets"]:
        known = set(OF_THE_SCRAPE)
        for name, selected in metrics_in(target["expr"]).items():
            assert name in exported(), f"no agent says {name}"
            known |= exported()[name]
            assert selected <= exported()[name] | OF_THE_SCRAPE, f"{name} has no such label"
        assert labels_in(target["expr"] + target["legendFormat"]) <= known


def test_every_metric_of_the_agents_own_is_shown() -> None:
    shown = {name for panel in PANELS for expression in expressions(panel) for name in metrics_in(expression)}
    of_histograms = {name.removesuffix("_bucket") for name in shown if name.endswith("_bucket")}
    unseen = {
        name
        for name in exported()
        if name.startswith("mdev_")
        and not name.endswith("_created")
        and re.sub(r"_(sum|count)$", "", name) not in of_histograms
    }
    assert unseen <= shown


def test_every_variable_is_asked_for_and_used() -> None:
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for name, variable in variables.items():
        if name == "datasource":
            continue
        asked = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert asked, name
        ((metric, selected),) = metrics_in(asked[1]).items()
        assert {asked[2], *selected} <= exported()[metric] | OF_THE_SCRAPE
        assert variable["allValue"] == ".*", "series without the label are shown too when all are"
    text = json.dumps(DASHBOARD["panels"])
    used = set(re.findall(r"\$\{?([a-z]\w*)", text))
    assert used == set(variables)
    assert set(re.findall(r"\$(__\w+)", text)) <= {"__rate_interval", "__range"}


def test_it_knows_no_data_source_but_the_chosen_one() -> None:
    def sources(part: object) -> Iterator[object]:
        if isinstance(part, dict):
            for key, inner in part.items():
                if key == "datasource":
                    yield inner
                else:
                    yield from sources(inner)
        elif isinstance(part, list):
            for inner in part:
                yield from sources(inner)

    found = list(sources(DASHBOARD))
    assert len(found) > len(PANELS)
    assert all(each == DATA_SOURCE for each in found)
    assert json.dumps(DASHBOARD).count('"uid"') == len(found) + 1, "the dashboard's own, and no others"


def test_panels_lie_on_the_grid_and_apart() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["title"]) == panel["title"]
    bottom = max(y for _, y in taken) + 1
    assert len(taken) == bottom * COLUMNS, "there is a hole between the panels"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_rows_lead_from_the_glance_to_the_details() -> None:
    assert [row["title"] for row in ROWS] == [
        "At a glance",
        "Capacity",
        "Allocations",
        "Reclaim",
        "Health",
    ]


@EACH_PANEL
def test_every_panel_says_what_it_shows_and_in_what_unit(panel: Panel) -> None:
    assert len(panel["description"]) > 40, "nobody knows what to do"
    units = [panel["fieldConfig"]["defaults"]["unit"]]
    for override in panel["fieldConfig"]["overrides"]:
        units += [each["value"] for each in override["properties"] if each["id"] == "unit"]
    assert set(units) <= UNITS


@EACH_PANEL
def test_units_fit_what_is_measured(panel: Panel) -> None:
    unit = panel["fieldConfig"]["defaults"]["unit"]
    for expression in expressions(panel):
        if "histogram_quantile" in expression:
            assert unit == "s"
        elif "cpu_seconds" in expression:
            assert unit == "percentunit"
        elif "rate(" in expression:
            assert unit == "opm"
            assert expression.startswith("60 * "), "rate() counts by the second"
        elif "_bytes" in expression:
            assert unit == "bytes"
        else:
            assert unit in {"none", "bool_yes_no"}


@EACH_PANEL
def test_counters_are_shown_as_rates(panel: Panel) -> None:
    for expression in expressions(panel):
        for name in metrics_in(expression):
            if name.endswith(("_total", "_bucket")):
                assert re.search(rf"\b(?:rate|increase)\({name}\b", expression)


@pytest.mark.parametrize(
    ("title", "values"),
    [("Devices held back now", HeldBack), ("Removals held back", HeldBack), ("Faults in sysfs", FaultKind)],
)
def test_every_reason_and_kind_is_explained(title: str, values: type[HeldBack | FaultKind]) -> None:
    (panel,) = (panel for panel in PANELS if panel["title"] == title)
    assert [value for value in values if value.value not in panel["description"]] == []
