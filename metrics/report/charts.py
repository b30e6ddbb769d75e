"""The charts of the report: latency and rate over one zoomable axis, with phases and faults behind them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from bokeh.embed import components
from bokeh.models import (
    BasicTickFormatter,
    BoxAnnotation,
    ColumnDataSource,
    CrosshairTool,
    HoverTool,
    Label,
    Legend,
    Node,
    Range1d,
    Span,
)
from bokeh.plotting import figure
from bokeh.resources import Resources

from metrics.evidence import PHASES, Evidence
from metrics.report.series import Series, series_of
from metrics.sanitise import one_line

# Chosen to be told apart by people who see few colours, on white and on black.
_COLOURS: Final = {
    "p50": "#2f8fd0",
    "p99": "#e08a1e",
    "max": "#8d8d8d",
    "ok": "#4a9c6d",
    "declined": "#9a86c8",
    "fail": "#d64545",
    "info": "#e0a51e",
    "fault": "#d64545",
    "phase": "#7f8c9a",
}
_INK: Final = "#808890"
_FAULTS_MAX: Final = 300
_TOOLS: Final = "xpan,xwheel_zoom,xbox_zoom,reset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Pieces of HTML: the library inlined, the script that draws, and a place for each chart."""

    library: str
    script: str
    divs: Sequence[str]
    bin_s: float


def charts_of(evidence: Evidence) -> Charts | None:
    """The charts of a run; None when nothing was recorded."""
    series = series_of(evidence)
    if series is None:
        return None
    end_s = float(series.start_s[-1] + series.width_s)
    x_range = Range1d(float(series.start_s[0]), end_s, bounds=(float(series.start_s[0]), end_s))
    source = _source(series)
    crosshair = CrosshairTool(dimensions="height", overlay=Span(dimension="height", line_color=_INK, line_width=1))
    figures = [_latency(source, x_range), _rate(source, series, x_range)]
    for number, one in enumerate(figures):
        one.add_tools(crosshair)
        _shade(one, evidence, named=number == 0)
    script, divs = components(figures, wrap_script=False)
    return Charts(
        library=_self_contained(Resources(mode="inline", components=["bokeh"], minified=True).render_js()),
        script=script,
        divs=divs,
        bin_s=series.width_s,
    )


def _self_contained(library: str) -> str:
    """The library without the one address it knows: it would fetch a renderer for formulas, and we draw none."""
    return re.sub(r'"https?://[^"]*/mathjax[^"]*"', '"data:text/javascript,"', library)


def _source(series: Series) -> ColumnDataSource:
    middle_s = series.start_s + series.width_s / 2
    milliseconds = {name: getattr(series, f"{name}_s") * 1000 for name in ("p50", "p99", "max")}
    rates = {name: getattr(series, f"{name}_per_s") for name in ("ok", "declined", "info", "fail")}
    columns = {"x": middle_s, **milliseconds, **rates, "lost": series.probes_lost}
    return ColumnDataSource({name: np.round(values, 3) for name, values in columns.items()})


def _figure(title: str, label: str, x_range: Range1d, *, height: int, **options: Any) -> Any:
    chart = figure(
        title=title,
        x_range=x_range,
        height=height,
        sizing_mode="stretch_width",
        tools=_TOOLS,
        active_scroll=None,
        output_backend="canvas",
        **options,
    )
    chart.toolbar.logo = None
    chart.yaxis.axis_label = label
    chart.xaxis.axis_label = "seconds from the start of the faults"
    for part in ("background_fill_alpha", "border_fill_alpha"):
        setattr(chart, part, 0)
    chart.outline_line_color = None
    chart.title.text_color = _INK
    chart.title.text_font_size = "13px"
    for axis in (*chart.xaxis, *chart.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = _INK
        axis.axis_label_text_font_style = "normal"
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _INK
    for grid in chart.grid:
        grid.grid_line_color = _INK
        grid.grid_line_alpha = 0.2
    return chart


def _legend(chart: Any, items: list[tuple[str, list[Any]]]) -> None:
    legend = Legend(items=items, orientation="horizontal", click_policy="hide", background_fill_alpha=0)
    legend.border_line_color = None
    legend.location, legend.padding, legend.spacing = "left", 0, 12
    legend.label_text_color = _INK
    legend.label_text_font_size = "12px"
    chart.add_layout(legend, "above")


def _latency(source: ColumnDataSource, x_range: Range1d) -> Any:
    # Latency spans decades: on a linear axis a 2 s stall hides everything else.
    chart = _figure("Latency from the intended start", "ms (log)", x_range, height=330, y_axis_type="log")
    chart.yaxis.formatter = BasicTickFormatter()
    lines = []
    for name in ("max", "p99", "p50"):
        line = chart.line("x", name, source=source, color=_COLOURS[name], line_width=1.6, name=name)
        dots = chart.scatter("x", name, source=source, color=_COLOURS[name], size=3)
        lines.append((name, [line, dots]))
    _legend(chart, lines)
    tips = [("at", "@x{0.00} s"), ("p50", "@p50{0.0} ms"), ("p99", "@p99{0.0} ms"), ("max", "@max{0.0} ms")]
    chart.add_tools(HoverTool(renderers=[lines[1][1][0]], tooltips=tips, mode="vline"))
    return chart


def _rate(source: ColumnDataSource, series: Series, x_range: Range1d) -> Any:
    chart = _figure("Requests by outcome", "requests a second", x_range, height=260)
    names = ["ok", "declined", "info", "fail"]
    bars = chart.vbar_stack(
        names,
        x="x",
        source=source,
        width=series.width_s * 0.92,
        color=[_COLOURS[name] for name in names],
        line_width=0,
    )
    chart.y_range.start = 0
    words = {"info": "unknown", "fail": "failed"}
    _legend(chart, [(words.get(name, name), [bar]) for name, bar in zip(names, bars, strict=True)])
    tips = [("at", "@x{0.00} s"), *((words.get(name, name), f"@{name}{{0.0}}/s") for name in names)]
    chart.add_tools(HoverTool(renderers=[bars[0]], tooltips=[*tips, ("probes lost", "@lost{0}")], mode="vline"))
    return chart


def _top() -> Node:
    """The upper edge of a chart; each place needs one of its own."""
    return Node(target="frame", symbol="top")


def _shade(chart: Any, evidence: Evidence, *, named: bool) -> None:
    """Phases as bands with an edge and a name, faults from injection to heal in red on top."""
    for place, name in enumerate(PHASES):
        if name not in evidence.phases:
            continue
        start_ns, end_ns = evidence.phases[name]
        start_s = evidence.seconds(start_ns)
        band = BoxAnnotation(left=start_s, right=evidence.seconds(end_ns), level="underlay")
        band.fill_color, band.fill_alpha = _COLOURS["phase"], 0.10 if place % 2 else 0.03
        band.line_color = None
        chart.add_layout(band)
        if named:
            label = Label(
                x=start_s, y=_top(), text=name, text_color=_INK, text_font_size="11px", x_offset=4, y_offset=-14
            )
            chart.add_layout(label)
    end_of_faults = evidence.phases.get("faults", (0, 0))[1]
    for fault in evidence.injected[:_FAULTS_MAX]:
        until_ns = fault.healed_ns or max(end_of_faults, fault.injected_ns or 0)
        band = BoxAnnotation(left=evidence.seconds(fault.injected_ns), right=evidence.seconds(until_ns))
        band.level, band.fill_color, band.fill_alpha = "underlay", _COLOURS["fault"], 0.16
        band.line_color, band.line_alpha = _COLOURS["fault"], 0.5
        chart.add_layout(band)
        if named and len(evidence.injected) <= 20:
            label = Label(x=evidence.seconds(fault.injected_ns), y=_top(), text=one_line(fault.fault_id, chars_max=40))
            label.text_font_size, label.text_color = "10px", _COLOURS["fault"]
            label.x_offset, label.y_offset = 3, -28
            chart.add_layout(label)
