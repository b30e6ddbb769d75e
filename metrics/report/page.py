"""`report.html`: the run for people who look rather than read, in one file that needs no network."""

from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from metrics.evidence import Evidence
from metrics.findings import Finding
from metrics.sanitise import one_line, plain, plain_json
from metrics.verdict import Verdict
from metrics.wording import percentage, quantity, seconds, value_and_limit

_WITNESS_CHARS_MAX = 60_000


def report_html(evidence: Evidence, verdict: Verdict) -> str:
    """The page; everything that came from outside is shown as text, whatever it holds."""
    from metrics.report.charts import charts_of

    charts = charts_of(evidence)
    return _template().render(
        verdict=verdict,
        charts=charts,
        # Written by the charting library from numbers and escaped JSON; `</` inside a string would end the script.
        library=Markup(charts.library) if charts else "",  # noqa: S704
        script=Markup(_inside_script(charts.script)) if charts else "",  # noqa: S704
        divs=[Markup(div) for div in charts.divs] if charts else [],  # noqa: S704
        expectations=[_row(finding) for finding in verdict.expectations],
    )


def _inside_script(script: str) -> str:
    """The same script without the two spellings that HTML reads inside one: both stand only in string literals."""
    return script.replace("</", "<\\/").replace("<!--", "<\\!--")


def _row(finding: Finding) -> dict[str, Any]:
    value, limit = value_and_limit(finding)
    return {
        "grade": finding.grade.value,
        "name": finding.name,
        "value": value,
        "limit": limit,
        "detail": finding.detail,
        "witnesses": [_witness(one) for one in finding.witness],
    }


def _witness(witness: Any) -> dict[str, Any]:
    """A witness as its facts, and the lives of its operations step by step."""
    operations = [witness] if "story" in witness else [one for one in witness.get("operations", ()) if "story" in one]
    facts = {name: value for name, value in witness.items() if name not in ("story", "operations")}
    return {
        "facts": [(name, _short(value)) for name, value in facts.items() if value is not None],
        "lives": [
            {"operation": one["operation"], "steps": [_step(step) for step in one["story"]]} for one in operations
        ],
        "data": plain_json(witness, indent=1)[:_WITNESS_CHARS_MAX],
    }


def _step(step: Any) -> dict[str, Any]:
    facts = step.get("line") or {name: value for name, value in step.items() if name not in ("t_s", "who", "step")}
    told = [f"{name} {_short(value)}" for name, value in facts.items() if value is not None]
    return {"t_s": seconds(step["t_s"]), "who": step["who"], "what": step.get("step", "log"), "told": ", ".join(told)}


def _short(value: Any) -> str:
    return one_line(value if isinstance(value, str) else plain_json(value), chars_max=200)


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, finalize=_harmless
    )
    environment.filters.update(quantity=quantity, percentage=percentage, seconds=seconds)
    return environment.from_string((files("metrics.report") / "page.html.j2").read_text(encoding="utf-8"))


def _harmless(value: Any) -> Any:
    """Takes control characters out of every text that is put in; what we made ourselves stays as it is."""
    return plain(value) if type(value) is str else value
