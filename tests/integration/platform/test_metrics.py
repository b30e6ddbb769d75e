"""Every process's metrics are such that Prometheus' own linter has nothing to say, and are all there from the start."""

import asyncio
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import aiohttp
import pytest

from tests.integration.platform.customers import log_in, send, until
from tests.integration.platform.exposition import Series, faults, read
from tests.integration.platform.stage import PATIENT, Platform, Process, Stage, await_ready, await_true, free_port, get

# What the database will refuse, and for which work, is not known before; a gauge says that a work is stuck.
_UNFORESEEN: Final = "savings_database_refusals_total"
# There from the first answer to the work on.
_OF_WORKS: Final = "savings_work_stuck"
_SERVICES: Final = ("portal", "settlement", "accrual", "signer", "maintenance", "mailbox", "notifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    """One process of each service, and what each told before anybody had asked it for anything."""

    platform: Platform
    processes: Mapping[str, Process]
    at_first: Mapping[str, str]


def scrape(process: Process) -> str:
    """The text of /metrics."""
    status, body = get(process.port, "/metrics")
    assert status == 200, process.name
    return body.decode()


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Everything]:
    """Started in full, as the topology does."""
    stage = Stage(folder=tmp_path_factory.mktemp("metrics"))
    try:
        postgres = stage.add_database()
        outputs = postgres.outputs()
        mailbox = stage.add("mailbox", "mailbox", HOLDFAST_PORT_SMTP=str(free_port()))
        await_true(lambda: mailbox.answers("/readyz"), "the mailbox is ready")
        url = mailbox.outputs()["smtp_url"]
        processes = {
            "portal": stage.add_portal("portal", postgres, **PATIENT),
            "settlement": stage.add_settlement("settlement", postgres),
            "accrual": stage.add_accrual("accrual", postgres),
            "signer": stage.add("signer", "signer", DATABASE_URL=outputs["signer_1_dsn"]),
            "maintenance": stage.add_maintenance(postgres),
            "mailbox": mailbox,
            "notifier": stage.add("notifier", "notifier", DATABASE_URL=outputs["notifier_dsn"], SMTP_URL=url),
        }
        for process in processes.values():
            await_ready(process)
        at_first = {name: scrape(process) for name, process in processes.items()}
        balancer = stage.add_balancer("balancer", [processes["portal"]])
        platform = Platform(
            stage=stage,
            postgres=postgres,
            portals=[processes["portal"]],
            balancer=balancer,
            customers=stage.seed(postgres, customers=2),
        )
        yield Everything(platform=platform, processes=processes, at_first=at_first)
    finally:
        stage.close()


@pytest.mark.parametrize("name", _SERVICES)
def test_a_linter_has_nothing_to_say_of_a_services_metrics(everything: Everything, name: str) -> None:
    """Names, types, units, help texts, series: see `exposition`; all are the platform's, by their prefix."""
    text = everything.at_first[name]
    assert said(text) == []
    assert [metric for metric in read(text) if not metric.startswith("savings_")] == []
    assert said(scrape(everything.processes[name])) == []


def said(text: str) -> list[str]:
    """What is wrong, but for what cannot be there from the start."""
    return [fault for fault in faults(text) if not fault.startswith((f"{_UNFORESEEN}: has no", f"{_OF_WORKS}: has no"))]


async def test_no_series_appears_with_its_first_event(everything: Everything, session: aiohttp.ClientSession) -> None:
    """A day of a customer's, with a wrong password and a reused key: every series was there before, at zero."""
    platform = everything.platform
    saver = await log_in(session, platform, 0)
    wrong = {"email": platform.customers[1]["email"], "password": "wrong"}
    refused = await send(session, "POST", f"{saver.url}/v1/sessions", json=wrong)
    paid = await saver.order("deposits", {"amount": 5}, key="k")
    again = await saver.order("deposits", {"amount": 5}, key="k")
    other = await saver.order("deposits", {"amount": 6}, key="k")
    taken = await saver.order("redemptions", {"amount": 5})
    too_much = await saver.order("redemptions", {"amount": 10**12})
    assert (refused.status, paid.status, again.replayed, other.status, taken.status) == (401, 201, True, 422, 202)
    assert (await saver.decided(taken.body["id"]))["status"] == "settled"
    assert (await saver.decided(too_much.body["id"]))["status"] == "refused"
    settled: Series = ("savings_redemptions_settled_total", (("outcome", "settled"),))

    async def now() -> dict[str, set[Series]]:
        return {name: series(await asyncio.to_thread(scrape, one)) for name, one in everything.processes.items()}

    async with asyncio.timeout(10):
        await until(
            lambda: asyncio.to_thread(scrape, everything.processes["settlement"]),
            lambda text: read(text)[settled[0]].series[settled] == 1,
        )
    appeared = {name: found - series(everything.at_first[name]) for name, found in (await now()).items()}
    assert {name: found for name, found in appeared.items() if found} == {}


def series(text: str) -> set[Series]:
    """Every series of a text, but for those of works."""
    return {one for metric in read(text).values() for one in metric.series if metric.name != _OF_WORKS}


_GOOD: Final = '# HELP savings_a_total Some.\n# TYPE savings_a_total counter\nsavings_a_total{kind="b"} 1\n'
_SHRINKING: Final = """# HELP savings_h Some.
# TYPE savings_h histogram
savings_h_bucket{le="1"} 2
savings_h_bucket{le="+Inf"} 1
savings_h_count 1
savings_h_sum 1
"""


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (_GOOD.replace("_total", ""), "_total is for counters"),
        (_GOOD.replace("counter", "gauge"), "_total is for counters"),
        (_GOOD.replace("# HELP savings_a_total Some.\n", ""), "has no help text"),
        (_GOOD.replace("# TYPE savings_a_total counter\n", ""), "its type is not given"),
        (_GOOD + _GOOD, "is there twice"),
        (_GOOD.replace("kind=", "theKind="), "is not in snake case"),
        (_GOOD.replace("_a_", "_a_milliseconds_"), "is in milliseconds instead of seconds"),
        (_GOOD.replace("_a_", "_a_minutes_"), "is in minutes instead of seconds"),
        (_GOOD.replace("_a_", "_a_ms_"), "abbreviates a unit: ms"),
        (_GOOD.replace("_a_", "_a_counter_"), "its type, counter, is in its name"),
        (_GOOD.replace("_a_total", "_a_sum").replace("counter", "gauge"), "ends as only the series of a histogram do"),
        (_GOOD.replace("kind=", "le="), "the label le is for a histogram"),
        (_GOOD.replace('savings_a_total{kind="b"} 1\n', ""), "has no series"),
        (_SHRINKING, "do not add up"),
    ],
)
def test_each_rule_finds_what_it_is_for(text: str, fault: str) -> None:
    """A metric that is right but for one thing: that is named; and the right one passes."""
    assert faults(_GOOD) == []
    assert any(fault in found for found in faults(text)), faults(text)
