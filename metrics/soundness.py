"""Why a judge may not trust what it sees: damaged records, a load that missed its rate, a prober that slept.

Each function gives reasons as sentences; none means that the evidence is good enough. A failure that was seen stays a
failure; a pass with a reason against it becomes unknown.
"""

from metrics.evidence import HISTORY, Evidence, LoadCounts
from metrics.findings import count

_RATE_MET_RATIO = 0.95
"""A load that started less than this share of its arrivals tested something else."""


def history_doubts(evidence: Evidence) -> list[str]:
    """What is wrong with the record of what clients saw."""
    return list(evidence.problems.get(HISTORY, ()))


def load_doubts(evidence: Evidence) -> list[str]:
    """Whether the clients tried what was planned; a run that still goes on is only asked for its rate so far."""
    counts = evidence.loads.get("load")
    if counts is None:
        return [] if evidence.live or not evidence.load_planned else ["the load never reported what it did"]
    doubts = []
    if not evidence.live:
        if not counts.finished:
            doubts.append("the load ended without a last report, so its record may lack operations")
        elif counts.returncode != 0:
            doubts.append(ended_badly("load", counts))
        if counts.unsent:
            doubts.append(f"{counts.unsent:.0f} arrivals were never sent")
    if (ratio := started_ratio(counts)) is not None and ratio < _RATE_MET_RATIO:
        doubts.append(f"the load started only {ratio:.1%} of its arrivals")
    return doubts


def answer_doubts(evidence: Evidence, *, declined_ratio_max: float) -> list[str]:
    """Whether the answers say what they seem to: not mostly refusals, and none the second to a hidden second try.

    More than `declined_ratio_max` of all answers (successes and refusals) may not be refusals.
    """
    requests, doubts = evidence.requests, []
    declined, succeeded = int(requests.declined.sum()), int(requests.ok.sum())
    if declined > declined_ratio_max * (declined + succeeded):
        share = declined / (declined + succeeded)
        doubts.append(f"{share:.1%} of the answers were refusals, more than {declined_ratio_max:.0%} show too little")
    if evidence.resent:
        doubts.append(f"{count(evidence.resent, 'request')} reached a balancer more than once: a client sent it again")
    return doubts


def ended_badly(name: str, counts: LoadCounts) -> str:
    """How a process ended that did not end in order; one that had to be killed may have no exit status."""
    if counts.returncode is None:
        return f"the {name} ended without an exit status: it had to be killed"
    return f"the {name} ended with exit status {counts.returncode}"


def started_ratio(counts: LoadCounts) -> float | None:
    """The share of intended arrivals that were started; None where it is not known."""
    if counts.intended is None or counts.started is None or counts.intended <= 0:
        return None
    return counts.started / counts.intended


def record_complete(evidence: Evidence) -> bool:
    """Whether every operation that was tried stands in the history, so that an effect nobody asked for is none."""
    counts = evidence.loads.get("load")
    load_ended = counts is not None and counts.finished and counts.returncode == 0
    return not history_doubts(evidence) and (load_ended or not evidence.load_planned)
