"""The locustfile of the reference platform: savers who log in, then deposit, redeem and look at their balance.

Each arrival's operation follows from HOLDFAST_SEED and the arrival's number (`loadtests.intents`). Accounts come from
`accounts.csv` in the run folder: `email,password,account,opening_balance`; users beyond its length share accounts.
"""

import csv
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import gevent
from locust import task

from loadtests.client import Answer, HonestUser
from loadtests.intents import BALANCE, DEPOSIT, REDEEM, Intent, intend
from loadtests.protocol import LoadError

ACCOUNTS_FILE: Final = "accounts.csv"
_COLUMNS: Final = {"email", "password", "account"}
_LOG_IN_PAUSE_S: Final = 0.25
_EFFECTS: Final = {DEPOSIT: "/v1/deposits", REDEEM: "/v1/redemptions"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who a saver logs in as."""

    email: str
    password: str
    account: str


@lru_cache(maxsize=1)
def accounts(path: Path) -> tuple[Account, ...]:
    """The accounts of a run.

    Raises:
        LoadError: no such file, columns missing, or no row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise LoadError(f"{path}: {error.strerror}; the target's `prepare` should have written it") from error
    if not rows:
        raise LoadError(f"{path}: no account in it")
    if missing := _COLUMNS - rows[0].keys():
        raise LoadError(f"{path}:1: columns missing: {', '.join(sorted(missing))}")
    return tuple(Account(email=row["email"], password=row["password"], account=row["account"]) for row in rows)


class Saver(HonestUser):
    """Logs in, then does what each arrival asks."""

    def on_start(self) -> None:
        """Logs in, trying again while the service is not there yet; each try is recorded."""
        try:
            known = accounts(self.load.run_dir / ACCOUNTS_FILE)
        except LoadError as error:
            self.give_up(str(error))
        account = known[self.number % len(known)]
        body = {"email": account.email, "password": account.password}
        while not (answer := self._log_in(body)).ok:
            if time.monotonic() >= self.load.ready_by_s or 400 <= answer.status < 500:
                self.give_up(f"{account.email} cannot log in: {answer.error}")
            gevent.sleep(_LOG_IN_PAUSE_S)
        self.client.headers["Authorization"] = f"Bearer {self._token(answer)}"
        self.asked = {"account": account.account}

    @task  # type: ignore[untyped-decorator]  # Locust has no types
    def operate(self) -> None:
        """What this arrival is to do; kinds of savers differ in `intent`: a task of their own would be one more."""
        intent = self.intent()
        if intent.f == BALANCE:
            self.client.get("/v1/balance", f=BALANCE, value=self.asked)
            return
        self.client.post(
            _EFFECTS[intent.f],
            f=intent.f,
            body={"amount": intent.amount},
            key=intent.key,
            value={"amount": intent.amount, **self.asked},
        )

    def intent(self) -> Intent:
        """What is to be done, by the arrival's number."""
        return intend(self.load.seed, self.load.journal.writer, self.arrival_number, run_id=self.load.run_id)

    def _log_in(self, body: dict[str, str]) -> Answer:
        with self.load.entrance:
            return self.client.post("/v1/sessions", f="login", body=body)

    def _token(self, answer: Answer) -> Any:
        token = answer.json().get("token")
        if not isinstance(token, str):
            self.give_up(f"log-in was answered {answer.status} without a token")
        return token
