"""What all boards have in common: their variables, the links between them, the mark at each release, and the grid."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    VariableOption,
    VariableRefresh,
    VariableSort,
)

from monitoring.grafana.panels import SOURCE, Panel

TAG = "hisbridge"
OPENS = "hisbridge_release_opens_timestamp_seconds"


def board(
    uid: str,
    title: str,
    says: str,
    rows: Mapping[str, Sequence[Panel]],
    *,
    since: str = "now-30m",
    refresh: str = "10s",
) -> dict[str, Any]:
    """A dashboard as Grafana reads it. `uid` stays the same for ever: links, and people's bookmarks, go by it."""
    made = (
        dashboard.Dashboard(title)
        .uid(uid)
        .description(says)
        .tags([TAG])
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .time(since, "now")
        .refresh(refresh)
        .variables([_source_variable(), _hospital_variable()])
        .annotations([_release_annotation()])
        .links([_link_to_others()])
    )
    numbers = iter(range(1, 1000))
    for head, panels in rows.items():
        made = made.with_row(dashboard.Row(head).id(next(numbers)))
        for panel in panels:
            made = made.with_panel(panel.id(next(numbers)))
    found: dict[str, Any] = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    found["annotations"]["list"][0].update(_AT_ITS_VALUE)
    return found


# Grafana's Prometheus source takes the value (ms) for the time of the mark; the library's model lacks these fields.
_AT_ITS_VALUE = {"useValueForTime": "on", "titleFormat": "release", "textFormat": "{{hospital}}", "step": "10s"}


def _release_annotation() -> dashboard.AnnotationQuery:
    return (
        dashboard.AnnotationQuery()
        .name("Releases")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(f'max by (hospital) ({OPENS}{{hospital=~"$hospital"}} > 0) * 1000')
    )


def _source_variable() -> dashboard.DatasourceVariable:
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def _hospital_variable() -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable("hospital")
        .label("Hospital")
        .datasource(SOURCE)
        .query({"query": "label_values(hisbridge_hospital_worked, hospital)", "refId": "hospitals"})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        # Not the list of them: requests that belong to no hospital have an empty label, and count as well.
        .all_value(".*")
        .current(VariableOption(selected=True, text="All", value="$__all"))
    )


def _link_to_others() -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink("hisbridge")
        .type(DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .as_dropdown(False)
        .include_vars(True)
        .keep_time(True)
    )
