"""A plan as text, for people: what `--dry-run` prints."""

from chaos.planner import Plan
from metrics.arrivals import Arrivals
from metrics.units import format_duration


def render_plan(plan: Plan) -> str:
    """Phases, load, every fault with its time and victims, and what must hold; one line each."""
    lines = [f"{plan.title}  (seed {plan.seed})", "", "phases"]
    lines += [f"  {name:<9} {format_duration(duration_s):>8}" for name, duration_s in plan.phases.items()]
    lines += ["", "load", *(f"  {line}" for line in _load_lines(plan))]
    lines += ["", f"faults  ({len(plan.timeline)}, from the start of the phase faults)"]
    for one in plan.timeline:
        healed = (
            "a change, kept"
            if one.fault.heal_after_s is None
            else f"healed after {format_duration(one.fault.heal_after_s)}"
        )
        due = "" if one.trigger is None else f"{one.trigger.text()}, by {format_duration(one.latest_s or 0.0)}; "
        lines.append(f"  {one.at_s:>8.3f} s  {one.fault_id:<12} {one.aim}  ({due}{healed})")
    if not plan.timeline:
        lines.append("  none")
    if plan.requires:
        lines += ["", "requires", *(f"  {line}" for line in plan.requires.lines())]
    lines += ["", "must hold", *(f"  {_entry(entry)}" for entry in plan.expect)]
    if plan.guardrails:
        lines += ["", "stop early when", *(f"  {_entry(entry)}" for entry in plan.guardrails)]
    return "\n".join(lines)


def _load_lines(plan: Plan) -> list[str]:
    lines = []
    if plan.load is not None:
        lines.append(
            f"{Arrivals.from_json(plan.load['arrivals'])} by {plan.load['locustfile']}, "
            f"at most {plan.load['users']} in flight"
        )
    if plan.probe is not None:
        lines.append(f"a probe of {plan.probe['path']} every {format_duration(plan.probe['interval_s'])}")
    return lines


def _entry(entry: object) -> str:
    if isinstance(entry, dict):
        return ", ".join(f"{key}: {_value(value)}" for key, value in entry.items())
    return str(entry)


def _value(value: object) -> str:
    return f"{{{_entry(value)}}}" if isinstance(value, dict) else str(value)
