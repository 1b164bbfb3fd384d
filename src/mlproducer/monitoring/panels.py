"""Panels and dashboards in the few shapes that we use, over Grafana's own builders.

Needs `grafana-foundation-sdk`, which the package itself does without: what is built here is shipped as JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeVar

from grafana_foundation_sdk.builders import common, dashboard, prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as kinds
from grafana_foundation_sdk.models import dashboard as models

Panel = stat.Panel | timeseries.Panel | statetimeline.Panel
_P = TypeVar("_P", stat.Panel, timeseries.Panel, statetimeline.Panel)
Steps = Sequence[tuple[float | None, str]]
"""Thresholds: from which value on which colour; the first value is None."""
Names = Mapping[int, tuple[str, str]]
"""A state's number → what it is called, and its colour."""

CALM: Final[Steps] = ((None, "green"),)
SOURCE: Final = models.DataSourceRef("prometheus", "${datasource}")


@dataclass(frozen=True, slots=True)
class Query:
    """`legend` may hold labels, as `{{instance}}`."""

    legend: str
    expr: str


@dataclass(frozen=True, slots=True)
class Words:
    """What a panel says of itself; `runbook` is the alert whose runbook it links to."""

    title: str
    about: str
    runbook: str = ""


def tile(
    words: Words,
    *queries: Query,
    unit: str = "short",
    steps: Steps = CALM,
    names: Names | None = None,
    decimals: int | None = None,
    nothing: str = "–",
    span: int = 4,
) -> stat.Panel:
    """The value of now, large. An instant query: a range would show the last word of a service that is gone."""
    panel = stat.Panel().unit(unit).thresholds(_thresholds(steps)).no_value(nothing).span(span).height(4)
    panel.color_mode(kinds.BigValueColorMode.BACKGROUND).graph_mode(kinds.BigValueGraphMode.NONE)
    panel.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.text_mode(kinds.BigValueTextMode.VALUE_AND_NAME if queries[0].legend else kinds.BigValueTextMode.VALUE)
    if names is not None:
        panel.mappings([_mapping(names)])
    if decimals is not None:
        panel.decimals(decimals)
    return _say(panel, words, [_target(query).instant() for query in queries])


def graph(
    words: Words,
    *queries: Query,
    unit: str = "short",
    look: Literal["lines", "stack", "bars"] = "lines",
    colours: Mapping[str, str] | None = None,
    steps: Steps | None = None,
    most: float | None = None,
    span: int = 8,
    link: dashboard.DashboardLink | None = None,
) -> timeseries.Panel:
    """Values over time from 0 up, `steps` as dashed lines. `colours` are those of legends; `most` ends the axis."""
    panel = timeseries.Panel().unit(unit).min(0).span(span).height(8)
    panel.show_points(kinds.VisibilityMode.NEVER).line_width(2).fill_opacity(10)
    panel.legend(_legend()).tooltip(common.VizTooltipOptions().mode(kinds.TooltipDisplayMode.MULTI))
    if look == "stack":
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL)).fill_opacity(50).line_width(1)
    if look == "bars":
        panel.draw_style(kinds.GraphDrawStyle.BARS).fill_opacity(80).line_width(0)
        panel.stacking(common.StackingConfig().mode(kinds.StackingMode.NORMAL))
    if most is not None:
        panel.max(most)
    if steps is not None:
        panel.thresholds(_thresholds(steps))
        panel.thresholds_style(common.GraphThresholdsStyleConfig().mode(kinds.GraphThresholdsStyleMode.DASHED))
    for legend, colour in (colours or {}).items():
        panel.override_by_name(legend, [models.DynamicConfigValue("color", {"mode": "fixed", "fixedColor": colour})])
    if link is not None:
        panel.data_links([link])
    return _say(panel, words, [_target(query).range() for query in queries])


def timeline(
    words: Words, *queries: Query, names: Names, span: int = 12, link: dashboard.DashboardLink | None = None
) -> statetimeline.Panel:
    """States over time: a bar a series, coloured by the state."""
    panel = statetimeline.Panel().mappings([_mapping(names)]).span(span).height(6)
    panel.show_value(kinds.VisibilityMode.AUTO).merge_values(True).row_height(0.8).fill_opacity(80)
    panel.legend(_legend()).thresholds(_thresholds(((None, "text"),)))
    if link is not None:
        panel.data_links([link])
    return _say(panel, words, [_target(query).range() for query in queries])


def board(
    uid: str,
    title: str,
    about: str,
    rows: Iterable[tuple[str, Sequence[Panel]]],
    *,
    datasource: str,
    runbooks: str,
) -> dict[str, Any]:
    """The dashboard as the JSON that Grafana imports."""
    made = dashboard.Dashboard(title).uid(uid).description(about).tags(["mlproducer", "rabbitmq"])
    made.time("now-1h", "now").refresh("10s").timezone("browser").editable().tooltip(
        models.DashboardCursorSync.CROSSHAIR
    )
    others = dashboard.DashboardLink("mlproducer").type(models.DashboardLinkType.DASHBOARDS).tags(["mlproducer"])
    made.link(others.keep_time(True).include_vars(True))
    for variable in _variables(datasource, runbooks):
        made.with_variable(variable)
    number = 0
    for row, panels in rows:
        number += 1
        made.with_row(dashboard.Row(row).id(number))
        for panel in panels:
            number += 1
            made.with_panel(panel.id(number))
    built: dict[str, Any] = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    return built


def to_instance(uid: str) -> dashboard.DashboardLink:
    """From a series of one instance to that instance's own dashboard."""
    url = f"/d/{uid}?${{datasource:queryparam}}&var-instance=${{__field.labels.instance}}&${{__url_time_range}}"
    return dashboard.DashboardLink("Open this instance").url(url)


def _variables(datasource: str, runbooks: str) -> list[Any]:
    source = dashboard.DatasourceVariable("datasource").label("Data source").type("prometheus")
    source.current(models.VariableOption(selected=True, text="Prometheus", value=datasource))
    # All jobs are those that have our metrics, one by one: `.+` would count in `up` what is no producer.
    jobs = _choice("job", "Job", "label_values(ml_producer_connection_state, job)")
    instances = _choice("instance", "Instance", 'label_values(ml_producer_connection_state{job=~"$job"}, instance)')
    instances.all_value(".+")
    pages = dashboard.TextBoxVariable("runbooks").label("Runbooks").default_value(runbooks)
    pages.description("Where docs/operations.md is served; the panels link to its sections.")
    pages.current(models.VariableOption(selected=True, text=runbooks, value=runbooks))
    return [source, jobs, instances, pages]


def _choice(name: str, label: str, query: str) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(name).label(label).query(query).datasource(SOURCE)
    made.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(models.VariableSort.NATURAL_ASC)
    made.multi(True).include_all(True)
    return made.current(models.VariableOption(selected=True, text=["All"], value=["$__all"]))


def _say(panel: _P, words: Words, targets: Sequence[prometheus.Dataquery]) -> _P:
    panel.title(words.title).description(words.about).datasource(SOURCE)
    if words.runbook:
        url = f"${{runbooks}}#{words.runbook.lower()}"
        panel.links([dashboard.DashboardLink(f"Runbook: {words.runbook}").url(url).target_blank(True)])
    for number, target in enumerate(targets):
        panel.with_target(target.ref_id(chr(ord("A") + number)))
    return panel


def _target(query: Query) -> prometheus.Dataquery:
    target = prometheus.Dataquery().expr(query.expr).datasource(SOURCE)
    return target.legend_format(query.legend) if query.legend else target


def _legend() -> common.VizLegendOptions:
    legend = common.VizLegendOptions().show_legend(True)
    return legend.display_mode(kinds.LegendDisplayMode.LIST).placement(kinds.LegendPlacement.BOTTOM)


def _thresholds(steps: Steps) -> dashboard.ThresholdsConfig:
    found = [models.Threshold(value, colour) for value, colour in steps]
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(found)


def _mapping(names: Names) -> models.ValueMap:
    return models.ValueMap(
        {
            str(number): models.ValueMappingResult(text=text, color=colour, index=index)
            for index, (number, (text, colour)) in enumerate(names.items())
        }
    )
