"""The operator's commands: `python -m system_under_test operator windows|clock ...`, over the operator's interface."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, Any, Final
from urllib.parse import urlsplit

import aiohttp
from pydantic import AfterValidator, Field

from system_under_test.settings import Arguments, PlatformError, Settings, read_settings

_WITHIN_S: Final = 30.0
_AHEAD: Final = timedelta(hours=26)
"""More than the 24 hours that customers are told ahead: the notices have to be sent meanwhile."""
_NOTICED_WITHIN_S: Final = 60.0
_LOOK_EVERY_S: Final = 0.1
_USAGE: Final = (
    "Reads OPERATOR_URL (of the maintenance process, such as http://127.0.0.1:20040) and OPERATOR_TOKEN. Times are"
    " business time, such as 2026-11-21T10:00:00+00:00."
)
_EXAMPLE: Final = (
    "example: python -m system_under_test operator windows schedule --starts-at 2026-11-22T02:00:00+00:00 --minutes 45"
)


def _web_address(value: str) -> str:
    try:
        parts = urlsplit(value)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError("expected an address such as http://127.0.0.1:20040") from None
    return value.rstrip("/")


class OperatorSettings(Settings):
    """What the command is told by its environment."""

    url: Annotated[str, AfterValidator(_web_address)] = Field(alias="OPERATOR_URL")
    # Whether it is the right one is for the maintenance process to say.
    token: Annotated[str, Field(min_length=1, pattern=r"^[!-~]+$")] = Field(alias="OPERATOR_TOKEN", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of the interface."""

    method: str
    path: str
    body: Mapping[str, Any] | None = None


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Asks, and prints the answer; a refusal is printed with its reason, exit code 1."""
    options = _parser().parse_args(arguments)
    settings = read_settings(OperatorSettings, environment)
    if options.verb == "rehearse":
        document = asyncio.run(_rehearse(settings, minutes=options.minutes, reason=options.reason))
    else:
        document = asyncio.run(_ask(settings, _request(options)))
    if options.json:
        sys.stdout.write(json.dumps(document) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in _lines(document)))
    return 0


def _parser() -> Arguments:
    parser = Arguments("operator", f"Plan maintenance windows and set the business clock. {_USAGE}")
    parser.epilog = _EXAMPLE
    subjects = parser.add_subparsers(dest="subject", required=True, parser_class=_SubCommand)
    windows = subjects.add_parser("windows", help="list, schedule, rehearse, move, cancel, finish")
    verbs = windows.add_subparsers(dest="verb", required=True, parser_class=_SubCommand)
    verbs.add_parser("list", help="the newest windows")
    schedule = verbs.add_parser("schedule", help="plan a window")
    _add_time(schedule)
    schedule.add_argument("--reason", default=None, metavar="TEXT", help="what customers are told")
    rehearse = verbs.add_parser(
        "rehearse", help="plan a window, and let business time go on from its start once noticed"
    )
    rehearse.add_argument("--minutes", type=int, default=None, metavar="N", help="how long, 30 to 60; default 45")
    rehearse.add_argument("--reason", default="rehearsal", metavar="TEXT", help="what customers are told")
    move = verbs.add_parser("move", help="give a window that has not begun another time")
    move.add_argument("window", type=int, help="its number")
    _add_time(move)
    move.add_argument("--reason", required=True, metavar="TEXT", help="what customers are told")
    for verb, what in (("cancel", "cancel a window that has not begun"), ("finish", "say that the work is finished")):
        command = verbs.add_parser(verb, help=what)
        command.add_argument("window", type=int, help="its number")
        command.add_argument("--reason", required=True, metavar="TEXT", help="what customers are told")
    clock = subjects.add_parser("clock", help="show, forward")
    verbs = clock.add_subparsers(dest="verb", required=True, parser_class=_SubCommand)
    verbs.add_parser("show", help="the business time")
    forward = verbs.add_parser("forward", help="let business time go on from later, or at another rate")
    until = forward.add_mutually_exclusive_group()
    until.add_argument("--to", type=_moment, metavar="TIME", help="the business time from which it goes on")
    until.add_argument("--by", type=float, metavar="SECONDS", help="how much later, in business seconds")
    forward.add_argument("--rate", type=float, metavar="R", help="business seconds in a wall second")
    return parser


class _SubCommand(argparse.ArgumentParser):
    """A command below ours: its errors are raised too, and it can print JSON."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, allow_abbrev=False, description=_USAGE)
        self.add_argument("--json", action="store_true", help="print the answer as JSON")

    def error(self, message: str) -> Any:
        """Raises instead of printing and ending the process."""
        raise argparse.ArgumentError(None, message)


def _add_time(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--starts-at", type=_moment, required=True, metavar="TIME", help="when it starts")
    parser.add_argument("--minutes", type=int, metavar="N", help="how long, 30 to 60; 45 for a new window")


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a time such as 2026-11-21T10:00:00+00:00, got {text!r}") from error
    if moment.tzinfo is None:
        raise argparse.ArgumentTypeError(f"{text!r} has no offset from UTC, such as +00:00")
    return moment.isoformat()


def _request(options: argparse.Namespace) -> Request:
    given = vars(options)
    names = {
        "starts_at": "starts_at",
        "minutes": "minutes",
        "reason": "reason",
        "to": "to",
        "by": "by_s",
        "rate": "rate",
    }
    body = {field: given[name] for name, field in names.items() if given.get(name) is not None}
    match (options.subject, options.verb):
        case ("windows", "list"):
            return Request(method="GET", path="/v1/windows")
        case ("windows", "schedule"):
            return Request(method="POST", path="/v1/windows", body=body)
        case ("windows", verb):
            return Request(method="POST", path=f"/v1/windows/{options.window}/{verb}", body=body)
        case (_, "show"):
            return Request(method="GET", path="/v1/clock")
        case _:
            return Request(method="POST", path="/v1/clock", body=body)


async def _rehearse(settings: OperatorSettings, *, minutes: int | None, reason: str) -> dict[str, Any]:
    """Plans a window as far ahead as notices need, waits until they are sent, and lets its start come at once.

    Raises:
        PlatformError: it was refused, or the notices were not sent in time; the window stays planned.
    """
    clock = await _ask(settings, Request(method="GET", path="/v1/clock"))
    starts_at = (datetime.fromisoformat(clock["business_time"]) + _AHEAD).isoformat()
    plan = {"starts_at": starts_at, "reason": reason} | ({} if minutes is None else {"minutes": minutes})
    planned = await _ask(settings, Request(method="POST", path="/v1/windows", body=plan))
    deadline_s = time.monotonic() + _NOTICED_WITHIN_S
    while True:
        listed = await _ask(settings, Request(method="GET", path="/v1/windows"))
        window = next(each for each in listed["windows"] if each["id"] == planned["id"])
        if window["stage"] == "noticed":
            break
        if window["stage"] != "scheduled" or time.monotonic() > deadline_s:
            raise PlatformError(
                f"window {window['id']} is {window['stage']}: not all notices were sent in {_NOTICED_WITHIN_S:.0f} s"
            )
        await asyncio.sleep(_LOOK_EVERY_S)
    await _ask(settings, Request(method="POST", path="/v1/clock", body={"to": window["starts_at"]}))
    return planned


async def _ask(settings: OperatorSettings, request: Request) -> dict[str, Any]:
    limit = aiohttp.ClientTimeout(total=_WITHIN_S)
    headers = {"Authorization": f"Bearer {settings.token}"}
    try:
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.request(
                request.method, f"{settings.url}{request.path}", json=request.body, headers=headers
            ) as response,
        ):
            document = await response.json(content_type=None)
            status = response.status
    except (aiohttp.ClientError, TimeoutError) as error:
        raise PlatformError(
            f"the maintenance process at {settings.url} did not answer: {error or 'time limit'}"
        ) from error
    except ValueError as error:
        raise PlatformError(
            f"{settings.url} answered something else than JSON; is it the maintenance process?"
        ) from error
    if status >= 400:
        field = f" ({document['field']})" if "field" in document else ""
        raise PlatformError(f"refused: {document.get('title', status)}{field}: {document.get('detail', '')}")
    answered: dict[str, Any] = document
    return answered


def _lines(document: Mapping[str, Any]) -> list[str]:
    if "windows" in document:
        return [_window_line(window) for window in document["windows"]] or ["no windows"]
    if "business_time" in document:
        return [f"{document['business_time']}  at {document['rate']:g} times wall time"]
    return [f"window {document['id']}"]


def _window_line(window: Mapping[str, Any]) -> str:
    late = "" if window["expected_end"] == window["ends_at"] else f"  expected back {window['expected_end']}"
    plan = f"{window['starts_at']} to {window['ends_at']}"
    return (
        f"window {window['id']}  revision {window['revision']}  {window['stage']:<9}  {plan}{late}  {window['reason']}"
    )
